/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where absent pages come from. A source answers at once, or takes the request and completes it
 * later: nothing here may block the demand thread.
 *
 * A request is owned by the demand thread (a preallocated slot with a buffer of its own). It is
 * given to source_read(); until it is completed nobody else touches it. Completion comes either as
 * a completion of the demand thread's own io_uring (requests whose @is_in_ring is set: the token is
 * the request's address), or from any thread by source_complete(), which may run before
 * source_read() has returned SOURCE_PENDING.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "ufd/pager.h"

struct source;
struct uring;

/* Outcomes. */
enum source_answer {
	_SOURCE_DATA = UFD_SOURCE_DATA,
	SOURCE_ZERO = UFD_SOURCE_ZERO,
	SOURCE_PENDING = UFD_SOURCE_PENDING,
	SOURCE_FULL,	/* the ring has no free entry: ask again after a completion */
	SOURCE_CHANGED, /* the file was replaced, cut or written under us */
	SOURCE_SHORT,	/* it ends before these bytes */
};

#define SOURCE_SPARE_BYTES (128 * 1024)

/* Embedded in the demand thread's slots; readable by the owner. (pager.h calls it struct ufd_read.)
 */
struct source_request {
	uint64_t offset; /* in the source */
	uint64_t length_bytes;
	void *buffer;	    /* borrowed; at least length_bytes */
	struct uring *ring; /* for io_uring; tokens are the request's address */
	bool is_in_ring;    /* pending in the ring: give the completion to source_finish() */
	void *spare; /* borrowed; SOURCE_SPARE_BYTES for sources whose bytes lie packed; may be NULL */
	uint32_t n_done_bytes; /* the source's: short reads go on from here */
	uint32_t n_part_bytes; /* the source's, too: of the packed piece that is being read */
	/* for source_complete(), on the completing thread: hands the request back to its owner */
	void (*on_complete)(struct source_request *request, int answer);
	void *owner;
};

/* Where the bytes of an offset lie, for people. */
struct source_where {
	const char *path; /* the source's own, valid while it is */
	uint64_t offset;  /* in that file */
};

/* Readable; of sources whose bytes lie packed. */
struct source_counts {
	uint64_t frames_cached; /* taken from those that were unpacked before */
	uint64_t frames_unpacked;
};

/* Which file it is, and since when it is as it is: what must be the same after a restart. Readable. */
struct source_identity {
	uint64_t device, inode;
	uint64_t length_bytes;
	int64_t modified_s,
		changed_s; /* zero for devices: writes to others of its parts touch them */
	uint32_t modified_ns, changed_ns;
};

struct source_ops {
	const char *kind;
	uint64_t (*length)(struct source *source); /* bytes; UINT64_MAX is endless */
	/* SOURCE_PENDING only after the request was handed on. */
	int (*read)(struct source *source, struct source_request *request);
	/* A request of the ring completed with @result; a short read may go on: SOURCE_PENDING. */
	int (*finish)(struct source *source, struct source_request *request, int32_t result);
	/* What lies at @offset, and how far that holds (at most @length); never reads. */
	int (*extent)(struct source *source, uint64_t offset, uint64_t length,
		      uint64_t *ret_length);
	void (*free)(struct source *source);
	/* Of kinds that read an open file; else NULL. The fd is borrowed. */
	int (*file)(struct source *source, struct source_identity *ret);
	/* Of kinds that consist of several files, or pack them; else NULL. Asks nobody. */
	bool (*where)(struct source *source, uint64_t offset, struct source_where *ret);
	void (*counts)(struct source *source, struct source_counts *ret);
};

/* To be embedded first in each kind's own struct; private to the room. */
struct source {
	const struct source_ops *ops;
	_Atomic uint32_t n_refs;
	char *spec;	 /* owned; NULL for sources that were not made from one */
	bool is_backing; /* SPEC `backing`: never read, the bytes are in the memory's file */
	bool is_zero;	 /* SPEC `zero` */
};

struct source *source_ref(struct source *source);
struct source *source_unref(struct source *source);
DEFINE_CLEANUP(struct source, source_unref)

uint64_t source_length(struct source *source);

/* As it was opened: source_reopen() takes it. NULL: it cannot be made again. */
const char *source_spec(const struct source *source);

/* The open file that it reads, borrowed, and which one it is; -EBADF if it is none. @ret may be NULL. */
int source_file(struct source *source, struct source_identity *ret);
bool source_is_same_file(const struct source_identity *a, const struct source_identity *b);

/* Which byte of which file is wanted for @offset. Context: any. Return: false: it cannot be told, or is zero. */
bool source_where(struct source *source, uint64_t offset, struct source_where *ret);

/* Zero for sources that unpack nothing. Context: any. */
void source_get_counts(struct source *source, struct source_counts *ret);

/**
 * source_read() - fill the request's buffer, now or later
 *
 * Context: demand; does not block.
 * Return:  0 (bytes are in the buffer), SOURCE_ZERO (buffer untouched), SOURCE_PENDING,
 *	    SOURCE_FULL, SOURCE_CHANGED, SOURCE_SHORT, or -errno of the device.
 */
int source_read(struct source *source, struct source_request *request);

/**
 * source_finish() - the ring completed a request with @result
 *
 * Context: demand; does not block.
 * Return:  as source_read(). SOURCE_PENDING: a short read goes on, another completion follows.
 *	    SOURCE_FULL: it could not go on; start again with source_read().
 */
int source_finish(struct source *source, struct source_request *request, int32_t result);

/**
 * source_extent() - what lies at @offset, and how far that holds
 * @ret_length_bytes: 1 to @length_bytes, in bytes: an extent may end within a page. A page is zero
 *		      only if SOURCE_ZERO covers the whole of it; any other page is read.
 *
 * Never reads; a source that does not know says data. Context: demand; does not block on the
 * device. Return: 0 (data) or SOURCE_ZERO.
 */
int source_extent(struct source *source, uint64_t offset, uint64_t length_bytes,
		  uint64_t *ret_length_bytes);

/*
 * For sources that complete elsewhere: 0, SOURCE_ZERO, SOURCE_CHANGED, SOURCE_SHORT or -errno; any
 * other answer becomes -EINVAL. Context: any; does not block.
 */
void source_complete(struct source_request *request, int answer);
