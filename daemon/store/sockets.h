/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listening sockets that outlive us, each with a text that says what it is for.
 *
 *	systemd		two fds a socket: itself (`h` and a number in base 36) and a memfd with the
 *			text (`d` and the same number)
 *	directory	the text in a file NUMBER.handoff; a socket is no file, and is made anew
 *
 * With both, each text is in both places, so that it is there whatever is lost. Beside the text lies a
 * count, which may be changed without asking anybody.
 *
 * Context: any thread; what waits for the manager says so.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct sockets;
struct store_fd;

/* Readable. One that was left. */
struct stored_socket {
	uint32_t number;
	int fd;	    /* owned; -EBADF: it is to be made anew */
	char *text; /* owned */
	uint64_t count;
};
void stored_sockets_free(struct stored_socket *stored, size_t n_stored);

/* @shelf: of the directory, borrowed; -EBADF: none. @has_manager: it keeps fds for us. */
int sockets_new(struct sockets **ret, int shelf, bool has_manager);
struct sockets *sockets_free(struct sockets *sockets); /* forgets; drops nothing */
DEFINE_CLEANUP(struct sockets, sockets_free)

/* Return: true if it is one of ours by its name; consumed then. */
bool sockets_offer(struct sockets *sockets, const char *name, int fd);

/* After the last sockets_offer(). @ret: owned array. Return: 0 or -errno. */
int sockets_take(struct sockets *sockets, struct stored_socket **ret, size_t *ret_n);

/* @fd: borrowed. Blocks: waits until the manager has it. Return: 0 with *ret_number, -ETIMEDOUT, -errno. */
int sockets_keep(struct sockets *sockets, int fd, const char *text, uint64_t count,
		 uint32_t *ret_number);

void sockets_count(struct sockets *sockets, uint32_t number, uint64_t count);
void sockets_drop(struct sockets *sockets, uint32_t number);

/* The numbers of store_count(), added; and the fds of store_list(), appended: 2 * sockets_n() at most. */
void sockets_add_up(struct sockets *sockets, size_t *n_fds, size_t *n_name_bytes);
size_t sockets_n(struct sockets *sockets);
size_t sockets_list(struct sockets *sockets, struct store_fd *ret);
