/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The note that an image was restored. */
#include "image/image-mark.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define ATTRIBUTE "user.ufd.restored"
#define SUFFIX	  ".restored"

/* Return: false: the path is too long. */
static bool name_note(const char *path, char text[PATH_MAX])
{
	return snprintf(text, PATH_MAX, "%s" SUFFIX, path) < PATH_MAX;
}

int image_mark_restored(const char *path)
{
	_cleanup_(closep) int fd = -EBADF;
	char text[32], note[PATH_MAX];
	int n = snprintf(text, sizeof(text), "%lld\n", (long long)time(NULL));

	if (setxattr(path, ATTRIBUTE, text, (size_t)n, 0) == 0)
		return 0;
	if (!name_note(path, note))
		return IMAGE_NOT_MARKED;
	fd = open(note, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
	return fd >= 0 && write(fd, text, (size_t)n) == n ? 0 : IMAGE_NOT_MARKED;
}

static bool parse(const char *text, ssize_t n, int64_t *ret_when_s)
{
	char digits[32];

	if (n <= 0 || (size_t)n >= sizeof(digits))
		return false;
	memcpy(digits, text, (size_t)n);
	digits[n] = '\0';
	*ret_when_s = strtoll(digits, NULL, 10);
	return true;
}

bool image_was_restored(const char *path, int64_t *ret_when_s)
{
	_cleanup_(closep) int fd = -EBADF;
	char text[32], note[PATH_MAX];

	if (parse(text, getxattr(path, ATTRIBUTE, text, sizeof(text)), ret_when_s))
		return true;
	if (!name_note(path, note))
		return false;
	fd = open(note, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	return fd >= 0 && parse(text, read(fd, text, sizeof(text)), ret_when_s);
}
