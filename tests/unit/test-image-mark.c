/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The note that an image was restored: beside it, never in it, and no error where there can be none. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/image-mark.h"
#include "support/unit.h"

static bool has_attributes;

/* A file system without them, or with: as the test wants. */
int setxattr(const char *path, const char *name, const void *value, size_t n_value, int flags)
{
	char text[256];

	snprintf(text, sizeof(text), "%s.attribute", path);
	if (has_attributes) {
		_cleanup_(closep) int fd = open(text, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
						0600);

		return fd >= 0 && write(fd, value, n_value) == (ssize_t)n_value ? 0 : -1;
	}
	errno = ENOTSUP;
	return -1;
}

ssize_t getxattr(const char *path, const char *name, void *value, size_t n_value)
{
	char text[256];

	snprintf(text, sizeof(text), "%s.attribute", path);
	if (has_attributes) {
		_cleanup_(closep) int fd = open(text, O_RDONLY | O_CLOEXEC);

		if (fd >= 0)
			return read(fd, value, n_value);
		errno = ENODATA;
		return -1;
	}
	errno = ENOTSUP;
	return -1;
}

static const bool both[] = { true, false };

START_TEST(a_restored_image_is_known_by_its_note)
{
	char folder[] = "/tmp/test-image-mark-XXXXXX", path[64], command[128];
	struct stat before, after;
	int64_t when_s = 0;
	int fd;

	has_attributes = both[_i];
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/image", folder);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0400);
	ck_assert_int_eq(write(fd, "bytes", 5), 5);
	ck_assert_int_eq(fstat(fd, &before), 0);
	ck_assert(!image_was_restored(path, &when_s));
	ck_assert_int_eq(image_mark_restored(path), 0);
	ck_assert(image_was_restored(path, &when_s));
	ck_assert_int_ge(when_s, time(NULL) - 60);
	ck_assert_int_le(when_s, time(NULL));
	ck_assert_int_eq(image_mark_restored(path), 0);
	ck_assert_int_eq(fstat(fd, &after), 0);
	ck_assert_int_eq(after.st_size, before.st_size);
	ck_assert_int_eq(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
	ck_assert_int_eq(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
	close(fd);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(where_nothing_can_be_noted_nothing_fails)
{
	int64_t when_s;

	/* a folder that nobody, not even root, makes files in */
	ck_assert_int_eq(image_mark_restored("/proc/self/stat"), IMAGE_NOT_MARKED);
	ck_assert(!image_was_restored("/proc/self/stat", &when_s));
	ck_assert_int_eq(image_mark_restored("/nowhere/image"), IMAGE_NOT_MARKED);
	ck_assert(!image_was_restored("/nowhere/image", &when_s));
}
END_TEST

int main(void)
{
	return unit_run("image-mark",
			(struct unit_test[]){
				UNIT_TABLE(a_restored_image_is_known_by_its_note, both),
				UNIT(where_nothing_can_be_noted_nothing_fails),
				{},
			});
}
