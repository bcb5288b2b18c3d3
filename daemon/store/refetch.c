/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles from elsewhere.
 *
 * What a process holds or maps may be a file whose file system never answers, or a FIFO. So nothing is
 * opened before it is known by its inode, and inodes are asked for in a way that asks no server.
 */
#include "store/refetch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/files.h"
#include "image/image-source.h"
#include "kernel/pidfd.h"
#include "source/file-spec.h"
#include "store/record.h"

#define UFFD_LINK "anon_inode:[userfaultfd]"
#define ENDING_MS 100

/* A pidfd of the process that is meant, not of a later one of its number. */
static int fetch_pidfd(const struct ufd_handle_info *info, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t ticks;
	int r;

	r = pidfd_open_pid(&fd, info->pid);
	if (r == 0)
		r = pidfd_start_ticks(info->pid, &ticks);
	if (r < 0)
		return r;
	if (ticks != info->start_ticks || !pidfd_is_alive(fd))
		return -ESRCH;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* ---- among the fds of a process ---- */

static int open_fds(pid_t pid, DIR **ret)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	*ret = opendir(path);
	if (!*ret)
		return errno == ENOENT ? -ESRCH : -errno;
	return 0;
}

/* @name: below @folder, or "" for itself. Block devices are known by what they are, not by where they lie. */
static bool is_file(int folder, const char *name, const struct ufd_handle_info *wanted)
{
	struct statx info;
	dev_t device;

	if (statx(folder, name, AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &info))
		return false;
	device = S_ISBLK(info.stx_mode) ? makedev(info.stx_rdev_major, info.stx_rdev_minor)
					: makedev(info.stx_dev_major, info.stx_dev_minor);
	return info.stx_ino == wanted->inode && device == wanted->device;
}

static bool is_uffd_link(int folder, int number)
{
	char name[16], target[sizeof(UFFD_LINK) + 1];
	ssize_t n;

	snprintf(name, sizeof(name), "%d", number);
	n = readlinkat(folder, name, target, sizeof(target));
	return n == (ssize_t)strlen(UFFD_LINK) && memcmp(target, UFFD_LINK, (size_t)n) == 0;
}

int refetch_uffd_inode(int uffd, uint64_t *ret_inode)
{
	_cleanup_(closep) int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat info;

	if (folder < 0)
		return -errno;
	if (!is_uffd_link(folder, uffd))
		return -EBADFD;
	if (fstat(uffd, &info) < 0)
		return -errno;
	*ret_inode = info.st_ino;
	return 0;
}

static bool is_uffd_of(int folder, int number, uint64_t inode)
{
	struct stat info;
	char name[16];

	snprintf(name, sizeof(name), "%d", number);
	return is_uffd_link(folder, number) && fstatat(folder, name, &info, 0) == 0 &&
	       info.st_ino == inode;
}

/* Where it was, else anywhere. */
static int find_uffd(DIR *dir, int number, uint64_t inode)
{
	struct dirent *entry;

	if (is_uffd_of(dirfd(dir), number, inode))
		return number;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && is_uffd_of(dirfd(dir), atoi(entry->d_name), inode))
			return atoi(entry->d_name);
	return -ENOENT;
}

static bool has_inode(int fd, uint64_t inode)
{
	uint64_t found;

	return refetch_uffd_inode(fd, &found) == 0 && found == inode;
}

int refetch_uffd(pid_t pid, int pidfd, uint64_t inode, int *remote_fd, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	_cleanup_(closedirp) DIR *dir = NULL;
	int number, r;

	r = open_fds(pid, &dir);
	if (r < 0)
		return r;
	number = find_uffd(dir, *remote_fd, inode);
	if (!pidfd_is_alive(pidfd))
		return -ESRCH;
	if (number < 0)
		return number;
	if (ret_fd) {
		r = pidfd_get_fd(pidfd, number, &fd);
		if (r < 0)
			return r;
		if (!has_inode(fd, inode)) /* it was replaced just now */
			return -ENOENT;
		*ret_fd = TAKE_FD(fd);
	}
	*remote_fd = number;
	return 0;
}

/* ---- one kind after the other ---- */

/* One that ends has closed its files, and unmapped its memory, a moment before its pidfd tells. */
static bool is_ending(int pidfd)
{
	struct pollfd poll_fd = { .fd = pidfd, .events = POLLIN };

	return poll(&poll_fd, 1, ENDING_MS) == 1;
}

static int fetch_uffd(struct ufd_pager_guest *guest, uint32_t mapper,
		      const struct ufd_handle_info *info, int *ret_fd)
{
	_cleanup_(closep) int pidfd = -EBADF;
	struct record_mapper record;
	int r;

	r = record_find_mapper(guest, mapper, info->pid, &record);
	if (r == 0 && record.pid != info->pid)
		r = -EBADMSG;
	if (r == 0)
		r = fetch_pidfd(info, &pidfd);
	if (r < 0)
		return r;
	r = refetch_uffd(info->pid, pidfd, record.uffd_inode, &record.copy_fd, ret_fd);
	return r == -ENOENT && is_ending(pidfd) ? -ESRCH : r;
}

static int fetch_pagemap(const struct ufd_handle_info *info, int *ret_fd)
{
	_cleanup_(closep) int pidfd = -EBADF, fd = -EBADF;
	char path[32];
	int r;

	r = fetch_pidfd(info, &pidfd);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", info->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!pidfd_is_alive(pidfd))
		return -ESRCH;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* What the ledger means, if this is it. */
static int open_file(int folder, const char *name, int flags, const struct ufd_handle_info *info,
		     int *ret_fd)
{
	_cleanup_(closep) int found = openat(folder, name, O_PATH | O_CLOEXEC);
	char path[48];
	int fd;

	if (found < 0)
		return -errno;
	if (!is_file(found, "", info))
		return -ENOENT;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", found);
	fd = open(path, flags | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* Through the mapping itself: the link is named by where it lies, which hot-plug may have joined with others. */
static int open_mapped(const struct ufd_handle_info *info, int *ret_fd)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	uint64_t start, end;
	struct dirent *entry;
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, info->pid,
		 info->address, info->address + info->length);
	if (open_file(AT_FDCWD, path, O_RDWR, info, ret_fd) == 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/map_files", info->pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir)))
		if (sscanf(entry->d_name, "%" SCNx64 "-%" SCNx64, &start, &end) == 2 &&
		    start <= info->address && info->address < end)
			return open_file(dirfd(dir), entry->d_name, O_RDWR, info, ret_fd);
	return -ENOENT;
}

/* By an fd of the process: what it opened for writing when @flags ask for that. */
static int open_held(const struct ufd_handle_info *info, int flags, int *ret_fd)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int r;

	r = open_fds(info->pid, &dir);
	while (r == 0 && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' &&
		    open_file(dirfd(dir), entry->d_name, flags, info, ret_fd) == 0)
			return 0;
	return r < 0 ? r : -ENOENT;
}

static int fetch_backing(const struct ufd_handle_info *info, int *ret_fd)
{
	_cleanup_(closep) int pidfd = -EBADF;
	int r;

	r = fetch_pidfd(info, &pidfd);
	if (r < 0)
		return r;
	r = open_mapped(info, ret_fd);
	if (r < 0)
		r = open_held(info, O_RDWR, ret_fd);
	return r == -ENOENT && is_ending(pidfd) ? -ESRCH : r;
}

static int fetch_source(const struct ufd_handle_info *info, int *ret_fd)
{
	_cleanup_(closep) int pidfd = -EBADF;
	char path[PATH_MAX];
	int r;

	if (info->spec && (file_spec_path(info->spec, path) || image_spec_file(info->spec, path)) &&
	    path[0] && open_file(AT_FDCWD, path, O_RDONLY, info, ret_fd) == 0)
		return 0;
	r = fetch_pidfd(info, &pidfd);
	if (r == 0)
		r = open_held(info, O_RDONLY, ret_fd);
	return r == -ENOENT && is_ending(pidfd) ? -ESRCH : r;
}

int refetch(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id, int *ret_fd)
{
	UFD_OPTS(ufd_handle_info, info);
	int r = ufd_pager_handle_info(guest, kind, id, &info);

	if (r < 0)
		return r;
	switch (kind) {
	case UFD_HANDLE_UFFD:
		return fetch_uffd(guest, id, &info, ret_fd);
	case UFD_HANDLE_PIDFD:
		return fetch_pidfd(&info, ret_fd);
	case UFD_HANDLE_PAGEMAP:
		return fetch_pagemap(&info, ret_fd);
	case UFD_HANDLE_BACKING:
		return fetch_backing(&info, ret_fd);
	case UFD_HANDLE_SOURCE:
		return fetch_source(&info, ret_fd);
	default:
		return -ENOENT;
	}
}
