/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The demand thread's own state, for the files of this room only.
 *
 * Context of every function of this room that demand.h does not declare: demand, unless its comment
 * says otherwise. They do not block, allocate or lock, except that slots_grow() maps larger buffers
 * when a memory with larger pages is plugged in.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/ring.h"
#include "fault/allowance.h"
#include "fault/background.h"
#include "fault/command.h"
#include "fault/counters.h"
#include "fault/decide.h"
#include "fault/demand.h"
#include "fault/park.h"
#include "fault/slot.h"
#include "fault/stall.h"
#include "fault/window.h"
#include "guest/flight.h"
#include "guest/guest.h"

struct before_write;
struct uring;

/* Completions of polls carry small numbers, those of reads the address of a request. */
#define TOKEN_COMMAND	    1
#define TOKEN_UFFD(mapper)  (0x100 + (uint64_t)(mapper))
#define TOKEN_PIDFD(mapper) (0x200 + (uint64_t)(mapper))
#define TOKEN_LIMIT	    0x300
#define N_COMPLETIONS	    64
#define N_COMMANDS	    16
#define N_NOTICES	    256
#define N_CHORES	    128 /* one for each memory, and what comes of new views */

/* What the thread keeps of each mapper. */
struct reader {
	bool is_armed; /* a poll of the uffd is in flight */
	bool is_ready; /* messages may be queued: read before sleeping */
	bool is_pidfd_armed;
};

/* What is known to hold bytes in a backing that is the source; empty if nothing is. */
struct data_run {
	uint64_t start, end; /* offsets in the backing */
};
/* On the stack of demand_stop(). */
struct demand_ending {
	bool is_quiet; /* no read is under way: the thread ends */
	sem_t done;    /* the guest is not touched any more */
};

#define DATA_RUN_HUGE_PAGES 64 /* looked at at once */

struct demand {
	struct guest *guest;	 /* borrowed */
	struct board *board;	 /* in the ledger */
	struct flight *flight;	 /* the same */
	struct guest_view *view; /* what we look into; see guest/guest.h */
	uint32_t n_mappers;	 /* as of the view: the guest's own counts belong to others */
	uint32_t n_memories;
	struct demand_config config;
	struct uring *ring;
	struct reader readers[MAX_MAPPERS];
	struct slots slots;
	struct window window;
	struct background background;
	struct allowance allowance;
	struct fault_counters counters;
	const void *zeros;	/* ZEROS_BYTES of untouched zero pages, for COPY */
	uint64_t now_ns;	/* of this round */
	uint64_t fault_ns;	/* when the last demand fault was read */
	uint64_t looked_ns;	/* when completions were last looked at */
	bool is_working;	/* between pieces: read the uffds without waiting for polls */
	bool is_recovering;	/* claims of a former process were not taken over yet */
	bool is_busy_elsewhere; /* an event is unread: read before filling more */
	bool is_graduated[MAX_MEMORIES];
	struct data_run data_runs[MAX_MEMORIES];
	bool is_verdict_asked[MAX_MEMORIES]; /* a chore about it is queued or under way */
	bool is_complete_told;
	bool has_ended;
	struct {
		struct mapping *mapping; /* NULL: none */
		struct page_range pages;
	} unprotecting;			   /* marked in this batch, and protected still */
	struct before_write *before_write; /* borrowed, or NULL */
	bool is_before_write_full;	   /* somebody is parked for it */
	uint64_t n_lost;		   /* notices that found the queue full, not told yet */

	struct ring commands; /* struct command *; producers hold @command_lock */
	struct ring notices;
	struct ring chores;
	pthread_mutex_t command_lock;
	int command_fd; /* owned eventfd */
	bool is_command_armed;

	pthread_t thread;
	_Atomic bool is_running;
	bool must_stop;
	bool is_left;		      /* set before COMMAND_STOP: claims stay as they are */
	struct demand_ending *ending; /* set before COMMAND_STOP */
	_Atomic uint64_t pulse;
	_Atomic uint32_t n_answers; /* completions from other threads, ever; release */
	uint32_t n_answers_taken;
	_Atomic uint32_t n_completing; /* other threads that are in fill_complete_elsewhere() */

	/* last: an idle guest touches the beginning of these alone */
	struct stalls stalls;
	struct park park;
};

#define ZEROS_BYTES GIB

/* ---- messages.c: read, apply events, resolve faults ---- */

/* @all: read every uffd, ready or not (between pieces). Return: 0 or -errno. */
int messages_take(struct demand *demand, bool all, bool *ret_any);
/* Apply what a former process had read when it died. */
void messages_replay(struct demand *demand);
/* @thread: who waits, as the message says; 0: unknown. */
void fault_resolve(struct demand *demand, struct mapper *mapper, struct hva address,
		   enum fault_kind kind, uint32_t thread);

/* ---- board.c: what others see of us, in the ledger ---- */

void board_begin(struct demand *demand);
void board_beat(struct demand *demand); /* once a round */
/* @error: positive errno of the last try, 0. */
void board_fill(struct demand *demand, const struct slot *slot, enum board_state state, int error);
void board_free(struct demand *demand, const struct slot *slot);
/* Entry @index of the stalls, which may be the one that went. */
void board_stall(struct demand *demand, unsigned int index);
/* Into the flight recorder; @memory may be NULL. */
void demand_note(struct demand *demand, enum flight_kind kind, const struct memory *memory,
		 uint64_t page, int64_t value);

/* ---- put.c: what a successor must know of a fill ---- */

/* Before the ioctl of a fill, and when what it did is in the page states. */
void put_note(struct demand *demand, const struct slot *slot, struct page_range pages);
/* The ledger says that a put of @page was not finished. */
bool put_is_in_doubt(const struct demand *demand, const struct memory *memory, uint64_t page);
void put_clear(struct demand *demand, const struct slot *slot);
/* Take over the puts of a former process, slot by slot; all other claims of it are void. */
void put_recover(struct demand *demand);

/* ---- discard.c ---- */

/* @pages read zero from now on. Return: how many of them had not been filled; who waits for them is to be woken. */
uint64_t discard_pages(struct demand *demand, struct memory *memory, struct page_range pages);

/* ---- foreign.c: pages that others made ---- */

void foreign_touch(struct demand *demand, struct slot *slot, uint64_t page);
void foreign_verdict(struct demand *demand, struct memory *memory, bool is_alone);

/* ---- track.c: for trackers ---- */

/*
 * A write of a protected page: it is marked, and un-protected together with its neighbours of the same
 * batch, at the latest at its end.
 */
void track_unprotect(struct demand *demand, struct mapping *mapping, uint64_t page);
void track_unprotect_end(struct demand *demand);
/* The entry of a present page is gone: unless it is known to have been protected, it was written. */
void track_note_written(struct mapping *mapping, uint64_t page);
/*
 * @pages were filled through @done (NULL: left as holes): what a scan of the other mappings finds there is no write.
 */
void track_protect_others(struct demand *demand, const struct memory *memory,
			  struct page_range pages, const struct mapping *done);
/* COMMAND_HOLES. Return: 0, -errno. */
int track_holes(struct demand *demand, const struct command *command);

/* ---- before-write.c ---- */

/* COMMAND_BEFORE_WRITE. Return: 0, -EBUSY. */
int before_write_install(struct demand *demand, struct before_write *hook);
/* The first write of a page. Return: false if it has to wait, and is parked. */
bool before_write_save(struct demand *demand, struct mapping *mapping, uint64_t page);
/* What they held is gone, or is about to go. */
/*
 * Events are about to be read, and (false) have been applied: whom the kernel has told goes on at once, and so a page can
 * be gone before we have said so.
 */
void before_write_listen(struct demand *demand, bool is_listening);
void before_write_lose(struct demand *demand, const struct memory *memory, struct page_range pages);
/* Those who wait for room are woken when there is some. */
void before_write_run(struct demand *demand);

/* ---- command.c ---- */

void commands_take(struct demand *demand);

/* ---- tell.c: notices, chores, and what they are about ---- */

void demand_tell(struct demand *demand, uint32_t kind, struct memory *memory, uint64_t page,
		 int64_t value);
/* Once there is room again: how many were lost, and anew what somebody waits for. */
void demand_tell_lost(struct demand *demand);
void demand_ask(struct demand *demand, enum chore_kind kind, struct memory *memory, uint64_t page);
/* Pages left absent or filling for good: completion is counted here. */
void demand_settled(struct demand *demand, struct memory *memory, uint64_t n_pages);
void demand_mapper_gone(struct demand *demand, struct mapper *mapper);
bool demand_is_complete(const struct demand *demand);
