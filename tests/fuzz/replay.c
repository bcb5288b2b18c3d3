/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Run a fuzz target over a folder of inputs, without any fuzzer:  fuzz-NAME FOLDER
 *
 * Each input is run whole, then cut short at every byte and with each byte changed once, so that a
 * small corpus goes a long way; the long ones (beyond 512 bytes) only whole.
 * Exit status: 0; 1 if there is no input. A bug ends it by a signal, after the input's name.
 */
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <string.h>

#define MAX_BYTES   (UINT32_C(4) << 20)
#define SMALL_BYTES 512

static void run_variants(uint8_t *bytes, size_t n_bytes)
{
	for (size_t i = 0; i < n_bytes; i++) {
		/* a copy of exactly this length, for a sanitizer to guard its end */
		uint8_t *piece = malloc(i ? i : 1);
		uint8_t kept = bytes[i];

		memcpy(piece, bytes, i);
		LLVMFuzzerTestOneInput(piece, i);
		free(piece);
		for (unsigned int bit = 0; bit < 8; bit += 3) {
			bytes[i] = kept ^ (uint8_t)(1u << bit);
			LLVMFuzzerTestOneInput(bytes, n_bytes);
		}
		bytes[i] = kept;
	}
}

static int run_file(const char *folder, const char *name)
{
	char path[4096];
	uint8_t *bytes;
	size_t n_bytes;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "re");
	if (!file)
		return 0;
	fprintf(stderr, "%s\n", path);
	bytes = malloc(MAX_BYTES);
	n_bytes = bytes ? fread(bytes, 1, MAX_BYTES, file) : 0;
	fclose(file);
	if (bytes)
		LLVMFuzzerTestOneInput(bytes, n_bytes);
	if (bytes && n_bytes <= SMALL_BYTES)
		run_variants(bytes, n_bytes);
	free(bytes);
	return 1;
}

int main(int argc, char **argv)
{
	struct dirent **names = NULL;
	int n, n_run = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
		return 2;
	}
	n = scandir(argv[1], &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.')
			n_run += run_file(argv[1], names[i]->d_name);
		free(names[i]);
	}
	free(names);
	printf("%d inputs\n", n_run);
	return n_run ? 0 : 1;
}
