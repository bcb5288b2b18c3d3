/* SPDX-License-Identifier: MIT */
/*
 * Processes by fd: no pid is ever trusted twice.
 *
 * Context of all: any; nothing blocks or allocates.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Return: 0 with an owned, O_CLOEXEC fd (readable when the process ends), -ESRCH, other -errno. */
int pidfd_open_pid(int *ret_fd, pid_t pid);

/* The pid behind a pidfd. Return: 0, -ESRCH if it was reaped, -EBADFD if it is no pidfd. */
int pidfd_get_pid(int pidfd, pid_t *ret_pid);

/*
 * When the process began, in clock ticks since boot: together with its pid it names a process for
 * ever, also across our own death. Return: 0, -ESRCH, -EBADMSG, other -errno.
 */
int pidfd_start_ticks(pid_t pid, uint64_t *ret_ticks);

/* False once the process has ended, reaped or not. */
bool pidfd_is_alive(int pidfd);

/*
 * A duplicate of another process's fd, O_CLOEXEC.
 * Return: 0, -EBADF, -EPERM (needs the right to ptrace it), -ESRCH.
 */
int pidfd_get_fd(int pidfd, int remote_fd, int *ret_fd);

int pidfd_kill(int pidfd, int signal);

/*
 * The process at the other end of a Unix socket, as it was when it connected: SO_PEERPIDFD, or
 * SO_PEERCRED and pidfd_open before Linux 6.5. Return: 0, -ESRCH if it has ended, other -errno.
 */
int pidfd_of_peer(int socket, int *ret_fd, pid_t *ret_pid, uid_t *ret_uid, gid_t *ret_gid);
