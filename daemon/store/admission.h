/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Would one more guest still fit? Asked before it is acknowledged, for what does not fit is lost
 * when we restart. Each refusal is io.ufd.manager.LimitReached, with `limit` one of:
 *
 *	fd-store	FileDescriptorStoreMax of the unit (passed by `--fd-store-max`, or $UFD_FDSTORE_MAX)
 *	fd-names	the names of all stored fds in one environment string of 128 KiB
 *	nofile		RLIMIT_NOFILE: our fds, and those in flight in bundles
 *	hugetlb		the pool has fewer free and surplus pages than the memory's absent pages need
 *	memory		MemAvailable, or what is left of our or the target's memory cgroup
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct plan;
struct refusal;
struct store;

/* What the daemon holds already. Readable. */
struct admission_use {
	size_t n_guests;
	size_t n_handles; /* in bundles */
};

/* Context: job; reads /proc and /sys. Return: 0, or -ECANCELED with @refusal set. */
int admission_check(const struct store *store, const struct admission_use *use,
		    const struct plan *plan, pid_t pid, const char *guest_name,
		    struct refusal *refusal);
