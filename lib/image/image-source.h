/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A memory of an image as a source of pages, and its SPECs:
 *
 *	image:PATH[,memory=NAME][,digest=HEX][,cache=SIZE][,single]
 *	firecracker:BASE[+DIFF]...
 *	cloud-hypervisor:PATH
 *
 * A comma in a PATH or NAME is written `,,`, in firecracker: a plus `++`. In place of a PATH an
 * open file may be given.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "image/image-reader.h"
#include "source/source.h"

/**
 * image_source_new() - a memory of an image as a source
 * @image:       a reference is taken
 * @cache_bytes: of decompressed frames; 0: the default
 *
 * A read says SOURCE_CHANGED for files of other formats that are not what they were, -EBADMSG for a
 * frame whose checksum does not fit, SOURCE_SHORT for a file that was cut. Offsets and lengths of
 * reads are multiples of 4 KiB.
 * Context: any; allocates. Return: 0, -ENOMEM.
 */
int image_source_new(struct source **ret, struct image *image, uint32_t memory,
		     uint64_t cache_bytes);

/* Is it one of the SPECs above? */
bool image_spec_is(const char *spec);

/*
 * As source_open() and source_reopen(). What came by @fd without a PATH is refused if it has
 * parents: whoever passed it may not name files; it is kept as `single`, so that this holds when it
 * is opened again.
 */
int image_source_open(struct source **ret, const char *spec, int fd, const char **ret_error);
int image_source_reopen(struct source **ret, const char *spec, int fd, const char **ret_error);

/*
 * The path of the file that source_file() of such a source gives; as it is kept. Return: false: it
 * is no such SPEC, or has none.
 */
bool image_spec_file(const char *spec, char path[PATH_MAX]);

/*
 * The image of a SPEC, for those who look at it. Context: any; blocks. Return: as image_open(), and
 * -EINVAL.
 */
int image_spec_open(struct image **ret, uint32_t *ret_memory, const char *spec,
		    const char **ret_error);

/*
 * A SPEC as somebody in another folder, or without the right to open files by their names, needs
 * it: of one file that comes open (*@ret_fd, the caller's) and without its path; of several with
 * absolute paths, and *@ret_fd is -EBADF. *@ret_spec is the caller's. Context: any; blocks. Return:
 * as image_spec_open().
 */
int image_spec_pass(const char *spec, char **ret_spec, int *ret_fd, const char **ret_error);
