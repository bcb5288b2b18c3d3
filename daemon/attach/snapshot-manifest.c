/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* manifest.json of a plain snapshot: format "ufd-snapshot", version 1, readable for ever. */
#include "attach/snapshot-manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include "base/units.h"

#define FORMAT	     "ufd-snapshot"
#define VERSION	     1
#define MAX_TEXT     MIB
#define MAX_MEMORIES 1024
#define LAYOUT_BYTES (2 * MIB) /* memories start at multiples of this, or of a larger page */

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
	*manifest = (struct snapshot_manifest){};
}

/* Take over the names; lengths are set by the caller. */
static int add_memory(struct snapshot_manifest *manifest, const char *name, const char *kind,
		      struct snapshot_memory memory)
{
	memory.name = strdup(name);
	memory.kind = strdup(kind);
	manifest->memories[manifest->n_memories++] = memory;
	return memory.name && memory.kind ? 0 : -ENOMEM;
}

static int make_room(struct snapshot_manifest *manifest, size_t n_memories)
{
	manifest->memories = calloc(n_memories + 1, sizeof(*manifest->memories));
	return manifest->memories ? 0 : -ENOMEM;
}

int snapshot_manifest_lay_out(struct snapshot_manifest *manifest,
			      const struct snapshot_input *inputs, size_t n_inputs)
{
	uint64_t end_bytes = 0;
	int r = make_room(manifest, n_inputs);

	for (size_t i = 0; !r && i < n_inputs; i++) {
		struct snapshot_memory memory = {
			.length_bytes = inputs[i].length_bytes,
			.page_bytes = inputs[i].page_bytes,
		};

		memory.offset_bytes = align_up(end_bytes,
					       max_u64(LAYOUT_BYTES, inputs[i].page_bytes));
		end_bytes = memory.offset_bytes + memory.length_bytes;
		if (end_bytes > INT64_MAX || end_bytes < memory.length_bytes)
			return -EOVERFLOW;
		r = add_memory(manifest, inputs[i].name, inputs[i].kind, memory);
	}
	manifest->memory_bytes = end_bytes;
	return r;
}

char *snapshot_manifest_text(const struct snapshot_manifest *manifest, json_t *machine)
{
	json_t *memories = json_array();
	json_t *root;
	char *text;

	for (size_t i = 0; i < manifest->n_memories; i++) {
		const struct snapshot_memory *memory = &manifest->memories[i];

		json_array_append_new(memories,
				      json_pack("{s:s,s:s,s:I,s:I,s:I}", "name", memory->name,
						"kind", memory->kind, "length_bytes",
						(json_int_t)memory->length_bytes, "page_bytes",
						(json_int_t)memory->page_bytes, "offset_bytes",
						(json_int_t)memory->offset_bytes));
	}
	root = json_pack("{s:s,s:i,s:I,s:o,s:I,s:I,s:I,s:o}", "format", FORMAT, "version", VERSION,
			 "created_ns", (json_int_t)manifest->created_ns, "machine", machine,
			 "memory_bytes", (json_int_t)manifest->memory_bytes, "populated_bytes",
			 (json_int_t)manifest->populated_bytes, "state_bytes",
			 (json_int_t)manifest->state_bytes, "memories", memories);
	text = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	return text;
}

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

static int read_json(const char *directory, json_t **ret_root, struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	_cleanup_(freep) char *text = malloc(MAX_TEXT);
	json_error_t error;
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
	*ret_root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
	if (!*ret_root)
		return snapshot_refuse(refusal, directory, "%s/%s, line %d: %s", directory,
				       SNAPSHOT_MANIFEST, error.line, error.text);
	return 0;
}

/* Return: why these numbers cannot be, or NULL. @end_bytes: where the memory before this one ends.
 */
static const char *find_fault(const struct snapshot_memory *memory, uint64_t end_bytes,
			      uint64_t memory_bytes)
{
	uint64_t page_bytes = memory->page_bytes;

	if (page_bytes < 4 * KIB || page_bytes > GIB || (page_bytes & (page_bytes - 1)))
		return "page_bytes is no page size";
	if (memory->length_bytes == 0 || !is_aligned(memory->length_bytes, page_bytes))
		return "length_bytes is not a number of pages";
	if (!is_aligned(memory->offset_bytes, page_bytes))
		return "offset_bytes is not at a page";
	if (memory->offset_bytes < end_bytes)
		return "it overlaps the memory before";
	if (memory->offset_bytes > memory_bytes ||
	    memory->length_bytes > memory_bytes - memory->offset_bytes)
		return "it lies outside memory.raw";
	return NULL;
}

static int read_memories(const char *directory, json_t *memories,
			 struct snapshot_manifest *manifest, struct refusal *refusal)
{
	uint64_t end_bytes = 0;
	json_t *entry;
	size_t i;

	if (json_array_size(memories) == 0 || json_array_size(memories) > MAX_MEMORIES)
		return snapshot_refuse(refusal, directory, "%s/%s: from 1 to %d memories, not %zu",
				       directory, SNAPSHOT_MANIFEST, MAX_MEMORIES,
				       json_array_size(memories));
	if (make_room(manifest, json_array_size(memories)))
		return refusal_set_errno(refusal, -ENOMEM, "manifest not read");

	json_array_foreach(memories, i, entry)
	{
		struct snapshot_memory memory = {};
		const char *name, *kind, *fault;
		json_int_t length, page, offset;
		json_error_t error;

		if (json_unpack_ex(entry, &error, 0, "{s:s,s:s,s:I,s:I,s:I}", "name", &name, "kind",
				   &kind, "length_bytes", &length, "page_bytes", &page,
				   "offset_bytes", &offset))
			return snapshot_refuse(refusal, directory, "%s/%s: memory %zu: %s",
					       directory, SNAPSHOT_MANIFEST, i, error.text);
		memory.length_bytes = length;
		memory.page_bytes = page;
		memory.offset_bytes = offset;
		fault = find_fault(&memory, end_bytes, manifest->memory_bytes);
		if (fault)
			return snapshot_refuse(refusal, directory, "%s/%s: memory %s: %s",
					       directory, SNAPSHOT_MANIFEST, name, fault);
		if (add_memory(manifest, name, kind, memory))
			return refusal_set_errno(refusal, -ENOMEM, "manifest not read");
		end_bytes = memory.offset_bytes + memory.length_bytes;
	}
	return 0;
}

static int check_length(const char *directory, const char *name, uint64_t length_bytes,
			struct refusal *refusal)
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
	if ((uint64_t)file.st_size != length_bytes)
		return snapshot_refuse(
			refusal, directory, "%s/%s has %lld bytes, the manifest says %llu",
			directory, name, (long long)file.st_size, (unsigned long long)length_bytes);
	return 0;
}

static int read_root(const char *directory, json_t *root, struct snapshot_manifest *manifest,
		     struct refusal *refusal)
{
	json_int_t memory, populated, state, created;
	json_error_t error;
	const char *format;
	json_t *memories;
	int version;

	if (json_unpack_ex(root, &error, 0, "{s:s,s:i}", "format", &format, "version", &version))
		return snapshot_refuse(refusal, directory, "%s/%s: %s", directory,
				       SNAPSHOT_MANIFEST, error.text);
	if (strcmp(format, FORMAT) || version != VERSION)
		return snapshot_refuse(refusal, directory,
				       "%s/%s is \"%s\" version %d; this program reads " FORMAT
				       " version %d",
				       directory, SNAPSHOT_MANIFEST, format, version, VERSION);

	if (json_unpack_ex(root, &error, 0, "{s:I,s:I,s:I,s:I,s:o}", "memory_bytes", &memory,
			   "populated_bytes", &populated, "state_bytes", &state, "created_ns",
			   &created, "memories", &memories))
		return snapshot_refuse(refusal, directory, "%s/%s: %s", directory,
				       SNAPSHOT_MANIFEST, error.text);
	if (memory < 0 || populated < 0 || populated > memory || state < 0 || created < 0)
		return snapshot_refuse(refusal, directory, "%s/%s: a length is impossible",
				       directory, SNAPSHOT_MANIFEST);

	manifest->memory_bytes = memory;
	manifest->populated_bytes = populated;
	manifest->state_bytes = state;
	manifest->created_ns = created;
	return read_memories(directory, memories, manifest, refusal);
}

int snapshot_read_manifest(const char *directory, struct snapshot_manifest *ret,
			   struct refusal *refusal)
{
	struct snapshot_manifest manifest = {};
	json_t *root = NULL;
	int r;

	r = read_json(directory, &root, refusal);
	if (!r)
		r = read_root(directory, root, &manifest, refusal);
	if (!r)
		r = check_length(directory, SNAPSHOT_MEMORY, manifest.memory_bytes, refusal);
	if (!r)
		r = check_length(directory, SNAPSHOT_STATE, manifest.state_bytes, refusal);
	json_decref(root);
	if (r) {
		snapshot_manifest_done(&manifest);
		return r;
	}
	*ret = manifest;
	return 0;
}
