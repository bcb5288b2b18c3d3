/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What userfaultfd says that it can do, and whether we may have one. */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/features.h"
#include "probe/lab.h"
#include "probe/table.h"

/* ---- a userfaultfd ---- */

/* The handshake that asks for nothing. Return: 0 or a negative errno. */
static int shake_hands(struct probe_run *run, const char *way, int fd)
{
	struct uffdio_api api = { .api = UFFD_API };
	int r = fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;

	probe_step(run, "%s: %s, features %#llx", way, probe_errno(r),
		   r ? 0 : (unsigned long long)api.features);
	return r;
}

static int try_syscall(struct probe_run *run, const char *way, int flags)
{
	return shake_hands(run, way, (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags));
}

static int try_device(struct probe_run *run)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	return shake_hands(run, "/dev/userfaultfd",
			   device < 0 ? -1
				      : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
}

static void has_userfaultfd(struct probe_run *run)
{
	int by_syscall = try_syscall(run, "userfaultfd(2)", 0);
	int by_device = try_device(run);
	int of_user = try_syscall(run, "userfaultfd(2), user mode only", UFFD_USER_MODE_ONLY);

	probe_answer(run, "%s",
		     !by_syscall || !by_device || !of_user ? "yes" : probe_errno(by_syscall));
	probe_detail(run, "userfaultfd(2): %s; /dev/userfaultfd: %s; user mode only: %s",
		     probe_errno(by_syscall), probe_errno(by_device), probe_errno(of_user));
}

static void sees_kernel(struct probe_run *run)
{
	int by_syscall = try_syscall(run, "userfaultfd(2)", 0);
	int by_device = try_device(run);

	probe_answer(run, "%s", !by_syscall || !by_device ? "yes" : probe_errno(by_syscall));
	probe_detail(run, "userfaultfd(2): %s; /dev/userfaultfd: %s", probe_errno(by_syscall),
		     probe_errno(by_device));
}

/* ---- its features ---- */

static void has_features(struct probe_run *run, uint64_t wanted)
{
	uint64_t has = features_get()->uffd;

	probe_step(run, "features: %#llx", (unsigned long long)has);
	probe_answer(run, "%s", (has & wanted) == wanted ? "yes" : "no");
}

#define FEATURE(function, features)                 \
	static void function(struct probe_run *run) \
	{                                           \
		has_features(run, features);        \
	}
FEATURE(has_missing_shmem, UFFD_FEATURE_MISSING_SHMEM)
FEATURE(has_missing_hugetlb, UFFD_FEATURE_MISSING_HUGETLBFS)
FEATURE(has_minor_shmem, UFFD_FEATURE_MINOR_SHMEM)
FEATURE(has_minor_hugetlb, UFFD_FEATURE_MINOR_HUGETLBFS)
FEATURE(has_wp, UFFD_FEATURE_PAGEFAULT_FLAG_WP)
FEATURE(has_wp_shmem, UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
FEATURE(has_wp_unpopulated, UFFD_FEATURE_WP_UNPOPULATED)
FEATURE(has_wp_async, UFFD_FEATURE_WP_ASYNC)
FEATURE(has_remove, UFFD_FEATURE_EVENT_REMOVE)
FEATURE(has_thread_id, UFFD_FEATURE_THREAD_ID)
FEATURE(has_poison, UFFD_FEATURE_POISON)

static void has_pagemap_scan(struct probe_run *run)
{
	struct pm_scan_arg nothing = { .size = sizeof(nothing), .category_mask = PAGE_IS_WRITTEN };
	_cleanup_(closep) int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int r;

	probe_must(run, fd >= 0, "open of /proc/self/pagemap");
	r = ioctl(fd, PAGEMAP_SCAN, &nothing) < 0 ? -errno : 0;
	probe_step(run, "a scan of nothing: %s", probe_errno(r));
	if (!r && !features_get()->has_pagemap_scan)
		r = -ENOTTY; /* hidden with WP_ASYNC, as one release brought both */
	probe_answer(run, "%s", r ? probe_errno(r) : "yes");
}

#define NEWER_KERNEL "run Linux 6.1 or newer, with CONFIG_USERFAULTFD"
#define SINCE(major, minor)                               \
	{                                                 \
		{ PROBE_KERNEL(4, 3), "no" },             \
		{                                         \
			PROBE_KERNEL(major, minor), "yes" \
		}                                         \
	}

static const struct probe_check checks[] = {
	{
		.id = "host.userfaultfd",
		.group = PROBE_HOST,
		.title = "The kernel has userfaultfd, and gives us one",
		.wanted = "yes",
		.is_needed = true,
		.is_for_start = true,
		.consequence = "nothing can be paged",
		.remedy = NEWER_KERNEL ", and look for a seccomp filter around this process",
		.run = has_userfaultfd,
	},
	{
		.id = "host.userfaultfd-kernel",
		.group = PROBE_HOST,
		.title = "Processes of this user may trap the kernel's accesses, too",
		.wanted = "yes",
		.is_of_host = true,
		.consequence = "VMMs of this user cannot hand memory over: their vCPUs and system "
			       "calls would fail",
		.remedy = "open /dev/userfaultfd to their group (70-ufd.rules), or set "
			  "vm.unprivileged_userfaultfd=1",
		.run = sees_kernel,
	},
	{
		.id = "host.missing-shmem",
		.group = PROBE_HOST,
		.title = "Missing mode works on shared memory",
		.wanted = "yes",
		.known = SINCE(4, 11),
		.is_needed = true,
		.is_for_start = true,
		.consequence = "guests on memfd or tmpfs cannot be paged",
		.remedy = NEWER_KERNEL,
		.run = has_missing_shmem,
	},
	{
		.id = "host.missing-hugetlb",
		.group = PROBE_HOST,
		.title = "Missing mode works on huge pages",
		.wanted = "yes",
		.known = SINCE(4, 11),
		.is_for_start = true,
		.consequence = "guests on huge pages cannot be paged",
		.remedy = NEWER_KERNEL,
		.run = has_missing_hugetlb,
	},
	{
		.id = "host.minor-shmem",
		.group = PROBE_HOST,
		.title = "Minor mode works on shared memory",
		.wanted = "yes",
		.known = SINCE(5, 14),
		.is_needed = true,
		.is_for_start = true,
		.consequence = "guests whose bytes lie in their own memfd cannot be paged",
		.remedy = NEWER_KERNEL,
		.run = has_minor_shmem,
	},
	{
		.id = "host.minor-hugetlb",
		.group = PROBE_HOST,
		.title = "Minor mode works on huge pages",
		.wanted = "yes",
		.known = SINCE(5, 13),
		.is_for_start = true,
		.consequence = "guests whose bytes lie in their own huge pages cannot be paged",
		.remedy = NEWER_KERNEL,
		.run = has_minor_hugetlb,
	},
	{
		.id = "host.wp",
		.group = PROBE_HOST,
		.title = "Write-protect mode works on anonymous memory",
		.wanted = "yes",
		.known = SINCE(5, 7),
		.is_needed = true,
		.is_for_start = true,
		.consequence = "what guests write cannot be tracked: ufd refuses to begin",
		.remedy = NEWER_KERNEL,
		.run = has_wp,
	},
	{
		.id = "host.wp-shmem",
		.group = PROBE_HOST,
		.title = "Write-protect mode works on shared memory and huge pages",
		.wanted = "yes",
		.known = SINCE(5, 19),
		.is_needed = true,
		.is_for_start = true,
		.consequence = "what guests on shared memory write cannot be tracked: ufd refuses "
			       "to begin",
		.remedy = NEWER_KERNEL,
		.run = has_wp_shmem,
	},
	{
		.id = "host.wp-unpopulated",
		.group = PROBE_HOST,
		.title = "Empty pages of anonymous memory can be protected",
		.wanted = "yes",
		.known = SINCE(6, 4),
		.consequence = "the first write to an empty page is seen as a missing fault only",
		.run = has_wp_unpopulated,
	},
	{
		.id = "host.wp-async",
		.group = PROBE_HOST,
		.title = "The kernel can answer write-protect faults by itself",
		.wanted = "yes",
		.known = SINCE(6, 7),
		.is_for_start = true,
		.consequence = "guests are tracked at the price of a fault a page (wp); the "
			       "tracker scan is refused",
		.remedy = "run Linux 6.7 or newer",
		.run = has_wp_async,
	},
	{
		.id = "host.pagemap-scan",
		.group = PROBE_HOST,
		.title = "PAGEMAP_SCAN reads and protects what was written in one call",
		.wanted = "yes",
		.known = { { PROBE_KERNEL(4, 3), "ENOTTY" }, { PROBE_KERNEL(6, 7), "yes" } },
		.is_for_start = true,
		.consequence = "the tracker scan is refused; guests are tracked by faults (wp)",
		.remedy = "run Linux 6.7 or newer",
		.run = has_pagemap_scan,
	},
	{
		.id = "host.event-remove",
		.group = PROBE_HOST,
		.title = "Discards by a process are announced",
		.wanted = "yes",
		.known = SINCE(4, 11),
		.is_for_start = true,
		.consequence = "ufd learns of discards from clients of libufd only",
		.remedy = NEWER_KERNEL,
		.run = has_remove,
	},
	{
		.id = "host.thread-id",
		.group = PROBE_HOST,
		.title = "A fault's message names the thread that waits",
		.wanted = "yes",
		.known = SINCE(4, 14),
		.consequence = "ufdctl why cannot always say which thread waits for which page",
		.run = has_thread_id,
	},
	{
		.id = "host.poison",
		.group = PROBE_HOST,
		.title = "A page whose bytes cannot be had can be poisoned",
		.wanted = "yes",
		.known = SINCE(6, 6),
		.consequence = "the policy poison is refused at attach; stall and kill work",
		.remedy = "run Linux 6.6 or newer for it",
		.run = has_poison,
	},
};

const struct probe_family probe_family_features = PROBE_FAMILY(checks);
