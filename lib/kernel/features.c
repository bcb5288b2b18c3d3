/* SPDX-License-Identifier: MIT */
/*
 * What the running kernel can do.
 *
 * UFFDIO_API with no feature asked for reports all that the kernel has, and is final for its fd;
 * asking for an unknown one fails without telling which. So a scratch fd is asked first.
 */
#include "kernel/features.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/uapi.h"

static struct kernel_features features;

static uint64_t ask_features(int fd)
{
	struct uffdio_api api = { .api = UFFD_API };

	return ioctl(fd, UFFDIO_API, &api) < 0 ? 0 : api.features;
}

static int scratch_by_syscall(unsigned int flags)
{
	long fd = syscall(SYS_userfaultfd, flags | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : (int)fd;
}

static int scratch_by_device(void)
{
	_cleanup_(closep) int device = -EBADF;
	int fd;

	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -errno;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* A scan of nothing: an unknown ioctl says ENOTTY, a known one 0. */
static bool probe_pagemap_scan(void)
{
	struct pm_scan_arg nothing = { .size = sizeof(nothing), .category_mask = PAGE_IS_WRITTEN };
	_cleanup_(closep) int fd = -EBADF;

	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &nothing) == 0;
}

static uint64_t mask_from_environment(void)
{
	const char *text = getenv("UFD_FEATURES_MASK");

	return text && *text ? strtoull(text, NULL, 16) : UINT64_MAX;
}

static void probe(void)
{
	_cleanup_(closep) int by_syscall = scratch_by_syscall(0);
	_cleanup_(closep) int by_device = scratch_by_device();
	_cleanup_(closep) int user_mode = -EBADF;

	features.may_syscall = by_syscall >= 0;
	features.syscall_errno = by_syscall < 0 ? -by_syscall : 0;
	features.may_device = by_device >= 0;
	features.device_errno = by_device < 0 ? -by_device : 0;

	if (by_syscall >= 0) {
		features.uffd = ask_features(by_syscall);
	} else if (by_device >= 0) {
		features.uffd = ask_features(by_device);
	} else {
		user_mode = scratch_by_syscall(UFFD_USER_MODE_ONLY);
		features.uffd = user_mode >= 0 ? ask_features(user_mode) : 0;
	}

	features.uffd &= mask_from_environment();
	features.has_continue_wp = features.uffd & UFFD_FEATURE_WP_UNPOPULATED;
	/* The two came with one release: a kernel that lacks the feature has no scan either. */
	features.has_pagemap_scan = features.uffd & UFFD_FEATURE_WP_ASYNC && probe_pagemap_scan();
}

const struct kernel_features *features_get(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, probe);
	return &features;
}

uint64_t features_wanted(bool is_wp_sync)
{
	uint64_t wanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMOVE |
			  UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			  UFFD_FEATURE_WP_UNPOPULATED;

	if (!is_wp_sync)
		wanted |= UFFD_FEATURE_WP_ASYNC;
	return wanted & features_get()->uffd;
}
