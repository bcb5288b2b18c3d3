/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles that nobody kept, from the guest's processes: a duplicate of the uffd by pidfd_getfd(),
 * backings from /proc/PID/map_files or /proc/PID/fd, sources by their path or among the process's
 * fds. What is found is proved to be the one that the ledger means: a process by the time it
 * started, a file by device and inode, a userfaultfd by the inode that each of them has to itself
 * (record.h). What cannot be proved is not found.
 */
#pragma once

#include <sys/types.h>

#include <ufd/pager.h>

/* For struct ufd_pager_adopt_opts. Context: job or main; reads /proc. Return: 0, -ESRCH, -ENOENT, -errno. */
int refetch(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id, int *ret_fd);

/* The inode of a userfaultfd. Return: 0, -EBADFD if it is none, -errno. */
int refetch_uffd_inode(int uffd, uint64_t *ret_inode);

/**
 * refetch_uffd() - the process's copy of a userfaultfd
 * @remote_fd: its number there: where it was before, and where it is now
 * @ret_fd:    a duplicate, owned by the caller; NULL if none is wanted
 *
 * Context: job. Return: 0, -ENOENT, -ESRCH, -errno if we may not look.
 */
int refetch_uffd(pid_t pid, int pidfd, uint64_t inode, int *remote_fd, int *ret_fd);
