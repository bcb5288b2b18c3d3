/* SPDX-License-Identifier: MIT */
/* Attach, Offer and AddRegions as messages: parameters, and the fds they name by index. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "client/memories.h"
#include "wire/frame.h"

/* Embedded; zero is empty. Readable. The fds are borrowed from the client. */
struct request {
	json_t *parameters; /* owned */
	int fds[FRAME_MAX_FDS];
	size_t n_fds;
};

void request_done(struct request *request);

/* What of a guest is handed over. Readable; everything is borrowed. */
struct handover {
	const struct ufd_client_opts *opts;
	const struct memories *memories;
	int uffd;
	int pagemap;   /* -EBADF for none */
	bool is_scan;  /* the uffd has asynchronous write-protection */
	bool is_again; /* pages of an earlier life exist: they count as present */
};

/* Return: 0, -ENOSPC (more fds than one message carries), -ENOMEM. */
int request_attach(struct request *request, const struct handover *handover);

/* Return: 0 or -ENOMEM. */
int request_offer(struct request *request, const struct handover *handover);

/**
 * request_add_region() - one more region of an attached guest
 * @is_first: the memory's first region, which says where its bytes come from
 *
 * Return: 0 or -ENOMEM.
 */
int request_add_region(struct request *request, const char *guest,
		       const struct client_memory *memory, const struct region *region,
		       bool is_first);
