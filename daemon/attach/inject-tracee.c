/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A thread that runs system calls for us. */
/*
 * Theory of operation
 *
 * PTRACE_SEIZE and PTRACE_INTERRUPT bring the thread into an event stop. Such a stop lies inside
 * the kernel's get_signal(), before the kernel decides whether an interrupted system call is
 * restarted: rax may hold -ERESTARTNOHAND or its like, orig_rax the call. We set rip to a `syscall`
 * instruction of the vdso and orig_rax to -1 ("no call to restart"), and let it run to the stops at
 * entry and exit.
 *
 * The way back must end in an event stop too. Registers written at a syscall-exit stop go to user
 * space without that decision, -ERESTARTNOHAND as the result of the thread's own ppoll() among
 * them, unless something makes the kernel look for signals once more. So PTRACE_INTERRUPT comes
 * first, and the saved registers are written inside get_signal() again.
 *
 * Meanwhile every signal is blocked in the thread: none is lost and none builds its frame on our
 * registers. PTRACE_SETSIGMASK knows of the temporary mask of ppoll() and its like: it reads and
 * writes the mask beneath, and the restarted call installs the temporary one anew.
 *
 * No memory of the target's own is written, and its code is not patched.
 */
#include "attach/inject-tracee.h"

#include <errno.h>
#include <linux/rseq.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach/inject-thread.h"
#include "attach/inject.h"
#include "base/clock.h"
#include "base/units.h"

#ifndef PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211 /* Linux 6.4 */
#endif

enum { CS_64_BIT = 0x33 };

static const uint64_t ALL_SIGNALS = ~UINT64_C(0);
static const uint64_t NO_DEADLINE = ~UINT64_C(0);

/* What ptrace() says of a thread that is dead or just dying is an outcome; nothing else is
 * expected. */
static int checked(long result)
{
	if (result >= 0)
		return 0;
	return errno == ESRCH ? INJECT_THREAD_GONE : -errno;
}

static int request(const struct tracee *tracee, int what, uintptr_t address, uintptr_t data)
{
	return checked(ptrace(what, tracee->tid, address, data));
}

/* Sleeps until a child changes state; SIGCHLD is blocked, so one that came before is not missed. */
static void wait_for_change(uint64_t left_ns)
{
	struct timespec timeout = {};
	sigset_t changes;

	if (left_ns > NSEC_PER_SEC)
		left_ns = NSEC_PER_SEC;
	timeout.tv_sec = left_ns / NSEC_PER_SEC;
	timeout.tv_nsec = left_ns % NSEC_PER_SEC;
	sigemptyset(&changes);
	sigaddset(&changes, SIGCHLD);
	sigtimedwait(&changes, NULL, &timeout);
}

static int wait_stop(struct tracee *tracee, uint64_t deadline_ns, int *ret_status)
{
	for (;;) {
		pid_t pid = waitpid(tracee->tid, ret_status, __WALL | WNOHANG);
		uint64_t now;

		if (pid == tracee->tid) {
			tracee->is_running = false;
			return WIFSTOPPED(*ret_status) ? 0 : INJECT_THREAD_GONE;
		}
		if (pid < 0 && errno != EINTR)
			return errno == ECHILD ? INJECT_THREAD_GONE : -errno;
		now = clock_now_ns();
		if (now >= deadline_ns)
			return INJECT_HUNG;
		wait_for_change(deadline_ns - now);
	}
}

static int resume(struct tracee *tracee, int how, int signal)
{
	int r = request(tracee, how, 0, signal);

	if (r == 0)
		tracee->is_running = true;
	return r;
}

static bool is_event_stop(int status)
{
	return status >> 16 == PTRACE_EVENT_STOP;
}

static bool is_call_stop(int status)
{
	return WSTOPSIG(status) == (SIGTRAP | 0x80);
}

/* A signal that stopped the thread on its way to delivery; 0 for stops of any other kind. */
static int signal_of(int status)
{
	return status >> 16 != 0 || is_call_stop(status) ? 0 : WSTOPSIG(status);
}

/* On the way back a call that was begun too late must not happen any more. */
static int skip_call(const struct tracee *tracee)
{
	return request(tracee, PTRACE_POKEUSER, offsetof(struct user, regs.orig_rax), -1);
}

/* On to the event stop that a PTRACE_INTERRUPT made pending; signals go through, calls do not. */
static int run_to_event_stop(struct tracee *tracee, uint64_t deadline_ns)
{
	for (;;) {
		int status, r;

		r = wait_stop(tracee, deadline_ns, &status);
		if (r != 0)
			return r;
		if (is_event_stop(status))
			return 0;
		r = is_call_stop(status) ? skip_call(tracee) : 0;
		if (r != 0)
			return r;
		r = resume(tracee, PTRACE_CONT, signal_of(status));
		if (r != 0)
			return r;
	}
}

/* PTRACE_SEIZE said no: whose fault is it? */
static int explain_seize(const struct tracee *tracee)
{
	struct thread_status status;

	if (errno == ESRCH)
		return INJECT_THREAD_GONE;
	if (errno != EPERM && errno != EACCES)
		return -errno;
	if (thread_read_status(tracee->proc_fd, tracee->tid, &status) < 0)
		return INJECT_THREAD_GONE;
	return status.tracer != 0 ? INJECT_TRACED : INJECT_FORBIDDEN;
}

/* With any seccomp filter suspended, if we may: CAP_SYS_ADMIN, and no filter on ourselves. */
static int seize(struct tracee *tracee)
{
	const uintptr_t options = PTRACE_O_TRACESYSGOOD;

	tracee->is_suspended = true;
	if (ptrace(PTRACE_SEIZE, tracee->tid, NULL, options | PTRACE_O_SUSPEND_SECCOMP) == 0)
		return 0;
	if (errno == ESRCH)
		return INJECT_THREAD_GONE;
	tracee->is_suspended = false;
	if (ptrace(PTRACE_SEIZE, tracee->tid, NULL, options) == 0)
		return 0;
	return explain_seize(tracee);
}

int tracee_seize(struct tracee *tracee)
{
	struct thread_status status;
	int r;

	r = seize(tracee);
	if (r == INJECT_FORBIDDEN) /* or a tracer that has just left */
		r = seize(tracee);
	if (r != 0)
		return r;
	/* The number may have passed to another process's thread before it was seized. */
	r = thread_read_status(tracee->proc_fd, tracee->tid, &status);
	if (r < 0)
		return r == -ESRCH ? INJECT_THREAD_GONE : r;

	r = request(tracee, PTRACE_INTERRUPT, 0, 0);
	if (r == 0)
		tracee->is_running = true;
	return r;
}

int tracee_await_stop(struct tracee *tracee, uint64_t deadline_ns)
{
	return run_to_event_stop(tracee, deadline_ns);
}

/*
 * A restartable sequence: when the thread is resumed elsewhere the kernel forgets that it was in
 * one, and would not abort it on the way back. Aborting it now is what any preemption may do.
 */
static int leave_rseq(struct tracee *tracee)
{
	struct __ptrace_rseq_configuration config = {};
	struct user_regs_struct *regs = &tracee->saved;
	struct rseq_cs section;
	uint64_t address;
	long n = ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tracee->tid, sizeof(config), &config);

	if (n < 0)
		return errno == EIO || errno == EINVAL ? 0
						       : checked(n); /* no rseq in this kernel */
	if (config.rseq_abi_pointer == 0)
		return 0;
	if (pread(tracee->mem_fd, &address, sizeof(address),
		  config.rseq_abi_pointer + offsetof(struct rseq, rseq_cs)) != sizeof(address))
		return -EFAULT;
	if (address == 0)
		return 0;
	if (pread(tracee->mem_fd, &section, sizeof(section), address) != sizeof(section))
		return -EFAULT;
	if (regs->rip - section.start_ip < section.post_commit_offset)
		regs->rip = section.abort_ip;
	return 0;
}

/* Calls that the kernel ends with EINTR even if nothing but a tracer was there. */
static bool ends_with_eintr(uint64_t number)
{
	switch (number) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_rt_sigtimedwait:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
	case SYS_io_uring_enter:
		return true;
	}
	return false;
}

/* Such a call did nothing yet: begin it anew, unless a signal is about to interrupt it anyway. */
static int repeat_interrupted(struct tracee *tracee)
{
	struct user_regs_struct *regs = &tracee->saved;
	struct thread_status status;
	int r;

	if ((long)regs->orig_rax < 0 || (long)regs->rax != -EINTR ||
	    !ends_with_eintr(regs->orig_rax))
		return 0;
	r = thread_read_status(tracee->proc_fd, tracee->tid, &status);
	if (r < 0)
		return r == -ESRCH ? INJECT_THREAD_GONE : r;
	if (status.deliverable != 0)
		return 0;
	regs->rip -= 2; /* the length of `syscall` */
	regs->rax = regs->orig_rax;
	regs->orig_rax = -1;
	return 0;
}

static int check_dispatch(const struct tracee *tracee)
{
	struct {
		uint64_t mode, selector, offset, length;
	} config = {};
	long r = ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tracee->tid, sizeof(config),
			&config);

	if (r < 0)
		return errno == EIO || errno == EINVAL ? 0 : checked(r); /* before Linux 6.4 */
	return config.mode != 0 ? INJECT_DISPATCHED : 0;
}

/* A filter would judge our calls as the target's own, and may kill it for them. */
static int check_seccomp(const struct tracee *tracee)
{
	struct thread_status status;
	int r;

	if (tracee->is_suspended)
		return 0;
	r = thread_read_status(tracee->proc_fd, tracee->tid, &status);
	if (r < 0)
		return r == -ESRCH ? INJECT_THREAD_GONE : r;
	return status.seccomp != 0 ? INJECT_SECCOMP : 0;
}

int tracee_prepare(struct tracee *tracee)
{
	int r;

	r = request(tracee, PTRACE_GETREGS, 0, (uintptr_t)&tracee->saved);
	if (r != 0)
		return r;
	if (tracee->saved.cs != CS_64_BIT)
		return INJECT_FOREIGN_ABI;
	r = check_seccomp(tracee);
	if (r != 0)
		return r;
	r = check_dispatch(tracee);
	if (r != 0)
		return r;
	r = leave_rseq(tracee);
	if (r != 0)
		return r;
	r = repeat_interrupted(tracee);
	if (r != 0)
		return r;
	return request(tracee, PTRACE_GETSIGMASK, sizeof(uint64_t), (uintptr_t)&tracee->saved_mask);
}

/*
 * On to the stop at a system call's entry or exit, as @op says. With all signals blocked only
 * SIGSTOP can come between: it goes through, and the group's stop waits until we let go.
 */
static int run_to_call(struct tracee *tracee, int op, long *ret_result, uint64_t deadline_ns)
{
	int signal = 0;

	for (;;) {
		struct __ptrace_syscall_info info = {};
		int status, r;

		r = resume(tracee, PTRACE_SYSCALL, signal);
		if (r != 0)
			return r;
		r = wait_stop(tracee, deadline_ns, &status);
		if (r != 0)
			return r;
		signal = signal_of(status);
		if (!is_call_stop(status))
			continue;
		r = request(tracee, PTRACE_GET_SYSCALL_INFO, sizeof(info), (uintptr_t)&info);
		if (r != 0)
			return r;
		if (info.op == op) {
			*ret_result = op == PTRACE_SYSCALL_INFO_EXIT ? (long)info.exit.rval : 0;
			return 0;
		}
	}
}

int tracee_call(struct tracee *tracee, long number, const uint64_t arguments[6], long *ret_result,
		uint64_t deadline_ns)
{
	struct user_regs_struct regs = tracee->saved;
	int r;

	regs.rip = tracee->syscall_address;
	regs.rax = number;
	regs.orig_rax = -1;
	regs.rdi = arguments[0];
	regs.rsi = arguments[1];
	regs.rdx = arguments[2];
	regs.r10 = arguments[3];
	regs.r8 = arguments[4];
	regs.r9 = arguments[5];

	tracee->is_changed = true;
	r = request(tracee, PTRACE_SETSIGMASK, sizeof(ALL_SIGNALS), (uintptr_t)&ALL_SIGNALS);
	if (r != 0)
		return r;
	r = request(tracee, PTRACE_SETREGS, 0, (uintptr_t)&regs);
	if (r != 0)
		return r;
	r = run_to_call(tracee, PTRACE_SYSCALL_INFO_ENTRY, ret_result, deadline_ns);
	if (r != 0)
		return r;
	return run_to_call(tracee, PTRACE_SYSCALL_INFO_EXIT, ret_result, NO_DEADLINE);
}

static int put_back(struct tracee *tracee)
{
	int r;

	r = request(tracee, PTRACE_INTERRUPT, 0, 0);
	if (r != 0)
		return r;
	if (!tracee->is_running) {
		r = resume(tracee, PTRACE_CONT, 0);
		if (r != 0)
			return r;
	}
	r = run_to_event_stop(tracee, NO_DEADLINE);
	if (r != 0)
		return r;
	r = request(tracee, PTRACE_SETREGS, 0, (uintptr_t)&tracee->saved);
	if (r != 0)
		return r;
	return request(tracee, PTRACE_SETSIGMASK, sizeof(tracee->saved_mask),
		       (uintptr_t)&tracee->saved_mask);
}

int tracee_release(struct tracee *tracee)
{
	int r;

	if (tracee->is_changed) {
		r = put_back(tracee);
		if (r != 0)
			return r;
		tracee->is_changed = false;
	}
	return request(tracee, PTRACE_DETACH, 0, 0);
}
