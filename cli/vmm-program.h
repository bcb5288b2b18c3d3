/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Programs into which LD_PRELOAD puts something, and those into which it does not. */
#pragma once

#include <stddef.h>

/**
 * vmm_program_find() - what execvp() would start
 * @ret_path: at least PATH_MAX bytes
 *
 * Return: 0, -ENOENT, -EACCES.
 */
int vmm_program_find(const char *name, char *ret_path);

/**
 * vmm_program_check() - will the dynamic linker heed LD_PRELOAD there
 * @ret_why: what is in the way, with the remedy; @n_why bytes
 *
 * Of a script its interpreter counts: what that starts, nobody knows.
 * Return: 0, -EPERM with @ret_why, other -errno.
 */
int vmm_program_check(const char *path, char *ret_why, size_t n_why);
