/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Would one more guest still fit? Asked before it is acknowledged, for what does not fit is lost
 * when we restart, or starves those that are there. Each refusal is io.ufd.manager.LimitReached,
 * with `limit` one of:
 *
 *	fd-store	FileDescriptorStoreMax of the unit, two fds a guest
 *	fd-names	the names of all stored fds in one environment string of 128 KiB
 *	nofile		RLIMIT_NOFILE. As many fds as we have open may be in flight in bundles, so one
 *			limit covers both
 *	hugetlb		the pool has fewer free and surplus pages than the absent pages of this guest
 *			and of those that are there
 *	memory		what is going to be filled in the background, of this guest and of those that
 *			are there, does not fit what is available and free swap, or what the target's
 *			memory control group leaves. Only what is filled unasked counts: a guest without
 *			background fill may be larger than the host
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct plan;
struct refusal;
struct settings;
struct store;

#define ADMISSION_N_SIZES 8

/* Bytes by page size. Readable; entries without a size are free. */
struct admission_bytes {
	struct {
		uint64_t page_bytes;
		uint64_t n_bytes;
	} sizes[ADMISSION_N_SIZES];
};
void admission_add(struct admission_bytes *bytes, uint64_t page_bytes, uint64_t n_bytes);
uint64_t admission_get(const struct admission_bytes *bytes, uint64_t page_bytes);

/* What guests are still going to need. Readable. */
struct admission_need {
	struct admission_bytes huge; /* absent, by page size */
	uint64_t filled_bytes;	     /* of base pages, by background fill */
};

/* What a plan is going to need; looks at the backings. Context: job. */
struct admission_need admission_need_of(const struct plan *plan, const struct settings *settings);

/* What there is. UINT64_MAX is no limit. Readable. */
struct admission_room {
	uint64_t stored_fds, stored_fds_max;
	uint64_t name_bytes, name_bytes_max;
	uint64_t open_fds, open_fds_max;
	uint64_t memory_bytes; /* of the host */
	uint64_t cgroup_bytes; /* of the target's group */
	struct admission_bytes huge;
};

/* Context: job; reads /proc and /sys. What cannot be read does not limit. */
struct admission_room admission_look(const struct store *store, pid_t pid,
				     const struct admission_need *need);

/*
 * @others: of the guests that are there; @n_memories: of the new guest, or 0 if it is there already
 * and only grows.
 * Return: 0, or -ECANCELED with @refusal set.
 */
int admission_decide(const struct admission_room *room, const struct admission_need *need,
		     const struct admission_need *others, size_t n_memories, const char *guest_name,
		     struct refusal *refusal);

/* RLIMIT_NOFILE as high as we may have it. Context: main, before threads are started. */
void admission_raise_limits(void);
