/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A snapshot of Cloud Hypervisor's on disk. */
#include "offload/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/files.h"
#include "refusal.h"

#define CONFIG	 "migration_config.json"
#define STATE	 "state.json"
#define MANIFEST "ufd-manifest.json"
#define FORMAT	 "ufd-cloud-hypervisor"
#define VERSION	 1

/* A manifest names each mapping in some 50 bytes. */
#define MAX_MANIFEST (16 * KIB)

static int refuse(struct refusal *refusal, const char *path, const char *what, int error)
{
	return refusal_set(refusal, "io.ufd.guest.BadSnapshot",
			   json_pack("{s:s}", "directory", path), "%s %s%s%s", path, what,
			   error ? ": " : "", error ? strerror(error) : "");
}

static void memory_name(uint32_t slot, char ret[static 24])
{
	snprintf(ret, 24, "memory-%u", slot);
}

/* ---- writing one ---- */

/* What the draft before left: files only, for nobody makes anything else here. */
static void empty(int directory)
{
	int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(closedirp) DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *entry;

	if (!list) {
		closep(&copy);
		return;
	}
	while ((entry = readdir(list)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			unlinkat(directory, entry->d_name, 0);
}

/* Locked: whoever has the lock may empty it. Return: 0, -EBUSY, -errno. */
static int draft_lock(const struct folder_draft *draft)
{
	struct stat ours, named;

	if (flock(draft->directory, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (fstat(draft->directory, &ours) < 0)
		return -errno;
	/* renamed or removed by whoever had it before */
	if (fstatat(draft->above, draft->new_name, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
	    named.st_ino != ours.st_ino || named.st_dev != ours.st_dev)
		return -EBUSY;
	return 0;
}

static int draft_open(struct folder_draft *draft, const char *above, struct refusal *refusal)
{
	struct stat there;
	int r;

	draft->above = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (draft->above < 0)
		return refuse(refusal, above, "cannot be opened", errno);
	if (fstatat(draft->above, draft->name, &there, AT_SYMLINK_NOFOLLOW) == 0)
		return FOLDER_TAKEN;
	if (mkdirat(draft->above, draft->new_name, 0700) < 0 && errno != EEXIST)
		return refuse(refusal, above, "cannot be written", errno);
	draft->directory = openat(draft->above, draft->new_name,
				  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = draft->directory < 0 ? -errno : draft_lock(draft);
	if (r == -EBUSY)
		return FOLDER_TAKEN;
	return r < 0 ? refuse(refusal, above, "cannot be written", -r) : 0;
}

int folder_draft_begin(struct folder_draft *ret, const char *above, const char *name,
		       struct refusal *refusal)
{
	struct folder_draft draft = FOLDER_DRAFT_NONE;
	int r;

	if (strlen(name) >= sizeof(draft.name) || strchr(name, '/') || name[0] == '.' || !name[0])
		return refuse(refusal, name, "cannot be the name of a folder", 0);
	snprintf(draft.name, sizeof(draft.name), "%s", name);
	snprintf(draft.new_name, sizeof(draft.new_name), "%s.new", name);
	r = draft_open(&draft, above, refusal);
	if (r != 0) {
		closep(&draft.directory);
		closep(&draft.above);
		return r;
	}
	empty(draft.directory);
	*ret = draft;
	return 0;
}

void folder_draft_done(struct folder_draft *draft)
{
	struct stat ours, named;

	if (draft->directory < 0)
		return;
	if (fstat(draft->directory, &ours) == 0 &&
	    fstatat(draft->above, draft->new_name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	    named.st_ino == ours.st_ino && named.st_dev == ours.st_dev) {
		empty(draft->directory);
		unlinkat(draft->above, draft->new_name, AT_REMOVEDIR);
	}
	closep(&draft->directory);
	closep(&draft->above);
	*draft = (struct folder_draft)FOLDER_DRAFT_NONE;
}

/* Guest memory is whatever secrets the guest has: for our own user only. */
static int create(const struct folder_draft *draft, const char *name)
{
	int fd = openat(draft->directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			0600);

	return fd < 0 ? -errno : fd;
}

int folder_draft_memory(const struct folder_draft *draft, const struct ch_mapping *mapping,
			int *ret_fd, struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	char name[24];

	memory_name(mapping->slot, name);
	fd = create(draft, name);
	if (fd < 0)
		return refuse(refusal, draft->name, "cannot be written", -fd);
	if (ftruncate(fd, (off_t)mapping->length_bytes) < 0)
		return refuse(refusal, draft->name, "cannot be written", errno);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int write_file(const struct folder_draft *draft, const char *name, const void *bytes,
		      size_t n_bytes)
{
	_cleanup_(closep) int fd = create(draft, name);
	int r = fd < 0 ? fd : fd_write_all(fd, bytes, n_bytes);

	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r;
}

static int write_manifest(const struct folder_draft *draft, const struct ch_layout *layout,
			  size_t n_config, size_t n_state)
{
	json_t *list = json_array();
	_cleanup_(freep) char *text = NULL;
	json_t *manifest;

	for (size_t i = 0; i < layout->n_mappings; i++)
		json_array_append_new(
			list,
			json_pack("{s:I, s:I}", "slot", (json_int_t)layout->mappings[i].slot,
				  "length_bytes", (json_int_t)layout->mappings[i].length_bytes));
	manifest = json_pack("{s:s, s:i, s:I, s:I, s:o}", "format", FORMAT, "version", VERSION,
			     "config_bytes", (json_int_t)n_config, "state_bytes",
			     (json_int_t)n_state, "memories", list);
	if (manifest)
		text = json_dumps(manifest, JSON_INDENT(2));
	json_decref(manifest);
	return text ? write_file(draft, MANIFEST, text, strlen(text)) : -ENOMEM;
}

/* Files before the folder that names them, the folder before its name, and the name at last. */
static int draft_sync(const struct folder_draft *draft)
{
	if (fsync(draft->directory) < 0)
		return -errno;
	if (renameat2(draft->above, draft->new_name, draft->above, draft->name, RENAME_NOREPLACE) <
	    0)
		return -errno;
	return fsync(draft->above) < 0 ? -errno : 0;
}

int folder_draft_publish(const struct folder_draft *draft, const struct ch_layout *layout,
			 const int *memories, const char *config, size_t n_config,
			 const char *state, size_t n_state, struct refusal *refusal)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < layout->n_mappings; i++)
		if (fsync(memories[i]) < 0)
			r = -errno;
	if (r == 0)
		r = write_file(draft, CONFIG, config, n_config);
	if (r == 0)
		r = write_file(draft, STATE, state, n_state);
	if (r == 0)
		r = write_manifest(draft, layout, n_config, n_state);
	if (r == 0)
		r = draft_sync(draft);
	return r < 0 ? refuse(refusal, draft->name, "cannot be written", -r) : 0;
}

/* ---- reading one ---- */

/* A file of no more than @n_most bytes, whole. Return: 0, -EFBIG, -errno. */
static int read_file(int directory, const char *name, size_t n_most, char **ret, size_t *ret_n)
{
	_cleanup_(closep) int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_(freep) char *text = NULL;
	struct stat info;
	size_t n = 0;

	if (fd < 0 || fstat(fd, &info) < 0)
		return -errno;
	if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size > n_most)
		return -EFBIG;
	text = malloc((size_t)info.st_size + 1);
	if (!text)
		return -ENOMEM;
	while (n < (size_t)info.st_size) {
		ssize_t got = pread(fd, text + n, (size_t)info.st_size - n, (off_t)n);

		if (got < 0 && errno != EINTR)
			return -errno;
		if (got == 0)
			return -ENODATA;
		n += got > 0 ? (size_t)got : 0;
	}
	text[n] = '\0';
	*ret = TAKE_PTR(text);
	*ret_n = n;
	return 0;
}

static bool is_length(const json_t *manifest, const char *key, uint64_t length)
{
	return (uint64_t)json_integer_value(json_object_get(manifest, key)) == length;
}

/* Is the manifest one of ours, and do config, state and mappings have its lengths? */
static bool fits(const struct folder *folder, const json_t *manifest)
{
	const char *format = json_string_value(json_object_get(manifest, "format"));
	const json_t *list = json_object_get(manifest, "memories");

	if (!format || strcmp(format, FORMAT) != 0 || !is_length(manifest, "version", VERSION) ||
	    !is_length(manifest, "config_bytes", folder->n_config) ||
	    !is_length(manifest, "state_bytes", folder->n_state) ||
	    json_array_size(list) != folder->layout.n_mappings)
		return false;
	for (size_t i = 0; i < folder->layout.n_mappings; i++) {
		const struct ch_mapping *mapping = &folder->layout.mappings[i];
		const json_t *entry = json_array_get(list, i);

		if (!is_length(entry, "slot", mapping->slot) ||
		    !is_length(entry, "length_bytes", mapping->length_bytes))
			return false;
	}
	return true;
}

static int open_memory(int directory, const struct ch_mapping *mapping, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	struct stat info;
	char name[24];

	memory_name(mapping->slot, name);
	fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &info) < 0)
		return -errno;
	if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size != mapping->length_bytes)
		return -ENODATA;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int read_texts(struct folder *folder, int directory, const char *path,
		      struct refusal *refusal)
{
	_cleanup_(freep) char *text = NULL;
	json_t *manifest;
	size_t n = 0;
	bool is_sound;
	int r;

	r = read_file(directory, MANIFEST, MAX_MANIFEST, &text, &n);
	if (r < 0)
		return refuse(refusal, path,
			      "is no snapshot of Cloud Hypervisor's, or no whole one: " MANIFEST,
			      -r);
	r = read_file(directory, CONFIG, CH_MAX_TEXT, &folder->config, &folder->n_config);
	if (r == 0)
		r = read_file(directory, STATE, CH_MAX_TEXT, &folder->state, &folder->n_state);
	if (r < 0)
		return refuse(refusal, path, "cannot be read", -r);
	r = ch_layout_read(folder->config, folder->n_config, &folder->layout, refusal);
	if (r < 0)
		return r;
	manifest = json_loadb(text, n, 0, NULL);
	is_sound = manifest && fits(folder, manifest);
	json_decref(manifest);
	return is_sound ? 0
			: refuse(refusal, path,
				 "is not what was written: its files do not fit " MANIFEST, 0);
}

static int open_all(struct folder *folder, const char *path, struct refusal *refusal)
{
	_cleanup_(closep) int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (directory < 0)
		return refuse(refusal, path, "cannot be opened", errno);
	r = read_texts(folder, directory, path, refusal);
	if (r < 0)
		return r;
	for (size_t i = 0; i < folder->layout.n_mappings; i++) {
		r = open_memory(directory, &folder->layout.mappings[i], &folder->memories[i]);
		if (r == -ENODATA)
			return refuse(refusal, path,
				      "is not what was written: guest memory was cut", 0);
		if (r < 0)
			return refuse(refusal, path, "lacks a file of guest memory", -r);
	}
	return 0;
}

int folder_open(struct folder *ret, const char *path, struct refusal *refusal)
{
	struct folder folder = {};
	int r;

	for (size_t i = 0; i < CH_MAX_MAPPINGS; i++)
		folder.memories[i] = -EBADF;
	r = open_all(&folder, path, refusal);
	if (r < 0) {
		folder_close(&folder);
		return r;
	}
	*ret = folder;
	return 0;
}

void folder_close(struct folder *folder)
{
	for (size_t i = 0; i < CH_MAX_MAPPINGS; i++)
		closep(&folder->memories[i]);
	free(folder->config);
	free(folder->state);
	folder->config = folder->state = NULL;
}
