/* SPDX-License-Identifier: MIT */
/* Closing what strangers gave us. */
#include "kernel/closing.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_THREADS 64
#define STACK_BYTES 65536

static _Atomic int n_threads;

/* Files that live on a device or in memory are closed without asking anybody. Does not ask itself. */
static bool may_wait(int fd)
{
	struct statx info, proc = {};
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || flags & O_PATH || fcntl(fd, F_GET_SEALS) >= 0)
		return false;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &info) < 0)
		return true;
	if ((!S_ISREG(info.stx_mode) && !S_ISDIR(info.stx_mode)) || info.stx_dev_major)
		return false;
	(void)statx(AT_FDCWD, "/proc/self", AT_STATX_DONT_SYNC, STATX_TYPE, &proc);
	return info.stx_dev_minor != proc.stx_dev_minor || proc.stx_dev_major;
}

static void *closing_main(void *userdata)
{
	close((int)(intptr_t)userdata);
	atomic_fetch_sub(&n_threads, 1);
	return NULL;
}

static bool close_beside(int fd)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int r;

	if (atomic_fetch_add(&n_threads, 1) >= MAX_THREADS) {
		atomic_fetch_sub(&n_threads, 1);
		return false;
	}
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	r = pthread_create(&thread, &attributes, closing_main, (void *)(intptr_t)fd);
	pthread_attr_destroy(&attributes);
	if (r)
		atomic_fetch_sub(&n_threads, 1);
	return r == 0;
}

void closing_close(int fd)
{
	int saved = errno;

	if (fd < 0)
		return;
	/* where there is no thread left it stays open: the number of fds is bounded, too */
	if (!may_wait(fd))
		close(fd);
	else
		(void)close_beside(fd);
	errno = saved;
}
