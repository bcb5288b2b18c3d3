/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the engine serves for one guest: its memories by the names clients use, and its processes. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <ufd/pager.h>

#include "attach/front-end.h"
#include "attach/offers.h"
#include "attach/process.h"
#include "settings.h"

struct job;
struct paging;
struct plan;
struct refusal;

/*
 * Who sees to it that guests outlive us; he is above this room. All are called by jobs, with the
 * lock held.
 */
struct paging_keeper {
	/* Does a guest of this plan fit, or what the plan adds to one that is there? 0 or -ECANCELED. */
	int (*admit)(void *userdata, struct paging *paging, const struct plan *plan, pid_t pid,
		     struct refusal *refusal);
	/* What is known of the guest by now is kept, before anything depends on it. 0 or -ECANCELED. */
	int (*keep)(void *userdata, struct paging *paging, struct refusal *refusal);
	/* It is about to be taken down: a successor would go on with that. */
	void (*leave)(void *userdata, struct paging *paging);
	/* It has been taken down: nothing of it is left. */
	void (*drop)(void *userdata, struct paging *paging);
};

/* The engine, which takes calls of one thread at a time: job threads wait for their turn. */
struct paging_engine {
	pthread_mutex_t lock;
	struct ufd_pager *pager;	    /* owned */
	LIST_HEAD(, paging) paging_list;    /* those that have a guest */
	const struct paging_keeper *keeper; /* NULL: nobody; fixed at the beginning */
	void *keeper_data;
	struct offers offers; /* has a lock of its own */
};

/* Who keeps records by the numbers of memories: those of this tag are dropped when a number becomes another memory's. */
#define PAGING_TAG_MEMORY (UFD_OWN_TAG + 9)

/* Readable. */
struct paging_memory {
	char name[UFD_NAME_BYTES];
	char *source;	     /* owned; SPEC as the client gave it */
	uint64_t base_bytes; /* where the engine's memory begins, in the client's offsets */
	uint64_t length_bytes;
	uint64_t page_bytes;
	uint32_t kind;	 /* enum ufd_memory_kind */
	uint32_t number; /* the engine's */
};

/* Readable. A process that maps the guest's memory. */
struct paging_mapper {
	pid_t pid;
	uint32_t number; /* the engine's */
	struct process_attachment
		attachment;  /* owned; none if the process handed its uffd over itself */
	uint64_t uffd_inode; /* 0: not looked at yet */
	bool has_duplicate;  /* the process held a copy of its uffd when it became a mapper, */
	int copy_fd;	     /* of this number */
};

/* Embedded. The first group is fixed at the beginning; the second belongs to whoever holds the lock. */
struct paging {
	struct paging_engine *engine; /* borrowed */
	char name[UFD_NAME_BYTES];
	struct settings settings;
	void *userdata; /* of the engine's guest: comes with its events */
	enum front_end front_end;
	bool is_offered; /* its userfaultfd was offered before somebody brought it, see offers.h */

	const char *
		consumer; /* borrowed; while it arrives: tracks it from before the first fill. NULL: nobody */

	LIST_ENTRY(paging) paging_link;
	struct ufd_pager_guest *guest;	/* owned; NULL before and after */
	struct paging_memory *memories; /* owned */
	size_t n_memories;
	struct paging_mapper *mappers; /* owned */
	size_t n_mappers;
	struct process_attachment arriving; /* owned; of a process that is no mapper yet */
	_Atomic bool has_duplicates;	    /* all mappers have; any thread may look */
	bool is_to_be_left;		    /* see paging_take_down(); fixed before */
};

void paging_init(struct paging *paging, struct paging_engine *engine, const char *name,
		 const struct settings *settings, void *userdata);
/* The guest must have been taken down, or never have come. */
void paging_done(struct paging *paging);

/* Context: job. */
void paging_lock(struct paging *paging);
void paging_unlock(struct paging *paging);
/* For those who hold up a guest meanwhile. Return: false if it was not to be had in this time. */
bool paging_lock_within(struct paging *paging, uint64_t timeout_ns);
/* For the loop, which must not wait. */
bool paging_try_lock(struct paging *paging);

/* By the name clients use; with the lock held. NULL if there is none. */
struct paging_memory *paging_memory(struct paging *paging, const char *name);

/* The one that pages a piece of this range of the process already, or NULL. With the lock held. */
struct paging *paging_find_claim(struct paging_engine *engine, pid_t pid, uint64_t address,
				 uint64_t length_bytes);

/* An engine's guest is there: its claims count from now on. With the lock held. */
void paging_begin(struct paging *paging, struct ufd_pager_guest *guest);

/* Does the process map a memory of a guest that is served? Context: job, without the lock. */
bool paging_has_process(struct paging *paging, pid_t pid);

/* Is it a mapper with a mapping? A crash may have come between the two. With the lock held. */
bool paging_has_mapping(struct paging *paging, pid_t pid);

/* Are its userfaultfds without asynchronous write-protection, for synchronous tracking? With an engine's guest. */
bool paging_is_wp_sync(const struct paging *paging);

/* See struct paging_keeper. With the lock held. */
int paging_admit(struct paging *paging, const struct plan *plan, pid_t pid,
		 struct refusal *refusal);
int paging_keep(struct paging *paging, struct refusal *refusal);

/* What arrived and became no mapper goes: its plan was refused, or a former process died before. Context: as attaching. */
void paging_let_arriving_go(struct paging *paging);

/**
 * paging_attach_process() - make a userfaultfd in a process that is to become a mapper
 *
 * It is `arriving` until plan_apply() makes it a mapper, it is let go, or the guest is taken down. A
 * successor finds in the ledger what has been made. What is arriving still is let go before.
 * Context: job, without the lock; see process_attach(). Return: 0 or -ECANCELED.
 */
int paging_attach_process(struct paging *paging, pid_t pid, struct process_opts *opts,
			  struct refusal *refusal);

/**
 * paging_finish() - fill what is absent, in small turns of the engine
 * @job: give up when it is cancelled; may be NULL
 *
 * Context: job, without the lock; blocks. Return: 0, -ETIMEDOUT, -ESRCH (it ended or was detached),
 *          -EINTR (cancelled).
 */
int paging_finish(struct paging *paging, uint64_t deadline_ns, const struct job *job);

/*
 * May it be that its processes run already, while it does not serve? One of populated=keep ran before, and so
 * may one that came with registered ranges: the process holds the userfaultfd, and threads may wait there. To
 * unregister would show them zeros. What does not come is left as it is, for the next attempt.
 */
bool paging_may_run_already(const struct paging *paging);

/*
 * Free the engine's guest (or leave it, if it is to be left), then let its processes go.
 * Context: job, without the lock; blocks, for seconds if a process must be traced.
 */
void paging_take_down(struct paging *paging);
