/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages for a Cloud Hypervisor that runs already: it asks for each on its fault connection, for those
 * that are touched and, when it has time, for all others, and closes the connection when it has
 * everything.
 *
 * Theory of operation. The end of the connection is taken for "all pages are there", so its fd must never
 * go with a process: everything that serving needs lies in a bundle (store/bundle.h) that outlives any
 * process, and whoever has the bundle can go on at any instruction. Two things make that exact:
 *
 *	page	one that was delivered is never written again, for the guest may have written it since. What
 *		is about to be written is noted before, and what is delivered after: of what was noted and
 *		not delivered when we were killed, only the pages that do not exist are written. A page
 *		comes into being whole: sendfile() copies it out of the page cache under the folio's lock,
 *		and no page fault can interrupt that.
 *	answer	one too many would be taken for that of the next request. So requests move from socket to
 *		pipe and answers from pipe to socket by splice(), which takes from one side what it puts
 *		into the other, whenever we are killed. A request is taken off its pipe when its answer is
 *		whole in the other: if there is none, what is in the other is thrown away; else it is sent.
 *
 * What was delivered and is a hole in the file has been given back by the guest, and reads zero.
 *
 * Context of all: the process that serves (ufdd-offload); one thread.
 */
#pragma once

#include <stddef.h>

#include "attach/cloud-hypervisor.h"
#include "offload/journal.h"

struct folder;
struct ufd_handle;

/* Readable; all fds are owned. */
struct delivery {
	struct journal *journal; /* owned */
	int journal_fd;
	int connection;
	int request[2];		       /* a pipe: what came and is not answered */
	int answer[2];		       /* a pipe: what is to be sent */
	int look[2];		       /* a pipe: a copy of a request. Not in the bundle */
	int memories[CH_MAX_MAPPINGS]; /* files that Cloud Hypervisor maps; -EBADF if inline */
	int sources[CH_MAX_MAPPINGS];  /* files of the snapshot */
	char *buffer;		       /* owned; bytes of an answer. Not in the bundle */
	size_t n_buffer;
};

#define DELIVERY_MAX_HANDLES (6 + 2 * CH_MAX_MAPPINGS)

/*
 * @folder: its memories are taken over; @connection: consumed if 0 is returned. Without files of memory: they
 * are delivery_add_memory()'s, or it is inline. Return: 0 or -errno.
 */
int delivery_new(struct delivery **ret, struct folder *folder, int connection);
struct delivery *delivery_free(struct delivery *delivery);
DEFINE_CLEANUP(struct delivery, delivery_free)

/* Return: 0, -EOPNOTSUPP (shared memory is made of huge pages here), other -errno. */
int delivery_check_host(void);

/* An empty file for mapping @index. @ret_fd: for Cloud Hypervisor, owned by the caller. */
int delivery_add_memory(struct delivery *delivery, size_t index, int *ret_fd);

/* Everything that a bundle keeps of it; borrowed. At least DELIVERY_MAX_HANDLES. */
size_t delivery_handles(const struct delivery *delivery, struct ufd_handle *ret);
/* Fds are taken over from @handles, and -EBADF there. Return: 0, -EBADMSG (something is missing), -errno. */
int delivery_adopt(struct delivery **ret, struct ufd_handle *handles, size_t n_handles);

/*
 * Until the connection ends; then the journal's phase says how. The caller has the journal's lock.
 * @report: told once when bytes cannot be had, which is tried again and again, and once when they can.
 */
void delivery_serve(struct delivery *delivery,
		    void (*report)(const struct delivery *delivery, int error));

/* The journal's fd among handles, borrowed; -EBADF: none. Context: any. */
int delivery_find_journal(const struct ufd_handle *handles, size_t n_handles);
