/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd: the only place that issues its ioctls and that knows its errnos.
 *
 * Errnos that belong to normal paging become the named outcomes below, once; every other errno is
 * the world breaking and is passed up negative. Tests link a fake of this header.
 */
#pragma once

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

/* What a fill may answer beside 0 (all of the range is done). */
enum uffd_outcome {
	_UFFD_DONE,
	UFFD_PRESENT, /* EEXIST: page, zero page, marker, or empty hugetlb pool; nobody was woken */
	UFFD_CHANGING, /* EAGAIN: an event is unread or its thread has not run: read, retry */
	UFFD_UNMAPPED, /* ENOENT: no registered mapping there (any more), or the range spans two */
	UFFD_NO_PAGE,  /* CONTINUE found a hole in the file */
	UFFD_PAST_END, /* the file ends before (COPY, ZEROPAGE, POISON: EFAULT; CONTINUE: EINVAL) */
	UFFD_NO_MEMORY, /* ENOMEM: host, memory cgroup of the target, or size limit of the tmpfs */
	UFFD_POISONED,	/* EIO: the page in the file is hardware-poisoned */
	UFFD_GONE,	/* ESRCH (register, unregister: ENOMEM): the process exited or execed */
	UFFD_BUSY,	/* register: EBUSY, another uffd owns a mapping in the range */
	UFFD_REFUSED, /* register: EPERM, EINVAL: not this mode on this mapping (docs/kernel.md) */
};

enum uffd_mode {
	UFFD_MODE_MISSING = 1 << 0,
	UFFD_MODE_WP = 1 << 1,
	UFFD_MODE_MINOR = 1 << 2,
};

enum uffd_fill_flags {
	UFFD_FILL_WP = 1 << 0,	    /* leave it write-protected: wanted while a tracker is armed */
	UFFD_FILL_NO_WAKE = 1 << 1, /* the caller wakes the range itself */
};

/*
 * What a uffd that we page must not have been asked for. FORK hands us an fd for every child, REMAP
 * moves pages to addresses that we were not told, UNMAP looks like a discard of what other mappings
 * still show, and with SIGBUS no fault is ever told.
 */
#define UFFD_FEATURES_FOREIGN                                                            \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP | \
	 UFFD_FEATURE_SIGBUS)

/* How userfaultfd is created; the order is the order of preference. */
enum uffd_way {
	UFFD_WAY_SYSCALL,   /* needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1 */
	UFFD_WAY_DEVICE,    /* /dev/userfaultfd, whoever may open it (Linux 6.1) */
	UFFD_WAY_USER_MODE, /* anybody; faults in kernel mode fail (EFAULT): not for KVM or I/O */
};

/**
 * uffd_open() - a uffd of the calling process, O_CLOEXEC and O_NONBLOCK, after its handshake
 * @ret_fd:   owned by the caller
 * @way:      exactly this way is tried
 * @features: UFFD_FEATURE_ bits that change behaviour; only such as features_get() reports
 *
 * Context: any; may allocate. Return: 0, -EPERM/-EACCES (not allowed this way), other -errno.
 */
int uffd_open(int *ret_fd, enum uffd_way way, uint64_t features);

/*
 * Handshake of a raw uffd (as injected or received); its O_NONBLOCK is the caller's affair.
 * Return: 0, -EINVAL if it was done before or @features are unknown, other -errno.
 */
int uffd_handshake(int fd, uint64_t features);

/**
 * uffd_inspect() - is this fd a uffd, and what was it initialised with
 * @ret_features: what UFFDIO_API was asked for, from /proc/self/fdinfo
 *
 * Return: 0, -EBADFD if it is no userfaultfd, -EPROTO if UFFDIO_API was not done,
 *         -EWOULDBLOCK if it lacks O_NONBLOCK (poll on it would report an error), other -errno.
 */
int uffd_inspect(int fd, uint64_t *ret_features);

/* Are they the same userfaultfd (not: of the same process)? False where the kernel cannot tell. */
bool uffd_is_same(int a, int b);

/*
 * Has its process ended, or does it run another program? Its page tables look clean then. @address: aligned,
 * of any page that was registered. Return: 0, -ENOMEM.
 */
int uffd_is_gone(int fd, struct hva address, bool *ret_is_gone);

/* Unread faults, and all unresolved ones, as /proc/self/fdinfo counts them. */
int uffd_pending(int fd, uint64_t *ret_unread, uint64_t *ret_unresolved);

/**
 * uffd_register() - receive faults of a range
 * @modes:      bits of enum uffd_mode; always the full set, since a new set replaces the old one
 * @ret_ioctls: which range ioctls the kernel offers there (bit numbers _UFFDIO_*); may be NULL
 *
 * Holes between mappings in the range are skipped silently by the kernel.
 * Return: 0, UFFD_BUSY, UFFD_REFUSED, UFFD_GONE, or -errno.
 */
int uffd_register(int fd, struct hva_range range, unsigned int modes, uint64_t *ret_ioctls);

/**
 * uffd_unregister() - end it, and wake everybody who waits there
 *
 * The kernel wakes missing waiters only, so a WAKE of the range follows whatever the result (minor
 * and write-protect waiters hang otherwise). Takes the target's mmap lock for writing: keep ranges
 * at most 64 MiB.
 * Return: 0, UFFD_UNMAPPED (nothing mapped, or another uffd owns it), UFFD_GONE, or -errno.
 */
int uffd_unregister(int fd, struct hva_range range);

/*
 * The fills. Each repeats partial results until all is done or an outcome stops it.
 *
 * @ret_done_bytes is always set: bytes filled before the outcome; their waiters are woken unless
 * UFFD_FILL_NO_WAKE. Addresses and lengths are aligned to the page size of the mapping.
 * @flags: enum uffd_fill_flags.
 *
 * Context: any thread; never blocks on the guest, does not allocate.
 * Return:  0 or enum uffd_outcome; negative for what cannot happen in normal paging.
 */
int uffd_copy(int fd, struct hva to, const void *from, uint64_t length_bytes, unsigned int flags,
	      uint64_t *ret_done_bytes);
/* Not for hugetlb (-EINVAL). There is no protected form: UFFD_FILL_WP is a bug of the caller. */
int uffd_zeropage(int fd, struct hva_range range, unsigned int flags, uint64_t *ret_done_bytes);
int uffd_continue(int fd, struct hva_range range, unsigned int flags, uint64_t *ret_done_bytes);
/* Needs Linux 6.6; -EOPNOTSUPP where features_get() lacks UFFD_FEATURE_POISON. */
int uffd_poison(int fd, struct hva_range range, uint64_t *ret_done_bytes);

/*
 * Protect, or (with @protect false) un-protect and wake. All or an outcome, but with UFFD_UNMAPPED
 * the mappings before the unregistered one have changed.
 * Return: 0, UFFD_UNMAPPED, UFFD_CHANGING, UFFD_GONE, -errno.
 */
int uffd_write_protect(int fd, struct hva_range range, bool protect);

/*
 * Wake every waiter of a range; faults that stay unresolved are queued anew. Whole pages of the
 * mapping, or waiters on a huge page are missed. Succeeds on any aligned range, mapped or not.
 */
int uffd_wake(int fd, struct hva_range range);

/*
 * Is a discard under way? From before its thread lets go of the address space until it has gone on, after its
 * message was read, the kernel refuses every fill. So once a range is unregistered, false says that all messages of
 * discards there were read. Changes nothing; false for a process that has ended.
 */
bool uffd_is_changing(int fd);

/**
 * uffd_read() - as many messages as are queued, at most @n_buffer
 * @buffer: the kernel writes straight into it (a message buffer in the ledger)
 * @ret_n:  0 if nothing is queued
 *
 * Return: 0 or -errno (-EMFILE: a fork event found no free fd, and stays queued).
 */
int uffd_read(int fd, struct uffd_msg *buffer, unsigned int n_buffer, unsigned int *ret_n);

/*
 * Put O_NONBLOCK back, which the process that we page may have taken off the open file it shares with
 * us: poll() on a blocking uffd says POLLERR at once. Return: 0 or -errno.
 */
int uffd_make_nonblocking(int fd);
