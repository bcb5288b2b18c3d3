/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who writes to memory other than through our page tables: pins, other mappings, the file.
 *
 * Protection is a bit of one page table. Whoever looked up the page before the bit was set, or comes
 * by another page table or by none, writes without being noticed.
 */
#include "probe/accesses.h"
#include "probe/table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define BEFORE 0x11
#define AFTER  0x44
#define MISSED "missed"
#define WP     (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

static const enum lab_backing backings[] = { LAB_ANON, LAB_SHMEM };

/* ---- pins ------------------------------------------------------------------------------------ */

/* A buffer that io_uring has pinned for as long as the ring lives. */
static void pin(struct probe_run *run, struct access_tools *tools, const struct lab_memory *memory)
{
	struct iovec vector = { .iov_base = memory->at, .iov_len = memory->page_bytes };
	int r;

	access_prepare(run, &access_pin, tools);
	r = io_uring_register_buffers(&tools->ring, &vector, 1);
	errno = -r;
	probe_must(run, r == 0, "pinning a page by io_uring");
}

/* The kernel writes to the pinned page: what comes out of a pipe. */
static void write_pinned(struct probe_run *run, struct access_tools *tools,
			 const struct lab_memory *memory)
{
	struct io_uring_cqe *cqe = NULL;
	int pipe[2];

	probe_must(run, pipe2(pipe, O_CLOEXEC) == 0, "pipe");
	memset(tools->own, AFTER, memory->page_bytes);
	probe_must(run, write(pipe[1], tools->own, memory->page_bytes) > 0, "write to a pipe");
	io_uring_prep_read_fixed(io_uring_get_sqe(&tools->ring), pipe[0], memory->at,
				 (unsigned int)memory->page_bytes, 0, 0);
	probe_must(run,
		   io_uring_submit_and_wait(&tools->ring, 1) == 1 &&
			   io_uring_peek_cqe(&tools->ring, &cqe) == 0,
		   "a read by io_uring");
	errno = cqe->res < 0 ? -cqe->res : EIO;
	probe_must(run, cqe->res == (int)memory->page_bytes, "a read of io_uring into its buffer");
}

static bool is_written(const struct lab_memory *memory)
{
	return *(volatile uint8_t *)memory->at == AFTER;
}

/* The pinned write took place, and nobody was told: what follows from both. */
static const char *verdict(bool is_written, bool is_told)
{
	return is_told ? "seen" : is_written ? MISSED : "not written";
}

static void try_pinned_protected(struct probe_run *run)
{
	const char *answer = "seen";

	for (size_t i = 0; i < 2; i++) {
		struct lab_memory memory = lab_map(run, backings[i], 1);
		int uffd = lab_uffd(run, WP);
		struct access_tools tools;
		bool is_told;

		lab_fill(&memory, 0, BEFORE);
		pin(run, &tools, &memory);
		lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_WP);
		probe_must(run,
			   lab_protect(uffd, memory.at, memory.length_bytes,
				       UFFDIO_WRITEPROTECT_MODE_WP) == 0,
			   "UFFDIO_WRITEPROTECT");
		lab_serve(run, uffd, &memory, 0);
		write_pinned(run, &tools, &memory);
		is_told = !lab_is_protected(run, memory.at);
		answer = verdict(is_written(&memory), is_told);
		probe_step(run, "%s: %s", lab_backing_name(backings[i]), answer);
		if (is_told)
			break;
	}
	probe_answer(run, "%s", answer);
	if (!strcmp(answer, MISSED))
		probe_detail(run, "io_uring wrote to a buffer pinned before it was protected: the "
				  "bytes are new, the page is still protected, no message came");
}

static void try_pinned_scanned(struct probe_run *run)
{
	const char *answer = "seen";

	for (size_t i = 0; i < 2; i++) {
		struct lab_memory memory = lab_map(run, backings[i], 1);
		int uffd = lab_uffd(run, UFFD_FEATURE_WP_ASYNC);
		struct access_tools tools;
		int64_t n;

		lab_fill(&memory, 0, BEFORE);
		pin(run, &tools, &memory);
		lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_WP);
		lab_scan(run, memory.at, memory.length_bytes, PM_SCAN_WP_MATCHING);
		write_pinned(run, &tools, &memory);
		n = lab_scan(run, memory.at, memory.length_bytes, 0);
		answer = verdict(is_written(&memory), n > 0);
		probe_step(run, "%s: %s (%lld pages reported)", lab_backing_name(backings[i]),
			   answer, (long long)n);
		if (n > 0)
			break;
	}
	probe_answer(run, "%s", answer);
	if (!strcmp(answer, MISSED))
		probe_detail(run, "io_uring wrote to a buffer pinned before the first scan: the "
				  "bytes are new, and the next scan reports no page");
}

/* In the child: are these our own old bytes, and unprotected? */
struct twin {
	struct probe_run *run;
	const struct lab_memory *memory;
};

static int look_at_twin(void *argument)
{
	const struct twin *twin = argument;

	return (*(volatile uint8_t *)twin->memory->at == BEFORE ? 0 : 1) |
	       (lab_is_protected(twin->run, twin->memory->at) ? 2 : 0);
}

static void try_pinned_fork(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, WP), child;
	struct twin twin = { .run = run, .memory = &memory };
	struct access_tools tools;
	bool is_kept;

	lab_fill(&memory, 0, BEFORE);
	pin(run, &tools, &memory);
	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_WP);
	lab_protect(uffd, memory.at, memory.length_bytes, UFFDIO_WRITEPROTECT_MODE_WP);
	child = lab_fork(run, look_at_twin, &twin);
	is_kept = lab_is_protected(run, memory.at);
	write_pinned(run, &tools, &memory);
	probe_answer(run, "%s, %s", is_kept ? "kept" : "lost",
		     is_written(&memory) ? "same page" : "torn off");
	probe_detail(run, "the child's copy has %s bytes and is %s",
		     child & 1 ? "other" : "the old", child & 2 ? "protected" : "not protected");
}

/* ---- other ways to the same page ------------------------------------------------------------- */

static void write_elsewhere(struct probe_run *run, const struct lab_memory *memory)
{
	uint8_t *other = mmap(NULL, memory->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			      memory->fd, 0);

	probe_must(run, other != MAP_FAILED, "a second mmap");
	other[0] = AFTER;
}

static void write_file(struct probe_run *run, const struct lab_memory *memory)
{
	lab_fill_file(run, memory, 0, AFTER);
}

/* The page is protected, changed by @change, and then: message, bit, bytes. */
static void try_change(struct probe_run *run,
		       void (*change)(struct probe_run *run, const struct lab_memory *memory))
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 1);
	int uffd = lab_uffd(run, WP);
	bool is_silent, is_kept;

	lab_fill(&memory, 0, BEFORE);
	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_WP);
	probe_must(run,
		   lab_protect(uffd, memory.at, memory.length_bytes, UFFDIO_WRITEPROTECT_MODE_WP) ==
			   0,
		   "UFFDIO_WRITEPROTECT");
	change(run, &memory);
	is_silent = lab_is_silent(run, uffd);
	is_kept = lab_is_protected(run, memory.at);
	probe_must(run, *(volatile uint8_t *)memory.at != BEFORE, "changing the page");
	probe_answer(run, "%s", is_silent && is_kept ? MISSED : "seen");
	probe_detail(run, "the bytes have changed; %s, the page is %sprotected",
		     is_silent ? "no message came" : "a message came", is_kept ? "still " : "not ");
}

static void try_elsewhere(struct probe_run *run)
{
	try_change(run, write_elsewhere);
}

static void try_pwrite(struct probe_run *run)
{
	try_change(run, write_file);
}

#define SEEN                                     \
	.group = PROBE_MAPPER, .wanted = "seen", \
	.known = {                               \
		{ PROBE_KERNEL(6, 1), MISSED },  \
	}

static const struct probe_check checks[] = {
	{ .id = "mapper.pinned-protected",
	  SEEN,
	  .title = "A write to a page pinned before it was protected is a fault",
	  .consequence =
		  "I/O under way writes unseen: ufd pauses the guest while it protects pages",
	  .run = try_pinned_protected },
	{ .id = "mapper.pinned-scanned",
	  SEEN,
	  .title = "A write to a page pinned before a scan is seen by the next scan",
	  .consequence = "I/O under way writes unseen: ufd pauses the guest around each scan",
	  .run = try_pinned_scanned },
	{ .id = "mapper.pinned-fork",
	  .group = PROBE_MAPPER,
	  .title = "fork leaves a pinned page and its mark to the parent",
	  .wanted = "kept, same page",
	  .consequence = "a VMM that forks loses what its devices write",
	  .run = try_pinned_fork },
	{ .id = "mapper.other-mapping",
	  SEEN,
	  .title = "A store through another mapping of the page is seen",
	  .consequence = "ufd pages and tracks shared memory through all its mappings, and names "
			 "processes that write otherwise",
	  .run = try_elsewhere },
	{ .id = "mapper.pwrite",
	  SEEN,
	  .title = "A write(2) to the page's file is seen",
	  .consequence = "ufd compares the file's time of change at each read of dirty pages, and "
			 "warns",
	  .run = try_pwrite },
};

const struct probe_family probe_family_mapper = PROBE_FAMILY(checks);
