/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing a plain snapshot, and the last steps of restoring one. */

/*
 * Files are written under names ending in `.new` and renamed when all of them are safely on disk;
 * manifest.json is renamed last, and only with it there is a snapshot. Device state is saved before
 * memory is copied: between `stop` and the end of a save QEMU may still write to guest memory
 * (rings are drained), afterwards nothing does.
 *
 * Memory is read through its file, extent by extent: a mapping would allocate the holes it reads.
 */
#include "attach/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "attach/snapshot-manifest.h"
#include "base/clock.h"
#include "base/units.h"
#include "kernel/backing.h"

#define COPY_BYTES  MIB
#define BLOCK_BYTES (4 * KIB) /* what becomes a hole if it is zero */

/* The files of a snapshot that is being written. */
struct writer {
	const char *path;
	int directory; /* owned */
	int memory;    /* owned */
	int state;     /* owned */
	bool is_ours;  /* the directory: we made it */
};

static const char *const names[] = { SNAPSHOT_MEMORY, SNAPSHOT_STATE, SNAPSHOT_MANIFEST };
static const char *const new_names[] = { SNAPSHOT_MEMORY ".new", SNAPSHOT_STATE ".new",
					 SNAPSHOT_MANIFEST ".new" };
#define N_NAMES (sizeof(names) / sizeof(names[0]))

static void writer_done(struct writer *writer)
{
	closep(&writer->memory);
	closep(&writer->state);
	closep(&writer->directory);
}

/* Take away what a failed save wrote. */
static void writer_discard(struct writer *writer)
{
	for (size_t i = 0; writer->directory >= 0 && i < N_NAMES; i++)
		unlinkat(writer->directory, new_names[i], 0);
	if (writer->is_ours)
		rmdir(writer->path);
}

/* Guest memory is whatever secrets the guest has: for our own user only. */
static int create(int directory, const char *name)
{
	int fd = openat(directory, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? -errno : fd;
}

static int writer_open(struct writer *writer, const char *path, struct refusal *refusal)
{
	struct stat there;

	*writer = (struct writer){ path, -EBADF, -EBADF, -EBADF, false };
	if (!mkdir(path, 0700))
		writer->is_ours = true;
	else if (errno != EEXIST)
		return snapshot_refuse(refusal, path, "%s cannot be made: %s", path,
				       strerror(errno));

	writer->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (writer->directory < 0)
		return snapshot_refuse(refusal, path, "%s cannot be opened: %s", path,
				       strerror(errno));
	if (!fstatat(writer->directory, SNAPSHOT_MANIFEST, &there, AT_SYMLINK_NOFOLLOW))
		return snapshot_refuse(refusal, path,
				       "%s holds a snapshot already; remove it or name another "
				       "directory",
				       path);

	writer->memory = create(writer->directory, new_names[0]);
	writer->state = create(writer->directory, new_names[1]);
	if (writer->memory < 0 || writer->state < 0)
		return snapshot_refuse(
			refusal, path, "%s cannot be written: %s", path,
			strerror(writer->memory < 0 ? -writer->memory : -writer->state));
	return 0;
}

static bool is_zero(const char *bytes, size_t n_bytes)
{
	return bytes[0] == 0 && !memcmp(bytes, bytes + 1, n_bytes - 1);
}

static int write_at(int fd, const char *bytes, size_t n_bytes, uint64_t offset)
{
	while (n_bytes > 0) {
		ssize_t n = pwrite(fd, bytes, n_bytes, offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			bytes += n;
			offset += n;
			n_bytes -= n;
		}
	}
	return 0;
}

/* Write the runs of blocks that are not zero. */
static int write_sparse(int fd, const char *bytes, size_t n_bytes, uint64_t offset,
			uint64_t *populated_bytes)
{
	size_t start = 0;
	int r = 0;

	while (!r && start < n_bytes) {
		size_t end = start;

		while (end < n_bytes && !is_zero(bytes + end, min_u64(BLOCK_BYTES, n_bytes - end)))
			end = min_u64(end + BLOCK_BYTES, n_bytes);
		if (end > start) {
			r = write_at(fd, bytes + start, end - start, offset + start);
			*populated_bytes += end - start;
			start = end;
		} else {
			start += BLOCK_BYTES;
		}
	}
	return r;
}

static int copy_extent(int from, int to, uint64_t from_offset, uint64_t to_offset,
		       uint64_t length_bytes, char *buffer, uint64_t *populated_bytes)
{
	while (length_bytes > 0) {
		ssize_t n = pread(from, buffer, min_u64(length_bytes, COPY_BYTES), from_offset);
		int r;

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ENODATA; /* it was cut while we read */
		if (n < 0)
			continue;

		r = write_sparse(to, buffer, n, to_offset, populated_bytes);
		if (r)
			return r;
		from_offset += n;
		to_offset += n;
		length_bytes -= n;
	}
	return 0;
}

static int copy_memory(const struct snapshot_input *memory, int to, uint64_t to_offset,
		       char *buffer, uint64_t *populated_bytes)
{
	uint64_t position = 0;

	while (position < memory->length_bytes) {
		uint64_t offset, length_bytes;
		int r = backing_find_data(memory->backing_fd, position, memory->length_bytes,
					  &offset, &length_bytes);

		if (r || length_bytes == 0)
			return r;
		r = copy_extent(memory->backing_fd, to, offset, to_offset + offset, length_bytes,
				buffer, populated_bytes);
		if (r)
			return r;
		position = offset + length_bytes;
	}
	return 0;
}

static int copy_memories(const struct writer *writer, const struct snapshot_input *inputs,
			 struct snapshot_manifest *manifest, struct refusal *refusal)
{
	_cleanup_(freep) char *buffer = malloc(COPY_BYTES);

	if (!buffer)
		return refusal_set_errno(refusal, -ENOMEM, "memory not copied");
	if (ftruncate(writer->memory, manifest->memory_bytes) < 0)
		return snapshot_refuse(refusal, writer->path, "%s/%s cannot be %llu bytes long: %s",
				       writer->path, SNAPSHOT_MEMORY,
				       (unsigned long long)manifest->memory_bytes, strerror(errno));

	for (size_t i = 0; i < manifest->n_memories; i++) {
		int r = copy_memory(&inputs[i], writer->memory, manifest->memories[i].offset_bytes,
				    buffer, &manifest->populated_bytes);

		if (r)
			return snapshot_refuse(
				refusal, writer->path, "memory %s cannot be copied to %s/%s: %s",
				inputs[i].name, writer->path, SNAPSHOT_MEMORY, strerror(-r));
	}
	return 0;
}

/* What must hold still: devices, then memory. */
static int save_paused(struct driver *driver, const struct writer *writer,
		       const struct snapshot_input *inputs, struct snapshot_manifest *manifest,
		       uint64_t *ret_paused_ns, struct refusal *refusal)
{
	struct refusal ignored = {};
	uint64_t start_ns = clock_now_ns();
	bool was_running;
	int r;

	r = driver->ops->pause(driver, &was_running, refusal);
	if (r)
		return r;

	r = driver->ops->save(driver, writer->state, &manifest->state_bytes, refusal);
	if (!r)
		r = copy_memories(writer, inputs, manifest, refusal);

	/* After a failure the guest goes on all the same, and the first refusal is the one to tell.
	 */
	if (was_running) {
		int resumed = driver->ops->resume(driver, r ? &ignored : refusal);

		refusal_done(&ignored);
		r = r ? r : resumed;
	}
	*ret_paused_ns = was_running ? clock_now_ns() - start_ns : 0;
	return r;
}

static int writer_publish(const struct writer *writer, const char *manifest_text,
			  struct refusal *refusal)
{
	_cleanup_(closep) int manifest = create(writer->directory, new_names[2]);
	size_t n_renamed = 0;
	int r = manifest < 0 ? manifest
			     : write_at(manifest, manifest_text, strlen(manifest_text), 0);

	if (!r && (fsync(writer->memory) < 0 || fsync(writer->state) < 0 || fsync(manifest) < 0))
		r = -errno;
	while (!r && n_renamed < N_NAMES)
		if (renameat(writer->directory, new_names[n_renamed], writer->directory,
			     names[n_renamed]) < 0)
			r = -errno;
		else
			n_renamed++;
	if (!r && fsync(writer->directory) < 0)
		r = -errno;
	while (r && n_renamed > 0)
		unlinkat(writer->directory, names[--n_renamed], 0);
	if (r)
		return snapshot_refuse(refusal, writer->path, "%s cannot be written: %s",
				       writer->path, strerror(-r));
	return 0;
}

static int save_files(struct driver *driver, const struct writer *writer,
		      const struct snapshot_input *inputs, size_t n_inputs,
		      struct snapshot_saved *ret_saved, struct refusal *refusal)
{
	_cleanup_(snapshot_manifest_done) struct snapshot_manifest manifest = {};
	_cleanup_(freep) char *text = NULL;
	json_t *machine = NULL;
	struct timespec now;
	uint64_t paused_ns;
	int r;

	clock_gettime(CLOCK_REALTIME, &now);
	manifest.created_ns = now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
	r = snapshot_manifest_lay_out(&manifest, inputs, n_inputs);
	if (r)
		return refusal_set_errno(refusal, r, "snapshot not laid out");

	r = driver->ops->describe(driver, &machine, refusal);
	if (r)
		return r;
	r = save_paused(driver, writer, inputs, &manifest, &paused_ns, refusal);
	text = snapshot_manifest_text(&manifest, machine);
	if (r)
		return r;
	if (!text)
		return refusal_set_errno(refusal, -ENOMEM, "manifest not written");

	r = writer_publish(writer, text, refusal);
	if (r)
		return r;
	for (size_t i = 0; i < n_inputs; i++)
		ret_saved->length_bytes += inputs[i].length_bytes;
	ret_saved->populated_bytes = manifest.populated_bytes;
	ret_saved->state_bytes = manifest.state_bytes;
	ret_saved->paused_ns = paused_ns;
	return 0;
}

int snapshot_save(struct driver *driver, const struct snapshot_input *memories, size_t n_memories,
		  const char *directory, struct snapshot_saved *ret_saved, struct refusal *refusal)
{
	_cleanup_(writer_done) struct writer writer;
	struct snapshot_saved saved = {};
	int r;

	r = writer_open(&writer, directory, refusal);
	if (!r)
		r = save_files(driver, &writer, memories, n_memories, &saved, refusal);
	if (r) {
		writer_discard(&writer);
		return r;
	}
	*ret_saved = saved;
	return 0;
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
