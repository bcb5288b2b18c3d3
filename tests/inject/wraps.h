/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For libraries that ask which allocator to use: the one that fails. */
#pragma once

#include <stddef.h>

void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *old, size_t size);
void __wrap_free(void *block);
