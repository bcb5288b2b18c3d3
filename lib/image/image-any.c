/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images as people name them. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/image-error.h"
#include "image/image-foreign.h"
#include "image/image-source.h"

/* Does it begin like an image? False also if that cannot be told. */
static bool begins_like_one(const char *path)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char magic[8];

	return fd >= 0 && pread(fd, magic, sizeof(magic), 0) == sizeof(magic) &&
	       memcmp(magic, IMAGE_MAGIC, sizeof(magic)) == 0;
}

int image_open_any(struct image **ret, const char *name, const struct image_open_opts *opts,
		   const char **ret_error)
{
	bool is_file = strncmp(name, "file:", 5) == 0;
	const char *path = is_file ? name + 5 : name;
	uint32_t memory;

	if (image_spec_is(name) && !(opts && opts->without_chain))
		return image_spec_open(ret, &memory, name, ret_error);
	if (strncmp(name, "image:", 6) == 0)
		return image_open(ret, name + 6, -1, opts, ret_error);
	if (!is_file && begins_like_one(path))
		return image_open(ret, path, -1, opts, ret_error);
	return image_open_foreign(ret, IMAGE_RAW_FILE, &path, 1, -1, ret_error);
}
