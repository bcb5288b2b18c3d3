/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles that nobody kept, from the guest's processes: a duplicate of the uffd by pidfd_getfd()
 * (proved by registering a range of the ledger with it again: another one would be EBUSY), backings
 * from /proc/PID/fd or map_files by device and inode, sources by their path and identity.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include <ufd/pager.h>

/* For struct ufd_pager_adopt_opts. Context: job or main; reads /proc. */
int refetch(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
	    int *ret_fd);

/**
 * refetch_has_duplicate() - does the process hold a duplicate of this uffd?
 *
 * Then our death means that faults wait, not that absent pages read zero. Each userfaultfd of the
 * process is fetched and compared (F_DUPFD_QUERY, or kcmp()).
 * Context: job. Return: 1, 0, or -errno if we may not look.
 */
int refetch_has_duplicate(pid_t pid, int pidfd, int uffd);
