/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Trying a source's file. */
#include "source-probe.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/units.h"
#include "image/image-reader.h"
#include "image/image-source.h"
#include "kernel/procfs.h"
#include "process.h"

#define PROBE_BYTES 512

/* ---- reading --------------------------------------------------------------------------------- */

static struct source_probe try_read(const char *path, uint64_t offset)
{
	struct source_probe probe = { .result = PROBE_FAILS };
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	char bytes[PROBE_BYTES];
	struct stat stat;
	ssize_t n;

	if (fd >= 0 && fstat(fd, &stat) == 0) {
		probe.device = stat.st_dev;
		probe.inode = stat.st_ino;
		probe.length_bytes = (uint64_t)stat.st_size;
		probe.modified_s = stat.st_mtim.tv_sec;
		probe.modified_ns = (uint32_t)stat.st_mtim.tv_nsec;
		probe.changed_s = stat.st_ctim.tv_sec;
		probe.changed_ns = (uint32_t)stat.st_ctim.tv_nsec;
	}
	n = fd < 0 ? -1 : pread(fd, bytes, sizeof(bytes), (off_t)offset);
	if (n < 0)
		probe.error = errno;
	else
		probe.result = n ? PROBE_READS : PROBE_ENDS;
	return probe;
}

/* @name: of an image. */
static struct source_probe try_image(const char *name, uint64_t offset)
{
	struct source_probe probe = { .result = PROBE_FAILS };
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = NULL;
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_(freep) void *page = NULL;
	const char *why = NULL;
	uint64_t page_bytes;
	uint32_t memory;
	int r;

	r = image_spec_open(&image, &memory, name, &why);
	if (r == 0)
		r = image_cursor_new(&cursor, image);
	if (r == 0) {
		page_bytes = image_memory(image, memory)->page_bytes;
		page = malloc(page_bytes);
		r = page ? image_read_pages(cursor, memory, offset / page_bytes, 1, page, &why)
			 : -ENOMEM;
	}
	if (r == 0)
		probe.result = PROBE_READS;
	probe.error = -r;
	snprintf(probe.why, sizeof(probe.why), "%s", why ?: "");
	return probe;
}

typedef struct source_probe (*probe_fn)(const char *name, uint64_t offset);

static _Noreturn void probe_child(int out, probe_fn probe_it, const char *name, uint64_t offset)
{
	struct source_probe probe;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* it may outlive us: nobody must wait for the end of an output that it still has open */
	if (dup2(out, 3) < 0 || close_range(0, 2, 0) < 0 || close_range(4, ~0U, 0) < 0)
		_exit(1);
	probe = probe_it(name, offset);
	_exit(write(3, &probe, sizeof(probe)) != sizeof(probe));
}

static void run(struct source_probe *ret, probe_fn probe_it, const char *name, uint64_t offset,
		uint64_t patience_ns)
{
	_cleanup_(closep) int in = -EBADF, out = -EBADF;
	struct source_probe probe;
	int ends[2];
	pid_t child;

	*ret = (struct source_probe){ .result = PROBE_NOT_MADE };
	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	in = ends[0];
	out = ends[1];
	child = fork();
	if (child == 0)
		probe_child(out, probe_it, name, offset);
	if (child < 0)
		return;
	closep(&out);
	out = -EBADF;
	if (poll(&(struct pollfd){ .fd = in, .events = POLLIN }, 1,
		 (int)(patience_ns / NSEC_PER_MSEC)) == 0) {
		/* where it hangs it may not even die: it ends when its file system lets it */
		kill(child, SIGKILL);
		ret->result = PROBE_HANGS;
		(void)waitpid(child, NULL, WNOHANG);
		return;
	}
	if (read(in, &probe, sizeof(probe)) == sizeof(probe))
		*ret = probe;
	(void)waitpid(child, NULL, 0);
}

void source_probe_run(struct source_probe *ret, const char *path, uint64_t offset,
		      uint64_t patience_ns)
{
	run(ret, try_read, path, offset, patience_ns);
}

void source_probe_image(struct source_probe *ret, const char *spec, uint64_t offset,
			uint64_t patience_ns)
{
	run(ret, try_image, spec, offset, patience_ns);
}

/* ---- which file system ----------------------------------------------------------------------- */

/* ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS */
static bool parse_mount(const char *line, uint64_t device, uint64_t id, struct source_mount *ret)
{
	unsigned int major_number, minor_number;
	const char *tail = strstr(line, " - ");
	unsigned long mount_id;
	char point[512];

	if (!tail || sscanf(line, "%lu %*s %u:%u %*s %511s", &mount_id, &major_number,
			    &minor_number, point) != 4)
		return false;
	if (id ? mount_id != id : makedev(major_number, minor_number) != device)
		return false;
	*ret = (struct source_mount){};
	snprintf(ret->point, sizeof(ret->point), "%s", point);
	snprintf(ret->kind, sizeof(ret->kind), "%.*s", (int)strcspn(tail + 3, " "), tail + 3);
	return true;
}

static bool each_mount(pid_t pid, uint64_t device, uint64_t id, struct source_mount *ret)
{
	_cleanup_(freep) char *line = NULL;
	char path[64];
	size_t n_line = 0;
	bool is_found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/mountinfo", pid);
	file = fopen(path, "re");
	while (file && !is_found && getline(&line, &n_line, file) > 0)
		is_found = parse_mount(line, device, id, ret);
	if (file)
		fclose(file);
	return is_found;
}

bool source_find_mount(pid_t pid, uint64_t device, struct source_mount *ret)
{
	return each_mount(pid, device, 0, ret);
}

static bool fdinfo_number(pid_t pid, int fd, const char *key, uint64_t *ret)
{
	char path[64], text[2048];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	return procfs_read(path, text, sizeof(text), NULL) == 0 &&
	       procfs_find_number(text, key, ret);
}

/* Does the mount of this fd agree with @device? Some file systems give their files devices of
 * their own, so only a mount that is known and another one disagrees. */
static bool is_of_device(pid_t pid, int fd, uint64_t device)
{
	struct source_mount mount, expected;
	uint64_t id;

	if (!fdinfo_number(pid, fd, "mnt_id", &id) || !each_mount(pid, 0, id, &mount) ||
	    !source_find_mount(pid, device, &expected))
		return true;
	return strcmp(mount.kind, expected.kind) == 0;
}

bool source_find_open(pid_t pid, uint64_t device, uint64_t inode, char ret_open[64], char *ret_name,
		      size_t n_name)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		int fd = (int)strtol(entry->d_name, NULL, 10);
		uint64_t number;

		if (!isdigit((unsigned char)entry->d_name[0]) ||
		    !fdinfo_number(pid, fd, "ino", &number) || number != inode ||
		    !is_of_device(pid, fd, device))
			continue;
		process_fd_name(pid, fd, ret_name, n_name);
		if (ret_name[0] != '/')
			continue;
		snprintf(ret_open, 64, "/proc/%d/fd/%d", pid, fd);
		return true;
	}
	return false;
}

uint64_t source_fuse_connection(pid_t pid, int fd)
{
	uint64_t connection = 0;

	return fdinfo_number(pid, fd, "fuse_connection", &connection) ? connection : 0;
}
