/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ends the wait of a thread at a page, other than the page: waking, unregistering, closing. */
#include "probe/lab.h"
#include "probe/table.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#define BYTE 0x5a
#define WP   (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

/* Somebody who waits at a page for a reason of his own. */
struct waiter {
	int uffd;
	struct lab_memory memory;
	struct lab_thread *thread;
};

static struct waiter wait_missing(struct probe_run *run)
{
	struct waiter waiter = { .uffd = lab_uffd(run, 0), .memory = lab_map(run, LAB_ANON, 1) };

	lab_register(run, waiter.uffd, &waiter.memory, UFFDIO_REGISTER_MODE_MISSING);
	waiter.thread = lab_start_read(run, waiter.memory.at);
	lab_fault(run, waiter.uffd);
	return waiter;
}

static struct waiter wait_protected(struct probe_run *run)
{
	struct waiter waiter = { .uffd = lab_uffd(run, WP), .memory = lab_map(run, LAB_ANON, 1) };

	lab_fill(&waiter.memory, 0, 0);
	lab_register(run, waiter.uffd, &waiter.memory, UFFDIO_REGISTER_MODE_WP);
	lab_protect(waiter.uffd, waiter.memory.at, waiter.memory.length_bytes,
		    UFFDIO_WRITEPROTECT_MODE_WP);
	waiter.thread = lab_start_write(run, waiter.memory.at, BYTE);
	lab_fault(run, waiter.uffd);
	return waiter;
}

static struct waiter wait_minor(struct probe_run *run)
{
	struct waiter waiter = { .uffd = lab_uffd(run, UFFD_FEATURE_MINOR_SHMEM),
				 .memory = lab_map(run, LAB_SHMEM, 1) };

	lab_fill_file(run, &waiter.memory, 0, BYTE);
	lab_register(run, waiter.uffd, &waiter.memory, UFFDIO_REGISTER_MODE_MINOR);
	waiter.thread = lab_start_read(run, waiter.memory.at);
	lab_fault(run, waiter.uffd);
	return waiter;
}

/* ---- unregistering --------------------------------------------------------------------------- */

static void unregister(struct probe_run *run, const struct waiter *waiter)
{
	bool is_woken;

	probe_must(run,
		   lab_unregister(waiter->uffd, waiter->memory.at, waiter->memory.length_bytes) ==
			   0,
		   "UFFDIO_UNREGISTER");
	is_woken = !lab_sleeps(waiter->thread);
	probe_answer(run, "%s", is_woken ? "woken" : "waits on");
	if (!is_woken) {
		lab_wake(waiter->uffd, waiter->memory.at, waiter->memory.length_bytes);
		probe_detail(run, "UNREGISTER left the thread waiting, a WAKE after it did not");
	}
	lab_join(run, waiter->thread);
}

static void try_unregister_missing(struct probe_run *run)
{
	struct waiter waiter = wait_missing(run);

	unregister(run, &waiter);
}

static void try_unregister_protected(struct probe_run *run)
{
	struct waiter waiter = wait_protected(run);

	unregister(run, &waiter);
}

static void try_unregister_minor(struct probe_run *run)
{
	struct waiter waiter = wait_minor(run);

	unregister(run, &waiter);
}

/* ---- waking ---------------------------------------------------------------------------------- */

/* Who sleeps either was not woken, or has sent his message again. */
static bool is_told_anew(struct probe_run *run, const struct waiter *waiter)
{
	struct uffd_msg message;

	while (!lab_sleeps(waiter->thread) && !lab_ended(waiter->thread, 0))
		sched_yield();
	return lab_message(run, waiter->uffd, 0, &message);
}

static void try_wake(struct probe_run *run)
{
	struct waiter waiter = wait_missing(run);
	bool is_silent = lab_is_silent(run, waiter.uffd);

	lab_wake(waiter.uffd, waiter.memory.at, waiter.memory.length_bytes);
	probe_answer(run, "%s%s", is_silent ? "" : "twice, ",
		     is_told_anew(run, &waiter) ? "told anew" : "lost");
	lab_copy_byte(waiter.uffd, &waiter.memory, 0, BYTE, 0);
	lab_join(run, waiter.thread);
}

/* Who waits for a missing page is woken by lifting a protection that there never was. */
static void try_unprotect(struct probe_run *run)
{
	struct waiter waiter = { .uffd = lab_uffd(run, WP), .memory = lab_map(run, LAB_ANON, 1) };

	lab_register(run, waiter.uffd, &waiter.memory,
		     UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	waiter.thread = lab_start_read(run, waiter.memory.at);
	lab_fault(run, waiter.uffd);
	lab_protect(waiter.uffd, waiter.memory.at, waiter.memory.length_bytes, 0);
	probe_answer(run, "%s", is_told_anew(run, &waiter) ? "told anew" : "waits on");
	lab_copy_byte(waiter.uffd, &waiter.memory, 0, BYTE, 0);
	lab_join(run, waiter.thread);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void try_close(struct probe_run *run)
{
	struct waiter waiter = wait_missing(run);
	intptr_t byte;

	close(waiter.uffd);
	if (lab_sleeps(waiter.thread)) {
		probe_answer(run, "waits on");
		return;
	}
	byte = lab_join(run, waiter.thread);
	probe_answer(run, "%s", byte ? "other bytes" : "zeros");
	probe_detail(run, "the thread that waited read %#lx once the last uffd was closed",
		     (long)byte);
}

static void try_duplicate(struct probe_run *run)
{
	struct waiter waiter = wait_missing(run);
	int duplicate = fcntl(waiter.uffd, F_DUPFD_CLOEXEC, 0);
	struct uffd_msg message;

	probe_must(run, duplicate >= 0, "F_DUPFD_CLOEXEC");
	close(waiter.uffd);
	if (!lab_sleeps(waiter.thread)) {
		probe_answer(run, "zeros");
		return;
	}
	/* the fault was read by the one who is gone: only a wake shows it again */
	probe_must(run, lab_is_silent(run, duplicate), "silence of a duplicate");
	lab_wake(duplicate, waiter.memory.at, waiter.memory.length_bytes);
	probe_must(run, lab_message(run, duplicate, 1000, &message), "a message after a wake");
	lab_copy_byte(duplicate, &waiter.memory, 0, BYTE, 0);
	probe_answer(run, "%s",
		     lab_join(run, waiter.thread) == BYTE ? "waits, told anew" : "other bytes");
}

#define EVENT .group = PROBE_EVENT

static const struct probe_check checks[] = {
	{ .id = "event.unregister-missing",
	  EVENT,
	  .title = "UNREGISTER wakes who waits for a missing page",
	  .wanted = "woken",
	  .consequence = "none: ufd wakes the range after each UNREGISTER",
	  .run = try_unregister_missing },
	{ .id = "event.unregister-minor",
	  EVENT,
	  .title = "UNREGISTER wakes who waits at a minor fault",
	  .wanted = "woken",
	  .known = { { PROBE_KERNEL(6, 1), "waits on" } },
	  .consequence = "such threads would wait for ever: ufd wakes the range after each "
			 "UNREGISTER",
	  .run = try_unregister_minor },
	{ .id = "event.unregister-protected",
	  EVENT,
	  .title = "UNREGISTER wakes who waits at a protected page",
	  .wanted = "woken",
	  .known = { { PROBE_KERNEL(6, 1), "waits on" } },
	  .consequence = "such threads would wait for ever: ufd wakes the range after each "
			 "UNREGISTER",
	  .run = try_unregister_protected },
	{ .id = "event.wake",
	  EVENT,
	  .title = "A fault is told once, and anew after WAKE",
	  .wanted = "told anew",
	  .is_needed = true,
	  .consequence = "a pager that starts anew cannot learn who waits: ufdd's death stops "
			 "guests",
	  .run = try_wake },
	{ .id = "event.unprotect",
	  EVENT,
	  .title = "Un-protecting a range wakes those who wait for missing pages of it",
	  .wanted = "told anew",
	  .consequence = "none: ufd does not count on it",
	  .run = try_unprotect },
	{ .id = "event.close",
	  EVENT,
	  .title = "The last close of a uffd leaves those who wait waiting",
	  .wanted = "waits on",
	  .known = { { PROBE_KERNEL(6, 1), "zeros" } },
	  .consequence = "absent pages become zeros: each process keeps a duplicate of its uffd, "
			 "which ufd proves",
	  .run = try_close },
	{ .id = "event.duplicate",
	  EVENT,
	  .title = "With a duplicate of the uffd they wait on, and are told anew by WAKE",
	  .wanted = "waits, told anew",
	  .is_needed = true,
	  .consequence = "the death of ufdd is zeros in a guest",
	  .run = try_duplicate },
};

const struct probe_family probe_family_waiting = PROBE_FAMILY(checks);
