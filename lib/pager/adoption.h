/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Adoption: a guest from what a former process left. For adopt.c and adopt-parts.c only.
 *
 * Theory of operation. Nothing is believed: the ledger was written by a process that died, perhaps of
 * what it wrote, and the handles were kept by somebody else. Each record is checked by itself and
 * against the others, each handle against the record it belongs to; what does not fit is told in a
 * sentence, and the guest is not adopted, unless the part that is wrong cannot concern a page:
 *
 *	a process that has ended	it stays a mapper that is gone; the others are served
 *	a mapper without mappings	died while it was announced: its handles may be missing
 *	a guest that was being freed,	it is over: nobody keeps handles of what is unregistered
 *	and no userfaultfd anywhere
 *	a mapping half made		undone by the start
 *	a memory mapped nowhere		forgotten by the start; its handles may be missing
 *	a source that is gone or	nothing, if no page of its memory is absent
 *	changed
 *
 * Nothing is written, to the ledger or to the kernel, before the start.
 */
#pragma once

#include "guest/roster.h"
#include "pager/paged.h"

struct adoption {
	struct ufd_pager_guest *paged; /* borrowed; in no list yet */
	struct ledger *ledger;	       /* its guest's */
	struct ufd_pager_adopt_opts opts;
	bool *are_used;			  /* owned; which of the handles were looked at */
	uint32_t n_mappings[MAX_MAPPERS]; /* recorded */
	uint32_t n_memories;		  /* that mappings speak of: no id is as large */
	bool is_shown[MAX_MEMORIES];	  /* by an open mapping */
	bool is_nowhere; /* what was not found last surely is not there: -ENOENT of @opts.refetch */
	int refused; /* why the last source was: -ESTALE, it has changed; -errno of our own needs; or 0 */
};

__attribute__((format(printf, 2, 3))) void adoption_report(const struct adoption *adoption,
							   const char *format, ...);

/* Is this the fd that the record means? Return: NULL, or what it is instead. */
typedef const char *(*handle_check)(struct adoption *adoption, uint32_t id, int fd);

/**
 * adoption_handle() - the handle that was kept, or one that is found elsewhere
 * @what:   for reports: whose it is
 * @ret_fd: the caller's
 *
 * Return: 0, -EBADF (reported).
 */
int adoption_handle(struct adoption *adoption, uint32_t kind, uint32_t id, handle_check check,
		    const char *what, int *ret_fd);

/* The one or the other alone. Return: 0, -ENOENT (not kept; what was kept in its place is reported). */
int adoption_kept(struct adoption *adoption, uint32_t kind, uint32_t id, handle_check check,
		  const char *what, int *ret_fd);
/* Return: 0, -EBADF (reported). */
int adoption_refetch(struct adoption *adoption, uint32_t kind, uint32_t id, handle_check check,
		     const char *what, int *ret_fd);

/* ---- adopt-parts.c; all report what is wrong. Return: 0, -EBADMSG, -EBADF, -ESTALE, -errno. ---- */

int adopt_mappers(struct adoption *adoption);
int adopt_memories(struct adoption *adoption);
int adopt_mappings(struct adoption *adoption);
