/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The program to go back to, as a file. */
#include "upgrade/program-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static int copy_all(int from, int to)
{
	off_t at = 0;
	struct stat info;

	if (fstat(from, &info) < 0)
		return -errno;
	while (at < info.st_size) {
		ssize_t n = sendfile(to, from, &at, (size_t)(info.st_size - at));

		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; /* it became shorter */
	}
	return 0;
}

int program_file_save(const char *directory, const char *name, int program)
{
	_cleanup_(closep) int folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(closep) int fd = -EBADF;
	char new_name[32];
	int r;

	if (folder < 0)
		return -errno;
	snprintf(new_name, sizeof(new_name), "%s.new", name);
	(void)unlinkat(folder, new_name, 0);
	fd = openat(folder, new_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0700);
	if (fd < 0)
		return -errno;
	r = copy_all(program, fd);
	if (r == 0 && renameat(folder, new_name, folder, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(folder, new_name, 0);
	return r;
}

/* Opened anew for reading only: what somebody could write is not executed (ETXTBSY). */
static int copy_to_memory(int file, int *ret_fd)
{
	_cleanup_(closep) int fd = memfd_create("ufdd", MFD_CLOEXEC | MFD_EXEC);
	char path[64];
	int r;

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 every one can be executed */
		fd = memfd_create("ufdd", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = copy_all(file, fd);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, O_RDONLY | O_CLOEXEC);
	if (r < 0)
		return -errno;
	*ret_fd = r;
	return 0;
}

static int load(int folder, const char *name, int *ret_fd)
{
	_cleanup_(closep) int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat info;

	if (fd < 0 || fstat(fd, &info) < 0)
		return -errno;
	if (!S_ISREG(info.st_mode) || info.st_mode & (S_IWGRP | S_IWOTH) ||
	    (info.st_uid != geteuid() && info.st_uid != 0))
		return -EPERM;
	return copy_to_memory(fd, ret_fd);
}

static bool is_name(const char *name)
{
	size_t n = strlen(name);

	return n > 3 && n < 16 && strncmp(name, "old", 3) == 0 &&
	       strspn(name + 3, "0123456789") == n - 3;
}

int program_file_load(const char *directory, char ret_name[static 16], int *ret_fd)
{
	_cleanup_(closedirp) DIR *entries = opendir(directory);
	struct dirent *entry;
	int r = -ENOENT;

	if (!entries)
		return -errno;
	while (r == -ENOENT && (entry = readdir(entries))) {
		if (!is_name(entry->d_name))
			continue;
		r = load(dirfd(entries), entry->d_name, ret_fd);
		if (r == 0)
			strcpy(ret_name, entry->d_name);
	}
	return r;
}

void program_file_remove(const char *directory, const char *name)
{
	_cleanup_(closep) int folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder >= 0)
		(void)unlinkat(folder, name, 0);
}
