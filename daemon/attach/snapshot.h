/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A paused guest on disk, plain: a directory with manifest.json, memory.raw and device.state. */
#pragma once

#include "driver/driver.h"

#define SNAPSHOT_MANIFEST "manifest.json"
#define SNAPSHOT_MEMORY	  "memory.raw"
#define SNAPSHOT_STATE	  "device.state"

/* One memory to save: file and length, as whoever found it in the VMM says. All borrowed. */
struct snapshot_input {
	const char *name;
	const char *kind; /* shmem or hugetlb */
	int backing_fd;	  /* readable */
	uint64_t length_bytes;
	uint64_t page_bytes;
};

/* Readable. What was saved. */
struct snapshot_saved {
	uint64_t length_bytes;	  /* of all memories */
	uint64_t populated_bytes; /* of them, neither hole nor zero */
	uint64_t state_bytes;
	uint64_t paused_ns; /* how long the guest stood still, if it ran before */
};

/**
 * snapshot_save() - pause the guest, write everything, let it go on if it ran
 * @directory: made if missing; refused if it holds a snapshot already
 *
 * Until manifest.json is there, which comes last, there is no snapshot. A failure leaves nothing
 * behind and the guest as it was found.
 *
 * Context: job; blocks for seconds. Return: 0, or -ECANCELED with @refusal set
 *          (io.ufd.guest.BadSnapshot for the directory, DriverFailed for the VMM).
 */
int snapshot_save(struct driver *driver, const struct snapshot_input *memories, size_t n_memories,
		  const char *directory, struct snapshot_saved *ret_saved, struct refusal *refusal);

/* Readable. */
struct snapshot_memory {
	char *name; /* owned */
	char *kind; /* owned */
	uint64_t length_bytes;
	uint64_t page_bytes;
	uint64_t offset_bytes; /* of its first byte in memory.raw */
};

/* Readable. Zero is empty. */
struct snapshot_manifest {
	struct snapshot_memory *memories; /* owned */
	size_t n_memories;
	uint64_t memory_bytes; /* length of memory.raw */
	uint64_t populated_bytes;
	uint64_t state_bytes;
	uint64_t created_ns; /* CLOCK_REALTIME */
};

/**
 * snapshot_read_manifest() - what a directory holds
 *
 * Every manifest that was ever written stays readable; fields this version does not know are
 * skipped, a newer version is refused by name. The files are checked against it by length.
 *
 * Context: job; blocks. Return: 0, or -ECANCELED with @refusal set (io.ufd.guest.BadSnapshot).
 */
int snapshot_read_manifest(const char *directory, struct snapshot_manifest *ret,
			   struct refusal *refusal);

void snapshot_manifest_done(struct snapshot_manifest *manifest);

/**
 * snapshot_load_and_run() - the last steps of a restore
 * @is_paused:      load only, leave it paused
 * @ret_running_ns: when it ran again, CLOCK_MONOTONIC; 0 if left paused
 *
 * The memories must be served already, by other threads: loading devices touches them.
 *
 * Context: job; blocks. Return: 0, or -ECANCELED with @refusal set.
 */
int snapshot_load_and_run(struct driver *driver, const char *directory, bool is_paused,
			  uint64_t *ret_running_ns, struct refusal *refusal);
