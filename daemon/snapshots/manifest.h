/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * manifest.json of a snapshot: what its directory holds. Each that was ever written stays readable.
 *
 *	version | memory	| since
 *	--------+---------------+------------------------------------------------------------------
 *	1	| memory.raw	| the first release
 *	2	| memory.ufdi	| incremental and live ones; without device.state if only memory was saved
 *
 * Context of all: job; they block on the file system.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/format.h"
#include "refusal.h"

#define SNAPSHOT_MANIFEST	"manifest.json"
#define SNAPSHOT_RAW		"memory.raw"
#define SNAPSHOT_IMAGE		"memory.ufdi"
#define SNAPSHOT_STATE		"device.state"

#define SNAPSHOT_TRACKING_BYTES 16

/* Which moment it shows, and how that was done. */
enum snapshot_way {
	SNAPSHOT_PAUSED,       /* the guest stood still meanwhile */
	SNAPSHOT_ROUNDS,       /* it ran but for the end, and that is the moment */
	SNAPSHOT_BEFORE_WRITE, /* it ran but for the beginning, and that is the moment */
};
const char *snapshot_way_name(enum snapshot_way way);

/* Readable. */
struct snapshot_memory {
	char *name; /* owned */
	char *kind; /* owned */
	uint64_t length_bytes;
	uint64_t page_bytes;
	uint64_t offset_bytes; /* of its first byte in memory.raw; version 1 only */
};

/* Readable. Zero is empty. */
struct snapshot_manifest {
	unsigned int version;
	struct snapshot_memory *memories; /* owned */
	size_t n_memories;
	uint64_t memory_bytes; /* version 1: length of memory.raw; else of all memories */
	uint64_t populated_bytes;
	uint64_t state_bytes;
	uint64_t created_ns; /* CLOCK_REALTIME */

	/* version 2 */
	uint64_t image_bytes; /* length of memory.ufdi, which may have grown since */
	uint8_t digest[IMAGE_DIGEST_BYTES];
	bool has_parent;
	uint8_t parent[IMAGE_DIGEST_BYTES];
	char *parent_path; /* owned; of its memory.ufdi, as seen from the directory */
	enum snapshot_way way;
	uint64_t taken_ns; /* CLOCK_REALTIME: the moment it shows */
	uint64_t paused_ns;
	unsigned int n_rounds;
	bool is_memory_only;
	char *consumer; /* owned; whose epoch ended at that moment, NULL: nothing was tracked */
	uint64_t epoch;
	uint8_t tracking[SNAPSHOT_TRACKING_BYTES];
};

void snapshot_manifest_done(struct snapshot_manifest *manifest);

/* Copies of the names. Return: 0, -ENOMEM. */
int snapshot_manifest_add(struct snapshot_manifest *manifest, const char *name, const char *kind,
			  uint64_t length_bytes, uint64_t page_bytes);

/* NULL if it has none of that name. */
const struct snapshot_memory *snapshot_manifest_find(const struct snapshot_manifest *manifest,
						     const char *name);

/*
 * As version 2. @machine: consumed; NULL for none. Return: the text, owned; NULL if memory is
 * short.
 */
char *snapshot_manifest_text(const struct snapshot_manifest *manifest, json_t *machine);

/**
 * snapshot_manifest_parse() - what a text says
 * @directory: for the words of refusals
 *
 * Fields that this version does not know are skipped, a newer version is refused by name.
 * Return: 0, or -ECANCELED with @refusal set (io.ufd.guest.BadSnapshot).
 */
int snapshot_manifest_parse(const char *directory, const char *text, size_t n_text,
			    struct snapshot_manifest *ret, struct refusal *refusal);

/* Of a directory; its files are checked against it by length. Return: as above. */
int snapshot_read_manifest(const char *directory, struct snapshot_manifest *ret,
			   struct refusal *refusal);

/* A file of the directory, for reading. Return: as above. */
int snapshot_open_file(const char *directory, const char *name, int *ret_fd,
		       struct refusal *refusal);

/* io.ufd.guest.BadSnapshot. Return: always -ECANCELED. */
int snapshot_refuse(struct refusal *refusal, const char *directory, const char *message, ...)
	__attribute__((format(printf, 3, 4)));
