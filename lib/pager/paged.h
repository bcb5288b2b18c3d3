/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The facade's own structs, for the files of this room only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "dirty/dirty-log.h"
#include "fault/demand.h"
#include "guest/guest.h"
#include "kernel/memcg.h"
#include "pager/kept.h"
#include "source/source.h"
#include "ufd/pager.h"

#define PAGE_MAX_BYTES GIB
#define N_TOLD_PIDS    16
#define SLEEP_MAX_NS   NSEC_PER_SEC /* of a demand thread */

/* A function of ufd/pager.h. */
#define EXPORT __attribute__((visibility("default")))

struct ufd_pager_guest {
	struct ufd_pager *pager;
	struct ufd_pager_guest *next; /* in pager->guests; under pager->lock */
	struct ufd_pager_guest_opts opts;
	void *userdata;
	struct source *sources[MAX_MEMORIES]; /* references */
	struct memory *forgotten;	      /* replaced; notices under way may still name them */

	/* of one that was adopted */
	char *specs[MAX_MEMORIES]; /* owned; of sources, as recorded */
	bool is_adopted;
	bool is_started; /* as recorded: a successor is to serve the guest */
	bool is_halted;	 /* by pager_halt() */

	/*
	 * Who changes mappers, memories or the view holds @model_lock; so does the bulk thread while
	 * it looks at them. The demand thread never takes it.
	 */
	pthread_mutex_t model_lock;
	struct guest *guest;	       /* owned */
	struct demand *_Atomic demand; /* owned; NULL before start, then for ever the same */

	/* under model_lock; what is in the maps is for any thread */
	struct dirty_log dirty;
	char refusal[256]; /* why the last tracking was refused */

	/* under pager->lock */
	unsigned int n_users; /* 1 while the bulk thread holds a pointer */
	bool is_leaving;

	/* under model_lock, by the bulk thread */
	pid_t told_pids[N_TOLD_PIDS]; /* foreign mappers that were announced */
	unsigned int n_told_pids;

	/* of the bulk thread */
	uint64_t look_at_ns;  /* when its limits are due */
	uint64_t limit_group; /* the control group that limits it most; 0: none does */
	/* to be done when nobody holds model_lock */
	struct memory *must_judge[MAX_MEMORIES];
	uint32_t n_must_judge;
	bool must_graduate; /* it is complete */

	/* of ufd_pager_is_alive(), under pager->lock */
	uint64_t seen_pulse;
	uint64_t seen_ns; /* when it last was another one */

	_Atomic uint64_t frames_cached, frames_unpacked; /* as last looked at, for the counters */
	_Atomic bool is_graduated;
	_Atomic bool is_ended;
};

struct ufd_pager {
	struct ufd_pager_opts opts;
	int event_fd;	      /* owned eventfd: notices are queued */
	int chore_fd;	      /* owned eventfd: chores are queued, or the bulk thread is to end */
	int ledger_directory; /* owned; -EBADF: ledgers are memfds */
	pthread_t bulk;
	bool has_bulk;
	_Atomic bool must_stop;

	struct cgroup_tree groups; /* where limits of memory are found */

	pthread_mutex_t lock;	/* the list and who uses its members */
	pthread_cond_t changed; /* a guest completed, ended, or lost its last user */
	struct ufd_pager_guest *guests;
	struct ufd_pager_guest *dispatching; /* by the thread that dispatches */
	char late_name[UFD_NAME_BYTES];	     /* of a guest whose thread does not turn */
};

/* NULL before the start. Acquire: pairs with release in ufd_pager_guest_start(). */
static inline struct demand *paged_demand(const struct ufd_pager_guest *paged)
{
	return atomic_load_explicit(&paged->demand, memory_order_acquire);
}

/* Carry out a command; without a demand thread yet there is nothing to tell. */
int paged_command(struct ufd_pager_guest *paged, struct command *command);

/* Unregister a mapping in steps that leave the process's address space lock free in between. */
void paged_unregister(const struct mapping *mapping);

/*
 * Take out what was left half made or half removed: by a former process, or by us while its process was in the
 * middle of a discard. Holding model_lock.
 */
void paged_undo_halves(struct ufd_pager_guest *paged);
/* With the start of one that was adopted: what came to no mapping can be declared anew. The same. */
void paged_forget_unmapped(struct ufd_pager_guest *paged);

/* Another mapping shows pages of an anonymous or private memory already that this one would show. */
bool mapping_is_private_and_shown(const struct guest_view *view, const struct mapping *wanted);

/* Into the engine's list, and a guest that is in none: all that needs no kernel undone. */
void paged_link(struct ufd_pager *pager, struct ufd_pager_guest *paged);
void paged_destroy(struct ufd_pager_guest *paged);

/* Options as they come from a caller, or from a ledger. Return: 0, -EINVAL, -E2BIG, -EOPNOTSUPP. */
int paged_load_opts(struct ufd_pager_guest_opts *opts, const struct ufd_pager_guest_opts *given);

/* ---- keep.c: what a successor needs ---- */

/* The guest's own record, as it is now. Return: 0, -ENOSPC. */
int keep_guest(struct ufd_pager_guest *paged);

/* The source of memory @id. Return: 0, -ENOSPC. */
int keep_source(struct ledger *ledger, uint32_t id, struct source *source);

/* The memory's records and states go: it is mapped nowhere. */
void keep_drop_memory(struct ledger *ledger, const struct memory *memory);

/* ---- residence.c ---- */

/* The code of this process stays in memory, as it is touched. */
void residence_lock_code(void);

/* ---- stats.c ---- */

/* Copy as much of one of ours as the caller's struct has. Return: 0, -EINVAL (its size). */
int stats_hand_over(void *to, const void *from, size_t n_from);

/* ---- bulk.c: the one thread that may block on the kernel ---- */

int bulk_start(struct ufd_pager *pager);
void bulk_stop(struct ufd_pager *pager);
/* Wait until the bulk thread uses the guest no more; it is out of the list. */
void bulk_let_go(struct ufd_pager_guest *paged);
/* Sleep until pager->changed, or @until_ns. Holding pager->lock. Return: false when time is over.
 */
bool bulk_wait_change(struct ufd_pager *pager, uint64_t until_ns);

/* ---- limits.c: how much the guests' control groups leave ---- */

/* Before the thread fills its first page. Context: job; blocks. */
void limits_begin(struct ufd_pager_guest *paged, struct demand *demand);
/* If it is due, or asked for; sets look_at_ns. Context: bulk. */
void limits_look(struct ufd_pager_guest *paged);

/* ---- mappers.c: who else maps a memory ---- */

struct others {
	pid_t *pids; /* borrowed */
	size_t n_pids;
	size_t n; /* found, may exceed n_pids */
};

/*
 * Processes that map @memory and are no mapper of the guest; with @by_range also mappers of the
 * guest that map it at an address which is not registered. Blocks; reads /proc. Return: 0 or
 * -errno.
 */
int mappers_find(struct ufd_pager_guest *paged, const struct memory *memory, bool by_range,
		 struct others *ret);
/* The same for who may not wait for the guest's other calls. Return: also -EAGAIN. */
int mappers_try_find(struct ufd_pager_guest *paged, const struct memory *memory, bool by_range,
		     struct others *ret);

/* ---- absence.c ---- */

/* Prove that @mapping shows nothing that was declared absent. Return: 0, -ENOTEMPTY, -errno. */
int absence_prove(struct ufd_pager_guest *paged, struct mapping *mapping, uint64_t *ret_offset);

/*
 * Of a memory whose bytes are in its own file: pages that the process has mapped by itself are present. No fault tells of
 * them, and nobody protects what is absent. @mapping is registered. Return: 0, -EACCES (pagemap), -ESRCH, -errno.
 */
int absence_keep_mapped(struct ufd_pager_guest *paged, struct mapping *mapping);
