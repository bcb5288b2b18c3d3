/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The facade's own structs, for the files of this room only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fault/demand.h"
#include "guest/guest.h"
#include "kernel/memcg.h"
#include "source/source.h"
#include "ufd/pager.h"

#define N_TOLD_PIDS 16

/* A function of ufd/pager.h. */
#define EXPORT __attribute__((visibility("default")))

struct ufd_pager_guest {
	struct ufd_pager *pager;
	struct ufd_pager_guest *next; /* in pager->guests; under pager->lock */
	struct ufd_pager_guest_opts opts;
	void *userdata;
	struct source *sources[MAX_MEMORIES]; /* references */
	struct memory *forgotten;	      /* replaced; notices under way may still name them */

	/*
	 * Who changes mappers, memories or the view holds @model_lock; so does the bulk thread while
	 * it looks at them. The demand thread never takes it.
	 */
	pthread_mutex_t model_lock;
	struct guest *guest;	       /* owned */
	struct demand *_Atomic demand; /* owned; NULL before start, then for ever the same */

	/* under pager->lock */
	unsigned int n_users; /* 1 while the bulk thread holds a pointer */
	bool is_leaving;

	/* under model_lock, by the bulk thread */
	pid_t told_pids[N_TOLD_PIDS]; /* foreign mappers that were announced */
	unsigned int n_told_pids;

	/* of the bulk thread */
	uint64_t look_at_ns;  /* when its limits are due */
	uint64_t limit_group; /* the control group that limits it most; 0: none does */

	_Atomic bool is_graduated;
	_Atomic bool is_ended;
};

struct ufd_pager {
	struct ufd_pager_opts opts;
	int event_fd; /* owned eventfd: notices are queued */
	int chore_fd; /* owned eventfd: chores are queued, or the bulk thread is to end */
	pthread_t bulk;
	bool has_bulk;
	_Atomic bool must_stop;

	struct memcg_tree groups; /* where limits of memory are found */

	pthread_mutex_t lock;	/* the list and who uses its members */
	pthread_cond_t changed; /* a guest completed, ended, or lost its last user */
	struct ufd_pager_guest *guests;
	struct ufd_pager_guest *dispatching; /* by the thread that dispatches */
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

/* ---- absence.c ---- */

/* Prove that @mapping shows nothing that was declared absent. Return: 0, -ENOTEMPTY, -errno. */
int absence_prove(struct ufd_pager_guest *paged, struct mapping *mapping, uint64_t *ret_offset);
