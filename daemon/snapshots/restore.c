/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest from disk. */
#include "snapshots/restore.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "image/image-mark.h"
#include "image/image-reader.h"

static char *path_of(const char *directory, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

/*
 * Where it is noted that a guest was restored. A note changes the times of its file, and those of
 * memory.raw are watched.
 */
static const char *file_of(const struct snapshot_manifest *manifest)
{
	return manifest->version > 1 ? SNAPSHOT_IMAGE : SNAPSHOT_MANIFEST;
}

static const char *find_difference(const struct image *image,
				   const struct snapshot_manifest *manifest)
{
	for (size_t i = 0; i < manifest->n_memories; i++) {
		const struct snapshot_memory *wanted = &manifest->memories[i];
		const struct image_memory *there;
		uint32_t number;

		if (!image_find_memory(image, wanted->name, &number))
			return wanted->name;
		there = image_memory(image, number);
		if (there->length_bytes != wanted->length_bytes ||
		    there->page_bytes != wanted->page_bytes)
			return wanted->name;
	}
	return NULL;
}

int snapshot_check_image(const char *directory, const struct snapshot_manifest *manifest,
			 struct refusal *refusal)
{
	const struct image_open_opts opts = { .digest = manifest->digest };
	_cleanup_(freep) char *path = path_of(directory, SNAPSHOT_IMAGE);
	_cleanup_(image_unrefp) struct image *image = NULL;
	const char *error = NULL, *name;
	int r;

	if (manifest->version < 2)
		return 0;
	if (!path)
		return refusal_set_errno(refusal, -ENOMEM, "image not opened");
	r = image_open(&image, path, -1, &opts, &error);
	if (r < 0)
		return snapshot_refuse(refusal, directory, "%s", error ? error : strerror(-r));
	name = find_difference(image, manifest);
	if (name)
		return snapshot_refuse(refusal, directory,
				       "%s has no memory `%s` as %s/%s describes it", path, name,
				       directory, SNAPSHOT_MANIFEST);
	return 0;
}

/* A comma within a SPEC is written twice. */
static char *put_quoted(char *at, const char *text)
{
	for (; *text; text++) {
		*at++ = *text;
		if (*text == ',')
			*at++ = ',';
	}
	*at = '\0';
	return at;
}

char *snapshot_source(const char *directory, const struct snapshot_manifest *manifest,
		      const struct snapshot_memory *memory)
{
	size_t n_spec = 2 * (strlen(directory) + strlen(memory->name)) + 128;
	char digest[IMAGE_DIGEST_TEXT];
	char *spec = malloc(n_spec), *at = spec;

	if (!spec)
		return NULL;
	at = stpcpy(at, manifest->version > 1 ? "image:" : "file:");
	at = put_quoted(at, directory);
	if (manifest->version == 1) {
		snprintf(at, n_spec - (size_t)(at - spec), "/%s,offset=%llu", SNAPSHOT_RAW,
			 (unsigned long long)memory->offset_bytes);
		return spec;
	}
	image_digest_text(manifest->digest, digest);
	at += sprintf(at, "/%s,digest=%s,memory=", SNAPSHOT_IMAGE, digest);
	put_quoted(at, memory->name);
	return spec;
}

int snapshot_warn_of_twin(const char *directory, const struct snapshot_manifest *manifest,
			  char **ret_text)
{
	_cleanup_(freep) char *path = path_of(directory, file_of(manifest));
	char when[64] = "before";
	time_t seconds;
	struct tm broken;
	int64_t when_s;

	if (!path)
		return -ENOMEM;
	if (!image_was_restored(path, &when_s)) {
		*ret_text = NULL;
		return 0;
	}
	seconds = when_s;
	if (localtime_r(&seconds, &broken))
		strftime(when, sizeof(when), "on %Y-%m-%d at %H:%M:%S", &broken);
	if (asprintf(
		    ret_text,
		    "a guest was restored from %s already, %s: this one has its machine identity, its "
		    "addresses, and the random numbers that it will draw. If that is meant, say "
		    "--clone, and give the guest new ones",
		    directory, when) < 0)
		return -ENOMEM;
	return 0;
}

void snapshot_mark_restored(const char *directory, const struct snapshot_manifest *manifest)
{
	_cleanup_(freep) char *path = path_of(directory, file_of(manifest));

	if (path)
		(void)image_mark_restored(path); /* where nothing can be noted nobody is warned */
}

int snapshot_load_and_run(struct driver *driver, const char *directory, bool is_paused,
			  uint64_t *ret_running_ns, struct refusal *refusal)
{
	_cleanup_(closep) int state = -EBADF;
	int r;

	r = snapshot_open_file(directory, SNAPSHOT_STATE, &state, refusal);
	if (r)
		return r;
	r = driver->ops->load(driver, state, refusal);
	if (!r && !is_paused)
		r = driver->ops->resume(driver, refusal);
	if (r)
		return r;
	*ret_running_ns = is_paused ? 0 : clock_now_ns();
	return 0;
}
