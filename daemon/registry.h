/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guests by name, and the engine that serves them. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <ufd/pager.h>

#include "attach/process.h"
#include "base/cleanup.h"
#include "settings.h"

struct event_base;
struct jobs;
struct registry;

/*
 * A registration passes through these:
 *   arriving  the name is taken, a job attaches. Leaves by registration_commit() or _abandon().
 *   serving   the engine pages it. Leaves by registration_retire().
 *   leaving   a job takes the engine's guest down; the name stays taken.
 */
enum registration_state {
	REGISTRATION_ARRIVING,
	REGISTRATION_SERVING,
	REGISTRATION_LEAVING,
};

/* Readable. */
struct registration_memory {
	char name[UFD_NAME_BYTES];
	char *source;	     /* owned; SPEC as the client gave it */
	uint64_t base_bytes; /* where the engine's memory begins, in the client's offsets */
	uint64_t length_bytes;
	uint64_t page_bytes;
	uint32_t kind;	 /* enum ufd_memory_kind */
	uint32_t number; /* the engine's */
};

/* Readable. A process that maps the guest's memory. */
struct registration_mapper {
	pid_t pid;
	uint32_t number; /* the engine's */
	struct process_attachment
		attachment; /* owned; none if the process handed its uffd over itself */
};

/*
 * Shared. Fields of the first group are fixed at the beginning, those of the second belong to the
 * loop, those of the third to whoever holds registry_lock().
 */
struct registration {
	struct registry *registry;
	char name[UFD_NAME_BYTES];
	struct settings settings;
	bool is_process; /* front end `process`, else `client` */
	char qmp[108];	 /* "" if there is none */

	LIST_ENTRY(registration) registration_link;
	unsigned int n_refs;
	enum registration_state state;
	uid_t owner;		       /* set by commit, before that the caller */
	pid_t pid;		       /* the first process */
	uint64_t attached_ns;	       /* CLOCK_REALTIME */
	bool has_ended;		       /* its last process did, while it was arriving */
	struct ufd_pager_guest *shown; /* the engine's guest while serving; for its counters only */

	struct ufd_pager_guest *engine;	      /* owned; NULL before and after */
	struct registration_memory *memories; /* owned */
	size_t n_memories;
	struct registration_mapper *mappers; /* owned */
	size_t n_mappers;
};

/* Readable; see Event in io.ufd.manager. */
struct registry_event {
	const char *kind;
	const char *guest;
	const char *memory; /* or NULL */
	uint64_t offset_bytes;
	const char *message;
	uint64_t time_ns; /* CLOCK_REALTIME */
};
typedef void (*registry_event_fn)(void *userdata, const struct registry_event *event);

/* Readable. */
struct registry_totals {
	uint64_t n_guests;
	uint64_t n_memories;
	uint64_t n_faults;
	uint64_t filled_bytes;
	uint64_t n_stalled_pages;
};

/* Context: loop, unless said otherwise. Return: 0, -ENOSYS (no userfaultfd or io_uring here), other
 * -errno. */
int registry_new(struct registry **ret, struct event_base *base, size_t n_most);

/* Takes every guest down; call registry_drain() before if their processes are to live. Blocks. */
struct registry *registry_free(struct registry *registry);
DEFINE_CLEANUP(struct registry, registry_free)

/* @on_event is called on the loop. NULL: nobody listens. */
void registry_set_listener(struct registry *registry, registry_event_fn on_event, void *userdata);

/* The engine takes calls of one thread at a time: job threads wait for their turn. Context: job. */
void registry_lock(struct registry *registry);
void registry_unlock(struct registry *registry);
/* For the loop, which must not wait. */
bool registry_try_lock(struct registry *registry);
struct ufd_pager *registry_engine(struct registry *registry);

/**
 * registry_arrive() - take a name
 *
 * Return: 0 with a reference for the caller, -EEXIST, -EMFILE (as many guests as allowed), -ENOMEM.
 */
int registry_arrive(struct registry *registry, const char *name, uid_t owner,
		    const struct settings *settings, struct registration **ret);

/* The job has filled the third group in: it serves from now on. */
void registration_commit(struct registration *registration, pid_t pid, uid_t owner);

/*
 * Free the engine's guest, then let its processes go: what a job does that failed half-way.
 * Context: job, without the lock; blocks, for seconds if a process must be traced.
 */
void registration_take_down(struct registration *registration);

/* It does not come after all: what the job has done, if anything, is undone, and the name freed. */
void registration_abandon(struct registration *registration);

/**
 * registration_retire() - take it down, on a thread of the registry's own
 * @kind:    event to tell at the end: detached, ended
 * @on_gone: called on the loop when it is gone; may be NULL
 *
 * Return: false if it is leaving already; then @on_gone is not called.
 */
bool registration_retire(struct registration *registration, const char *kind,
			 void (*on_gone)(void *userdata), void *userdata);

struct registration *registration_ref(struct registration *registration);
struct registration *registration_unref(struct registration *registration);
DEFINE_CLEANUP(struct registration, registration_unref)

/* One that serves, or NULL. Borrowed. */
struct registration *registry_find(struct registry *registry, const char *name);
/* To walk over those that serve: @before NULL for the first. Borrowed; NULL at the end. */
struct registration *registry_next(struct registry *registry, struct registration *before);

/* All that serve. @ret: owned array of references; NULL without memory. */
size_t registry_collect(struct registry *registry, struct registration ***ret);

/* By the name clients use; with the lock held. NULL if there is none. */
struct registration_memory *registration_memory(struct registration *registration,
						const char *name);

struct registry_totals registry_totals(struct registry *registry);

/**
 * registry_drain() - fill every guest, before we stop
 * @done: called on the loop, at once if there is nothing to do; @n_left guests still have absent
 * pages
 */
void registry_drain(struct registry *registry, uint64_t timeout_ns,
		    void (*done)(void *userdata, size_t n_left), void *userdata);

/**
 * registration_finish() - fill what is absent, in small turns of the engine
 *
 * Context: job; blocks. Return: 0, -ETIMEDOUT, -ESRCH (it ended or was detached), -ECANCELED
 * (@is_cancelled said so).
 */
int registration_finish(struct registration *registration, uint64_t deadline_ns,
			bool (*is_cancelled)(void *userdata), void *userdata);
