/* SPDX-License-Identifier: MIT */
/* What the running kernel can do, asked once on a scratch fd. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Readable. */
struct kernel_features {
	uint64_t uffd;	       /* UFFD_FEATURE_ bits, less those that UFD_FEATURES_MASK hides */
	bool has_pagemap_scan; /* Linux 6.7; hidden together with UFFD_FEATURE_WP_ASYNC */
	bool has_continue_wp; /* Linux 6.4; known by, and hidden with, UFFD_FEATURE_WP_UNPOPULATED */
	bool may_syscall;     /* userfaultfd(2) with kernel-mode faults is allowed to us */
	bool may_device;      /* /dev/userfaultfd opens */
	int syscall_errno;    /* why may_syscall is false, positive */
	int device_errno;     /* why may_device is false, positive */
};

/**
 * features_get() - probed at the first call, then the same for ever
 *
 * The environment's UFD_FEATURES_MASK (hexadecimal, bits to keep) emulates older kernels.
 *
 * Context: any; the first call opens and closes fds. Never NULL: without userfaultfd all is zero.
 */
const struct kernel_features *features_get(void);

/**
 * features_wanted() - what every uffd of ours asks of UFFDIO_API, as far as the kernel has it
 * @is_wp_sync: synchronous write-protect faults instead of WP_ASYNC (a choice for the uffd's life)
 */
uint64_t features_wanted(bool is_wp_sync);
