/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The demand thread: its life, its rounds and its sleep. Theory of operation in demand.h. */
#include "fault/demand.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "fault/engine.h"
#include "fault/fill.h"
#include "kernel/uffd.h"
#include "kernel/uring.h"

#define LOOK_NS	      NSEC_PER_MSEC /* completions are looked at this often while there is work */
#define IDLE_NS	      NSEC_PER_SEC  /* without a fault: buffers are given back */
#define SPIN_SLICE_NS (20 * NSEC_PER_USEC)
#define DRAIN_NS      (500 * NSEC_PER_MSEC)
#define LEAVE_NS      (200 * NSEC_PER_MSEC)
#define STACK_BYTES   (512 * KIB)
#define STACK_LOCKED  (128 * KIB)

/* ---- rounds ---- */

static void demand_polled(struct demand *demand, uint32_t i, int32_t result)
{
	demand->readers[i].is_armed = false;
	demand->readers[i].is_ready = true;
	if (result > 0 && result & POLLERR)
		(void)uffd_make_nonblocking(demand->guest->mappers[i].uffd);
}

static void demand_completion(struct demand *demand, const struct uring_completion *completion)
{
	uint64_t token = completion->token;

	if (token == TOKEN_COMMAND) {
		uint64_t n;

		demand->is_command_armed = false;
		(void)!read(demand->command_fd, &n, sizeof(n));
	} else if (token >= TOKEN_PIDFD(0) && token < TOKEN_LIMIT) {
		demand->readers[token - TOKEN_PIDFD(0)].is_pidfd_armed = false;
		demand_mapper_gone(demand, &demand->guest->mappers[token - TOKEN_PIDFD(0)]);
	} else if (token >= TOKEN_UFFD(0) && token < TOKEN_LIMIT) {
		demand_polled(demand, (uint32_t)(token - TOKEN_UFFD(0)), completion->result);
	} else {
		struct source_request *request = (struct source_request *)(uintptr_t)token;
		struct slot *slot = (struct slot *)request; /* its first member */

		fill_answer(demand, slot,
			    source_finish(slot->memory->source, request, completion->result));
	}
}

/* What sources completed on other threads. */
static void demand_answers(struct demand *demand)
{
	uint32_t n_answers = atomic_load_explicit(&demand->n_answers, memory_order_acquire);

	if (n_answers == demand->n_answers_taken)
		return;
	for (unsigned int i = 0; i < N_SLOTS; i++) {
		struct slot *slot = &demand->slots.slots[i];

		/* pairs with release in fill_complete_elsewhere() */
		if (slot->state != SLOT_READING ||
		    !atomic_load_explicit(&slot->is_answered, memory_order_acquire))
			continue;
		atomic_store_explicit(&slot->is_answered, false, memory_order_relaxed);
		demand->n_answers_taken++;
		fill_answer(demand, slot, slot->answer);
	}
}

/* What has happened until now; it may fill pages. */
static void demand_looked(struct demand *demand, const struct uring_completion *completions,
			  unsigned int n)
{
	demand->looked_ns = demand->now_ns;
	for (unsigned int i = 0; i < n; i++)
		demand_completion(demand, &completions[i]);
}

static int demand_look(struct demand *demand, uint64_t timeout_ns)
{
	struct uring_completion completions[N_COMPLETIONS];
	unsigned int n = 0;
	int r = uring_wait(demand->ring, timeout_ns, completions, N_COMPLETIONS, &n);

	if (r < 0)
		return r;
	demand->now_ns = clock_now_ns();
	demand_looked(demand, completions, n);
	return 0;
}

/* Slots whose moment has come. Return: when the next one's comes. */
static uint64_t demand_retry(struct demand *demand)
{
	uint64_t next_ns = UINT64_MAX;

	for (unsigned int i = 0; demand->slots.n_waiting && i < N_SLOTS; i++) {
		struct slot *slot = &demand->slots.slots[i];

		if (slot->state != SLOT_WAITING)
			continue;
		if (slot->retry_at_ns <= demand->now_ns) {
			demand->slots.n_waiting--;
			slot->state = SLOT_READING;
			demand_note(demand, FLIGHT_RETRY, slot->memory, slot->pages.first,
				    slot->n_tries);
			board_fill(demand, slot, BOARD_FILLING, 0);
			if (slot->has_bytes)
				fill_put(demand, slot);
			else
				fill_read(demand, slot);
		}
		if (slot->state == SLOT_WAITING)
			next_ns = min_u64(next_ns, slot->retry_at_ns);
	}
	return next_ns;
}

static void demand_tell_completion(struct demand *demand)
{
	if (demand->is_complete_told || !demand_is_complete(demand))
		return;
	demand->is_complete_told = true;
	demand->background.is_forced = false;
	demand_note(demand, FLIGHT_COMPLETED, NULL, 0, 0);
	demand_tell(demand, UFD_EVENT_COMPLETED, NULL, 0, 0);
	demand_ask(demand, CHORE_COMPLETE, NULL, 0);
}

static uint64_t until_ns(const struct demand *demand, uint64_t at_ns)
{
	return at_ns == UINT64_MAX ? UINT64_MAX
				   : (at_ns > demand->now_ns ? at_ns - demand->now_ns : 0);
}

/* It lives. */
static void demand_beat(struct demand *demand)
{
	demand->now_ns = clock_now_ns();
	atomic_store_explicit(&demand->pulse, demand->pulse + 1, memory_order_relaxed);
	board_beat(demand);
}

int demand_step(struct demand *demand, uint64_t *ret_sleep_ns)
{
	uint64_t retry_at_ns, sleep_ns = demand->config.sleep_max_ns, background_ns;
	bool any = false;
	int r;

	demand_beat(demand);
	demand_tell_lost(demand);
	*ret_sleep_ns = 0;
	if (demand->now_ns - demand->looked_ns >= LOOK_NS ||
	    demand->slots.n_free + demand->slots.n_waiting < N_SLOTS) {
		r = demand_look(demand, 0);
		if (r < 0)
			return r;
	}
	/* after the look, which takes the signal: what is queued later signals again */
	commands_take(demand);
	demand_answers(demand);
	allowance_run(demand);
	if (demand->is_recovering) {
		demand->is_recovering = false;
		put_recover(demand);
		park_wake_all(demand);
	}

	r = messages_take(demand, demand->is_working || demand->is_busy_elsewhere, &any);
	if (r < 0)
		return r;
	retry_at_ns = demand_retry(demand);
	before_write_run(demand);
	park_run(demand);
	stall_run(demand);
	if (any)
		return 0;
	if (demand->park.wake_at_ns == UINT64_MAX)
		demand->park.delay_ns = PARK_MIN_NS;

	/* After a piece the uffds are read at once; after faults alone the poll tells of more. */
	demand->is_working = window_piece(demand) || background_piece(demand, &background_ns);
	if (demand->is_working)
		return 0;

	demand_tell_completion(demand);
	if (demand->now_ns - demand->fault_ns >= IDLE_NS)
		slots_trim(&demand->slots);
	sleep_ns = min_u64(sleep_ns, background_ns);
	sleep_ns = min_u64(sleep_ns, until_ns(demand, retry_at_ns));
	sleep_ns = min_u64(sleep_ns, until_ns(demand, demand->park.wake_at_ns));
	sleep_ns = min_u64(sleep_ns, until_ns(demand, demand->stalls.next_ns));
	*ret_sleep_ns = sleep_ns;
	return 0;
}

static void demand_arm(struct demand *demand)
{
	if (!demand->is_command_armed)
		demand->is_command_armed = uring_add_poll(demand->ring, demand->command_fd,
							  TOKEN_COMMAND);
	for (uint32_t i = 0; i < demand->n_mappers; i++) {
		struct mapper *mapper = &demand->guest->mappers[i];
		struct reader *reader = &demand->readers[i];

		if (mapper->is_gone)
			continue;
		if (!reader->is_armed)
			reader->is_armed = uring_add_poll(demand->ring, mapper->uffd,
							  TOKEN_UFFD(i));
		if (!reader->is_pidfd_armed)
			reader->is_pidfd_armed = uring_add_poll(demand->ring, mapper->pidfd,
								TOKEN_PIDFD(i));
	}
}

int demand_sleep(struct demand *demand, uint64_t sleep_ns)
{
	struct uring_completion completions[N_COMPLETIONS];
	unsigned int n = 0;
	int r;

	demand_arm(demand);
	/* release: who sees it sees all that we have done; see demand_is_asleep() */
	atomic_store_explicit(&demand->board->is_asleep, 1, memory_order_release);
	r = uring_wait(demand->ring, sleep_ns, completions, N_COMPLETIONS, &n);
	/* before a page is filled that the guest may write at once */
	demand_beat(demand);
	atomic_store_explicit(&demand->board->is_asleep, 0, memory_order_seq_cst);
	if (r < 0)
		return r;
	demand_looked(demand, completions, n);
	return 0;
}

/*
 * Buys latency with a CPU: for the time of the setting after a fault, look for others before sleeping.
 * A slice of that at a time, since all else is looked at between slices only.
 */
static int demand_spin(struct demand *demand, uint64_t sleep_ns, bool *ret_has_spun)
{
	uint64_t now_ns = clock_now_ns();
	uint64_t until_ns = min_u64(clock_add_ns(demand->fault_ns, demand->config.spin_ns),
				    now_ns + min_u64(sleep_ns, SPIN_SLICE_NS));
	bool any = false;
	int r = 0;

	*ret_has_spun = now_ns < until_ns;
	while (r == 0 && !any && clock_now_ns() < until_ns)
		r = messages_take(demand, true, &any);
	return r;
}

/* ---- life ---- */

/*
 * No buffer may go while somebody writes into it: wait for every read that is under way. A disk or a
 * server that never answers must not keep us for ever. Return: false if one of them did not end.
 */
static bool demand_drain(struct demand *demand)
{
	uint64_t until_ns = clock_now_ns() + (demand->is_left ? LEAVE_NS : DRAIN_NS);
	bool is_reading;

	do {
		is_reading = false;
		demand_answers(demand);
		for (unsigned int i = 0; i < N_SLOTS; i++) {
			struct slot *slot = &demand->slots.slots[i];

			if (slot->state == SLOT_READING)
				is_reading = true;
			else if (slot->state != SLOT_FREE &&
				 (slot->is_recovered || demand->is_left))
				slot_release(&demand->slots, slot); /* in doubt as before */
			else if (slot->state != SLOT_FREE)
				fill_give_back(demand, slot, PAGE_ABSENT);
		}
		if (is_reading && clock_now_ns() >= until_ns)
			return false;
		if (is_reading)
			is_reading = demand_look(demand, 10 * NSEC_PER_MSEC) == 0;
	} while (is_reading);
	/* an answer is seen before its thread has raised the signal for it: that one still uses us */
	while (atomic_load_explicit(&demand->n_completing, memory_order_acquire))
		sched_yield();
	return true;
}

/*
 * Reads that did not end. A thread that read by io_uring cannot even exit before they do, so it stays,
 * with the buffers that their bytes land in, and puts all away when the last one has ended. Nothing
 * else is touched any more: the guest is gone.
 */
static void demand_linger(struct demand *demand)
{
	struct uring_completion completions[N_COMPLETIONS];
	bool is_reading = true;

	while (is_reading) {
		unsigned int n = 0;

		if (uring_wait(demand->ring, NSEC_PER_SEC, completions, N_COMPLETIONS, &n) < 0)
			return; /* and leave it all where it is */
		for (unsigned int i = 0; i < n; i++)
			if (completions[i].token >= TOKEN_LIMIT)
				((struct slot *)(uintptr_t)completions[i].token)->state = SLOT_FREE;
		is_reading = false;
		for (unsigned int i = 0; i < N_SLOTS; i++)
			is_reading |= demand->slots.slots[i].state == SLOT_READING &&
				      !atomic_load_explicit(&demand->slots.slots[i].is_answered,
							    memory_order_acquire);
		is_reading |= atomic_load(&demand->n_completing) > 0;
	}
	demand_free(demand);
}

static void demand_place(const struct demand *demand)
{
	if (demand->config.cpu >= 0) {
		cpu_set_t cpus;

		CPU_ZERO(&cpus);
		CPU_SET(demand->config.cpu, &cpus);
		(void)pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	}
	if (demand->config.nice)
		(void)setpriority(PRIO_PROCESS, 0, demand->config.nice); /* of this thread */
	(void)pthread_setname_np(pthread_self(), "ufd-demand");
	/* what all of our functions together take of it; to ask for its bounds would allocate */
	(void)mlock2((void *)(align_up((uint64_t)__builtin_frame_address(0), 4096) - STACK_LOCKED),
		     STACK_LOCKED, MLOCK_ONFAULT);
}

/* Its last words; after them demand_stop() returns, and may free what we do not take along. */
static void demand_end(struct demand *demand)
{
	struct demand_ending *ending = demand->ending;
	bool is_quiet = demand_drain(demand);

	if (!is_quiet) {
		pthread_detach(pthread_self());
		atomic_store(&demand->is_running, false);
	}
	ending->is_quiet = is_quiet;
	sem_post(&ending->done);
	if (!is_quiet)
		demand_linger(demand);
}

static void *demand_main(void *userdata)
{
	struct demand *demand = userdata;
	uint64_t sleep_ns;
	int r = 0;

	demand_place(demand);
	while (!demand->must_stop && r == 0) {
		r = demand_step(demand, &sleep_ns);
		if (r == 0 && sleep_ns && !demand->must_stop) {
			bool has_spun = false;

			if (demand->config.spin_ns)
				r = demand_spin(demand, sleep_ns, &has_spun);
			if (r == 0 && !has_spun)
				r = demand_sleep(demand, sleep_ns);
		}
	}
	/* Only our own bugs end a ring or a uffd: said, and the guest stalls rather than reads
	 * wrong bytes. */
	if (r < 0)
		demand_tell(demand, UFD_EVENT_STALLED, NULL, 0, -r);
	while (!demand->must_stop) {
		struct pollfd wait = { .fd = demand->command_fd, .events = POLLIN };
		uint64_t n;

		(void)poll(&wait, 1, (int)(demand->config.sleep_max_ns / NSEC_PER_MSEC));
		(void)!read(demand->command_fd, &n, sizeof(n));
		commands_take(demand);
		/* it is this guest that is lost, not the others: no cause for a watchdog */
		atomic_store_explicit(&demand->pulse, demand->pulse + 1, memory_order_relaxed);
	}
	demand_end(demand);
	return NULL;
}

/* Pages of its own: they are locked, as far as RLIMIT_MEMLOCK allows. */
static int demand_alloc(struct demand **ret)
{
	void *pages = mmap(NULL, sizeof(struct demand), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		return -errno;
	(void)mlock2(pages, sizeof(struct demand), MLOCK_ONFAULT);
	*ret = pages;
	return 0;
}

int demand_new(struct demand **ret, struct guest *guest, const struct demand_config *config)
{
	_cleanup_(demand_freep) struct demand *demand = NULL;
	uint64_t page_bytes = 0;
	void *zeros;
	int r;

	r = demand_alloc(&demand);
	if (r < 0)
		return r;
	demand->command_fd = -EBADF;
	demand->guest = guest;
	demand->board = ledger_board(guest->ledger);
	demand->flight = ledger_flight(guest->ledger);
	demand->view = guest->view;
	demand->n_mappers = guest->n_mappers;
	demand->n_memories = guest->n_memories;
	demand->config = *config;
	demand->is_working = true;
	demand->is_recovering = true;
	demand->is_complete_told = config->is_graduated;
	for (uint32_t i = 0; i < guest->n_memories; i++) {
		demand->is_graduated[i] = config->is_graduated;
		count_add(&demand->counters.poisoned_pages, guest->memories[i]->n_poisoned);
	}
	pthread_mutex_init(&demand->command_lock, NULL);
	park_init(&demand->park);
	stalls_init(&demand->stalls);
	allowance_init(&demand->allowance);
	for (uint32_t i = 0; i < guest->n_memories; i++)
		page_bytes = max_u64(page_bytes, guest->memories[i]->page_bytes);

	zeros = mmap(NULL, ZEROS_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		     0);
	if (zeros == MAP_FAILED)
		return -errno;
	demand->zeros = zeros;
	demand->command_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (demand->command_fd < 0)
		return -errno;
	r = slots_init(&demand->slots, page_bytes);
	if (r == 0)
		r = ring_init(&demand->commands, N_COMMANDS, sizeof(struct command *));
	if (r == 0)
		r = ring_init(&demand->notices, N_NOTICES, sizeof(struct notice));
	if (r == 0)
		r = ring_init(&demand->chores, N_CHORES, sizeof(struct chore));
	if (r == 0)
		r = uring_new(&demand->ring, N_COMPLETIONS);
	if (r < 0)
		return r;

	demand->now_ns = clock_now_ns();
	board_begin(demand);
	messages_replay(demand);
	*ret = TAKE_PTR(demand);
	return 0;
}

struct demand *demand_free(struct demand *demand)
{
	if (!demand)
		return NULL;
	assert(!demand_is_running(demand));
	uring_free(demand->ring);
	ring_done(&demand->commands);
	ring_done(&demand->notices);
	ring_done(&demand->chores);
	slots_done(&demand->slots);
	if (demand->zeros)
		munmap((void *)demand->zeros, ZEROS_BYTES);
	closep(&demand->command_fd);
	pthread_mutex_destroy(&demand->command_lock);
	munmap(demand, sizeof(*demand));
	return NULL;
}

int demand_start(struct demand *demand)
{
	pthread_attr_t attributes;
	int r;

	demand->must_stop = false;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	atomic_store(&demand->is_running, true);
	r = pthread_create(&demand->thread, &attributes, demand_main, demand);
	pthread_attr_destroy(&attributes);
	if (r)
		atomic_store(&demand->is_running, false);
	return -r;
}

bool demand_stop(struct demand *demand, bool is_left)
{
	struct command stop = { .kind = COMMAND_STOP };
	struct demand_ending ending = {};

	if (!demand_is_running(demand))
		return true;
	sem_init(&ending.done, 0, 0);
	demand->ending = &ending;
	demand->is_left = is_left;
	(void)demand_command(demand, &stop);
	while (sem_wait(&ending.done) < 0)
		;
	sem_destroy(&ending.done);
	if (!ending.is_quiet)
		return false;
	pthread_join(demand->thread, NULL);
	atomic_store(&demand->is_running, false);
	return true;
}

bool demand_is_running(const struct demand *demand)
{
	return atomic_load(&demand->is_running);
}

bool demand_take_notice(struct demand *demand, struct notice *ret)
{
	return ring_remove(&demand->notices, ret);
}

bool demand_take_chore(struct demand *demand, struct chore *ret)
{
	return ring_remove(&demand->chores, ret);
}

const struct fault_counters *demand_counters(const struct demand *demand)
{
	return &demand->counters;
}

uint64_t demand_pulse(const struct demand *demand)
{
	return atomic_load_explicit(&demand->pulse, memory_order_relaxed);
}

bool demand_is_asleep(const struct demand *demand)
{
	/* pairs with the release in demand_sleep() */
	return atomic_load_explicit(&demand->board->is_asleep, memory_order_acquire);
}
