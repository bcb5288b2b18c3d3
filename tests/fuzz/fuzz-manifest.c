/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: manifest.json of a snapshot, of every version. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuzz/fuzz.h"
#include "snapshots/manifest.h"
#include "snapshots/restore.h"

#define DIRECTORY "/nowhere,else"

/* What a restore relies on. */
static void check_memory(const struct snapshot_manifest *manifest, size_t i, uint64_t *end)
{
	const struct snapshot_memory *memory = &manifest->memories[i];
	char *spec = snapshot_source(DIRECTORY, manifest, memory);

	FUZZ_ASSERT(memory->page_bytes >= 4096 && memory->length_bytes >= memory->page_bytes);
	FUZZ_ASSERT(memory->length_bytes % memory->page_bytes == 0);
	if (manifest->version == 1) {
		FUZZ_ASSERT(memory->offset_bytes >= *end);
		*end = memory->offset_bytes + memory->length_bytes;
	} else {
		FUZZ_ASSERT(snapshot_manifest_find(manifest, memory->name) == memory);
		*end += memory->length_bytes;
	}
	FUZZ_ASSERT(*end <= manifest->memory_bytes);
	FUZZ_ASSERT(spec && strstr(spec, "/nowhere,,else/"));
	free(spec);
}

/* What is written is what was read. */
static void check_text(const struct snapshot_manifest *manifest)
{
	struct snapshot_manifest again = {};
	struct refusal refusal = {};
	char *text = snapshot_manifest_text(manifest, NULL);
	char *text_again;

	FUZZ_ASSERT(text);
	FUZZ_ASSERT(snapshot_manifest_parse(DIRECTORY, text, strlen(text), &again, &refusal) == 0);
	text_again = snapshot_manifest_text(&again, NULL);
	FUZZ_ASSERT(text_again && strcmp(text, text_again) == 0);
	free(text_again);
	free(text);
	snapshot_manifest_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	struct snapshot_manifest manifest = {};
	struct refusal refusal = {};
	uint64_t end = 0;

	if (snapshot_manifest_parse(DIRECTORY, (const char *)bytes, n_bytes, &manifest, &refusal)) {
		FUZZ_ASSERT(refusal.error[0] && json_is_object(refusal.parameters));
		FUZZ_ASSERT(!manifest.memories && !manifest.consumer && !manifest.parent_path);
		refusal_done(&refusal);
		return 0;
	}
	FUZZ_ASSERT(manifest.n_memories > 0);
	for (size_t i = 0; i < manifest.n_memories; i++)
		check_memory(&manifest, i, &end);
	if (manifest.version > 1)
		check_text(&manifest);
	snapshot_manifest_done(&manifest);
	return 0;
}
