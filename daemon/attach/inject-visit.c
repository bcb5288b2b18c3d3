/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A visit to another process: one of its threads stopped, some calls made in it, and away. */
#include "attach/inject-visit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "attach/inject-thread.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"
#include "kernel/proc-maps.h"

enum {
	THREAD_SLICE_MS = 250, /* how long one thread may take to stop while others are left */
	ALARM_GRACE_MS = 500,
	CALL_WAIT_MS = 1000, /* even after the deadline, so that what was begun can be undone */
};

/* From here to disarm_alarm() nothing of the target is changed, so dying is harmless. */
static void arm_alarm(uint64_t deadline_ns)
{
	uint64_t now = clock_now_ns();
	uint64_t left = (deadline_ns > now ? deadline_ns - now : 0) +
			ALARM_GRACE_MS * NSEC_PER_MSEC;
	struct itimerval timer = {
		.it_value = { left / NSEC_PER_SEC, left % NSEC_PER_SEC / NSEC_PER_USEC },
	};

	setitimer(ITIMER_REAL, &timer, NULL);
}

static void disarm_alarm(void)
{
	setitimer(ITIMER_REAL, &(struct itimerval){}, NULL);
}

int visit_fail(struct visit *visit, int outcome, int error, int number)
{
	struct inject_reply *reply = visit->reply;

	if (reply->outcome == _INJECT_DONE) {
		reply->outcome = outcome;
		reply->error = error;
		reply->number = number;
	}
	return outcome;
}

/* An outcome or -errno of the rooms below, as a reply. */
static int fail_with(struct visit *visit, int result)
{
	if (result == -ESRCH)
		return visit_fail(visit, INJECT_GONE, 0, 0);
	return result < 0 ? visit_fail(visit, INJECT_FAILED, -result, -1)
			  : visit_fail(visit, result, 0, 0);
}

/* The address of a `syscall` instruction, 0 if there is none. Return: 0 or -errno. */
static int find_instruction(const struct visit *visit, uint64_t *ret_address)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	unsigned char code[4 * 4096];
	int r;

	r = proc_maps_read(visit->target->pid, &maps);
	if (r < 0)
		return r;
	for (size_t i = 0; i < maps.n_maps; i++) {
		const struct proc_map *map = &maps.maps[i];
		ssize_t n;

		if (strcmp(map->name, "[vdso]") != 0)
			continue;
		n = pread(visit->mem_fd, code, min_u64(sizeof(code), map->range.length_bytes),
			  map->range.start.v);
		for (ssize_t at = 0; at + 1 < n; at++) {
			if (code[at] == 0x0f && code[at + 1] == 0x05) {
				*ret_address = map->range.start.v + at;
				return 0;
			}
		}
	}
	*ret_address = 0;
	return 0;
}

/* Nothing tells when a thread leaves D state, or its tracer leaves it: look again, ever more
 * rarely. */
static bool pause_before_retry(const struct inject_target *target, uint64_t *pause_ns)
{
	if (clock_now_ns() >= target->deadline_ns)
		return false;
	*pause_ns = *pause_ns ? min_u64(2 * *pause_ns, 20 * NSEC_PER_MSEC) : NSEC_PER_MSEC;
	nanosleep(&(struct timespec){ .tv_nsec = *pause_ns }, NULL);
	return true;
}

/*
 * An earlier helper of ours may still be letting go, or undoing what a dead ufdd began. Any other
 * tracer is there to stay.
 */
static bool is_helper(const struct inject_target *target, pid_t tid)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[32], name[sizeof(INJECT_HELPER_NAME)] = "";
	struct thread_status status;
	ssize_t n;
	int r;

	r = thread_read_status(target->proc_fd, tid, &status);
	if (r < 0)
		return r == -ESRCH; /* no thread, no tracer */
	if (status.tracer == 0)
		return true; /* gone by now */
	snprintf(path, sizeof(path), "/proc/%d/comm", status.tracer);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, name, sizeof(name) - 1);
	/* It may go between any two of these calls, and then the file is there, but nobody to read of. */
	return n < 0 || strcmp(name, INJECT_HELPER_NAME) == 0;
}

/* Return: 0, INJECT_TRACED, -errno. */
static int await_no_tracer(const struct inject_target *target)
{
	struct thread_status status;
	uint64_t pause_ns = 0;
	int r;

	for (;;) {
		r = thread_read_status(target->proc_fd, target->pid, &status);
		if (r < 0 || status.tracer == 0)
			return r;
		if (!is_helper(target, target->pid) || !pause_before_retry(target, &pause_ns))
			return INJECT_TRACED;
	}
}

/* One of the threads seized so far that has stopped by now. */
static bool find_stopped(struct visit *visit)
{
	for (size_t i = 0; i < visit->n_seized; i++) {
		if (tracee_await_stop(&visit->seized[i], 0) == 0) {
			visit->tracee = visit->seized[i];
			return true;
		}
	}
	return false;
}

/* Return: 0 with a stopped thread, INJECT_HUNG, INJECT_TRACED, INJECT_THREAD_GONE, other outcomes.
 */
static int stop_another(struct visit *visit)
{
	const struct inject_target *target = visit->target;
	struct tracee *tracee = &visit->seized[visit->n_seized];
	pid_t tried[VISIT_MAX_THREADS];
	uint64_t slice_ns;
	int r;

	if (visit->n_seized == VISIT_MAX_THREADS)
		return INJECT_HUNG;
	for (size_t i = 0; i < visit->n_seized; i++)
		tried[i] = visit->seized[i].tid;
	*tracee = visit->tracee;
	r = thread_choose(target->proc_fd, target->pid, tried, visit->n_seized, &tracee->tid);
	if (r == 0)
		r = tracee_seize(tracee);
	if (r == INJECT_TRACED && !is_helper(target, tracee->tid))
		return -EBUSY;
	if (r != 0)
		return r;

	visit->n_seized++;
	slice_ns = clock_now_ns() + THREAD_SLICE_MS * NSEC_PER_MSEC;
	r = tracee_await_stop(tracee, min_u64(slice_ns, target->deadline_ns));
	if (r == 0)
		visit->tracee = *tracee;
	return r;
}

/*
 * Stops one thread. Others that were asked and did not stop in time are let go by the end of the
 * calling thread, which is near.
 */
static int stop_thread(struct visit *visit)
{
	uint64_t pause_ns = 0;

	for (;;) {
		int r = find_stopped(visit) ? 0 : stop_another(visit);

		if (r == -EBUSY)
			return INJECT_TRACED;
		if (r != INJECT_HUNG && r != INJECT_TRACED && r != INJECT_THREAD_GONE)
			return r;
		if (!pidfd_is_alive(
			    visit->target->pidfd)) /* a zombie stops as little as a hung one */
			return INJECT_GONE;
		if (!pause_before_retry(visit->target, &pause_ns))
			return r == INJECT_THREAD_GONE ? INJECT_GONE : r;
	}
}

int visit_begin(struct visit *visit, const struct inject_target *target, struct inject_reply *reply)
{
	int r;

	*visit = (struct visit){ .target = target, .reply = reply, .mem_fd = -EBADF };
	arm_alarm(target->deadline_ns);

	if (!pidfd_is_alive(target->pidfd))
		return visit_fail(visit, INJECT_GONE, 0, 0);
	r = await_no_tracer(target);
	if (r != 0)
		return fail_with(visit, r);
	visit->mem_fd = openat(target->proc_fd, "mem", O_RDONLY | O_CLOEXEC);
	if (visit->mem_fd < 0)
		return visit_fail(
			visit, errno == EACCES || errno == EPERM ? INJECT_FORBIDDEN : INJECT_FAILED,
			errno, SYS_openat);

	visit->tracee = (struct tracee){
		.pid = target->pid,
		.proc_fd = target->proc_fd,
		.mem_fd = visit->mem_fd,
	};
	r = find_instruction(visit, &visit->tracee.syscall_address);
	if (r < 0)
		return fail_with(visit, r);
	r = stop_thread(visit);
	if (r != 0)
		return fail_with(visit, r);
	visit->is_stopped = true;
	r = tracee_prepare(&visit->tracee);
	if (r == 0 && visit->tracee.syscall_address == 0)
		r = INJECT_NO_VDSO; /* told last: a 32-bit process has none either */
	if (r == 0)
		return 0;
	return fail_with(visit, r == INJECT_THREAD_GONE ? INJECT_GONE : r);
}

void visit_leave(struct visit *visit)
{
	int r = 0;

	if (visit->is_stopped)
		r = tracee_release(&visit->tracee);
	disarm_alarm();
	closep(&visit->mem_fd);
	if (r == INJECT_THREAD_GONE)
		visit_fail(visit, INJECT_GONE, 0, 0);
	else if (r < 0)
		visit_fail(visit, INJECT_FAILED, -r, SYS_ptrace);
}

int visit_call(struct visit *visit, long number, const uint64_t arguments[6], long *ret_result)
{
	uint64_t deadline_ns = max_u64(visit->target->deadline_ns,
				       clock_now_ns() + CALL_WAIT_MS * NSEC_PER_MSEC);
	int r;

	disarm_alarm();
	r = tracee_call(&visit->tracee, number, arguments, ret_result, deadline_ns);
	if (r == 0)
		return 0;
	if (r < 0)
		return visit_fail(visit, INJECT_FAILED, -r, number);
	return visit_fail(visit, r == INJECT_THREAD_GONE ? INJECT_GONE : r, 0, number);
}

int visit_call_checked(struct visit *visit, long number, const uint64_t arguments[6],
		       long *ret_result)
{
	int r = visit_call(visit, number, arguments, ret_result);

	if (r != 0 || *ret_result >= 0)
		return r;
	if (*ret_result == -EMFILE || *ret_result == -ENFILE)
		return visit_fail(visit, INJECT_NO_FDS, -*ret_result, number);
	return visit_fail(visit, INJECT_FAILED, -*ret_result, number);
}
