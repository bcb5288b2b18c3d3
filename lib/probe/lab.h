/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The laboratory: memory of every backing, a uffd of our own process, and threads that touch it.
 *
 * Results of system calls are raw (0 or a negative errno), because the errno is what is asked for;
 * lib/kernel/uffd, which turns them into outcomes, is what these experiments keep honest. Whatever is
 * the ground of an experiment (a mapping, a thread) ends it by probe_skip() or probe_break(), so that
 * an experiment reads as its own steps. Nothing is freed: the process ends.
 *
 * Context: the experiment's process, any of its threads.
 */
#pragma once

#include <linux/userfaultfd.h>
#include <sys/types.h>

#include "kernel/uapi.h"
#include "probe/experiment.h"

enum lab_backing {
	LAB_ANON,	     /* private anonymous, 4 KiB pages (no THP) */
	LAB_ANON_THP,	     /* private anonymous, 2 MiB aligned, MADV_HUGEPAGE */
	LAB_ANON_SHARED,     /* shared anonymous */
	LAB_SHMEM,	     /* a memfd, MAP_SHARED */
	LAB_SHMEM_PRIVATE,   /* a memfd, MAP_PRIVATE */
	LAB_SHMEM_THP,	     /* a memfd, MAP_SHARED, MADV_HUGEPAGE, 2 MiB aligned */
	LAB_HUGETLB,	     /* a memfd of 2 MiB huge pages, MAP_SHARED; skips if none is free */
	LAB_HUGETLB_PRIVATE, /* the same, MAP_PRIVATE */
	LAB_FILE, /* an unlinked file on a disk file system, MAP_SHARED; skips without one */
	LAB_FILE_PRIVATE,
	LAB_SYSV,   /* shmat() */
	LAB_SECRET, /* memfd_secret; skips where it is off */
	_LAB_BACKING_MAX,
};

const char *lab_backing_name(enum lab_backing backing); /* "shmem, shared" */

/* Readable. */
struct lab_memory {
	enum lab_backing backing;
	uint8_t *at;
	size_t length_bytes;
	size_t page_bytes; /* 4096, or 2 MiB on hugetlb */
	int fd;		   /* of the file behind it; -EBADF if there is none */
};

/* Unpopulated @n_pages of its own size (8 huge ones, 16 MiB else), between inaccessible ranges. */
struct lab_memory lab_map(struct probe_run *run, enum lab_backing backing, size_t n_pages);
/* The same for who touches none of it: huge pages need not be free. */
struct lab_memory lab_map_unused(struct probe_run *run, enum lab_backing backing, size_t n_pages);

/* Page @i of it. */
static inline uint8_t *lab_page(const struct lab_memory *memory, size_t i)
{
	return memory->at + i * memory->page_bytes;
}

/* Write @byte over the whole of page @i, through the mapping or (of a file) through its fd. */
void lab_fill(const struct lab_memory *memory, size_t i, uint8_t byte);
void lab_fill_file(struct probe_run *run, const struct lab_memory *memory, size_t i, uint8_t byte);

/* ---- the uffd ---- */

/*
 * A non-blocking uffd after its handshake; skips if the kernel lacks one of @features (after
 * UFD_FEATURES_MASK). lab_uffd() takes a user-mode-only one where nothing else is allowed;
 * lab_uffd_kernel() skips then: for experiments in which the kernel touches the memory.
 */
int lab_uffd(struct probe_run *run, uint64_t features);
int lab_uffd_kernel(struct probe_run *run, uint64_t features);

/* One of a process that has ended; skips as lab_uffd() does. */
int lab_uffd_of_dead(struct probe_run *run);

/* Raw: 0 or -errno. @modes: UFFDIO_REGISTER_MODE_; @ret_ioctls may be NULL. */
int lab_try_register(int uffd, void *at, size_t length_bytes, uint64_t modes, uint64_t *ret_ioctls);
/* All of @memory, or the experiment breaks. */
uint64_t lab_register(struct probe_run *run, int uffd, const struct lab_memory *memory,
		      uint64_t modes);
int lab_unregister(int uffd, void *at, size_t length_bytes);

/* Raw, one ioctl each: 0 or -errno. @ret_field: the result field as the kernel left it (0 before); may be NULL. */
int lab_copy(int uffd, void *to, const void *from, size_t length_bytes, uint64_t mode,
	     int64_t *ret_field);
/* COPY of one page of @memory filled with @byte. */
int lab_copy_byte(int uffd, const struct lab_memory *memory, size_t i, uint8_t byte, uint64_t mode);
int lab_zeropage(int uffd, void *to, size_t length_bytes, uint64_t mode, int64_t *ret_field);
int lab_continue(int uffd, void *to, size_t length_bytes, uint64_t mode, int64_t *ret_field);
int lab_poison(int uffd, void *to, size_t length_bytes, uint64_t mode, int64_t *ret_field);
int lab_move(int uffd, void *to, void *from, size_t length_bytes, uint64_t mode,
	     int64_t *ret_field);
int lab_protect(int uffd, void *at, size_t length_bytes, uint64_t mode);
int lab_wake(int uffd, void *at, size_t length_bytes);

/* The next message, waited for up to @timeout_ms. False: none came. */
bool lab_message(struct probe_run *run, int uffd, int timeout_ms, struct uffd_msg *ret_message);
/* A page fault message must come within a second, or the experiment breaks. */
struct uffd_msg lab_fault(struct probe_run *run, int uffd);
/* The one thread that waits, and whose message was read: has nothing woken it since? */
bool lab_is_asleep(struct probe_run *run, int uffd);
/* No message is waiting now. Sound only once the access has ended. */
bool lab_is_silent(struct probe_run *run, int uffd);

/* Faults that nobody has read; *@ret_total (may be NULL): and such as were read and not resolved. */
unsigned int lab_pending(struct probe_run *run, int uffd, unsigned int *ret_total);

/* ---- somebody who touches it ---- */

/*
 * A thread that runs @work(@argument) once and keeps what it returned. It may be stuck in a fault for
 * as long as the experiment likes.
 */
struct lab_thread;
struct lab_thread *lab_start(struct probe_run *run, intptr_t (*work)(void *argument),
			     void *argument);
/* Readers and writers of one byte; the reader's result is the byte. */
struct lab_thread *lab_start_read(struct probe_run *run, const void *at);
struct lab_thread *lab_start_write(struct probe_run *run, void *at, uint8_t byte);
/* Has it ended within @timeout_ms? */
bool lab_ended(struct lab_thread *thread, int timeout_ms);
/* What comes first: a message of its access (true; it is stuck), or its end without one. */
bool lab_raised(struct probe_run *run, int uffd, struct lab_thread *thread,
		struct uffd_msg *ret_message);
/* It must end within two seconds, or the experiment breaks. */
intptr_t lab_join(struct probe_run *run, struct lab_thread *thread);
pid_t lab_thread_id(const struct lab_thread *thread);
/* Does it wait? One that waits at a page does so when its message comes, and not once it is woken. */
bool lab_sleeps(const struct lab_thread *thread);

/*
 * Answer every fault of @uffd in a thread of its own until the process ends: wp faults by
 * un-protecting, missing ones by COPY of @byte, minor ones by CONTINUE. *@n_faults counts messages of
 * a page fault, by kind; readable with relaxed loads.
 */
struct lab_faults {
	unsigned int n_missing, n_minor, n_wp;
};
const struct lab_faults *lab_serve(struct probe_run *run, int uffd, const struct lab_memory *memory,
				   uint8_t byte);

/* Did an access end by a signal? SIGBUS or SIGSEGV of a one-byte access, else 0; @ret_code: si_code. */
int lab_signal_of_read(const void *at, int *ret_code);
int lab_signal_of_write(void *at, uint8_t byte, int *ret_code);

/* ---- what page tables say of our own process ---- */

uint64_t lab_pagemap(struct probe_run *run, const void *at);  /* a word of /proc/self/pagemap */
bool lab_is_protected(struct probe_run *run, const void *at); /* its uffd-wp bit */
bool lab_is_present(struct probe_run *run, const void *at);
bool lab_is_huge(struct probe_run *run, const void *at); /* mapped as one huge page */

/*
 * Pages reported WRITTEN by one whole walk of PAGEMAP_SCAN, by base page; skips before Linux 6.7.
 * @flags: PM_SCAN_. Return: the number, or -errno.
 */
int64_t lab_scan(struct probe_run *run, const void *at, size_t length_bytes, uint64_t flags);

/* The raw call on our own pagemap. Return: regions or -errno. */
int64_t lab_scan_raw(struct probe_run *run, struct pm_scan_arg *scan);

/* Swap @length_bytes out, and prove it; skips if the host has no swap or the kernel would not. */
void lab_swap_out(struct probe_run *run, void *at, size_t length_bytes);

/*
 * A child of fork() that runs @work and exits with its result, which is waited for. Return: the exit
 * status, 0 to 255, or minus the signal that it died of.
 */
int lab_fork(struct probe_run *run, int (*work)(void *argument), void *argument);
