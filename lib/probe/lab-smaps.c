/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers of our own mappings. */
#include "probe/lab-smaps.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/files.h"

uint64_t lab_smaps_bytes(struct probe_run *run, const void *at, size_t length_bytes,
			 const char *field)
{
	_cleanup_(fclosep) FILE *file = fopen("/proc/self/smaps", "re");
	uint64_t first, end, n_kib, bytes = 0, wanted = (uintptr_t)at;
	size_t n_name = strlen(field);
	bool is_within = false;
	char line[512];

	probe_must(run, file, "open() of smaps");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &first, &end) == 2)
			is_within = first < wanted + length_bytes && end > wanted;
		else if (is_within && !strncmp(line, field, n_name) && line[n_name] == ':' &&
			 sscanf(line + n_name + 1, "%" SCNu64 " kB", &n_kib) == 1)
			bytes += n_kib * 1024;
	return bytes;
}
