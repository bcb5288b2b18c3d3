/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is known of one restore that is served page by page: a memfd, shared by the process that serves it
 * (serve.h), which writes it, and ufdd, which shows it and starts another such process if that one dies.
 *
 * Context of all: any; no blocking but for journal_claim().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "attach/cloud-hypervisor.h"
#include "base/cleanup.h"

#define JOURNAL_NAME_BYTES 128
#define JOURNAL_PATH_BYTES 4096
#define JOURNAL_TEXT_BYTES 256

enum journal_phase {
	JOURNAL_SENDING,  /* config and state are; nothing of the guest ran */
	JOURNAL_SERVING,  /* its pages are asked for */
	JOURNAL_COMPLETE, /* every page is there */
	JOURNAL_ENDED,	  /* the connection ended before that: the guest did */
	JOURNAL_FAILED,	  /* Cloud Hypervisor did not take it */
};

/* Readable. Written by who serves; numbers by relaxed stores, for people. */
struct journal {
	uint32_t magic;
	uint32_t version;
	_Atomic uint32_t phase;
	uint32_t is_inline; /* pages are sent, not put into files */
	char name[JOURNAL_NAME_BYTES];
	char directory[JOURNAL_PATH_BYTES];
	char socket[JOURNAL_PATH_BYTES];
	struct ch_layout layout;
	uint64_t n_pages;	      /* of CH_PAGE_BYTES */
	_Atomic uint64_t n_delivered; /* of them */
	_Atomic uint64_t n_faults;    /* answered */
	_Atomic uint64_t n_retries;   /* of reads that failed */
	/* What is about to be written: bytes of mapping @noted_index; noted_end is set last, 0 is nothing. */
	_Atomic uint64_t noted_index, noted_start, noted_end;
	_Atomic uint64_t bits[]; /* a page each, mapping after mapping */
};

/* It is in the phase from which nothing comes any more. */
static inline bool journal_is_over(const struct journal *journal)
{
	return journal->phase >= JOURNAL_COMPLETE;
}

/* @ret_fd, and *ret for journal_unmap(). Return: 0 or -errno. */
int journal_new(struct journal **ret, int *ret_fd, const struct ch_layout *layout);

/* Return: 0, -EBADMSG (none of ours, or of another release), -errno. */
int journal_map(struct journal **ret, int fd);
void journal_unmap(struct journal *journal);

/*
 * One process at a time serves: a lock that ends with it. A process that has the journal open must not close
 * any fd of it while it serves: record locks go with the first. Return: 0, -errno.
 */
int journal_claim(int fd);
/* Who serves; 0: nobody. */
pid_t journal_owner(int fd);

/* Of a range in mapping @index; offsets in it. */
bool journal_is_delivered(const struct journal *journal, size_t index, uint64_t offset_bytes);
void journal_deliver(struct journal *journal, size_t index, uint64_t offset_bytes,
		     uint64_t length_bytes);
