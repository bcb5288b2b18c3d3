/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A userfaultfd and the end of the process whose memory it is. */
#include "probe/lab.h"
#include "probe/table.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTE 0x5a

/* A child with an absent page of its own, at which it waits; it exits with the byte that it reads. */
struct owner {
	pid_t pid;
	int pidfd;
	int uffd; /* ours, fetched from it */
	struct lab_memory memory;
};

struct offer {
	int uffd;
	struct lab_memory memory;
};

static _Noreturn void be_owner(struct probe_run *run, int tell)
{
	struct offer offer = { .uffd = lab_uffd(run, 0), .memory = lab_map(run, LAB_ANON, 1) };

	lab_register(run, offer.uffd, &offer.memory, UFFDIO_REGISTER_MODE_MISSING);
	probe_must(run, write(tell, &offer, sizeof(offer)) == sizeof(offer), "telling a uffd");
	_exit(*(volatile uint8_t *)offer.memory.at);
}

static struct owner start_owner(struct probe_run *run)
{
	struct owner owner;
	struct offer offer;
	int told[2];

	probe_must(run, pipe2(told, O_CLOEXEC) == 0, "pipe2()");
	owner.pid = fork();
	probe_must(run, owner.pid >= 0, "fork()");
	if (owner.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		be_owner(run, told[1]);
	}
	close(told[1]);
	probe_must(run, read(told[0], &offer, sizeof(offer)) == sizeof(offer),
		   "a child with a uffd");
	owner.pidfd = (int)syscall(SYS_pidfd_open, owner.pid, 0);
	probe_must(run, owner.pidfd >= 0, "pidfd_open()");
	owner.uffd = (int)syscall(SYS_pidfd_getfd, owner.pidfd, offer.uffd, 0);
	if (owner.uffd < 0)
		probe_skip(run, "pidfd_getfd() is refused here: %s", strerror(errno));
	owner.memory = offer.memory;
	lab_fault(run, owner.uffd);
	return owner;
}

/* It ends within a second, or the experiment breaks. Return: its status of waitpid(). */
static int end_of(struct probe_run *run, const struct owner *owner)
{
	struct pollfd ended = { .fd = owner->pidfd, .events = POLLIN };
	int status;

	errno = ETIMEDOUT;
	probe_must(run, poll(&ended, 1, 1000) == 1, "waiting for the end of a child");
	probe_must(run, waitpid(owner->pid, &status, 0) == owner->pid, "waitpid()");
	return status;
}

static int kill_owner(struct probe_run *run, const struct owner *owner)
{
	kill(owner->pid, SIGKILL);
	return end_of(run, owner);
}

static void try_fetched(struct probe_run *run)
{
	struct owner owner = start_owner(run);
	int status, r = lab_copy_byte(owner.uffd, &owner.memory, 0, BYTE, 0);

	if (r) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	status = end_of(run, &owner);
	probe_answer(run, "%s",
		     WIFEXITED(status) && WEXITSTATUS(status) == BYTE ? "serves" : "other bytes");
	probe_detail(run, "a COPY into the memory of the process it was fetched from: %s",
		     probe_errno(r));
}

static void try_kill(struct probe_run *run)
{
	struct owner owner = start_owner(run);
	int status = kill_owner(run, &owner);

	probe_answer(run, "%s", WIFSIGNALED(status) ? "ends" : "exits");
}

static void try_silence(struct probe_run *run)
{
	struct owner owner = start_owner(run);
	struct pollfd ready = { .fd = owner.uffd, .events = POLLIN };

	kill_owner(run, &owner);
	poll(&ready, 1, 0);
	probe_answer(run, "%s", ready.revents & (POLLHUP | POLLERR) ? "POLLHUP" : "silent");
	probe_detail(run, "poll of the uffd of a process that has ended: %#x", ready.revents);
}

static void try_fill(struct probe_run *run)
{
	struct owner owner = start_owner(run);
	int filling, waking;

	kill_owner(run, &owner);
	filling = lab_copy_byte(owner.uffd, &owner.memory, 0, BYTE, 0);
	waking = lab_wake(owner.uffd, owner.memory.at, owner.memory.length_bytes);
	probe_answer(run, "%s", probe_errno(filling));
	probe_detail(run, "COPY: %s; WAKE: %s", probe_errno(filling), probe_errno(waking));
}

/* ---- a child that is not paged --------------------------------------------------------------- */

static int read_byte(void *at)
{
	return *(volatile uint8_t *)at;
}

static void try_fork(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, 0), byte;

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	lab_serve(run, uffd, &memory, BYTE);
	byte = lab_fork(run, read_byte, memory.at);
	probe_answer(run, "%s", byte == BYTE ? "served" : byte == 0 ? "zeros" : "other bytes");
}

#define EVENT .group = PROBE_EVENT

static const struct probe_check checks[] = {
	{ .id = "event.fetched",
	  EVENT,
	  .title = "A uffd fetched by pidfd_getfd serves the memory of its process",
	  .wanted = "serves",
	  .is_needed = true,
	  .consequence = "a pager outside of the VMM cannot work on this host",
	  .run = try_fetched },
	{ .id = "event.killed",
	  EVENT,
	  .title = "SIGKILL ends a process that waits at an absent page",
	  .wanted = "ends",
	  .consequence = "processes that wait for ufdd cannot be ended before it serves them",
	  .run = try_kill },
	{ .id = "event.end",
	  EVENT,
	  .title = "The uffd of a process that has ended says so",
	  .wanted = "POLLHUP",
	  .known = { { PROBE_KERNEL(6, 1), "silent" } },
	  .consequence = "none: ufd watches a pidfd of each process",
	  .run = try_silence },
	{ .id = "event.end-fill",
	  EVENT,
	  .title = "Fills of a process that has ended say ESRCH",
	  .wanted = "ESRCH",
	  .consequence = "ufd would try again to fill what is no more, until the pidfd tells it",
	  .run = try_fill },
	{ .id = "event.fork-unpaged",
	  EVENT,
	  .title = "A child of fork finds its parent's absent pages paged as well",
	  .wanted = "served",
	  .known = { { PROBE_KERNEL(6, 1), "zeros" } },
	  .consequence = "children of a VMM that go on without exec read zeros in its absent "
			 "pages",
	  .run = try_fork },
};

const struct probe_family probe_family_lifecycle = PROBE_FAMILY(checks);
