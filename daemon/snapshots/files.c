/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The directory of a snapshot while it is written. */
#include "snapshots/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "snapshots/manifest.h"

static const char *const names[] = { SNAPSHOT_IMAGE, SNAPSHOT_STATE, SNAPSHOT_MANIFEST };
static const char *const new_names[] = { SNAPSHOT_IMAGE ".new", SNAPSHOT_STATE ".new",
					 SNAPSHOT_MANIFEST ".new" };
#define N_NAMES (sizeof(names) / sizeof(names[0]))

void snapshot_files_done(struct snapshot_files *files)
{
	closep(&files->image);
	closep(&files->state);
	closep(&files->directory);
	*files = (struct snapshot_files)SNAPSHOT_FILES_NONE;
}

void snapshot_files_discard(struct snapshot_files *files)
{
	for (size_t i = 0; files->directory >= 0 && i < N_NAMES; i++)
		unlinkat(files->directory, new_names[i], 0);
	if (files->is_ours)
		rmdir(files->path);
}

/* Guest memory is whatever secrets the guest has: for our own user only. */
static int create(int directory, const char *name)
{
	int fd = openat(directory, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? -errno : fd;
}

/*
 * The image, whose lock keeps every other save out of the directory. Nothing is cut before we have
 * it: the file may be one that another save is writing, or has just renamed. Return: the fd,
 * -EBUSY, other -errno.
 */
static int create_image(int directory)
{
	_cleanup_(closep) int fd = openat(directory, new_names[0],
					  O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat ours, named;

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return -EBUSY;
	if (fstat(fd, &ours) < 0)
		return -errno;
	if (fstatat(directory, new_names[0], &named, AT_SYMLINK_NOFOLLOW) < 0 ||
	    named.st_ino != ours.st_ino || named.st_dev != ours.st_dev)
		return -EBUSY;
	if (ftruncate(fd, 0) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static int check_manifest(const struct snapshot_files *files, struct refusal *refusal)
{
	struct stat there;

	if (!fstatat(files->directory, SNAPSHOT_MANIFEST, &there, AT_SYMLINK_NOFOLLOW))
		return snapshot_refuse(refusal, files->path,
				       "%s holds a snapshot already; remove it or name another "
				       "directory",
				       files->path);
	return 0;
}

static int open_all(struct snapshot_files *files, bool has_state, struct refusal *refusal)
{
	const char *path = files->path;
	int r;

	if (!mkdir(path, 0700))
		files->is_ours = true;
	else if (errno != EEXIST)
		return snapshot_refuse(refusal, path, "%s cannot be made: %s", path,
				       strerror(errno));

	files->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (files->directory < 0)
		return snapshot_refuse(refusal, path, "%s cannot be opened: %s", path,
				       strerror(errno));
	r = check_manifest(files, refusal);
	if (r < 0)
		return r;

	files->image = create_image(files->directory);
	if (files->image == -EBUSY)
		return snapshot_refuse(
			refusal, path,
			"%s is being written by another save; name another directory", path);
	if (files->image >= 0) { /* it may have come while we had no lock */
		r = check_manifest(files, refusal);
		if (r < 0)
			return r;
	}
	if (has_state && files->image >= 0)
		files->state = create(files->directory, new_names[1]);
	if (files->image < 0 || (has_state && files->state < 0))
		return snapshot_refuse(refusal, path, "%s cannot be written: %s", path,
				       strerror(files->image < 0 ? -files->image : -files->state));
	return 0;
}

int snapshot_files_open(struct snapshot_files *ret, const char *path, bool has_state,
			struct refusal *refusal)
{
	struct snapshot_files files = SNAPSHOT_FILES_NONE;
	int r;

	files.path = path;
	r = open_all(&files, has_state, refusal);
	if (r) {
		if (files.image >= 0) /* else what is there is another's */
			snapshot_files_discard(&files);
		else if (files.is_ours)
			rmdir(path);
		snapshot_files_done(&files);
		return r;
	}
	*ret = files;
	return 0;
}

/* A directory that was made is there after a crash only if the one above says so on disk, too. */
static int sync_above(const struct snapshot_files *files)
{
	_cleanup_(closep) int above = openat(files->directory, "..",
					     O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (!files->is_ours)
		return 0;
	return above < 0 || fsync(above) < 0 ? -errno : 0;
}

static int rename_one(const struct snapshot_files *files, size_t i)
{
	/* what lies under a manifest must be there on disk before it */
	if (i == N_NAMES - 1 && fsync(files->directory) < 0)
		return -errno;
	if (i == 1 && files->state < 0)
		return 0;
	return renameat(files->directory, new_names[i], files->directory, names[i]) < 0 ? -errno
											: 0;
}

static int publish(const struct snapshot_files *files, const char *text)
{
	_cleanup_(closep) int manifest = create(files->directory, new_names[N_NAMES - 1]);
	size_t n_renamed = 0;
	int r = manifest < 0 ? manifest : fd_write_all(manifest, text, strlen(text));

	if (!r && (fsync(files->image) < 0 || (files->state >= 0 && fsync(files->state) < 0) ||
		   fsync(manifest) < 0))
		r = -errno;
	while (!r && n_renamed < N_NAMES) {
		r = rename_one(files, n_renamed);
		if (!r)
			n_renamed++;
	}
	if (!r && fsync(files->directory) < 0)
		r = -errno;
	if (!r)
		r = sync_above(files);
	while (r && n_renamed > 0)
		unlinkat(files->directory, names[--n_renamed], 0);
	return r;
}

int snapshot_files_publish(const struct snapshot_files *files, const char *manifest,
			   struct refusal *refusal)
{
	int r = publish(files, manifest);

	if (r)
		return snapshot_refuse(refusal, files->path, "%s cannot be written: %s",
				       files->path, strerror(-r));
	return 0;
}
