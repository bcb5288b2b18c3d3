/* SPDX-License-Identifier: MIT */
/* The file behind a memory: memfd, tmpfs or hugetlbfs. Never mapped to read holes (that would
 * allocate them). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum backing_kind {
	BACKING_ANON,	 /* one process's anonymous range: no file */
	BACKING_SHMEM,	 /* memfd or tmpfs, mapped shared */
	BACKING_HUGETLB, /* hugetlbfs or memfd with huge pages, mapped shared */
	BACKING_PRIVATE, /* a file mapped MAP_PRIVATE: filled like anonymous memory, zeros always by
			    COPY */
};

/* Readable. */
struct backing_info {
	enum backing_kind kind; /* SHMEM or HUGETLB */
	uint64_t page_bytes;
	uint64_t length_bytes;
	uint64_t allocated_bytes; /* counts what SEEK_DATA does not show: pages fallocated, never
				     written */
	dev_t device;
	ino_t inode;
	bool is_writable; /* the fd is, and no write seal is set */
};

/* A memfd of ours. @page_bytes 0: the base page; else a huge page size. Return: 0 or -errno. */
int backing_create(int *ret_fd, const char *name, uint64_t length_bytes, uint64_t page_bytes);

/* What an fd is. Return: 0, -ENOTSUP if it is neither tmpfs nor hugetlbfs, other -errno. */
int backing_inspect(int fd, struct backing_info *ret);

/**
 * backing_find_data() - the next run of pages that hold bytes, in the cache or swapped out
 * @ret_length_bytes: 0 if there is none before @end; then @ret_offset is untouched
 *
 * SEEK_DATA and SEEK_HOLE on shmem (and on any other file). hugetlbfs calls its whole file data, so
 * there each page is asked for by UFFDIO_CONTINUE through a window of our own, which never
 * allocates: 0.5 us a page, and the window shows in our maps meanwhile.
 * Pages of shmem that were fallocated and never written are no data (they read as zeros), though
 * a fault on them is MINOR and COPY says UFFD_PRESENT: compare backing_info.allocated_bytes.
 *
 * Context: any; maps and unmaps on hugetlbfs.
 */
int backing_find_data(int fd, uint64_t offset, uint64_t end, uint64_t *ret_offset,
		      uint64_t *ret_length_bytes);

/*
 * Where the hole at @offset ends: at @offset if there is a page, at @end if none comes before it. On shmem this
 * looks at holes only, where backing_find_data() walks to the end of the data, however far that is.
 */
int backing_hole_end(int fd, uint64_t offset, uint64_t end, uint64_t *ret_end);

/* How long the file is now. Context: any; does not allocate. Return: 0 or -errno. */
int backing_length(int fd, uint64_t *ret_length_bytes);

/* Does the page at @offset hold bytes, as backing_find_data() says? */
int backing_has_page(int fd, uint64_t offset, bool *ret_has);

/* Free a range; later reads are zero. */
int backing_punch(int fd, uint64_t offset, uint64_t length_bytes);

/* Read from an offset; what is a hole, or behind the end, is zero. Context: any; may wait for a swap device. */
int backing_read(int fd, uint64_t offset, void *bytes, uint64_t length_bytes);

/**
 * backing_write() - put bytes of our own into allocated or empty pages of the file
 *
 * pwrite() on shmem; on hugetlbfs, which refuses it, through a short-lived mapping of whole pages
 * (-EINVAL past the file's end).
 * Only for pages that the guest cannot have written: nothing protects newer bytes.
 * Return: 0, -ENOSPC (full, or the huge page pool is empty), other -errno.
 */
int backing_write(int fd, uint64_t offset, const void *bytes, uint64_t length_bytes);
