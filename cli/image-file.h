/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images on the command line: opened, made, and written about. */
#pragma once

#include <jansson.h>

#include "image/image-reader.h"
#include "session.h"

/* As people name it; says why not. Return: an exit status. */
int image_file_open(struct image **ret, const char *name, const struct image_open_opts *opts);

/* An exit status for what image_open() and the like said; the sentence is printed. */
int image_file_failed(int r, const char *why);

/* The memory of this name, or the only one if @name is NULL; says why not. Return: an exit status. */
int image_file_memory(const struct image *image, const char *name, uint32_t *ret);

/* A file that is made, and goes again unless it is kept. Readable. */
struct image_file {
	int fd;		  /* owned, but for stdout */
	const char *path; /* borrowed; NULL: stdout, or it is kept */
};

/* @path `-` is stdout. Says why not. Return: an exit status. */
int image_file_make(struct image_file *ret, const char *path);
/* It is done, and stays, also after a crash. Says why not. Return: an exit status. */
int image_file_keep(struct image_file *file);
void image_file_done(struct image_file *file);

/* Its digest in hexadecimal digits, or null if it has none. A new reference. */
json_t *image_file_digest(const uint8_t digest[IMAGE_DIGEST_BYTES]);
