/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Events: what the owner of the memory does to it, and who is told. */
#include "probe/lab.h"
#include "probe/table.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTE 0x5a
/* In which a call that does not wait for its event would have ended. */
#define MOMENT_MS 10

/* What the owner does, in a thread of its own. */
struct doing {
	struct lab_memory memory;
	uint8_t *to;
};

static intptr_t discard(void *argument)
{
	const struct doing *doing = argument;

	return madvise(doing->memory.at, doing->memory.page_bytes, MADV_DONTNEED) < 0 ? -errno : 0;
}

static intptr_t unmap(void *argument)
{
	const struct doing *doing = argument;

	return munmap(doing->memory.at, doing->memory.page_bytes) < 0 ? -errno : 0;
}

static intptr_t move(void *argument)
{
	const struct doing *doing = argument;

	return mremap(doing->memory.at, doing->memory.length_bytes, doing->memory.length_bytes,
		      MREMAP_MAYMOVE | MREMAP_FIXED, doing->to) == MAP_FAILED
		       ? -errno
		       : 0;
}

static intptr_t punch(void *argument)
{
	const struct doing *doing = argument;

	return fallocate(doing->memory.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			 (off_t)doing->memory.page_bytes) < 0
		       ? -errno
		       : 0;
}

/* The child reads the second page. This thread stays until it has ended, as its PDEATHSIG needs. */
static intptr_t fork_reader(void *argument)
{
	const struct doing *doing = argument;
	pid_t child = fork();
	int status;

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(*(volatile uint8_t *)lab_page(&doing->memory, 1));
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

/* Two pages that are paged: the first is present, the second is not. */
static struct doing prepare(struct probe_run *run, int uffd, enum lab_backing backing)
{
	struct doing doing = { .memory = lab_map(run, backing, 2) };

	lab_fill(&doing.memory, 0, BYTE);
	lab_register(run, uffd, &doing.memory, UFFDIO_REGISTER_MODE_MISSING);
	return doing;
}

/* The event of @thread's call, which must wait until it is read. */
static struct uffd_msg read_event(struct probe_run *run, int uffd, struct lab_thread *thread,
				  bool *ret_waits)
{
	struct pollfd ready = { .fd = uffd, .events = POLLIN };
	struct uffd_msg message = {};

	errno = ETIMEDOUT;
	probe_must(run, poll(&ready, 1, 1000) == 1, "waiting for an event");
	*ret_waits = !lab_ended(thread, MOMENT_MS);
	probe_must(run, lab_message(run, uffd, 0, &message), "reading an event");
	probe_step(run, "message: event %#x", message.event);
	return message;
}

/* A read of @at must be a fault again. */
static bool is_absent(struct probe_run *run, int uffd, const void *at)
{
	struct uffd_msg message;

	return lab_raised(run, uffd, lab_start_read(run, at), &message);
}

static void try_remove(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_EVENT_REMOVE);
	struct doing doing = prepare(run, uffd, LAB_ANON);
	struct lab_thread *thread = lab_start(run, discard, &doing);
	bool waits, is_range;
	struct uffd_msg message = read_event(run, uffd, thread, &waits);

	is_range = message.event == UFFD_EVENT_REMOVE &&
		   message.arg.remove.start == (uintptr_t)doing.memory.at &&
		   message.arg.remove.end == (uintptr_t)lab_page(&doing.memory, 1);
	lab_join(run, thread);
	probe_answer(run, "%s, %s, %s", is_range ? "REMOVE" : "other event",
		     waits ? "waits" : "goes on",
		     is_absent(run, uffd, doing.memory.at) ? "absent" : "present");
}

static void try_unmap(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_EVENT_UNMAP);
	struct doing doing = prepare(run, uffd, LAB_ANON);
	struct lab_thread *thread = lab_start(run, unmap, &doing);
	bool waits, is_range;
	struct uffd_msg message = read_event(run, uffd, thread, &waits);

	is_range = message.event == UFFD_EVENT_UNMAP &&
		   message.arg.remove.start == (uintptr_t)doing.memory.at &&
		   message.arg.remove.end == (uintptr_t)lab_page(&doing.memory, 1);
	lab_join(run, thread);
	probe_answer(run, "%s, %s", is_range ? "UNMAP" : "other event",
		     waits ? "waits" : "goes on");
}

static void try_remap(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_EVENT_REMAP);
	struct doing doing = prepare(run, uffd, LAB_ANON);
	struct lab_thread *thread;
	struct uffd_msg message;
	bool waits, is_range;

	doing.to = mmap(NULL, doing.memory.length_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	probe_must(run, doing.to != MAP_FAILED, "mmap() of another place");
	thread = lab_start(run, move, &doing);
	message = read_event(run, uffd, thread, &waits);
	is_range = message.event == UFFD_EVENT_REMAP &&
		   message.arg.remap.from == (uintptr_t)doing.memory.at &&
		   message.arg.remap.to == (uintptr_t)doing.to &&
		   message.arg.remap.len == doing.memory.length_bytes;
	lab_join(run, thread);
	probe_answer(run, "%s, %s, %s", is_range ? "REMAP" : "other event",
		     waits ? "waits" : "goes on",
		     is_absent(run, uffd, doing.to + doing.memory.page_bytes) ? "paged there"
									      : "dropped");
}

static void try_fork(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_EVENT_FORK), r;
	struct doing doing = prepare(run, uffd, LAB_ANON);
	struct lab_thread *thread = lab_start(run, fork_reader, &doing);
	struct uffd_msg message = {};

	probe_must(run, lab_message(run, uffd, 1000, &message), "reading an event");
	if (message.event != UFFD_EVENT_FORK)
		probe_break(run, "event %#x came instead of a fork", message.event);
	lab_fault(run, (int)message.arg.fork.ufd);
	r = lab_copy_byte((int)message.arg.fork.ufd, &doing.memory, 1, BYTE, 0);
	errno = -r;
	probe_must(run, r == 0, "COPY into a child");
	probe_answer(run, "%s", lab_join(run, thread) == BYTE ? "paged" : "other bytes");
	probe_detail(run, "the child's faults came on a uffd of its own, from the FORK event");
}

static void try_unread(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_EVENT_REMOVE), early, late;
	struct doing doing = prepare(run, uffd, LAB_ANON);
	struct lab_thread *thread = lab_start(run, discard, &doing);
	struct pollfd ready = { .fd = uffd, .events = POLLIN };
	struct uffd_msg message;

	errno = ETIMEDOUT;
	probe_must(run, poll(&ready, 1, 1000) == 1, "waiting for an event");
	early = lab_copy_byte(uffd, &doing.memory, 1, BYTE, 0);
	probe_must(run, lab_message(run, uffd, 0, &message), "reading an event");
	lab_join(run, thread);
	late = lab_copy_byte(uffd, &doing.memory, 1, BYTE, 0);
	probe_answer(run, "%s, then %s", probe_errno(early), probe_errno(late));
	probe_detail(run,
		     "COPY into another page while an event is unread: %s; once it is read: %s",
		     probe_errno(early), probe_errno(late));
}

static void try_punch(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_EVENT_REMOVE);
	struct doing doing = prepare(run, uffd, LAB_SHMEM);
	struct lab_thread *thread = lab_start(run, punch, &doing);
	struct uffd_msg message;

	if (lab_raised(run, uffd, thread, &message)) {
		probe_answer(run, "told");
		return;
	}
	probe_must(run, lab_join(run, thread) == 0, "punching a hole");
	probe_answer(run, "silent");
}

#define EVENT .group = PROBE_EVENT

static const struct probe_check checks[] = {
	{ .id = "event.remove",
	  EVENT,
	  .title = "MADV_DONTNEED waits until its event is read; the page is absent then",
	  .wanted = "REMOVE, waits, absent",
	  .consequence = "ufd would fill discarded pages with old data: discards must be told by "
			 "the VMM",
	  .run = try_remove },
	{ .id = "event.unmap",
	  EVENT,
	  .title = "munmap waits until its event is read",
	  .wanted = "UNMAP, waits",
	  .consequence = "none: ufd does not ask for this feature",
	  .run = try_unmap },
	{ .id = "event.remap",
	  EVENT,
	  .title = "mremap waits until its event is read, and stays registered",
	  .wanted = "REMAP, waits, paged there",
	  .consequence = "none: ufd does not ask for this feature",
	  .run = try_remap },
	{ .id = "event.fork",
	  EVENT,
	  .title = "With EVENT_FORK a child is paged by a uffd of its own",
	  .wanted = "paged",
	  .consequence = "none: ufd does not ask for this feature",
	  .run = try_fork },
	{ .id = "event.unread",
	  EVENT,
	  .title = "Fills go on while an event is unread",
	  .wanted = "ok, then ok",
	  .known = { { PROBE_KERNEL(6, 1), "EAGAIN, then ok" } },
	  .consequence = "one discard stops a guest's paging until it is read: ufd reads before "
			 "it fills",
	  .run = try_unread },
	{ .id = "event.punch",
	  EVENT,
	  .title = "A hole punched by fallocate is told, as MADV_REMOVE is",
	  .wanted = "told",
	  .known = { { PROBE_KERNEL(6, 1), "silent" } },
	  .consequence = "ufd learns of holes from the VMM, or when it next compares the file's "
			 "blocks",
	  .run = try_punch },
};

const struct probe_family probe_family_events = PROBE_FAMILY(checks);
