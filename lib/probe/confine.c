/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process that may go astray cannot take along. */
#include "probe/confine.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define THREAD_STACK_BYTES \
	((size_t)1 << 20) /* of experiments' threads: stacks are private memory */

static void leave_signals(void)
{
	sigset_t none;

	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		(void)signal(signal_number, SIG_DFL); /* KILL, STOP and libc's own two: refused */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/*
 * A uffd of the caller's that lived on here would let its guests wait for nobody, and a socket would
 * keep its peer waiting: all go, whether they are close-on-exec or not.
 */
static void leave_fds(int life)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	if (life != CONFINE_LIFE_FD)
		dup3(life, CONFINE_LIFE_FD, O_CLOEXEC);
	(void)syscall(SYS_close_range, CONFINE_LIFE_FD + 1U, ~0U, 0U);
}

static void limit(int resource, uint64_t bytes)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) < 0 || limit.rlim_max < bytes)
		return; /* there is a narrower one */
	limit.rlim_cur = limit.rlim_max = bytes;
	setrlimit(resource, &limit);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MAY_LIMIT_DATA true
#else
#define MAY_LIMIT_DATA false
#endif

/* Private writable memory, in bytes: what RLIMIT_DATA counts. Sixth number of statm, in pages. */
static uint64_t private_bytes(void)
{
	_cleanup_(closep) int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	unsigned long pages = 0;
	char text[128] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0 ||
	    sscanf(text, "%*u %*u %*u %*u %*u %lu", &pages) != 1)
		return 0;
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/*
 * Address space is no measure: sanitizers and allocators reserve terabytes of it. Nor is private
 * memory one under sanitizers, which map their shadow of all as such: there the size of files and
 * the choice of the kernel when memory runs out are what is left.
 */
static void leave_memory(void)
{
	_cleanup_(closep) int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	pthread_attr_t attributes;

	if (fd >= 0)
		(void)!write(fd, "1000", 4);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_FSIZE, CONFINE_BYTES);
	if (MAY_LIMIT_DATA)
		limit(RLIMIT_DATA, private_bytes() + CONFINE_BYTES);
	if (pthread_attr_init(&attributes) == 0) {
		pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
		pthread_setattr_default_np(&attributes);
		pthread_attr_destroy(&attributes);
	}
}

void confine_self(pid_t parent, int life)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0); /* it was over before we asked */
	setpgid(0, 0);
	leave_fds(life);
	leave_memory();
	leave_signals();
}
