/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What /proc tells of one process: its threads, what each is blocked in, its userfaultfds.
 *
 * Nothing here touches the process: no ptrace, no signal, no look at its memory, so it works on one
 * that hangs. Some of it is hidden from those who may not ptrace it; that is noted, never guessed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

#define PROCESS_NAME_BYTES  64
#define PROCESS_MAX_THREADS 4096
#define PROCESS_MAX_UFFDS   64

enum thread_wait {
	THREAD_RUNS,	  /* on a CPU, or ready for one */
	THREAD_USERFAULT, /* a fault that a userfaultfd must answer */
	THREAD_STOPPED,	  /* by a signal, as all threads of its process that can be */
	THREAD_TRACED,	  /* held by a debugger */
	THREAD_FROZEN,	  /* by the freezer of its cgroup */
	THREAD_BLOCKED,	  /* in something else, see @inside */
	THREAD_UNSEEN,	  /* blocked, and we may not see in what */
	THREAD_DEAD,
};

/* Readable. */
struct thread {
	pid_t tid;
	pid_t inner_tid; /* as its own pid namespace shows it: that is what userfaultfds tell */
	char name[PROCESS_NAME_BYTES];
	char state; /* as in /proc/PID/stat */
	enum thread_wait wait;
	char inside[64]; /* kernel function it is blocked in; "" if unknown */
	bool has_syscall;
	long syscall; /* -1: none, as in a fault of user mode */
	uint64_t arguments[6];
	uint64_t pc;
};

/* Readable. */
struct process_uffd {
	int fd;
	uint64_t inode;	    /* each userfaultfd has its own: the same one is in other processes */
	uint64_t n_pending; /* faults that nobody has read */
	uint64_t n_total;   /* those, and what was read and not resolved */
};

/* Readable. */
struct process {
	pid_t pid;
	pid_t inner_pid;
	pid_t tracer; /* 0: none */
	uid_t uid;
	char name[PROCESS_NAME_BYTES];
	char state;		/* of its first thread */
	uint64_t started_us;	/* CLOCK_BOOTTIME; exact to 10 ms */
	struct thread *threads; /* owned */
	size_t n_threads;
	struct process_uffd uffds[PROCESS_MAX_UFFDS];
	size_t n_uffds;
	bool may_see_fds;
	bool may_see_waits; /* what its threads are blocked in */
};

/* Return: 0, -ESRCH (no such process, or nothing but its name is left), -ENOMEM. */
int process_read(struct process **ret, pid_t pid);
struct process *process_free(struct process *process);
DEFINE_CLEANUP(struct process, process_free)

/* How many threads wait like this. */
size_t process_count(const struct process *process, enum thread_wait wait);

/* What the file behind an fd of it is called, as in /proc/PID/fd; "" if we may not see that. */
void process_fd_name(pid_t pid, int fd, char *ret, size_t n_ret);
