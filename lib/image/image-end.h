/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of an image: its last whole footer, found from behind.
 *
 * What is cut or was never written (no footer begins there) is what a crash leaves: the footer
 * before counts. A footer that is whole and wrong is damage, and told: taking the one before would
 * give an older content for a newer one.
 */
#pragma once

#include <stdint.h>

#include "image/format.h"

/* Readable. */
struct image_end {
	struct image_header header;
	struct image_footer footer;
	uint64_t end; /* of the footer */
};

/**
 * image_end_find() - the footer that counts
 * @name:   of the file, for messages
 * @digest: of the commit that is wanted, which may be an older one; NULL: the last
 *
 * Context: any; blocks. Return: 0, -ESPIPE (no regular file), -EBADMSG, -EPROTONOSUPPORT, -ESTALE
 * (no commit has @digest), -errno.
 */
int image_end_find(int fd, const char *name, const uint8_t *digest, struct image_end *ret,
		   const char **ret_error);

/* All of @n_bytes at @offset. Return: 0, -ENODATA (the file ends before), -errno. */
int image_read_at(int fd, void *buffer, uint64_t n_bytes, uint64_t offset);
