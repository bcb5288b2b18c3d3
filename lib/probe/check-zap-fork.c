/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The write-protect bit of a parent and of its child. */
#include <sys/mman.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"
#include "probe/zap.h"

/* What a forked child is to look at, and the run that its troubles are told to. */
struct heir {
	struct probe_run *run;
	const struct lab_memory *memory;
};

/* What a child says of its heritage: bits of its exit status. */
enum { HEIR_MARKED = 1 << 0, HEIR_STUCK = 1 << 1 };

static int tell_heritage(const struct heir *heir, bool is_marked, bool is_stuck)
{
	probe_step(heir->run, "%s: the child's page is %s, its store %s",
		   lab_backing_name(heir->memory->backing), is_marked ? "marked" : "not marked",
		   is_stuck ? "does not end" : "passed");
	return (is_marked ? HEIR_MARKED : 0) | (is_stuck ? HEIR_STUCK : 0);
}

/* Is the page marked in our page table? A store is let through by our parent. */
static int look_at_heritage(void *argument)
{
	const struct heir *heir = argument;
	bool is_marked = lab_is_protected(heir->run, heir->memory->at);

	*(volatile uint8_t *)heir->memory->at = 0x5e;
	return tell_heritage(heir, is_marked, false);
}

/* The same where nobody has to let it through. Kernels are known in which it faults for ever. */
static int look_unserved(void *argument)
{
	const struct heir *heir = argument;
	bool is_marked = lab_is_protected(heir->run, heir->memory->at);
	struct lab_thread *writer = lab_start_write(heir->run, heir->memory->at, 0x5e);

	return tell_heritage(heir, is_marked, !lab_ended(writer, 1000));
}

static void check_heir(struct probe_run *run, int status)
{
	errno = ECHILD;
	probe_must(run, status >= 0 && status <= (HEIR_MARKED | HEIR_STUCK), "the look of a child");
}

static const char *fork_child(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);
	struct heir heir = { run, &zap.memory };
	int status = lab_fork(run, look_unserved, &heir);

	check_heir(run, status);
	if (!lab_is_silent(run, zap.uffd))
		return "a message";
	if (status & HEIR_STUCK)
		return status & HEIR_MARKED ? "kept, a store hangs" : "lost, a store hangs";
	return status & HEIR_MARKED ? "kept" : "lost";
}

ZAP_SMALL(fork_child)
ZAP_HUGE(fork_child)

static int end_at_once(void *argument)
{
	(void)argument;
	return 0;
}

static const char *fork_parent(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	lab_fork(run, end_at_once, NULL);
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(fork_parent)
ZAP_HUGE(fork_parent)

/* Whose fork() is told of. */
struct midwife {
	struct probe_run *run;
	const struct zap *zap;
};

/* Takes the child's uffd, and lets its store through. Return: is that a wp fault? */
static intptr_t serve_child(void *argument)
{
	const struct midwife *midwife = argument;
	const struct lab_memory *memory = &midwife->zap->memory;
	struct uffd_msg message;
	bool is_fault = false;
	int child;

	if (!lab_message(midwife->run, midwife->zap->uffd, 1000, &message) ||
	    message.event != UFFD_EVENT_FORK)
		probe_break(midwife->run, "fork() raised no event");
	child = (int)message.arg.fork.ufd;
	if (lab_message(midwife->run, child, 1000, &message)) {
		is_fault = message.event == UFFD_EVENT_PAGEFAULT &&
			   message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
		lab_protect(child, memory->at, memory->length_bytes, 0);
	}
	return is_fault;
}

static const char *heritage(struct probe_run *run, const struct zap *zap)
{
	struct midwife midwife = { run, zap };
	struct heir heir = { run, &zap->memory };
	struct lab_thread *server = lab_start(run, serve_child, &midwife);
	int status = lab_fork(run, look_at_heritage, &heir);
	bool is_fault = lab_join(run, server);

	close(zap->uffd); /* the next fork() would wait for whoever reads it */
	check_heir(run, status);
	probe_step(run, "the child's store %s", is_fault ? "raised a wp fault" : "raised none");
	if (status & HEIR_MARKED)
		return is_fault ? "kept" : "kept, a store passes";
	return is_fault ? "lost, a store faults" : "lost";
}

static const char *fork_event(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, UFFD_FEATURE_EVENT_FORK);

	return heritage(run, &zap);
}

ZAP_SMALL(fork_event)
ZAP_HUGE(fork_event)

/* The page is in the file only; its page table entry is a mark. */
static const char *fork_event_marker(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, UFFD_FEATURE_EVENT_FORK);
	int r = madvise(zap.memory.at, zap.memory.length_bytes, MADV_DONTNEED);

	probe_must(run, r == 0, "MADV_DONTNEED");
	return heritage(run, &zap);
}

ZAP_ON(fork_event_marker, shmem, LAB_SHMEM)

#define NO_FORK_EVENT "none: ufd asks for no event of forks"
#define CHILD_STUCK   "a child of the guest's process that goes on without exec hangs at a store"

static const struct probe_check checks[] = {
	{
		.id = "zap.fork-parent",
		.group = PROBE_ZAP,
		.title = "fork() keeps the protection of the parent",
		.wanted = "kept",
		.consequence = "with track=wp ufd misses writes of a guest whose process forked",
		.run = try_fork_parent_small,
	},
	{
		.id = "zap.fork-parent-hugetlb",
		.group = PROBE_ZAP,
		.title = "fork() keeps the protection of the parent's huge pages",
		.wanted = "kept",
		.consequence = "with track=wp ufd misses writes of a guest whose process forked",
		.run = try_fork_parent_huge,
	},
	{
		.id = "zap.fork-child",
		.group = PROBE_ZAP,
		.title = "Without EVENT_FORK the child's pages are not protected",
		.wanted = "lost",
		.consequence = CHILD_STUCK,
		.run = try_fork_child_small,
	},
	{
		.id = "zap.fork-child-hugetlb",
		.group = PROBE_ZAP,
		.title = "Without EVENT_FORK the child's huge pages are not protected",
		.wanted = "lost",
		.known = { { PROBE_KERNEL(6, 1),
			     "hugetlb, shared: lost; hugetlb, private: kept, a store hangs" },
			   { PROBE_KERNEL(6, 18), "lost" } },
		.consequence = CHILD_STUCK,
		.run = try_fork_child_huge,
	},
	{
		.id = "zap.fork-event",
		.group = PROBE_ZAP,
		.title = "With EVENT_FORK the child's pages are protected as the parent's are",
		.wanted = "kept",
		.consequence = NO_FORK_EVENT,
		.run = try_fork_event_small,
	},
	{
		.id = "zap.fork-event-hugetlb",
		.group = PROBE_ZAP,
		.title = "With EVENT_FORK the child's huge pages are protected as well",
		.wanted = "kept",
		.consequence = NO_FORK_EVENT,
		.run = try_fork_event_huge,
	},
	{
		.id = "zap.fork-event-marker",
		.group = PROBE_ZAP,
		.title = "With EVENT_FORK the marks of empty entries are inherited, too",
		.wanted = "kept",
		.consequence = NO_FORK_EVENT,
		.run = try_fork_event_marker_shmem,
	},
};

const struct probe_family probe_family_zap_fork = PROBE_FAMILY(checks);
