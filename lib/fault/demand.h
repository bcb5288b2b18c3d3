/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * THE DATA PLANE of one guest: its demand thread.
 *
 * Theory of operation. One thread reads all uffds of the guest, owns the page states and issues all
 * fills, so there are no locks, no claims between threads and no priority inversion. It conserves
 * work and obeys a strict priority, looking at the uffds again between any two pieces:
 *
 *	1. messages: events of a batch before its faults	(fault/messages.c)
 *	2. demanded pages: at once, or when their bytes arrive	(fault/fill.c)
 *	3. the rest of their windows				(fault/window.c)
 *	4. prefetch and background fill				(fault/background.c)
 *	5. sleep in one io_uring wait: polls of uffds and pidfds, reads, the command eventfd
 *
 * A fill occupies a slot (fault/slot.h) from the claim of its pages until they are present or given
 * back. Nothing is allocated and nothing blocks after demand_new(). What cannot be done now is
 * parked: its fault is dropped and comes again by a WAKE (fault/park.h).
 *
 * Bytes are put into memory by UFFDIO_COPY, which never overwrites what the guest wrote. The only
 * other way, writing into the file after a foreign touch, is fault/foreign.c.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "fault/command.h"
#include "fault/counters.h"

struct allowance_look;
struct demand;
struct guest;

enum demand_policy { POLICY_STALL, POLICY_POISON, POLICY_KILL };

#define WINDOW_NONE UINT64_MAX

/* Readable; defaults filled in by the owner. */
struct demand_config {
	enum demand_policy policy;
	uint64_t deadline_ns;
	uint64_t background_rate; /* bytes a second; 0: no limit */
	uint64_t window_bytes;	  /* a multiple of the page size, or WINDOW_NONE */
	uint64_t spin_ns;
	uint64_t sleep_max_ns;	/* below half the watchdog period */
	bool can_map_protected; /* CONTINUE takes MODE_WP (Linux 6.4) */
	bool is_background;
	bool is_adopted;   /* from a former process */
	bool is_graduated; /* and it is complete and unregistered: nothing is to be told */
	int cpu;	   /* -1: anywhere */
	int nice;
	int event_fd; /* borrowed eventfd: written when a notice was queued */
	int chore_fd; /* borrowed eventfd: written when a chore was queued */
};

/**
 * demand_new() - the data plane of a guest, not running
 * @guest: borrowed until demand_free(); its view is shown to the thread
 *
 * Context: any; allocates everything that will ever be needed. Return: 0 or -errno.
 */
int demand_new(struct demand **ret, struct guest *guest, const struct demand_config *config);
struct demand *demand_free(struct demand *demand); /* stopped, or never started */
DEFINE_CLEANUP(struct demand, demand_free)

/* Context: any; blocks until the thread runs. */
int demand_start(struct demand *demand);

/**
 * demand_stop() - end the thread, between two pieces of work
 * @is_left: leave all claims as they are, for a successor; else they are given back, and who waits
 *	     for them is woken
 *
 * Waits for reads that are under way, since their bytes land in our buffers, but not for ever.
 * Context: any; blocks. Return: false if a read did not end: the demand is the thread's own then, which
 * frees it when that has.
 */
bool demand_stop(struct demand *demand, bool is_left);
bool demand_is_running(const struct demand *demand);

/**
 * demand_step() - one round without sleeping; what the thread repeats
 * @ret_sleep_ns: how long it may sleep now; 0: there is more to do
 *
 * Context: demand, or the model test in its place. Return: 0, or -errno when the uffd broke.
 */
int demand_step(struct demand *demand, uint64_t *ret_sleep_ns);

/* Arm the polls and sleep until something happens or @sleep_ns pass. Context: as demand_step(). */
int demand_sleep(struct demand *demand, uint64_t sleep_ns);

/**
 * demand_command() - have the demand thread do something, and wait until it has
 *
 * Without a running thread the command is carried out here. Context: not demand; blocks for one
 * piece of work at most. Return: the command's result.
 */
int demand_command(struct demand *demand, struct command *command);

/*
 * The bulk thread has looked at the limits of memory control groups (fault/allowance.h). Between
 * looks: does the thread ask for one; does it hold filling back?
 * Context: any; does not block.
 */
void demand_allow(struct demand *demand, const struct allowance_look *look);
bool demand_wants_look(const struct demand *demand);
bool demand_is_held(const struct demand *demand);

/* What happened, oldest first. Context: one consumer thread each. False: nothing (more). */
bool demand_take_notice(struct demand *demand, struct notice *ret);
bool demand_take_chore(struct demand *demand, struct chore *ret);

/* Readable from any thread with relaxed loads. */
const struct fault_counters *demand_counters(const struct demand *demand);

/* Increases with every round: the watchdog's pulse. Context: any. */
uint64_t demand_pulse(const struct demand *demand);
/*
 * In its wait for something to happen, where it stays for sleep_max_ns at most. If so, it has applied all that it
 * has read, and finished all that it had begun: each page that it put into memory is present, each that it marked as
 * written has lost its protection. Context: any; acquire.
 */
bool demand_is_asleep(const struct demand *demand);
