/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VMM's side of a hand-over, played from what is known of Firecracker: nothing of ufd is in it.
 *
 *	sim-firecracker.c  options, the course of a run, the line at the end
 *	sim-memory.c	   guest memory, its userfaultfd, and what each page must read as
 *	sim-message.c	   what is said on the socket
 *	sim-threads.c	   who touches, discards and writes
 *	sim-kvm.c	   a vCPU that touches
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_BASE_BYTES	  UINT64_C(4096)
#define SIM_HUGE_BYTES	  (UINT64_C(2) << 20)
#define SIM_MAX_REGIONS	  16
#define SIM_MAX_THREADS	  16

#define SIM_DISCARDS_TOLD 11 /* the first version that does not map anew, but discards */

/* Exit statuses. */
enum {
	SIM_GOOD = 0,
	SIM_WRONG = 1,	 /* a byte was */
	SIM_FAILED = 2,	 /* something else, which stderr names */
	SIM_REFUSED = 3, /* the other side closed the connection */
	SIM_LATE = 5,	 /* the deadline passed */
	SIM_SKIP = 77,
};

/* What is done in place of a proper hand-over; the end of the connection is waited for then. */
enum sim_sin {
	SIM_NO_SIN,
	SIM_SILENT,
	SIM_HALF,
	SIM_NO_FD,
	SIM_GARBAGE,
	SIM_SECRET_FREEDOM,
	SIM_UFFD_BLOCK,
	SIM_BLOCKING_UFFD,
	SIM_NO_HANDSHAKE,
	SIM_FOREIGN_UFFD,
};

struct sim_options {
	const char *socket, *file, *version;
	unsigned int minor; /* of version 1.MINOR; `main` is beyond all */
	bool is_e2b, has_memfd, is_sync_wp;
	uint64_t page_bytes;
	unsigned int n_regions, n_threads, n_passes;
	uint64_t n_discards, write_every, seed;
	bool is_early_close, is_split, has_extra_keys, has_page_size, is_empty_first;
	bool has_virtio_mem, is_kvm, does_hold;
	uint64_t die_after, stop_after; /* pages touched; 0: never */
	unsigned int deadline_seconds;
	enum sim_sin sin;
};

struct sim_region {
	unsigned char *address;
	uint64_t length_bytes, offset_bytes;
	uint64_t plugged_bytes; /* from its start; the rest is PROT_NONE */
};

/* What a page must read as. */
enum {
	SIM_PAGE_FILE,	    /* as the file has it */
	SIM_PAGE_VANISHING, /* either */
	SIM_PAGE_ZERO,
};
#define SIM_PAGE_WRITTEN 4 /* beside one of these: its last word is sim_mark() */

struct sim {
	struct sim_options options;
	const unsigned char *file; /* mapped, never written */
	uint64_t file_bytes, n_pages;
	struct sim_region regions[SIM_MAX_REGIONS];
	int memfd, uffd;
	_Atomic unsigned char *pages;
	int socket; /* -1 once it is closed */
	_Atomic uint64_t n_touched, n_kernel_touched, n_wrong, n_zero, n_discarded, n_written;
	_Atomic uint64_t first_wrong; /* 1 + its offset */
	uint64_t n_shown_dirty;	      /* by /proc/self/pagemap, as e2b's fork looks at it */
};

_Noreturn void sim_fail(int status, const char *what, int error);

/* sim-memory.c */
void sim_write_file(const char *path, uint64_t mib);
void sim_memory_make(struct sim *sim);
void sim_uffd_make(struct sim *sim);
/* NULL if it is not plugged in. */
unsigned char *sim_page(const struct sim *sim, uint64_t page);
uint64_t sim_mark(const struct sim *sim, uint64_t page);
/* Compare what was seen of a page with what it may read as; @before: its state then. */
void sim_judge(struct sim *sim, uint64_t page, const unsigned char *seen, unsigned char before);
void sim_discard(struct sim *sim, uint64_t first, uint64_t n_pages);
void sim_write(struct sim *sim, uint64_t page);
void sim_plug(struct sim *sim);
void sim_count_dirty(struct sim *sim);

/* sim-message.c */
void sim_connect(struct sim *sim);
void sim_hand_over(struct sim *sim);
_Noreturn void sim_wait_for_end(struct sim *sim);

/* sim-threads.c */
uint64_t sim_random(uint64_t *state);
void sim_run(struct sim *sim);

/* sim-kvm.c */
void sim_run_kvm(struct sim *sim);
