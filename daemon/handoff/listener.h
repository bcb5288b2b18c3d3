/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listeners, visitors and the connections of guests, as the files of this room see them.
 *
 * A visitor passes through these, in this order:
 *   gathering  something of its message is missing. Leaves by its deadline, by a refusal, or to
 *   waiting    for a thread, or for a guest of its name to be gone. Leaves by its deadline, or to
 *   arriving   a job has it. Leaves by a refusal, or as a line.
 * A line is the connection of a guest that has arrived; it ends with the connection.
 *
 * Context of all: loop.
 */
#pragma once

#include <sys/queue.h>

#include "handoff/gather.h"
#include "handoff/handoff.h"
#include "refusal.h"
#include "registry.h"

struct event;

/* Readable. Everything since our start. */
struct handoff_counters {
	uint64_t n_visitors; /* who connected */
	uint64_t n_guests;   /* who arrived, */
	uint64_t n_again;    /* or came back with what we had already */
	uint64_t n_served;   /* conversations that came to their end */
	uint64_t
		n_empty; /* who left without a word, as old Firecrackers do before they try again */
	uint64_t n_refused;
};

/* Shared: the list has a reference, and so has each visitor. */
struct listener {
	LIST_ENTRY(listener) listener_link;
	unsigned int n_refs;
	struct handoffs *handoffs;
	struct handoff_wish wish;	       /* owned */
	const struct frontend *frontend;       /* NULL: it is recognised, or */
	const struct handoff_speaker *speaker; /* a conversation */
	int fd;		     /* owned; -EBADF while it is being made, and when it is gone */
	struct event *event; /* owned; NULL likewise */
	struct event *timer; /* owned; listens again when we had no fd left */
	uint32_t number;     /* in the store */
	bool is_kept;	     /* there */
	bool is_unit;	     /* its socket is the service manager's, */
	char unit[64];	     /* by this name */
	bool is_gone;	     /* nobody comes any more */
	dev_t device;	     /* of the socket's file, */
	ino_t inode;	     /* so that nobody else's is unlinked; 0: none of ours */
	LIST_HEAD(, visitor) visitor_list;
	size_t n_visitors;
	struct handoff_counters counters;
	char last_refusal[256]; /* "" if there was none */
};

struct handoffs {
	struct handoffs_needs needs;
	LIST_HEAD(, listener) listener_list;
	size_t n_listeners;
	LIST_HEAD(, line) line_list;
	unsigned int paused; /* enum handoffs_pause; by whom */
	bool is_stopped;
};

struct listener *listener_ref(struct listener *listener);
struct listener *listener_unref(struct listener *listener);

/* Let in as many as may come now. */
void listener_update(struct listener *listener);

/* A guest came: it counts, and may have been the last one. */
void listener_count(struct listener *listener);

/* ---- visitors ---- */

enum visitor_state {
	VISITOR_GATHERING,
	VISITOR_WAITING,
	VISITOR_ARRIVING,
};

struct visitor {
	LIST_ENTRY(visitor) visitor_link;
	struct registry_waiter waiter;
	struct listener *listener; /* a reference */
	struct gather gather;
	pid_t pid;
	int pidfd; /* owned */
	uid_t uid;
	gid_t gid;
	struct event *event;  /* owned; while gathering */
	struct event *timer;  /* owned; the deadline while gathering, then the next try */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */
	const struct frontend *frontend; /* whose message it is, once it is whole */
	struct frontend_offer offer;
	char name[UFD_NAME_BYTES];	   /* of its guest */
	struct registration *registration; /* a reference; once it arrives */
	bool is_again;			   /* the registration was there before */
	enum visitor_state state;

	/* The job's, then the loop's. */
	int result;
	struct refusal refusal;
	bool is_unverified; /* the process's maps cannot be read */
	bool is_protected;  /* the VMM registered write-protection */
	char said[160];	    /* by a speaker */
};

/* @fd: consumed. */
void visitor_new(struct listener *listener, int fd);

/* Its connection is closed. Not while a job has it. */
void visitor_free(struct visitor *visitor);

/* Say why, count, and be done with it. */
void visitor_refuse(struct visitor *visitor, const struct refusal *refusal);

/* Its message is whole, or it is to converse: a job begins, now or soon. */
void visitor_arrive(struct visitor *visitor);

/* The job itself. Context: job. Return: 0, -ECANCELED with @refusal set, other -errno. */
int visitor_hand_over(struct visitor *visitor, struct job *job);

/*
 * The file of an offer that brought none, from the process that maps it. Context: job. Return: 0, also
 * if it maps none; -ECANCELED.
 */
int hand_over_find_backing(struct gather *gather, struct frontend_offer *offer, pid_t pid,
			   struct refusal *refusal);

/* ---- lines ---- */

/* The guest has arrived: its connection is kept. @visitor: its gather is consumed. */
void line_new(struct visitor *visitor);
struct line;
void line_free(struct line *line);
