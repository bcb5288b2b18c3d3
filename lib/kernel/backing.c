/* SPDX-License-Identifier: MIT */
/* The file behind a memory. */
#include "kernel/backing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"

static int memfd(const char *name, unsigned int flags)
{
	int fd = memfd_create(name, flags | MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create(name, flags | MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

int backing_create(int *ret_fd, const char *name, uint64_t length_bytes, uint64_t page_bytes)
{
	_cleanup_(closep) int fd = -EBADF;
	unsigned int flags = 0;

	if (page_bytes && page_bytes != (uint64_t)sysconf(_SC_PAGESIZE))
		flags = MFD_HUGETLB | (unsigned int)__builtin_ctzll(page_bytes) << MAP_HUGE_SHIFT;
	fd = memfd(name, flags);
	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)length_bytes) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int backing_inspect(int fd, struct backing_info *ret)
{
	struct backing_info info = {};
	struct statfs filesystem;
	struct stat file;
	int flags, seals;

	flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	if (flags & O_PATH)
		return -EBADF;
	/*
	 * Only memory knows of seals. Asked first, and by no file system: that of a stranger's fd
	 * may be a FUSE server's, who never answers.
	 */
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return -ENOTSUP;
	if (fstat(fd, &file) < 0 || fstatfs(fd, &filesystem) < 0)
		return -errno;
	if (!S_ISREG(file.st_mode))
		return -ENOTSUP;

	if (filesystem.f_type == HUGETLBFS_MAGIC) {
		info.kind = BACKING_HUGETLB;
		info.page_bytes = (uint64_t)filesystem.f_bsize;
	} else if (filesystem.f_type == TMPFS_MAGIC) {
		info.kind = BACKING_SHMEM;
		info.page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	} else {
		return -ENOTSUP;
	}

	info.length_bytes = (uint64_t)file.st_size;
	info.allocated_bytes = (uint64_t)file.st_blocks * 512;
	info.device = file.st_dev;
	info.inode = file.st_ino;
	info.is_writable = (flags & O_ACCMODE) == O_RDWR &&
			   !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE));
	*ret = info;
	return 0;
}

int backing_length(int fd, uint64_t *ret_length_bytes)
{
	struct stat file;

	if (fstat(fd, &file) < 0)
		return -errno;
	*ret_length_bytes = (uint64_t)file.st_size;
	return 0;
}

/* A window on a hugetlb file for asking which pages exist. */
struct huge_probe {
	int uffd;
	void *window;
	uint64_t length_bytes;
};

static void huge_probe_done(struct huge_probe *probe)
{
	if (probe->window != MAP_FAILED)
		munmap(probe->window, probe->length_bytes);
	closep(&probe->uffd);
}

/*
 * MAP_PRIVATE, so that a read-only fd will do; without reservation, so that nothing is taken from
 * the pool. Its uffd takes MINOR and MISSING faults, of which there are none: nobody touches it.
 */
static int huge_probe_init(struct huge_probe *probe, int fd, uint64_t offset, uint64_t length_bytes)
{
	struct hva_range range;
	int r;

	*probe = (struct huge_probe){ .uffd = -EBADF, .length_bytes = length_bytes };
	probe->window = mmap(NULL, length_bytes, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd,
			     (off_t)offset);
	if (probe->window == MAP_FAILED)
		return -errno;
	r = uffd_open(&probe->uffd, UFFD_WAY_USER_MODE, 0);
	if (r < 0)
		return r;
	range = (struct hva_range){ { (uintptr_t)probe->window }, length_bytes };
	r = uffd_register(probe->uffd, range, UFFD_MODE_MISSING | UFFD_MODE_MINOR, NULL);
	return r > 0 ? -ENOTSUP : r;
}

/* CONTINUE maps a page that the file has and never allocates one. */
static int huge_probe_has(const struct huge_probe *probe, uint64_t at, uint64_t page_bytes,
			  bool *ret_has)
{
	struct hva_range page = { { (uintptr_t)probe->window + at }, page_bytes };
	uint64_t done;
	int r;

	r = uffd_continue(probe->uffd, page, UFFD_FILL_NO_WAKE, &done);
	if (r < 0)
		return r;
	switch (r) {
	case 0:
	case UFFD_PRESENT:
		*ret_has = true;
		return 0;
	case UFFD_NO_PAGE:
	case UFFD_PAST_END:
		*ret_has = false;
		return 0;
	default:
		return -EIO;
	}
}

/* SEEK_DATA on hugetlbfs calls the whole file data, and mincore sees page tables only. */
static int find_huge_data(int fd, const struct backing_info *info, uint64_t offset, uint64_t end,
			  uint64_t *ret_offset, uint64_t *ret_length_bytes)
{
	_cleanup_(huge_probe_done) struct huge_probe probe = { -EBADF, MAP_FAILED, 0 };
	uint64_t first = align_down(offset, info->page_bytes), found = end, at;
	bool has = false;
	int r;

	*ret_length_bytes = 0;
	if (info->allocated_bytes == 0)
		return 0;
	r = huge_probe_init(&probe, fd, first, align_up(end, info->page_bytes) - first);
	if (r < 0)
		return r;

	for (at = first; at < end; at += info->page_bytes) {
		r = huge_probe_has(&probe, at - first, info->page_bytes, &has);
		if (r < 0)
			return r;
		if (has && found == end)
			found = max_u64(at, offset);
		if (!has && found != end)
			break;
	}
	if (found == end)
		return 0;
	*ret_offset = found;
	*ret_length_bytes = min_u64(at, end) - found;
	return 0;
}

static int find_data(int fd, uint64_t offset, uint64_t end, uint64_t *ret_offset,
		     uint64_t *ret_length_bytes)
{
	off_t data = lseek(fd, (off_t)offset, SEEK_DATA), hole;

	if (data < 0 && errno != ENXIO)
		return -errno;
	if (data < 0 || (uint64_t)data >= end) {
		*ret_length_bytes = 0;
		return 0;
	}
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	*ret_offset = (uint64_t)data;
	*ret_length_bytes = min_u64((uint64_t)hole, end) - (uint64_t)data;
	return 0;
}

int backing_find_data(int fd, uint64_t offset, uint64_t end, uint64_t *ret_offset,
		      uint64_t *ret_length_bytes)
{
	struct backing_info info = {};
	int r;

	r = backing_inspect(fd, &info);
	if (r < 0 && r != -ENOTSUP) /* any other file will do for SEEK_DATA */
		return r;
	if (r < 0 || info.kind != BACKING_HUGETLB)
		return find_data(fd, offset, end, ret_offset, ret_length_bytes);

	end = min_u64(end, info.length_bytes);
	if (offset < end)
		return find_huge_data(fd, &info, offset, end, ret_offset, ret_length_bytes);
	*ret_length_bytes = 0;
	return 0;
}

int backing_hole_end(int fd, uint64_t offset, uint64_t end, uint64_t *ret_end)
{
	struct backing_info info = {};
	uint64_t found = 0, length_bytes = 0;
	off_t data;
	int r = backing_inspect(fd, &info);

	if (r < 0)
		return r;
	if (info.kind == BACKING_HUGETLB) {
		r = backing_find_data(fd, offset, end, &found, &length_bytes);
		if (r < 0)
			return r;
		*ret_end = length_bytes ? found : end;
		return 0;
	}
	data = lseek(fd, (off_t)offset, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return -errno;
	*ret_end = data < 0 ? end : min_u64((uint64_t)data, end);
	return 0;
}

int backing_has_page(int fd, uint64_t offset, bool *ret_has)
{
	uint64_t found = 0, length_bytes = 0;
	int r;

	r = backing_find_data(fd, offset, offset + 1, &found, &length_bytes);
	if (r < 0)
		return r;
	*ret_has = length_bytes > 0;
	return 0;
}

int backing_punch(int fd, uint64_t offset, uint64_t length_bytes)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	return fallocate(fd, mode, (off_t)offset, (off_t)length_bytes) < 0 ? -errno : 0;
}

int backing_read(int fd, uint64_t offset, void *bytes, uint64_t length_bytes)
{
	uint64_t done = 0;

	while (done < length_bytes) {
		ssize_t n = pread(fd, (char *)bytes + done, length_bytes - done,
				  (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (uint64_t)n;
	}
	memset((char *)bytes + done, 0, length_bytes - done);
	return 0;
}

/*
 * The kernel does the copying (process_vm_writev to ourselves): a page that cannot be had, or a
 * file truncated meanwhile, is an errno there and would be a SIGBUS in a plain store.
 */
static int write_by_mapping(int fd, uint64_t offset, const void *bytes, uint64_t length_bytes)
{
	struct backing_info info = {};
	struct iovec from = { (void *)(uintptr_t)bytes, length_bytes }, to;
	uint64_t first, length;
	ssize_t n;
	void *window;
	int r;

	r = backing_inspect(fd, &info);
	if (r < 0)
		return r;
	if (offset + length_bytes > info.length_bytes)
		return -EINVAL;
	first = align_down(offset, info.page_bytes);
	length = align_up(offset + length_bytes, info.page_bytes) - first;

	window = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)first);
	if (window == MAP_FAILED) /* ENOMEM: the pool has too few pages left to reserve */
		return errno == ENOMEM ? -ENOSPC : -errno;
	to = (struct iovec){ (char *)window + (offset - first), length_bytes };
	n = process_vm_writev(getpid(), &from, 1, &to, 1, 0);
	if (n < 0)
		r = errno == EFAULT ? -ENOSPC : -errno;
	else if ((uint64_t)n < length_bytes)
		r = -ENOSPC;
	munmap(window, length);
	return r;
}

int backing_write(int fd, uint64_t offset, const void *bytes, uint64_t length_bytes)
{
	uint64_t done = 0;

	while (done < length_bytes) {
		ssize_t n = pwrite(fd, (const char *)bytes + done, length_bytes - done,
				   (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EINVAL && done == 0) /* hugetlbfs cannot be written to */
			return write_by_mapping(fd, offset, bytes, length_bytes);
		if (n < 0)
			return -errno;
		done += (uint64_t)n;
	}
	return 0;
}
