/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One thread of another process, stopped by ptrace, that runs system calls for us. x86-64 only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/*
 * Embedded; fields are private.
 *
 * States, in order:
 * - loose:	not traced. Allowed: seize().
 * - seized:	it will stop as soon as it can. Allowed: await_stop(). The end of the calling thread
 *		lets it go unharmed.
 * - stopped:	in an event stop, nothing changed yet; our death would let it go unharmed.
 *		Allowed: prepare(), then call(); release().
 * - changed:	its registers and signal mask are ours; our death would kill it. Allowed: call(),
 *		release(). Leaves only by release(), or by the end of the thread.
 *
 * Functions return 0, enum inject_outcome, or a negative errno.
 */
struct tracee {
	pid_t pid;
	pid_t tid;
	int proc_fd; /* borrowed; /proc/PID */
	int mem_fd;  /* borrowed; /proc/PID/mem */
	uint64_t syscall_address;
	struct user_regs_struct saved; /* what release() puts back */
	uint64_t saved_mask;
	bool is_suspended; /* its seccomp filter, if it has one */
	bool is_changed;
	bool is_running; /* resumed, no stop seen since */
};

/**
 * tracee_seize() - trace a thread and ask it to stop
 * @tracee: pid, tid, proc_fd, mem_fd and syscall_address set, all else zero
 *
 * Return: 0, INJECT_TRACED, INJECT_FORBIDDEN, INJECT_THREAD_GONE, -errno.
 */
int tracee_seize(struct tracee *tracee);

/**
 * tracee_await_stop() - wait for it to stop
 * @deadline_ns: CLOCK_MONOTONIC; 0 only looks
 *
 * Signals that arrive first are delivered first. May be called again after INJECT_HUNG.
 * Return: 0, INJECT_HUNG, INJECT_THREAD_GONE, -errno.
 */
int tracee_await_stop(struct tracee *tracee, uint64_t deadline_ns);

/**
 * tracee_prepare() - take over registers' and signal mask's copies; the last way out without harm
 *
 * Return: 0, INJECT_FOREIGN_ABI, INJECT_SECCOMP, INJECT_DISPATCHED, INJECT_THREAD_GONE, -errno.
 */
int tracee_prepare(struct tracee *tracee);

/**
 * tracee_call() - run one system call in the stopped thread
 * @arguments:	 six; the call must not wait for anything
 * @ret_result:	 as the kernel returned it, negative errno included
 * @deadline_ns: for the thread to come to the call (its cgroup may be frozen); once inside it is
 *		 waited for without limit, since leaving now would kill the target
 *
 * Return: 0, INJECT_HUNG (not called), INJECT_THREAD_GONE, -errno.
 */
int tracee_call(struct tracee *tracee, long number, const uint64_t arguments[6], long *ret_result,
		uint64_t deadline_ns);

/**
 * tracee_release() - put everything back and let it go
 *
 * An interrupted system call of the thread goes on as if nothing had been.
 * Return: 0, INJECT_THREAD_GONE, -errno.
 */
int tracee_release(struct tracee *tracee);
