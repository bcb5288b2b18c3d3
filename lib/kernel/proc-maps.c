/* SPDX-License-Identifier: MIT */
/* Who maps what. */
#include "kernel/proc-maps.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/files.h"

/* Only mappings of this file are kept; NULL keeps all. */
struct file_id {
	dev_t device;
	ino_t inode;
};

void proc_maps_done(struct proc_maps *maps)
{
	free(maps->maps);
	*maps = (struct proc_maps){};
}

static int open_proc(FILE **ret, pid_t pid, const char *name)
{
	char path[40];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT ? -ESRCH : -errno;
	*ret = file;
	return 0;
}

/* "55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0    [heap]"; false for any other line. */
static bool parse_line(const char *line, pid_t pid, struct proc_map *ret)
{
	struct proc_map map = { .pid = pid };
	uint64_t end, inode;
	unsigned int major, minor;
	char rights[5];
	int n_name = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n",
		   &map.range.start.v, &end, rights, &map.file_offset_bytes, &major, &minor, &inode,
		   &n_name) != 7)
		return false;
	map.range.length_bytes = end - map.range.start.v;
	map.device = makedev(major, minor);
	map.inode = inode;
	map.is_readable = rights[0] == 'r';
	map.is_writable = rights[1] == 'w';
	map.is_shared = rights[3] == 's';
	snprintf(map.name, sizeof(map.name), "%.*s", (int)strcspn(line + n_name, "\n"),
		 line + n_name);
	*ret = map;
	return true;
}

static int add_map(struct proc_maps *maps, const struct proc_map *map)
{
	/* Room doubles at each power of two, starting with 16. */
	if (maps->n_maps == 0 || (maps->n_maps >= 16 && !(maps->n_maps & (maps->n_maps - 1)))) {
		size_t n_room = maps->n_maps ? maps->n_maps * 2 : 16;
		struct proc_map *grown = reallocarray(maps->maps, n_room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		maps->maps = grown;
	}
	maps->maps[maps->n_maps++] = *map;
	return 0;
}

static int add_process(struct proc_maps *maps, pid_t pid, const struct file_id *only)
{
	_cleanup_(fclosep) FILE *file = NULL;
	_cleanup_(freep) char *line = NULL;
	size_t n_line = 0;
	struct proc_map map;
	int r;

	r = open_proc(&file, pid, "maps");
	if (r < 0)
		return r;
	while (getline(&line, &n_line, file) > 0) {
		if (!parse_line(line, pid, &map))
			return -EBADMSG;
		if (only && (map.device != only->device || map.inode != only->inode))
			continue;
		r = add_map(maps, &map);
		if (r < 0)
			return r;
	}
	return ferror(file) ? -errno : 0;
}

int proc_maps_read(pid_t pid, struct proc_maps *ret)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	int r;

	r = add_process(&maps, pid, NULL);
	if (r < 0)
		return r;
	*ret = maps;
	maps = (struct proc_maps){};
	return 0;
}

static bool is_denied(int r)
{
	return r == -EACCES || r == -EPERM;
}

int proc_maps_of_file(dev_t device, ino_t inode, struct proc_maps *ret, size_t *ret_n_hidden)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	_cleanup_(closedirp) DIR *processes = opendir("/proc");
	const struct file_id only = { device, inode };
	const struct dirent *entry;
	size_t n_hidden = 0;
	int r;

	if (!processes)
		return -errno;
	/* The kernel lists processes by ascending pid. */
	while ((entry = readdir(processes))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		r = add_process(&maps, (pid_t)atoi(entry->d_name), &only);
		if (is_denied(r))
			n_hidden++;
		else if (r < 0 && r != -ESRCH) /* one that ended meanwhile maps nothing */
			return r;
	}
	*ret = maps;
	maps = (struct proc_maps){};
	if (ret_n_hidden)
		*ret_n_hidden = n_hidden;
	return 0;
}

/* The words of a "VmFlags: rd wr sh um" line. */
static void parse_flags(const char *line, struct proc_map_flags *flags)
{
	flags->is_uffd_missing = strstr(line, " um") != NULL;
	flags->is_uffd_wp = strstr(line, " uw") != NULL;
	flags->is_uffd_minor = strstr(line, " ui") != NULL;
}

int proc_map_flags(pid_t pid, struct hva address, struct proc_map_flags *ret)
{
	_cleanup_(fclosep) FILE *file = NULL;
	_cleanup_(freep) char *line = NULL;
	size_t n_line = 0;
	struct proc_map_flags flags = {};
	struct proc_map map;
	bool is_ours = false;
	uint64_t page_kib;
	int r;

	r = open_proc(&file, pid, "smaps");
	if (r < 0)
		return r;
	while (getline(&line, &n_line, file) > 0) {
		if (parse_line(line, pid, &map)) {
			if (map.range.start.v > address.v)
				return -ENOENT;
			is_ours = address.v - map.range.start.v < map.range.length_bytes;
		} else if (is_ours && sscanf(line, "KernelPageSize: %" SCNu64, &page_kib) == 1) {
			flags.page_bytes = page_kib * KIB;
		} else if (is_ours && strncmp(line, "VmFlags:", 8) == 0) {
			parse_flags(line, &flags);
			*ret = flags;
			return 0;
		}
	}
	return ferror(file) ? -errno : -ENOENT;
}
