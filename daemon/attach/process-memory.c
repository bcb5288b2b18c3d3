/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which mappings of a process are its memory, and the files behind them. */
/*
 * A memory is known by the inode behind it, not by its name: QEMU gives every memfd the same one.
 * The file is opened through the mapping itself (/proc/PID/map_files), which also works when no fd
 * of it is open any more; without the capability for that, through an fd of the process. Either
 * link is looked at before it is opened for good: opening a device would have effects of its own.
 */
#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "attach/process.h"
#include "base/files.h"
#include "kernel/proc-maps.h"
#include "refusal.h"

#define refuse(refusal, pid, ...)                                                                \
	refusal_set(refusal, "io.ufd.guest.CannotAttach", json_pack("{s:i}", "pid", (int)(pid)), \
		    __VA_ARGS__)

/* What is looked for. */
struct match {
	enum { MATCH_ANY_SHARED, MATCH_NAME, MATCH_INODE, MATCH_SIZE } by;
	const char *text; /* as given; borrowed */
	uint64_t number;
};

/* One search. */
struct search {
	pid_t pid;
	struct refusal *refusal;
	struct process_memories found;
	bool is_paged; /* by us: a registered mapping is not refused */
};

static void memory_done(struct process_memory *memory)
{
	closep(&memory->fd);
	free(memory->mappings);
}

void process_memories_done(struct process_memories *memories)
{
	for (size_t i = 0; i < memories->n_memories; i++)
		memory_done(&memories->memories[i]);
	free(memories->memories);
	*memories = (struct process_memories){};
}

static bool parse_number(const char *text, uint64_t *ret)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno == 0 && *end == '\0';
}

static int parse_match(const char *text, struct match *ret, pid_t pid, struct refusal *refusal)
{
	struct match match = { .by = MATCH_NAME, .text = text };
	const char *number = NULL;

	if (strncmp(text, "inode:", 6) == 0) {
		match.by = MATCH_INODE;
		number = text + 6;
	} else if (strncmp(text, "size:", 5) == 0) {
		match.by = MATCH_SIZE;
		number = text + 5;
	}
	if (text[0] == '\0' || (number && !parse_number(number, &match.number)))
		return refuse(refusal, pid,
			      "`%s` names no memory: give a name, inode:N or size:BYTES", text);
	*ret = match;
	return 0;
}

static bool has_prefix(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* "/memfd:ram (deleted)" is "ram"; a path stays one. */
static void short_name(const char *name, char *ret, size_t n_ret)
{
	static const char deleted[] = " (deleted)";
	size_t n;

	if (has_prefix(name, "/memfd:"))
		name += strlen("/memfd:");
	n = strlen(name);
	if (n > strlen(deleted) && strcmp(name + n - strlen(deleted), deleted) == 0)
		n -= strlen(deleted);
	snprintf(ret, n_ret, "%.*s", (int)n, name);
}

static void mapping_link(const struct proc_map *map, char *ret, size_t n_ret)
{
	snprintf(ret, n_ret, "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, map->pid,
		 map->range.start.v, map->range.start.v + map->range.length_bytes);
}

/* The table of mappings cuts long names; the link behind the mapping does not. */
static void full_name(const struct proc_map *map, char *ret, size_t n_ret)
{
	char path[96];
	ssize_t n = -1;

	mapping_link(map, path, sizeof(path));
	if (strlen(map->name) == sizeof(map->name) - 1)
		n = readlink(path, ret, n_ret - 1);
	if (n < 0)
		n = snprintf(ret, n_ret, "%s", map->name);
	ret[n] = '\0';
}

static bool is_named(const struct proc_map *map, const char *text)
{
	char name[PATH_MAX], found[PATH_MAX], wanted[PATH_MAX];

	full_name(map, name, sizeof(name));
	short_name(name, found, sizeof(found));
	short_name(text, wanted, sizeof(wanted));
	return strcmp(name, text) == 0 || strcmp(found, wanted) == 0;
}

/* No file that anybody could open: heap and stack are not meant, huge pages have a hidden file. */
static bool is_anonymous(const struct proc_map *map)
{
	if (map->is_shared)
		return false;
	if (map->inode == 0)
		return map->name[0] == '\0' || has_prefix(map->name, "[anon");
	return has_prefix(map->name, "/anon_hugepage");
}

static bool is_match(const struct match *match, const struct proc_map *map)
{
	if (!map->is_readable || !map->is_writable)
		return false;
	if (map->inode == 0 && !is_anonymous(map))
		return false;
	switch (match->by) {
	case MATCH_ANY_SHARED: /* neither System V segments, which userfaultfd refuses, nor MAP_ANONYMOUS */
		return map->is_shared && !has_prefix(map->name, "/SYSV") &&
		       !has_prefix(map->name, "/dev/zero");
	case MATCH_NAME:
		return map->name[0] != '\0' && is_named(map, match->text);
	case MATCH_INODE:
		return map->inode == match->number && map->inode != 0;
	case MATCH_SIZE:
		return map->range.length_bytes == match->number;
	}
	return false;
}

/* An O_PATH fd: looked at, not opened. Return: 0, -ENOENT if it is not this file, other -errno. */
static int look_at(int dir_fd, const char *path, const struct proc_map *map, int *ret_fd)
{
	_cleanup_(closep) int fd = openat(dir_fd, path, O_PATH | O_CLOEXEC);
	struct stat file;

	if (fd < 0 || fstat(fd, &file) < 0)
		return -errno;
	if (file.st_dev != map->device || file.st_ino != map->inode)
		return -ENOENT;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int look_through_mapping(const struct proc_map *map, int *ret_fd)
{
	char path[96];

	mapping_link(map, path, sizeof(path));
	return look_at(AT_FDCWD, path, map, ret_fd);
}

static int look_through_fds(const struct proc_map *map, int *ret_fd)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int r = -ENOENT;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", map->pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (r < 0 && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			r = look_at(dirfd(dir), entry->d_name, map, ret_fd);
	return r;
}

/* Return: 0, -ENOTSUP if userfaultfd cannot serve this file, other -errno. */
static int open_backing(const struct proc_map *map, int *ret_fd)
{
	_cleanup_(closep) int seen = -EBADF;
	struct statfs filesystem;
	struct stat file;
	char path[64];
	int r, fd;

	r = look_through_mapping(map, &seen);
	if (r < 0)
		r = look_through_fds(map, &seen) < 0 ? r : 0;
	if (r < 0)
		return r;
	if (fstat(seen, &file) < 0 || fstatfs(seen, &filesystem) < 0)
		return -errno;
	if (!S_ISREG(file.st_mode) ||
	    (filesystem.f_type != TMPFS_MAGIC && filesystem.f_type != HUGETLBFS_MAGIC))
		return -ENOTSUP;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", seen);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* A short name; where it is taken already, with the inode or address behind it. */
static void choose_name(const struct search *search, const struct proc_map *map, char *ret,
			size_t n_ret)
{
	char name[sizeof(map->name)] = "anon";
	bool is_taken = map->name[0] == '\0' || is_anonymous(map);

	if (!is_taken)
		short_name(map->name, name, sizeof(name));
	for (size_t i = 0; i < search->found.n_memories; i++)
		is_taken = is_taken || strcmp(search->found.memories[i].name, name) == 0;
	if (!is_taken)
		snprintf(ret, n_ret, "%s", name);
	else if (map->is_shared)
		snprintf(ret, n_ret, "%s#%" PRIu64, name, (uint64_t)map->inode);
	else
		snprintf(ret, n_ret, "%s@%" PRIx64, name, map->range.start.v);
}

static struct process_memory *find_memory(const struct search *search, const struct proc_map *map)
{
	for (size_t i = 0; i < search->found.n_memories; i++) {
		struct process_memory *memory = &search->found.memories[i];

		if (memory->fd >= 0 && memory->device == map->device && memory->inode == map->inode)
			return memory;
	}
	return NULL;
}

/* What the memory is: its file's kind and length, or just the private range. */
static int inspect(const struct search *search, const struct proc_map *map, uint64_t page_bytes,
		   struct process_memory *memory)
{
	struct backing_info info;
	int r;

	memory->page_bytes = page_bytes;
	memory->length_bytes = map->range.length_bytes;
	memory->kind = is_anonymous(map) ? BACKING_ANON : BACKING_PRIVATE;
	if (is_anonymous(map))
		return 0;
	r = open_backing(map, &memory->fd);
	if (r == 0)
		r = backing_inspect(memory->fd, &info);
	if (r == -ENOTSUP)
		return r;
	if (r < 0)
		return refuse(
			search->refusal, search->pid,
			"the file behind %s of process %d cannot be opened (%s): ufdd needs CAP_CHECKPOINT_RESTORE, or an fd of it open there",
			map->name, search->pid, strerrorname_np(-r) ? strerrorname_np(-r) : "?");
	if (!map->is_shared) {
		closep(&memory->fd);
		memory->fd = -EBADF;
		return 0;
	}

	memory->kind = info.kind;
	memory->page_bytes = info.page_bytes;
	memory->length_bytes = info.length_bytes;
	memory->device = info.device;
	memory->inode = info.inode;
	return 0;
}

/* Return: 0 with the memory in the list, -ENOTSUP if userfaultfd cannot serve it, -ECANCELED. */
static int add_memory(struct search *search, const struct proc_map *map, uint64_t page_bytes,
		      struct process_memory **ret)
{
	_cleanup_(memory_done) struct process_memory memory = { .fd = -EBADF };
	struct process_memories *found = &search->found;
	struct process_memory *grown;
	int r;

	r = inspect(search, map, page_bytes, &memory);
	if (r < 0)
		return r;
	grown = reallocarray(found->memories, found->n_memories + 1, sizeof(*grown));
	if (!grown)
		return refusal_set_errno(search->refusal, -ENOMEM,
					 "no room for the table of memories");

	found->memories = grown;
	choose_name(search, map, memory.name, sizeof(memory.name));
	*ret = &grown[found->n_memories++];
	**ret = memory;
	memory = (struct process_memory){ .fd = -EBADF };
	return 0;
}

static int add_mapping(struct search *search, struct process_memory *memory,
		       const struct proc_map *map)
{
	struct process_mapping *grown;

	grown = reallocarray(memory->mappings, memory->n_mappings + 1, sizeof(*grown));
	if (!grown)
		return refusal_set_errno(search->refusal, -ENOMEM,
					 "no room for the table of mappings");
	memory->mappings = grown;
	grown[memory->n_mappings++] = (struct process_mapping){
		.range = map->range,
		.offset_bytes = map->is_shared ? map->file_offset_bytes : 0,
	};
	return 0;
}

static int refuse_other_uffd(const struct search *search, const struct proc_map *map,
			     const struct proc_map_flags *flags)
{
	char modes[64];

	snprintf(modes, sizeof(modes), "%s%s%s", flags->is_uffd_missing ? " missing" : "",
		 flags->is_uffd_minor ? " minor" : "", flags->is_uffd_wp ? " write-protect" : "");
	return refuse(
		search->refusal, search->pid,
		"another userfaultfd (%s) holds the memory %s of process %d at 0x%" PRIx64
		": another pager, or the VMM's own post-copy or background snapshot; end that first",
		modes + 1, map->name[0] ? map->name : "(anonymous)", search->pid,
		map->range.start.v);
}

/* Return: 0, -ENOTSUP if userfaultfd cannot serve this mapping, -ECANCELED. */
static int take_map(struct search *search, const struct proc_map *map)
{
	struct process_memory *memory = map->is_shared ? find_memory(search, map) : NULL;
	struct proc_map_flags flags;
	int r;

	r = proc_map_flags(search->pid, map->range.start, &flags);
	if (r < 0)
		return refusal_set_errno(search->refusal, r, "cannot read /proc/%d/smaps",
					 search->pid);
	if (!memory) {
		r = add_memory(search, map, flags.page_bytes, &memory);
		if (r < 0)
			return r;
	}
	if (!search->is_paged && (flags.is_uffd_missing || flags.is_uffd_minor || flags.is_uffd_wp))
		return refuse_other_uffd(search, map, &flags);
	return add_mapping(search, memory, map);
}

/* Takes the mappings that @match finds and no earlier match has; those are marked in @is_taken. */
static int take_matching(struct search *search, const struct match *match,
			 const struct proc_maps *maps, bool *is_taken)
{
	bool is_found = false;

	for (size_t i = 0; i < maps->n_maps; i++) {
		int r = 0;

		if (!is_match(match, &maps->maps[i]))
			continue;
		if (!is_taken[i])
			r = take_map(search, &maps->maps[i]);
		if (r == -ENOTSUP && (match->by == MATCH_ANY_SHARED || match->by == MATCH_SIZE))
			continue; /* a device, or a file on disk */
		if (r == -ENOTSUP)
			return refuse(search->refusal, search->pid,
				      "%s of process %d is neither memfd, tmpfs nor hugetlbfs",
				      maps->maps[i].name, search->pid);
		if (r < 0)
			return r;
		is_taken[i] = is_found = true;
	}
	if (is_found)
		return 0;
	if (match->by == MATCH_ANY_SHARED)
		return refuse(
			search->refusal, search->pid,
			"process %d maps no shared writable memfd, tmpfs or hugetlbfs memory; anonymous memory is found by size:BYTES",
			search->pid);
	return refuse(search->refusal, search->pid,
		      "no writable mapping of process %d matches `%s`", search->pid, match->text);
}

static int take_all(struct search *search, const char *const *matches, size_t n_matches,
		    const struct proc_maps *maps)
{
	_cleanup_(freep) bool *is_taken = calloc(maps->n_maps + 1, sizeof(*is_taken));
	struct match match = { .by = MATCH_ANY_SHARED };
	int r;

	if (!is_taken)
		return refusal_set_errno(search->refusal, -ENOMEM,
					 "no room for the mappings of process %d", search->pid);
	if (n_matches == 0)
		return take_matching(search, &match, maps, is_taken);
	for (size_t i = 0; i < n_matches; i++) {
		r = parse_match(matches[i], &match, search->pid, search->refusal);
		if (r == 0)
			r = take_matching(search, &match, maps, is_taken);
		if (r < 0)
			return r;
	}
	return 0;
}

static int find_memories(struct search search, const char *const *matches, size_t n_matches,
			 struct process_memories *ret)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	struct refusal *refusal = search.refusal;
	pid_t pid = search.pid;
	int r;

	r = proc_maps_read(pid, &maps);
	if (r == -ESRCH)
		return refuse(refusal, pid, "there is no process %d", pid);
	if (r == -EACCES || r == -EPERM)
		return refuse(
			refusal, pid,
			"the mappings of process %d are hidden from ufdd: it needs CAP_SYS_PTRACE",
			pid);
	if (r < 0)
		return refusal_set_errno(refusal, r, "cannot read /proc/%d/maps", pid);

	r = take_all(&search, matches, n_matches, &maps);
	if (r < 0) {
		process_memories_done(&search.found);
		return r;
	}
	*ret = search.found;
	return 0;
}

int process_find_memories(pid_t pid, const char *const *matches, size_t n_matches,
			  struct process_memories *ret, struct refusal *refusal)
{
	return find_memories((struct search){ .pid = pid, .refusal = refusal }, matches, n_matches,
			     ret);
}

int process_find_paged_memories(pid_t pid, struct process_memories *ret, struct refusal *refusal)
{
	return find_memories((struct search){ .pid = pid, .refusal = refusal, .is_paged = true },
			     NULL, 0, ret);
}
