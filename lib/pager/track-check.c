/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* May a guest be tracked? If not, why. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "kernel/features.h"
#include "kernel/pagemap.h"
#include "kernel/pidfd.h"
#include "kernel/uapi.h"
#include "pager/track.h"

int track_refuse(struct ufd_pager_guest *paged, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(paged->refusal, sizeof(paged->refusal), format, args);
	va_end(args);
	return -EOPNOTSUPP;
}

static int check_kernel(struct ufd_pager_guest *paged)
{
	const struct kernel_features *features = features_get();

	if (!(features->uffd & UFFD_FEATURE_PAGEFAULT_FLAG_WP))
		return track_refuse(paged,
				    "this kernel cannot write-protect pages of a userfaultfd");
	if (paged->opts.track == UFD_TRACK_SCAN && !(features->uffd & UFFD_FEATURE_WP_ASYNC))
		return track_refuse(paged,
				    "the tracker scan needs Linux 6.7 or newer; attach the guest "
				    "with the tracker wp");
	if (paged->opts.track == UFD_TRACK_SCAN && !features->has_pagemap_scan)
		return track_refuse(paged, "this kernel has no PAGEMAP_SCAN");
	return 0;
}

/*
 * Whether UFFDIO_API was asked for write-protect faults makes no difference to them: registering for
 * them is enough, from any process. Only the asynchronous kind is fixed there for the life of the fd.
 */
int track_check_mapper(struct ufd_pager_guest *paged, struct mapper *mapper)
{
	bool is_async = mapper->features & UFFD_FEATURE_WP_ASYNC;
	int r;

	if (paged->opts.track == UFD_TRACK_SCAN && !is_async)
		return track_refuse(paged,
				    "the userfaultfd of process %d was made for the tracker wp, "
				    "and the guest was attached with scan",
				    mapper->pid);
	if (paged->opts.track == UFD_TRACK_WP && is_async)
		return track_refuse(paged,
				    "the userfaultfd of process %d was made for the tracker scan, "
				    "and the guest was attached with wp",
				    mapper->pid);
	r = paged->opts.track == UFD_TRACK_SCAN ? pagemap_open_once(&mapper->pagemap, mapper->pid)
						: 0;
	if (r == -EACCES || r == -EPERM)
		return track_refuse(paged,
				    "the page tables of process %d may not be read: pass its "
				    "/proc/PID/pagemap, or trace it",
				    mapper->pid);
	return r;
}

/* A write into the file shows through a private mapping, and in no page table. */
static bool may_be_written(const struct memory *memory)
{
	int seals = fcntl(memory->backing, F_GET_SEALS);
	struct stat stat;

	if (seals >= 0 && seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return false;
	return fstat(memory->backing, &stat) < 0 || stat.st_mode & (S_IWUSR | S_IWGRP | S_IWOTH);
}

int track_check_memory(struct ufd_pager_guest *paged, const struct memory *memory)
{
	bool is_file = memory->kind != BACKING_ANON;

	if (is_file && !(features_get()->uffd & UFFD_FEATURE_WP_HUGETLBFS_SHMEM))
		return track_refuse(paged, "this kernel cannot write-protect shared memory");
	if (memory->kind == BACKING_PRIVATE && may_be_written(memory))
		return track_refuse(paged,
				    "memory `%s` is a private mapping of a file that others may "
				    "write: seal it (F_SEAL_FUTURE_WRITE)",
				    memory->name);
	return 0;
}

/*
 * MADV_DONTNEED of a shared mapping takes a huge page out of the page tables, and with it that it was
 * written: PAGEMAP_SCAN does not report huge pages that nobody has mapped. We must hear of it.
 */
static int check_discards(struct ufd_pager_guest *paged, const struct mapper *mapper)
{
	if (paged->opts.track != UFD_TRACK_SCAN || mapper->features & UFFD_FEATURE_EVENT_REMOVE)
		return 0;
	for (uint32_t i = 0; i < paged->guest->n_memories; i++) {
		const struct memory *memory = paged->guest->memories[i];

		if (!memory->is_forgotten && memory->is_huge)
			return track_refuse(
				paged,
				"the userfaultfd of process %d does not tell of discards, "
				"which hide writes of the huge pages of memory `%s`",
				mapper->pid, memory->name);
	}
	return 0;
}

int track_check(struct ufd_pager_guest *paged)
{
	struct guest *guest = paged->guest;
	uint32_t n_living = 0;
	int r = check_kernel(paged);

	for (uint32_t i = 0; r == 0 && i < guest->n_mappers; i++) {
		if (guest->mappers[i].is_gone || !pidfd_is_alive(guest->mappers[i].pidfd))
			continue;
		n_living++;
		r = track_check_mapper(paged, &guest->mappers[i]);
		if (r == 0)
			r = check_discards(paged, &guest->mappers[i]);
	}
	for (uint32_t i = 0; r == 0 && i < guest->n_memories; i++)
		if (!guest->memories[i]->is_forgotten)
			r = track_check_memory(paged, guest->memories[i]);
	if (r == 0 && guest->n_mappers && !n_living)
		return -ESRCH;
	return r;
}
