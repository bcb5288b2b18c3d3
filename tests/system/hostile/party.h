/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hostile party: a client without rights (user nobody), with a memory and an image of its own
 * that it may hand over, and whatever it was given to lie with. It runs in a process of its own, so
 * nothing here may use Check: party_complain() tells what should not have been possible.
 */
#pragma once

#include <jansson.h>

#include "base/units.h"
#include "scene.h"
#include "wire/varlink-client.h"

#define PAGE	      4096
#define PARTY_N_PAGES UINT64_C(1024)
#define PARTY_BYTES   (PARTY_N_PAGES * PAGE)
#define NOBODY	      65534

enum { FD_UFFD, FD_MEMORY, FD_SOURCE, FD_PAGEMAP, N_FDS };

/* Readable. */
struct party {
	struct stage *stage;
	const char *socket; /* the daemon's */
	pid_t bystander, daemon;
	int bystander_uffd, bystander_pidfd, bystander_pagemap;
	uint64_t bystander_address;
	struct varlink_client *client; /* connected; NULL after a break */
	int fds[N_FDS];
	unsigned char *bytes; /* PARTY_BYTES, shared, of FD_MEMORY */
	bool keeps_root;
};

/* Root still: what an attack prepares before party_begin() drops all rights. */
void party_begin(struct party *party);
void party_drop_rights(void);

/* Counts a round. @return: false once the scene is over. */
bool party_goes_on(struct party *party);
/* What was done lasts: wait for the end of the scene. */
void party_rest(struct party *party);

_Noreturn void party_complain(struct party *party, const char *text, ...)
	__attribute__((format(printf, 2, 3)));
_Noreturn void party_skip(struct party *party, const char *text, ...)
	__attribute__((format(printf, 2, 3)));

/* A new connection in place of the old one. Waits while there is no room for it. */
void party_connect(struct party *party);

/*
 * One call; @parameters is consumed. Return: the error's name, "" for success, NULL when the
 * connection broke; valid until the next call.
 */
const char *party_call(struct party *party, const char *method, json_t *parameters, const int *fds,
		       size_t n_fds);
/* It must be refused, whatever the name of the error. */
void party_expect_refusal(struct party *party, const char *what, const char *method,
			  json_t *parameters, const int *fds, size_t n_fds);

json_t *party_region(const struct party *party, uint64_t first_page, uint64_t n_pages);
/* @regions is consumed. */
json_t *party_attach_call(const char *name, json_t *regions, bool has_background);
/* Hand the own memory over; complains when that is refused. */
void party_attach(struct party *party, const char *name, bool has_background);

/* Bytes of a page are the party's own, or zero, or the attack's @also; else it complains. */
void party_check_page(struct party *party, const void *bytes, uint64_t page);
/* An image of the party's pattern. */
int party_image(void);
