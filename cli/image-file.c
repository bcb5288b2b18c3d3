/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images on the command line. */
#include "image-file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/image-foreign.h"

int image_file_failed(int r, const char *why)
{
	fprintf(stderr, "ufdctl: %s\n", why ?: strerror(-r));
	return r == -EACCES || r == -EPERM ? EXIT_DENIED : EXIT_FAILED;
}

int image_file_open(struct image **ret, const char *name, const struct image_open_opts *opts)
{
	const char *why = NULL;
	int r = image_open_any(ret, name, opts, &why);

	return r < 0 ? image_file_failed(r, why) : EXIT_DONE;
}

int image_file_memory(const struct image *image, const char *name, uint32_t *ret)
{
	if (!name && image_n_memories(image) == 1) {
		*ret = 0;
		return EXIT_DONE;
	}
	if (name && image_find_memory(image, name, ret))
		return EXIT_DONE;
	fprintf(stderr, "ufdctl: %s has the memories",
		name ? "there is no such memory: it" : "say which memory with --memory: it");
	for (uint32_t i = 0; i < image_n_memories(image); i++)
		fprintf(stderr, " %s", image_memory(image, i)->name);
	fputc('\n', stderr);
	return EXIT_FAILED;
}

int image_file_make(struct image_file *ret, const char *path)
{
	int fd;

	if (strcmp(path, "-") == 0) {
		*ret = (struct image_file){ .fd = STDOUT_FILENO };
		return EXIT_DONE;
	}
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd < 0) {
		fprintf(stderr, "ufdctl: cannot make %s: %s\n", path, strerror(errno));
		return errno == EACCES ? EXIT_DENIED : EXIT_FAILED;
	}
	*ret = (struct image_file){ .fd = fd, .path = path };
	return EXIT_DONE;
}

/* Its bytes are on the disk already; its name is when the folder is. */
static int sync_folder(const char *path)
{
	_cleanup_(freep) char *copy = strdup(path);
	_cleanup_(closep) int folder = -EBADF;

	if (!copy)
		return -ENOMEM;
	folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return folder < 0 || fsync(folder) < 0 ? -errno : 0;
}

int image_file_keep(struct image_file *file)
{
	int r = file->path ? sync_folder(file->path) : 0;

	if (r < 0) {
		fprintf(stderr, "ufdctl: the folder of %s cannot be written to disk: %s\n",
			file->path, strerror(-r));
		return EXIT_FAILED;
	}
	file->path = NULL;
	return EXIT_DONE;
}

void image_file_done(struct image_file *file)
{
	if (file->path)
		unlink(file->path);
	if (file->fd > STDERR_FILENO)
		close(file->fd);
}

json_t *image_file_digest(const uint8_t digest[IMAGE_DIGEST_BYTES])
{
	static const uint8_t none[IMAGE_DIGEST_BYTES];
	char text[IMAGE_DIGEST_TEXT];

	if (memcmp(digest, none, sizeof(none)) == 0)
		return json_null();
	image_digest_text(digest, text);
	return json_string(text);
}
