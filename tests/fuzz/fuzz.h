/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What fuzz targets share: libFuzzer's entry, or replay.c's main() over the corpus. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* Holds in builds with NDEBUG as well. */
#define FUZZ_ASSERT(what)                                                          \
	do {                                                                       \
		if (!(what)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                   \
		}                                                                  \
	} while (0)
