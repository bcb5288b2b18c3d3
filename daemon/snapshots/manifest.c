/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* manifest.json of a snapshot: format "ufd-snapshot", readable for ever. */
#include "snapshots/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "image/image-reader.h"

#define FORMAT	     "ufd-snapshot"
#define VERSION	     2
#define MAX_TEXT     MIB
#define MAX_MEMORIES 1024

static const char *const way_names[] = {
	[SNAPSHOT_PAUSED] = "paused",
	[SNAPSHOT_ROUNDS] = "rounds",
	[SNAPSHOT_BEFORE_WRITE] = "copy-before-write",
};
#define N_WAYS (sizeof(way_names) / sizeof(way_names[0]))

const char *snapshot_way_name(enum snapshot_way way)
{
	return way_names[way];
}

int snapshot_refuse(struct refusal *refusal, const char *directory, const char *message, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, message);
	vsnprintf(text, sizeof(text), message, arguments);
	va_end(arguments);
	return refusal_set(refusal, "io.ufd.guest.BadSnapshot",
			   json_pack("{s:s}", "directory", directory), "%s", text);
}

void snapshot_manifest_done(struct snapshot_manifest *manifest)
{
	for (size_t i = 0; i < manifest->n_memories; i++) {
		free(manifest->memories[i].name);
		free(manifest->memories[i].kind);
	}
	free(manifest->memories);
	free(manifest->parent_path);
	free(manifest->consumer);
	*manifest = (struct snapshot_manifest){};
}

/* Take over the names; lengths are set by the caller. */
static int add_memory(struct snapshot_manifest *manifest, const char *name, const char *kind,
		      struct snapshot_memory memory)
{
	struct snapshot_memory *memories;

	memories = reallocarray(manifest->memories, manifest->n_memories + 1, sizeof(*memories));
	if (!memories)
		return -ENOMEM;
	manifest->memories = memories;
	memory.name = strdup(name);
	memory.kind = strdup(kind);
	memories[manifest->n_memories++] = memory;
	return memory.name && memory.kind ? 0 : -ENOMEM;
}

int snapshot_manifest_add(struct snapshot_manifest *manifest, const char *name, const char *kind,
			  uint64_t length_bytes, uint64_t page_bytes)
{
	manifest->memory_bytes += length_bytes;
	return add_memory(
		manifest, name, kind,
		(struct snapshot_memory){ .length_bytes = length_bytes, .page_bytes = page_bytes });
}

const struct snapshot_memory *snapshot_manifest_find(const struct snapshot_manifest *manifest,
						     const char *name)
{
	for (size_t i = 0; i < manifest->n_memories; i++)
		if (strcmp(manifest->memories[i].name, name) == 0)
			return &manifest->memories[i];
	return NULL;
}

/* ---- writing ---- */

static json_t *memories_json(const struct snapshot_manifest *manifest)
{
	json_t *memories = json_array();

	for (size_t i = 0; i < manifest->n_memories; i++) {
		const struct snapshot_memory *memory = &manifest->memories[i];

		json_array_append_new(memories,
				      json_pack("{s:s,s:s,s:I,s:I}", "name", memory->name, "kind",
						memory->kind, "length_bytes",
						(json_int_t)memory->length_bytes, "page_bytes",
						(json_int_t)memory->page_bytes));
	}
	return memories;
}

static json_t *parent_json(const struct snapshot_manifest *manifest)
{
	char digest[IMAGE_DIGEST_TEXT];

	if (!manifest->has_parent)
		return NULL;
	image_digest_text(manifest->parent, digest);
	return json_pack("{s:s,s:s}", "digest", digest, "path", manifest->parent_path);
}

/* A tracking's number is written as a digest is. */
static json_t *consumer_json(const struct snapshot_manifest *manifest)
{
	char tracking[IMAGE_DIGEST_TEXT];

	if (!manifest->consumer)
		return NULL;
	image_digest_text(manifest->tracking, tracking);
	return json_pack("{s:s,s:I,s:s}", "name", manifest->consumer, "epoch",
			 (json_int_t)manifest->epoch, "tracking", tracking);
}

char *snapshot_manifest_text(const struct snapshot_manifest *manifest, json_t *machine)
{
	char digest[IMAGE_DIGEST_TEXT];
	json_t *root;
	char *text;

	image_digest_text(manifest->digest, digest);
	root = json_pack("{s:s,s:i,s:I,s:o*,s:s,s:I,s:I,s:i,s:s,s:I,s:o*,s:o*,s:I,s:I,s:I,s:b,s:o}",
			 "format", FORMAT, "version", VERSION, "created_ns",
			 (json_int_t)manifest->created_ns, "machine", machine, "way",
			 way_names[manifest->way], "taken_ns", (json_int_t)manifest->taken_ns,
			 "paused_ns", (json_int_t)manifest->paused_ns, "rounds",
			 (int)manifest->n_rounds, "digest", digest, "image_bytes",
			 (json_int_t)manifest->image_bytes, "parent", parent_json(manifest),
			 "consumer", consumer_json(manifest), "memory_bytes",
			 (json_int_t)manifest->memory_bytes, "populated_bytes",
			 (json_int_t)manifest->populated_bytes, "state_bytes",
			 (json_int_t)manifest->state_bytes, "memory_only", manifest->is_memory_only,
			 "memories", memories_json(manifest));
	text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
	json_decref(root);
	return text;
}

/* ---- reading ---- */

int snapshot_open_file(const char *directory, const char *name, int *ret_fd,
		       struct refusal *refusal)
{
	_cleanup_(closep) int parent = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd;

	if (parent < 0)
		return snapshot_refuse(refusal, directory, "%s cannot be opened: %s", directory,
				       strerror(errno));
	fd = openat(parent, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return snapshot_refuse(refusal, directory, "%s/%s cannot be opened: %s", directory,
				       name, strerror(errno));
	*ret_fd = fd;
	return 0;
}

/* Return: why these numbers cannot be, or NULL. @end_bytes: where the memory before this one ends. */
static const char *find_fault(const struct snapshot_manifest *manifest,
			      const struct snapshot_memory *memory, uint64_t end_bytes)
{
	uint64_t page_bytes = memory->page_bytes;

	if (page_bytes < 4 * KIB || page_bytes > GIB || (page_bytes & (page_bytes - 1)))
		return "page_bytes is no page size";
	if (memory->length_bytes == 0 || !is_aligned(memory->length_bytes, page_bytes))
		return "length_bytes is not a number of pages";
	if (manifest->version > 1) {
		if (memory->length_bytes > manifest->memory_bytes - end_bytes)
			return "memory_bytes is less than all memories have";
		if (!memory->name[0] || strlen(memory->name) >= IMAGE_NAME_BYTES)
			return "no memory has such a name";
		return snapshot_manifest_find(manifest, memory->name) ? "its name comes twice"
								      : NULL;
	}
	if (!is_aligned(memory->offset_bytes, page_bytes))
		return "offset_bytes is not at a page";
	if (memory->offset_bytes < end_bytes)
		return "it overlaps the memory before";
	if (memory->offset_bytes > manifest->memory_bytes ||
	    memory->length_bytes > manifest->memory_bytes - memory->offset_bytes)
		return "it lies outside memory.raw";
	return NULL;
}

static int read_memory(const char *directory, json_t *entry, size_t index,
		       struct snapshot_manifest *manifest, uint64_t *end_bytes,
		       struct refusal *refusal)
{
	json_int_t length, page, offset = 0;
	struct snapshot_memory memory = {};
	const char *name, *kind, *fault;
	json_error_t error;
	int r;

	r = json_unpack_ex(entry, &error, 0, "{s:s,s:s,s:I,s:I}", "name", &name, "kind", &kind,
			   "length_bytes", &length, "page_bytes", &page);
	if (r == 0 && manifest->version == 1)
		r = json_unpack_ex(entry, &error, 0, "{s:I}", "offset_bytes", &offset);
	if (r)
		return snapshot_refuse(refusal, directory, "%s/%s: memory %zu: %s", directory,
				       SNAPSHOT_MANIFEST, index, error.text);
	memory.name = (char *)name;
	memory.length_bytes = length;
	memory.page_bytes = page;
	memory.offset_bytes = offset;
	fault = find_fault(manifest, &memory, *end_bytes);
	if (fault)
		return snapshot_refuse(refusal, directory, "%s/%s: memory %s: %s", directory,
				       SNAPSHOT_MANIFEST, name, fault);
	if (add_memory(manifest, name, kind, memory))
		return refusal_set_errno(refusal, -ENOMEM, "manifest not read");
	*end_bytes = manifest->version > 1 ? *end_bytes + memory.length_bytes
					   : memory.offset_bytes + memory.length_bytes;
	return 0;
}

static int read_memories(const char *directory, json_t *memories,
			 struct snapshot_manifest *manifest, struct refusal *refusal)
{
	uint64_t end_bytes = 0;
	json_t *entry;
	size_t i;
	int r;

	if (json_array_size(memories) == 0 || json_array_size(memories) > MAX_MEMORIES)
		return snapshot_refuse(refusal, directory, "%s/%s: from 1 to %d memories, not %zu",
				       directory, SNAPSHOT_MANIFEST, MAX_MEMORIES,
				       json_array_size(memories));
	json_array_foreach(memories, i, entry)
	{
		r = read_memory(directory, entry, i, manifest, &end_bytes, refusal);
		if (r)
			return r;
	}
	return 0;
}

static int refuse_field(const char *directory, const char *why, struct refusal *refusal)
{
	return snapshot_refuse(refusal, directory, "%s/%s: %s", directory, SNAPSHOT_MANIFEST, why);
}

static int read_parent(const char *directory, json_t *parent, struct snapshot_manifest *manifest,
		       struct refusal *refusal)
{
	const char *digest, *path;

	if (!parent)
		return 0;
	if (json_unpack(parent, "{s:s,s:s}", "digest", &digest, "path", &path) || !path[0] ||
	    !image_digest_parse(digest, manifest->parent))
		return refuse_field(directory, "parent names no snapshot", refusal);
	manifest->has_parent = true;
	manifest->parent_path = strdup(path);
	return manifest->parent_path ? 0 : refusal_set_errno(refusal, -ENOMEM, "manifest not read");
}

static int read_consumer(const char *directory, json_t *consumer,
			 struct snapshot_manifest *manifest, struct refusal *refusal)
{
	const char *name, *tracking;
	json_int_t epoch;

	if (!consumer)
		return 0;
	if (json_unpack(consumer, "{s:s,s:I,s:s}", "name", &name, "epoch", &epoch, "tracking",
			&tracking) ||
	    epoch < 0 || !image_digest_parse(tracking, manifest->tracking))
		return refuse_field(directory, "consumer is none", refusal);
	manifest->epoch = epoch;
	manifest->consumer = strdup(name);
	return manifest->consumer ? 0 : refusal_set_errno(refusal, -ENOMEM, "manifest not read");
}

/* What version 2 has beside version 1. */
static int read_newer(const char *directory, json_t *root, struct snapshot_manifest *manifest,
		      struct refusal *refusal)
{
	json_int_t taken, paused, image;
	json_error_t error;
	const char *digest, *way;
	int rounds, is_memory_only, r;

	if (json_unpack_ex(root, &error, 0, "{s:s,s:s,s:I,s:I,s:I,s:i,s:b}", "digest", &digest,
			   "way", &way, "taken_ns", &taken, "paused_ns", &paused, "image_bytes",
			   &image, "rounds", &rounds, "memory_only", &is_memory_only))
		return refuse_field(directory, error.text, refusal);
	if (taken < 0 || paused < 0 || image < 0 || rounds < 0)
		return refuse_field(directory, "a number is impossible", refusal);
	if (!image_digest_parse(digest, manifest->digest))
		return refuse_field(directory, "digest is none", refusal);
	manifest->taken_ns = taken;
	manifest->paused_ns = paused;
	manifest->image_bytes = image;
	manifest->n_rounds = rounds;
	manifest->is_memory_only = is_memory_only;
	for (size_t i = 0; i < N_WAYS; i++) /* another one is a later release's: it is for people */
		if (strcmp(way, way_names[i]) == 0)
			manifest->way = i;
	r = read_parent(directory, json_object_get(root, "parent"), manifest, refusal);
	if (r == 0)
		r = read_consumer(directory, json_object_get(root, "consumer"), manifest, refusal);
	return r;
}

static int read_root(const char *directory, json_t *root, struct snapshot_manifest *manifest,
		     struct refusal *refusal)
{
	json_int_t memory, populated, state, created;
	json_error_t error;
	const char *format;
	json_t *memories;
	int version, r;

	if (json_unpack_ex(root, &error, 0, "{s:s,s:i}", "format", &format, "version", &version))
		return refuse_field(directory, error.text, refusal);
	if (strcmp(format, FORMAT) || version < 1 || version > VERSION)
		return snapshot_refuse(refusal, directory,
				       "%s/%s is \"%.32s\" version %d; this program reads " FORMAT
				       " up to version %d",
				       directory, SNAPSHOT_MANIFEST, format, version, VERSION);

	if (json_unpack_ex(root, &error, 0, "{s:I,s:I,s:I,s:I,s:o}", "memory_bytes", &memory,
			   "populated_bytes", &populated, "state_bytes", &state, "created_ns",
			   &created, "memories", &memories))
		return refuse_field(directory, error.text, refusal);
	if (memory < 0 || populated < 0 || populated > memory || state < 0 || created < 0)
		return refuse_field(directory, "a length is impossible", refusal);

	manifest->version = version;
	manifest->memory_bytes = memory;
	manifest->populated_bytes = populated;
	manifest->state_bytes = state;
	manifest->created_ns = created;
	r = version > 1 ? read_newer(directory, root, manifest, refusal) : 0;
	return r ? r : read_memories(directory, memories, manifest, refusal);
}

int snapshot_manifest_parse(const char *directory, const char *text, size_t n_text,
			    struct snapshot_manifest *ret, struct refusal *refusal)
{
	struct snapshot_manifest manifest = {};
	json_error_t error;
	json_t *root = json_loadb(text, n_text, JSON_REJECT_DUPLICATES, &error);
	int r;

	if (!root)
		return snapshot_refuse(refusal, directory, "%s/%s, line %d: %s", directory,
				       SNAPSHOT_MANIFEST, error.line, error.text);
	r = read_root(directory, root, &manifest, refusal);
	json_decref(root);
	if (r) {
		snapshot_manifest_done(&manifest);
		return r;
	}
	*ret = manifest;
	return 0;
}

/* @may_grow: appended to since, which changes nothing of what was there. */
static int check_length(const char *directory, const char *name, uint64_t length_bytes,
			bool may_grow, struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	struct stat file;
	int r;

	r = snapshot_open_file(directory, name, &fd, refusal);
	if (r)
		return r;
	if (fstat(fd, &file) < 0 || !S_ISREG(file.st_mode))
		return snapshot_refuse(refusal, directory, "%s/%s is no plain file", directory,
				       name);
	if ((uint64_t)file.st_size < length_bytes ||
	    ((uint64_t)file.st_size > length_bytes && !may_grow))
		return snapshot_refuse(
			refusal, directory, "%s/%s has %lld bytes, the manifest says %llu",
			directory, name, (long long)file.st_size, (unsigned long long)length_bytes);
	return 0;
}

static int check_files(const char *directory, const struct snapshot_manifest *manifest,
		       struct refusal *refusal)
{
	int r = manifest->version > 1 ? check_length(directory, SNAPSHOT_IMAGE,
						     manifest->image_bytes, true, refusal)
				      : check_length(directory, SNAPSHOT_RAW,
						     manifest->memory_bytes, false, refusal);

	if (r || manifest->is_memory_only)
		return r;
	return check_length(directory, SNAPSHOT_STATE, manifest->state_bytes, false, refusal);
}

int snapshot_read_manifest(const char *directory, struct snapshot_manifest *ret,
			   struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	_cleanup_(freep) char *text = malloc(MAX_TEXT);
	struct snapshot_manifest manifest;
	ssize_t n;
	int r;

	if (!text)
		return refusal_set_errno(refusal, -ENOMEM, "manifest not read");
	r = snapshot_open_file(directory, SNAPSHOT_MANIFEST, &fd, refusal);
	if (r)
		return r;
	n = pread(fd, text, MAX_TEXT, 0);
	if (n < 0)
		return snapshot_refuse(refusal, directory, "%s/%s cannot be read: %s", directory,
				       SNAPSHOT_MANIFEST, strerror(errno));
	r = snapshot_manifest_parse(directory, text, n, &manifest, refusal);
	if (r)
		return r;
	r = check_files(directory, &manifest, refusal);
	if (r) {
		snapshot_manifest_done(&manifest);
		return r;
	}
	*ret = manifest;
	return 0;
}
