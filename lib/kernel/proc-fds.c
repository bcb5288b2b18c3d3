/* SPDX-License-Identifier: MIT */
/* Open files that may write to memory behind its page tables. */
#include "kernel/proc-fds.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/files.h"

#define RING_TRIES 100

static const struct {
	const char *start; /* of the link's text */
	uint32_t kind;
} names[] = {
	{ "anon_inode:[io_uring]", PROC_HAZARD_IO_URING },
	{ "/dev/vfio/", PROC_HAZARD_VFIO },
	{ "anon_inode:[vfio", PROC_HAZARD_VFIO }, /* a device stays open when its group is closed */
	{ "/dev/vhost-vdpa", PROC_HAZARD_VDPA },
	{ "/dev/iommu", PROC_HAZARD_IOMMUFD },
	{ "/dev/infiniband/uverbs", PROC_HAZARD_RDMA },
	{ "anon_inode:[infinibandevent]", PROC_HAZARD_RDMA },
	{ "/dev/vhost-scsi", PROC_HAZARD_VHOST_SCSI },
};

uint32_t proc_fds_judge(const char *target, unsigned int flags)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strncmp(target, names[i].start, strlen(names[i].start)) == 0)
			return names[i].kind;
	/* a pipe may have the flag, too, and means something else by it */
	return target[0] == '/' && (flags & O_DIRECT) ? PROC_HAZARD_DIRECT_IO : 0;
}

bool proc_fds_parse_buffer(const char *line, struct hva_range *ret)
{
	unsigned int number;
	uint64_t address, length;

	if (sscanf(line, " %u: 0x%" SCNx64 "/%" SCNu64, &number, &address, &length) != 3 ||
	    length == 0)
		return false;
	*ret = (struct hva_range){ { address }, length };
	return true;
}

static bool is_among(const struct hva_range *buffer, const struct hva_range *ranges,
		     size_t n_ranges)
{
	for (size_t i = 0; i < n_ranges; i++)
		if (buffer->start.v < ranges[i].start.v + ranges[i].length_bytes &&
		    ranges[i].start.v < buffer->start.v + buffer->length_bytes)
			return true;
	return false;
}

/* What fdinfo says of one file. */
struct info {
	unsigned int flags;
	unsigned int n_buffers; /* an io_uring has registered, */
	unsigned int n_listed;	/* and of them are listed */
	bool has_count;		/* of buffers at all */
	bool has_buffer;	/* one is of the ranges */
};

static int read_info(pid_t pid, int fd, const struct hva_range *ranges, size_t n_ranges,
		     struct info *ret)
{
	_cleanup_(fclosep) FILE *file = NULL;
	char path[64], line[256];
	struct info info = {};
	struct hva_range buffer;
	bool is_list = false;

	*ret = info;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT ? 0 : -errno; /* closed since */
	while (fgets(line, sizeof(line), file)) {
		(void)sscanf(line, "flags: %o", &info.flags);
		if (!isspace((unsigned char)line[0])) {
			is_list = sscanf(line, "UserBufs: %u", &info.n_buffers) == 1;
			info.has_count |= is_list;
		} else if (is_list) {
			info.n_listed++;
			info.has_buffer |= proc_fds_parse_buffer(line, &buffer) &&
					   is_among(&buffer, ranges, n_ranges);
		}
	}
	*ret = info;
	return 0;
}

/*
 * Buffers of an io_uring that is submitting just now are not listed, and newer kernels do not even count
 * them then: so it is asked again. One that never lets itself be looked at is taken to have some.
 */
static int read_ring(pid_t pid, int fd, const struct hva_range *ranges, size_t n_ranges,
		     uint32_t *ret_kind)
{
	struct info info = {};
	int r;

	for (unsigned int i = 0; i < RING_TRIES; i++) {
		r = read_info(pid, fd, ranges, n_ranges, &info);
		if (r < 0)
			return r;
		if (info.has_buffer || (info.has_count && info.n_listed >= info.n_buffers))
			break;
		sched_yield();
	}
	*ret_kind = info.has_buffer || info.n_listed < info.n_buffers ? PROC_HAZARD_FIXED_BUFFER
								      : PROC_HAZARD_IO_URING;
	return 0;
}

/* Return: 0 with *ret_kind 0 if it is no hazard, or -errno. */
static int judge(pid_t pid, int fd, const char *target, const struct hva_range *ranges,
		 size_t n_ranges, uint32_t *ret_kind)
{
	struct info info = {};
	int r = 0;

	*ret_kind = proc_fds_judge(target, 0);
	if (*ret_kind == PROC_HAZARD_IO_URING)
		return read_ring(pid, fd, ranges, n_ranges, ret_kind);
	if (*ret_kind == 0 && target[0] == '/')
		r = read_info(pid, fd, NULL, 0, &info);
	if (r == 0 && *ret_kind == 0)
		*ret_kind = proc_fds_judge(target, info.flags);
	return r;
}

static bool is_worse(uint32_t kind, const struct proc_hazards *hazards)
{
	return hazards->fd < 0 ||
	       ((kind & PROC_HAZARDS_LASTING) && !(hazards->fd_kind & PROC_HAZARDS_LASTING));
}

static int look_at(pid_t pid, int folder, const char *name, const struct hva_range *ranges,
		   size_t n_ranges, struct proc_hazards *hazards)
{
	char target[sizeof(hazards->target)];
	ssize_t n = readlinkat(folder, name, target, sizeof(target) - 1);
	uint32_t kind = 0;
	int r;

	if (n < 0)
		return errno == ENOENT ? 0 : -errno;
	target[n] = '\0';
	r = judge(pid, atoi(name), target, ranges, n_ranges, &kind);
	if (r < 0)
		return r;
	hazards->kinds |= kind;
	if (kind && is_worse(kind, hazards)) {
		hazards->fd = atoi(name);
		hazards->fd_kind = kind;
		memcpy(hazards->target, target, (size_t)n + 1);
	}
	return 0;
}

int proc_fds_look(pid_t pid, const struct hva_range *ranges, size_t n_ranges,
		  struct proc_hazards *ret)
{
	struct proc_hazards hazards = { .fd = -1 };
	_cleanup_(closedirp) DIR *folder = NULL;
	const struct dirent *entry;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	folder = opendir(path);
	if (!folder)
		return errno == ENOENT ? -ESRCH : -errno;
	while ((entry = readdir(folder))) {
		int r = isdigit((unsigned char)entry->d_name[0])
				? look_at(pid, dirfd(folder), entry->d_name, ranges, n_ranges,
					  &hazards)
				: 0;

		if (r < 0)
			return r;
	}
	*ret = hazards;
	return 0;
}
