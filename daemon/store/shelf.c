/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ledgers as files. */
#include "store/shelf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/clock.h"
#include "base/units.h"
#include "guest/ledger.h"

#define PIECE_BYTES	 (256 * KIB)
#define LOCK_PATIENCE_NS (3 * NSEC_PER_SEC)

void shelf_files_free(struct shelf_file *files, size_t n_files)
{
	for (size_t i = 0; i < n_files; i++) {
		free(files[i].path);
		closep(&files[i].fd);
	}
	free(files);
}

/*
 * Two that adopt the same guests would both serve them. One that was killed may still be dying: with
 * many guests that takes a while, and nothing tells when it is over.
 */
static int lock(int fd)
{
	const struct timespec pause = { .tv_nsec = 5 * NSEC_PER_MSEC };
	uint64_t deadline_ns = clock_now_ns() + LOCK_PATIENCE_NS;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return -errno;
		if (clock_now_ns() >= deadline_ns)
			return -EBUSY;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* Who may rename what is in there could give us a guest as it was yesterday. */
static bool is_safe(int fd)
{
	struct stat info;

	return fstat(fd, &info) == 0 && (info.st_uid == geteuid() || info.st_uid == 0) &&
	       !(info.st_mode & S_IWOTH);
}

int shelf_open(const char *path, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	struct statfs info;
	int r;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &info) < 0)
		return -errno;
	if (info.f_type != TMPFS_MAGIC)
		return -EMEDIUMTYPE;
	if (!is_safe(fd))
		return -EPERM;
	r = lock(fd);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool is_ledger_name(const char *name)
{
	size_t n = strlen(name), n_end = strlen(".ledger");

	return n > n_end && strcmp(name + n - n_end, ".ledger") == 0;
}

/*
 * Return: true if it is one; what is not ours is left alone. One that we have no fd for is named
 * without.
 */
static bool open_file(int shelf, const char *folder, const char *name, struct shelf_file *ret)
{
	_cleanup_(closep) int fd = openat(shelf, name,
					  O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	bool is_unknown = fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM);
	struct stat info = {};
	char *path;

	if (!is_unknown &&
	    (fd < 0 || fstat(fd, &info) < 0 || !S_ISREG(info.st_mode) || info.st_uid != geteuid()))
		return false;
	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return false;
	*ret = (struct shelf_file){
		.path = path,
		.fd = TAKE_FD(fd),
		.device = info.st_dev,
		.inode = info.st_ino,
	};
	return true;
}

int shelf_list(int shelf, const char *path, struct shelf_file **ret, size_t *ret_n)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct shelf_file *files = NULL;
	struct dirent *entry;
	size_t n = 0;
	int fd;

	fd = openat(shelf, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		closep(&fd);
		return -ENOMEM;
	}
	while ((entry = readdir(dir))) {
		struct shelf_file *more;

		if (!is_ledger_name(entry->d_name))
			continue;
		more = reallocarray(files, n + 1, sizeof(*files));
		if (!more) {
			shelf_files_free(files, n);
			return -ENOMEM;
		}
		files = more;
		n += open_file(shelf, path, entry->d_name, &files[n]);
	}
	*ret = files;
	*ret_n = n;
	return 0;
}

/* One run of bytes that were written. Return: 0 or -errno. */
static int copy_run(int from, int to, off_t at, off_t end, char *buffer)
{
	while (at < end) {
		ssize_t n = pread(from, buffer, min_u64((uint64_t)(end - at), PIECE_BYTES), at);

		if (n > 0)
			n = pwrite(to, buffer, (size_t)n, at);
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
	}
	return 0;
}

static int copy_bytes(int from, int to)
{
	_cleanup_(freep) char *buffer = malloc(PIECE_BYTES);
	off_t at = 0, end;
	struct stat info;
	int r;

	if (!buffer)
		return -ENOMEM;
	if (fstat(from, &info) < 0)
		return -errno;
	/* room first: who maps the file later must not meet a full file system */
	r = info.st_size ? posix_fallocate(to, 0, info.st_size) : 0;
	if (r)
		return -r;
	while ((at = lseek(from, at, SEEK_DATA)) >= 0) {
		end = lseek(from, at, SEEK_HOLE);
		if (end < 0)
			break;
		r = copy_run(from, to, at, end, buffer);
		if (r < 0)
			return r;
		at = end;
	}
	return errno == ENXIO ? 0 : -errno; /* no data beyond */
}

int shelf_copy(int shelf, int ledger, const char *guest_name)
{
	char name[LEDGER_FILE_NAME_BYTES], new_name[LEDGER_FILE_NAME_BYTES + 4];
	_cleanup_(closep) int fd = -EBADF;
	int r;

	ledger_file_name(guest_name, name);
	snprintf(new_name, sizeof(new_name), "%s.new", name);
	(void)unlinkat(shelf, new_name, 0);
	fd = openat(shelf, new_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = copy_bytes(ledger, fd);
	if (r == 0 && renameat(shelf, new_name, shelf, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(shelf, new_name, 0);
	return r;
}

void shelf_remove_older(int shelf, const char *guest_name, int ledger)
{
	char name[LEDGER_FILE_NAME_BYTES];
	struct stat own, there;

	ledger_file_name(guest_name, name);
	if (fstat(ledger, &own) == 0 && fstatat(shelf, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    (there.st_dev != own.st_dev || there.st_ino != own.st_ino))
		(void)unlinkat(shelf, name, 0);
}

void shelf_remove(int shelf, dev_t device, ino_t inode)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	struct stat info;
	int fd;

	fd = openat(shelf, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		closep(&fd);
		return;
	}
	while ((entry = readdir(dir)))
		if (entry->d_ino == inode && is_ledger_name(entry->d_name) &&
		    fstatat(shelf, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
		    info.st_dev == device && info.st_ino == inode)
			(void)unlinkat(shelf, entry->d_name, 0);
}
