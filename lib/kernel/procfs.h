/* SPDX-License-Identifier: MIT */
/*
 * Small files of /proc and /sys, as text.
 *
 * Context of all: any; they open and read one file, or none, and do not allocate.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * procfs_read() - what a file says, as far as it fits
 * @ret:   at least 1 byte; ends with a NUL
 * @ret_n: bytes before that NUL; may be NULL
 *
 * Return: 0, or -errno, and then @ret holds nothing.
 */
int procfs_read(const char *path, char *ret, size_t n_bytes, size_t *ret_n);

/* The decimal number behind `KEY:` at the start of a line. False: there is none. */
bool procfs_find_number(const char *text, const char *key, uint64_t *ret);
