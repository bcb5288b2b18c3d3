/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the guests of a soak run tell its controller: a memfd that all of them map.
 *
 * Each thread of a guest says what it is doing before it does it, for it may not come back: whoever
 * touches an absent page sleeps until a daemon serves it. All times are CLOCK_MONOTONIC, which is
 * the same in every process of the machine.
 *
 * One writer for each field, and any number of readers.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define SOAK_N_GUESTS  64
#define SOAK_N_THREADS 3    /* of a guest */
#define SOAK_N_FAULTS  4096 /* the last ones of a thread */

/* What may have to wait for the daemon. */
enum soak_op { SOAK_TOUCH = 1, SOAK_MADVISE, SOAK_ANNOUNCE };

enum soak_phase {
	SOAK_ARRIVING = 1, /* the daemon is being asked to page a new memory */
	SOAK_RUNNING,
	SOAK_LEAVING, /* the daemon is being asked to fill all and let go */
	SOAK_CHECKING,
	SOAK_DONE,
};

/*
 * The first touch of a page that was in no page table a moment before, and is no hole of the image.
 * @ended_ns: 0 as long as the page is not there.
 */
struct soak_fault {
	_Atomic uint64_t began_ns;
	_Atomic uint64_t ended_ns;
};

struct soak_thread {
	_Atomic uint64_t op_began_ns; /* 0: in no operation */
	_Atomic uint32_t op;
	_Atomic uint32_t page;
	_Atomic uint64_t n_faults; /* ever; the next is at this modulo SOAK_N_FAULTS */
	struct soak_fault faults[SOAK_N_FAULTS];
};

struct soak_guest {
	_Atomic uint32_t phase;
	_Atomic uint64_t phase_ns; /* since when */
	/* Pages that nobody has filled: known where neither neighbours nor the background are. */
	_Atomic uint64_t n_absent;
	_Atomic uint64_t n_rounds;
	_Atomic uint64_t n_checked;
	_Atomic uint64_t n_wrong;
	_Atomic uint64_t n_discarded;
	_Atomic uint64_t n_written;
	_Atomic uint64_t n_resumed; /* the daemon came back and knew the guest */
	_Atomic uint64_t
		n_reattached;	   /* it did not, while the guest ran: it was handed over anew */
	_Atomic uint64_t n_epochs; /* that its consumer has read */
	_Atomic uint64_t n_copied; /* pages of the consumer's copies that were compared */
	struct soak_thread threads[SOAK_N_THREADS];
};

struct soak_board {
	_Atomic uint32_t must_stop;
	uint32_t n_guests;
	struct soak_guest guests[];
};
