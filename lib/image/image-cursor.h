/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* As image_read_pages(), in blocks of 4 KiB; for the files of this room. */
#pragma once

#include <stdint.h>

#include "image/image-reader.h"

int image_read_blocks(struct image_cursor *cursor, uint32_t memory, uint64_t block,
		      uint64_t n_blocks, void *buffer, const char **ret_error);
