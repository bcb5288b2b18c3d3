/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory files that others wrote, read in place: each is an image of one memory, `memory`, without
 * digest and checksums. A file that is changed while it is open gives no more bytes.
 *
 *	raw			the memory, byte for byte; holes are zero
 *	firecracker		the same, and over it the files of diff snapshots, in which the pages that
 *				changed are the data, and all others holes
 *	cloud-hypervisor	`memory-ranges`: the ranges of guest memory in the order of their addresses,
 *				one behind the other without gaps
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "image/image-reader.h"

enum image_format { IMAGE_UFDI, IMAGE_RAW_FILE, IMAGE_FIRECRACKER, IMAGE_CLOUD_HYPERVISOR };

/* "ufdi", "raw", "firecracker", "cloud-hypervisor". Return: false: none of them. */
bool image_format_parse(const char *text, enum image_format *ret);
const char *image_format_name(enum image_format format);

/**
 * image_open_foreign() - open files of another format
 * @paths: the base first, then the differences from the oldest to the newest; one for all but
 *	   Firecracker. Of Cloud Hypervisor the folder of the snapshot will do, too
 * @fd:    borrowed; the open file of the last path, or -1
 *
 * Context: any; blocks, allocates. Return: 0, -EINVAL (lengths that cannot be), -EFBIG, -ENOMEM,
 * -errno.
 */
int image_open_foreign(struct image **ret, enum image_format format, const char *const *paths,
		       size_t n_paths, int fd, const char **ret_error);

/*
 * What people name: a SPEC of an image, `file:PATH`, or the path of a file, which is an image if it
 * begins like one, else raw. Context: any; blocks. Return: as image_open().
 */
int image_open_any(struct image **ret, const char *name, const struct image_open_opts *opts,
		   const char **ret_error);
