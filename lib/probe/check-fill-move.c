/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UFFDIO_MOVE: a page changes its address instead of being copied. Only the process that owns the
 * memory can do it, and not with every page.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "probe/accesses.h"
#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP	UFFDIO_REGISTER_MODE_WP
#define BYTE	0x5a

/* A source of pages with bytes in them, and a registered range without. */
struct move {
	struct lab_memory from, to;
	int uffd;
};

static struct move prepare(struct probe_run *run, enum lab_backing backing, size_t n_pages,
			   uint64_t modes)
{
	struct move move = { .uffd = lab_uffd(run, UFFD_FEATURE_MOVE) };

	move.from = lab_map(run, backing, n_pages);
	move.to = lab_map(run, backing, n_pages);
	for (size_t i = 0; i < n_pages; i++)
		lab_fill(&move.from, i, BYTE);
	lab_register(run, move.uffd, &move.to, modes);
	return move;
}

static int move_page(const struct move *move, size_t i, uint64_t mode, int64_t *ret_field)
{
	return lab_move(move->uffd, lab_page(&move->to, i), lab_page(&move->from, i),
			move->to.page_bytes, mode, ret_field);
}

static void try_move(struct probe_run *run)
{
	struct move move = prepare(run, LAB_ANON, 1, MISSING);
	struct lab_thread *reader = lab_start_read(run, move.to.at);
	int64_t field = 0;
	int r;

	lab_fault(run, move.uffd);
	r = move_page(&move, 0, 0, &field);
	if (r < 0) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	probe_detail(run, "the reader saw %#x, the field says %lld, the source is %s",
		     (unsigned int)lab_join(run, reader), (long long)field,
		     lab_is_present(run, move.from.at) ? "still there" : "empty");
	if (lab_join(run, reader) != BYTE || lab_is_present(run, move.from.at))
		probe_answer(run, "other bytes");
	else
		probe_answer(run, "moved");
}

/* The uffd and the addresses of its parent, and a memory of its own. */
static int move_in_child(void *argument)
{
	return -move_page(argument, 0, 0, NULL);
}

static void try_foreign(struct probe_run *run)
{
	struct move move = prepare(run, LAB_ANON, 1, MISSING);

	probe_answer(run, "%s", probe_errno(lab_fork(run, move_in_child, &move)));
}

static void try_protection(struct probe_run *run)
{
	struct move move = { .uffd = lab_uffd(run, UFFD_FEATURE_MOVE) };
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);
	int r;

	lab_fill(&memory, 0, BYTE);
	lab_register(run, move.uffd, &memory, MISSING | WP);
	r = lab_protect(move.uffd, memory.at, memory.page_bytes, UFFDIO_WRITEPROTECT_MODE_WP);
	errno = -r;
	probe_must(run, r == 0 && lab_is_protected(run, memory.at), "UFFDIO_WRITEPROTECT");
	r = lab_move(move.uffd, lab_page(&memory, 1), memory.at, memory.page_bytes, 0, NULL);
	if (r < 0)
		probe_answer(run, "%s", probe_errno(r));
	else
		probe_answer(run, "%s",
			     lab_is_protected(run, lab_page(&memory, 1)) ? "kept" : "lost");
}

static void try_hole(struct probe_run *run)
{
	struct move move = prepare(run, LAB_ANON, 1, MISSING);

	probe_must(run, madvise(move.from.at, move.from.length_bytes, MADV_DONTNEED) == 0,
		   "MADV_DONTNEED");
	probe_answer(run, "%s", probe_errno(move_page(&move, 0, 0, NULL)));
}

/* A hole that may be moved: does the waiter get anything? */
static void try_allowed_hole(struct probe_run *run)
{
	struct move move = prepare(run, LAB_ANON, 1, MISSING);
	struct lab_thread *reader = lab_start_read(run, move.to.at);
	struct uffd_msg message;
	int64_t field = 0;
	bool is_told;
	int r;

	probe_must(run, madvise(move.from.at, move.from.length_bytes, MADV_DONTNEED) == 0,
		   "MADV_DONTNEED");
	lab_fault(run, move.uffd);
	r = move_page(&move, 0, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &field);
	if (r < 0) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	is_told = !lab_is_asleep(run, move.uffd) && lab_raised(run, move.uffd, reader, &message);
	probe_detail(run, "the field says %lld bytes; whoever waited there %s", (long long)field,
		     is_told ? "was woken and faulted again" : "got a page, or sleeps on");
	probe_answer(run, "%s", is_told ? "still absent" : "filled or asleep");
}

static void try_over_page(struct probe_run *run)
{
	struct move move = prepare(run, LAB_ANON, 1, MISSING);

	probe_must(run, lab_copy_byte(move.uffd, &move.to, 0, 1, 0) == 0, "UFFDIO_COPY");
	probe_answer(run, "%s", probe_errno(move_page(&move, 0, 0, NULL)));
}

static void try_over_wp(struct probe_run *run)
{
	struct lab_memory from = lab_map(run, LAB_ANON, 1), to = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, UFFD_FEATURE_MOVE | UFFD_FEATURE_WP_UNPOPULATED), r;

	lab_fill(&from, 0, BYTE);
	lab_register(run, uffd, &from, MISSING | WP);
	lab_register(run, uffd, &to, MISSING | WP);
	r = lab_protect(uffd, to.at, to.length_bytes, UFFDIO_WRITEPROTECT_MODE_WP);
	errno = -r;
	probe_must(run, r == 0 && lab_is_protected(run, to.at), "UFFDIO_WRITEPROTECT");
	probe_answer(run, "%s",
		     probe_errno(lab_move(uffd, to.at, from.at, to.page_bytes, 0, NULL)));
}

static void try_shared(struct probe_run *run)
{
	struct move move = prepare(run, LAB_ANON, 1, MISSING);
	pid_t child = access_share(run);
	int r = move_page(&move, 0, 0, NULL);

	access_unshare(run, child);
	probe_answer(run, "%s", probe_errno(r));
}

static void try_pinned(struct probe_run *run)
{
	struct move move = prepare(run, LAB_ANON, 1, MISSING);
	struct iovec page = { .iov_base = move.from.at, .iov_len = move.from.page_bytes };
	struct access_tools tools;
	int r;

	access_prepare(run, &access_pin, &tools);
	r = io_uring_register_buffers(&tools.ring, &page, 1);
	errno = -r;
	probe_must(run, r == 0, "pinning the page");
	probe_answer(run, "%s", probe_errno(move_page(&move, 0, 0, NULL)));
}

/* A huge page, as a whole or (with @offset_pages) to where it cannot lie as one. */
static void move_huge(struct probe_run *run, size_t offset_pages)
{
	size_t n = ((size_t)2 << 20) / (size_t)getpagesize();
	struct lab_memory from = lab_map(run, LAB_ANON_THP, n), to;
	int uffd = lab_uffd(run, UFFD_FEATURE_MOVE), r;
	uint8_t *at;

	lab_fill(&from, 0, BYTE);
	lab_fill(&from, n - 1, BYTE);
	if (!lab_is_huge(run, from.at))
		probe_skip(run, "the kernel gives no transparent huge page");
	to = lab_map(run, LAB_ANON_THP, n + offset_pages);
	at = lab_page(&to, offset_pages);
	lab_register(run, uffd, &to, MISSING);
	r = lab_move(uffd, at, from.at, from.length_bytes, 0, NULL);
	if (r < 0)
		probe_answer(run, "%s", probe_errno(r));
	else if (at[0] != BYTE || at[from.length_bytes - 1] != BYTE)
		probe_answer(run, "other bytes");
	else
		probe_answer(run, "%s", lab_is_huge(run, at) ? "huge" : "small pages");
}

static void try_huge(struct probe_run *run)
{
	move_huge(run, 0);
}

static void try_huge_odd(struct probe_run *run)
{
	move_huge(run, 1);
}

#define UNUSED "nothing: ufd never moves pages"

static const struct probe_check checks[] = {
	{
		.id = "fill.move",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE fills an absent page with another one of the process",
		.wanted = "moved",
		.consequence = UNUSED,
		.run = try_move,
	},
	{
		.id = "fill.move-foreign",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE works for a pager in another process",
		.wanted = "ok",
		.known = { { PROBE_KERNEL(6, 8), "EINVAL" } },
		.consequence = "ufd copies: a pager outside the guest's process cannot move pages",
		.run = try_foreign,
	},
	{
		.id = "fill.move-wp",
		.group = PROBE_FILL,
		.title = "A page that UFFDIO_MOVE moves keeps its write protection",
		.wanted = "kept",
		.known = { { PROBE_KERNEL(6, 8), "lost" } },
		.consequence = UNUSED,
		.run = try_protection,
	},
	{
		.id = "fill.move-hole",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE of a page that is not there says so",
		.wanted = "ENOENT",
		.consequence = UNUSED,
		.run = try_hole,
	},
	{
		.id = "fill.move-allowed-hole",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE of an allowed hole counts it as moved and fills nothing",
		.wanted = "still absent",
		.consequence = UNUSED,
		.run = try_allowed_hole,
	},
	{
		.id = "fill.move-over-page",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE does not replace a page",
		.wanted = "EEXIST",
		.consequence = UNUSED,
		.run = try_over_page,
	},
	{
		.id = "fill.move-over-wp",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE fills a protected absent page",
		.wanted = "ok",
		.known = { { PROBE_KERNEL(6, 8), "EEXIST" } },
		.consequence = UNUSED,
		.run = try_over_wp,
	},
	{
		.id = "fill.move-shared",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE refuses a page that a forked child shares",
		.wanted = "EBUSY",
		.consequence = UNUSED,
		.run = try_shared,
	},
	{
		.id = "fill.move-pinned",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE refuses a page that is pinned",
		.wanted = "EBUSY",
		.consequence = UNUSED,
		.run = try_pinned,
	},
	{
		.id = "fill.move-huge",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE of a whole huge page leaves it one",
		.wanted = "huge",
		.consequence = UNUSED,
		.run = try_huge,
	},
	{
		.id = "fill.move-huge-odd",
		.group = PROBE_FILL,
		.title = "UFFDIO_MOVE splits a huge page that is not aligned at its new place",
		.wanted = "small pages",
		.consequence = UNUSED,
		.run = try_huge_odd,
	},
};

const struct probe_family probe_family_fill_move = PROBE_FAMILY(checks);
