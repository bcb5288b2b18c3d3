/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who wants to know what was written: consumers and their epochs.
 *
 *	stage	 | what there is			| leaves by
 *	---------+--------------------------------------+------------------------------------------
 *	free	 | nothing				| maps and records are there -> starting
 *	starting | maps; pages are being protected	| all are -> started; crash -> free
 *	started	 | its baseline or an epoch was told	| a read begins -> reading; stop -> stopping
 *	reading	 | the epoch is counted, and on its way	| all of it is unacked -> started
 *		 | from pending to unacked		| crash -> started, with the epoch before
 *	stopping | what there was, whole or in part	| all is gone -> free; crash -> free
 *
 * A read, in this order, each step in the ledger before the next begins:
 *	1. the epoch before did not arrive: unacked goes back to pending
 *	2. harvest: what was written is marked in the pending maps of all consumers
 *	3. the record: stage reading, the next epoch
 *	4. pending moves to unacked, in the place of what was acknowledged; with the tracker wp, these pages are protected again, when the demand
 *	   thread has done what it had begun
 *	5. the record: stage started
 * Nobody was told of an epoch in stage reading, so a successor takes it back. A kill at any instruction
 * leaves each written page in pending or in unacked, or in the vector of a scan.
 *
 * The maps of all consumers are marked alike; that a page was protected again for one does not matter to
 * another, in whose pending map it stays.
 *
 * Threads: one at a time, who holds the guest's model still; looking at maps and names is for any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "dirty/file-look.h"
#include "dirty/tracker.h"
#include "guest/dirty-map.h"
#include "guest/guest.h"

/* The numbers are part of the ledger's layout. */
enum consumer_stage {
	CONSUMER_FREE = 0,
	CONSUMER_STARTING = 1,
	CONSUMER_STARTED = 2,
	CONSUMER_READING = 3,
	CONSUMER_STOPPING = 4,
};

/* In the ledger as it is here. Readable. */
struct consumer {
	char name[NAME_BYTES];
	uint32_t stage; /* enum consumer_stage */
	uint32_t reserved;
	uint64_t epoch; /* read last */
	uint64_t
		begun_ns; /* CLOCK_MONOTONIC; its baseline, and the one before the epoch read last */
	uint64_t taken_ns; /* when that was taken; the baseline if none was */
	/* what was met in harvests: since the last epoch, and for that one */
	uint64_t pending_uncertain_bytes, unacked_uncertain_bytes;
	uint64_t pending_strange, unacked_strange; /* memories */
};

/* Embedded by the guest's owner; readable. */
struct dirty_log {
	struct guest *guest; /* borrowed */
	const struct tracker *tracker;
	struct consumer consumers[MAX_CONSUMERS];
	struct file_look looks[MAX_MEMORIES];
	/* memory->n_discarded up to which discards were seen to have happened */
	uint64_t settled_discards[MAX_MEMORIES];
	/*
	 * Returns when whatever the demand thread has marked is no longer protected: between the two, a
	 * page may be taken and protected again too early. NULL: there is no such thread. With a tracker
	 * that is not sync nothing is waited for: see n_discarded of struct memory for discards. A page
	 * that is put there and written while we read may be told one epoch later.
	 */
	void (*settle)(void *userdata);
	void *userdata;	       /* for @settle */
	uint32_t acknowledged; /* bit a consumer: what is unacked goes with the next epoch */
	uint32_t told_gone;    /* bit a mapper: what it may have written last is marked */
	/* ever, in this process */
	_Atomic uint64_t n_reads, n_scans, n_reported, n_strange;
	_Atomic uint64_t uncertain_bytes, unarmed_bytes;
};

/* What one read found. */
struct dirty_epoch {
	uint64_t epoch;
	uint64_t begun_ns, taken_ns;
	uint64_t dirty_bytes, uncertain_bytes, n_strange;
};

enum {
	_DIRTY_OK,
	DIRTY_GONE, /* every process of the guest has ended */
	DIRTY_UNKNOWN, /* the epoch that is acknowledged is neither the last one nor the one before it */
};

void dirty_log_init(struct dirty_log *log, struct guest *guest, const struct tracker *tracker);

/* Any consumer beyond free? How many? */
uint32_t dirty_log_count(const struct dirty_log *log);

/* Its slot. Return: 0, -ENOENT. */
int dirty_log_find(const struct dirty_log *log, const char *name, uint32_t *ret_slot);

/**
 * dirty_log_add() - maps and records of a consumer, in stage starting; nothing is marked for it yet
 *
 * Context: bulk. Return: 0, -ENOSPC, -errno.
 */
int dirty_log_add(struct dirty_log *log, const char *name, uint32_t *ret_slot);

/* From now on what is written is marked for it: fills are protected, if they were not. */
void dirty_log_arm(struct dirty_log *log, uint32_t slot);

/* Everything is protected: the baseline. Return: 0, -EACCES (pagemap), -errno. */
int dirty_log_begin(struct dirty_log *log, uint32_t slot, uint64_t now_ns);

/* Nothing is marked for it any more; but others may be doing so right now. It is stopping. */
void dirty_log_disarm(struct dirty_log *log, uint32_t slot);
/* They are not: its maps and records go. */
void dirty_log_drop(struct dirty_log *log, uint32_t slot);

/* Maps for a memory that came later, for all consumers; armed at once. Return: 0, -ENOSPC, -errno. */
int dirty_log_add_memory(struct dirty_log *log, struct memory *memory);
/* It is mapped nowhere any more. */
void dirty_log_drop_memory(struct dirty_log *log, struct memory *memory);

/* Mark what was written for all consumers. Blocks. Return: 0, DIRTY_GONE, -EACCES, -EAGAIN, -errno. */
int dirty_log_harvest(struct dirty_log *log);
/*
 * What has become of the file of @memory since it was remembered: bits of enum file_change, after a harvest.
 * @ret_now: to be remembered when that is dealt with. Return: 0 or -errno.
 */
int dirty_log_look(const struct dirty_log *log, const struct memory *memory,
		   struct file_look *ret_now, unsigned int *ret_changes);
/* Also for a successor. Return: 0, -ENOSPC. */
int dirty_log_remember(struct dirty_log *log, const struct memory *memory,
		       const struct file_look *now);

/* All that exists of @memory, which somebody has written, nobody knows where. */
void dirty_log_note_strange(struct dirty_log *log, struct memory *memory);

/* Steps 1 and 3 to 5 of a read; the harvest is between them. Return: 0, DIRTY_UNKNOWN, DIRTY_GONE, -errno. */
int dirty_log_acknowledge(struct dirty_log *log, uint32_t slot, uint64_t epoch);
int dirty_log_take(struct dirty_log *log, uint32_t slot, uint64_t now_ns, struct dirty_epoch *ret);

/*
 * @mapping is about to be unregistered, or is unmapped already, and with it goes what its page tables know: what
 * others still show of its memory may have been written.
 */
void dirty_log_leave(struct dirty_log *log, struct mapping *mapping);

/* Protect again what was written and nobody has read yet: its next write is to be noticed, too (wp). */
int dirty_log_protect_pending(struct dirty_log *log);

/* ---- dirty-adopt.c ---- */

/**
 * dirty_log_adopt() - the consumers that the ledger names, armed; writes nothing
 *
 * Return: 0, LEDGER_DAMAGED, -errno.
 */
int dirty_log_adopt(struct dirty_log *log);

/*
 * What the former process had begun is taken back. Before the demand thread runs.
 * Return: true if pages are protected for nobody: the caller takes the protection off, then drops those who are not
 * started (dirty_log_drop_unfinished()).
 */
bool dirty_log_recover(struct dirty_log *log);
void dirty_log_drop_unfinished(struct dirty_log *log);

/* ---- for the files of this room ---- */

/* The read that came to nothing: its epoch never was. */
void dirty_log_take_back(struct dirty_log *log, uint32_t slot);
