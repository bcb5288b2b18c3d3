/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guests by name, and the engine that serves them. */
#pragma once

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "attach/paging.h"
#include "base/cleanup.h"
#include "store/record.h"
#include "store/store.h"

struct event_base;
struct registry;
struct store;

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

/* Somebody who wants the name. Embedded by him; zero is not waiting. */
struct registry_waiter {
	LIST_ENTRY(registry_waiter) waiter_link;
	bool is_waiting;
	bool is_for_arrival; /* wants the guest, not its name */
	void (*on_free)(struct registry_waiter *waiter);
};

/* Shared. Fixed at the beginning; then the loop's own; then what jobs work on. */
struct registration {
	struct registry *registry;
	char qmp[108]; /* "" if there is none */

	LIST_ENTRY(registration) registration_link;
	LIST_HEAD(, registry_waiter) waiter_list;
	unsigned int n_refs;
	enum registration_state state;
	uid_t owner;		       /* while arriving: the caller, until its job knows better */
	pid_t pid;		       /* the first process; while arriving set by its job */
	int pidfd;		       /* owned; of it */
	uint64_t attached_ns;	       /* CLOCK_REALTIME; when it was asked for */
	uint64_t adopted_ns;	       /* CLOCK_MONOTONIC; 0: it is no former process's */
	bool has_ended;		       /* its last process did, while it was arriving */
	bool is_filled;		       /* by the drain under way: nothing is absent */
	struct ufd_pager_guest *shown; /* the engine's guest while serving; for its counters only */

	char number[STORE_NUMBER_BYTES]; /* in the store; under the engine's lock */
	pthread_mutex_t
		dirty_lock; /* held by jobs: who reads what it wrote, and pauses it for that */
	pthread_mutex_t save_lock; /* held by jobs, before that: one save at a time */
	json_t *mapper_warnings;   /* owned, under dirty_lock: who else mapped its memories */
	uint64_t mappers_due_ns;   /* likewise; CLOCK_MONOTONIC: then it is looked again */
	_Atomic bool owes_resume;  /* it was paused, and may not have gone on */
	bool is_resuming;	   /* the loop's: a job sees to that */
	struct dirty_counters {
		_Atomic uint64_t n_reads;
		_Atomic uint64_t dirty_bytes;
		_Atomic uint64_t n_pauses;
		_Atomic uint64_t paused_ns;
	} dirty;					  /* added to by jobs, relaxed: only sums */
	_Atomic uint64_t n_snapshots, n_snapshots_failed; /* relaxed: only sums */
	struct paging paging; /* see there; its userdata is the registration */
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

/* Takes every complete guest down, and leaves the others as they are. Blocks. */
struct registry *registry_free(struct registry *registry);

/* Wait for every thread of the registry's own and hear what it has to say. Before control_free().
 * Blocks. */
void registry_stop(struct registry *registry);
DEFINE_CLEANUP(struct registry, registry_free)

/* @on_event is called on the loop. NULL: nobody listens. */
void registry_set_listener(struct registry *registry, registry_event_fn on_event, void *userdata);

/**
 * registry_arrive() - take a name
 *
 * Return: 0 with a reference for the caller, -EEXIST, -EMFILE (as many guests as allowed), -ENOMEM.
 */
int registry_arrive(struct registry *registry, const char *name, uid_t owner,
		    const struct settings *settings, struct registration **ret);

/**
 * registry_wait() - be called when a name is free again, or its guest has arrived (or has not)
 *
 * Only a guest that is leaving, or whose first process has ended without anybody having noticed
 * yet, is worth waiting for; for its arrival only one that is arriving.
 * Return: false if there is nothing to wait for; then nothing happens.
 */
bool registry_wait(struct registry *registry, const char *name, struct registry_waiter *waiter);
void registry_waiter_cancel(struct registry_waiter *waiter);

/**
 * registry_adopt() - a guest that a former process left, and that is going to be served
 * @guest: the registry's from now on, also after a failure
 *
 * Its memories and mappers are the caller's to fill in. Return: 0 with a borrowed one, -ENOMEM.
 */
int registry_adopt(struct registry *registry, struct ufd_pager_guest *guest,
		   const struct record_guest *record, struct registration **ret);

/* For those who keep guests and adopt them. Borrowed. */
struct paging_engine *registry_engine(struct registry *registry);

/* The job has filled the third group in: it serves from now on. @pidfd is borrowed. */
void registration_commit(struct registration *registration, pid_t pid, int pidfd, uid_t owner);

/* Those who wait for its arrival go on. After the reply to whoever brought it. */
void registration_arrived(struct registration *registration);

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

/* It stays as it is, for whoever finds it in the store; here it is gone. With no job at work on it. */
void registration_leave(struct registration *registration);

/* Tell those who listen that this happened to it. */
void registration_announce(struct registration *registration, const char *kind);

struct registration *registration_ref(struct registration *registration);
struct registration *registration_unref(struct registration *registration);
DEFINE_CLEANUP(struct registration, registration_unref)

/* One that serves, or NULL. Borrowed. */
struct registration *registry_find(struct registry *registry, const char *name);
/* To walk over those that serve: @before NULL for the first. Borrowed; NULL at the end. */
struct registration *registry_next(struct registry *registry, struct registration *before);

/* All that serve. @ret: owned array of references; NULL without memory. */
size_t registry_collect(struct registry *registry, struct registration ***ret);

struct registry_totals registry_totals(struct registry *registry);

/* See store_set_min_reader(); in turn with the jobs. Context: job. Blocks. */
void registry_set_min_reader(struct registry *registry, struct store *store, uint32_t layout);

/* Is a guest being taken down? */
bool registry_is_busy(const struct registry *registry);

/**
 * registry_park() - every guest is left as it is, for a successor; the engine and its threads end
 *
 * Not while it is busy, nor while a job works on a guest. Nothing but registry_free() may follow. Blocks.
 */
void registry_park(void *registry);

/* Those that take guests down, and fill them before the end: as many at one time as there are. */
struct jobs *registry_jobs(struct registry *registry);
