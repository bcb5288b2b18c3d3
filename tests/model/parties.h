/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the model offer each other; the world they act on is world.h. */
#pragma once

#include "world.h"

struct demand_config;

/* Fake fds: numbers that no real fd has. */
#define FAKE_FD_FIRST 0x100000
enum fake_fd_kind { FAKE_UFFD, FAKE_PIDFD, FAKE_PAGEMAP };

/* ---- chance.c: random numbers ---- */

void chance_seed(uint64_t seed);
uint64_t chance_word(void);
uint64_t chance_below(uint64_t n);
bool chance_one_in(uint64_t n); /* never, when the world is calm */

/* ---- trace.c: what happened, and failing ---- */

/* @format takes up to four uint64_t; the text must be a literal. */
void trace(const char *format, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
void trace_step(uint64_t step);
_Noreturn void model_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* How the run may be repeated, for the failure's message; and whether it is what we want. */
void trace_replay(uint64_t seed, bool is_failure_wanted);
/* How many steps a failure prints. */
void trace_length(uint64_t n_steps);

/* ---- fake-memory.c: page tables, files ---- */

enum touch { TOUCH_DONE, TOUCH_WAITS, TOUCH_SIGNAL };

/* One access by a thread. @token: read or to be written. @ret_flags: of the message, if it waits. */
enum touch memory_touch(struct area *area, uint64_t page, bool is_write, uint64_t *token,
			uint64_t *ret_flags);
void memory_zap(struct area *area, uint64_t page);	       /* MADV_DONTNEED */
void memory_punch(struct model_memory *memory, uint64_t page); /* fallocate, MADV_REMOVE */
void memory_swap_out(struct area *area, uint64_t page);
/* Somebody else, by an fd or a mapping. Return: false if there is no room or no such page. */
bool memory_poke(struct model_memory *memory, uint64_t page, uint64_t token, bool is_data);
bool memory_is_shared(const struct model_memory *memory);
struct file_page *area_file_page(const struct area *area, uint64_t page);
uint64_t area_address(const struct area *area, uint64_t page);
/* The area of @process at @address; NULL if there is none. */
struct area *area_at(unsigned int process, uint64_t address, uint64_t *ret_page);
struct model_memory *area_memory(const struct area *area);
/* Register it for write-protection, and protect everything. */
void area_arm(struct area *area);

/* ---- fake-uffd.c ---- */

int fake_fd(enum fake_fd_kind kind, unsigned int process);
bool uffd_has_unread(unsigned int process);
void uffd_wake_threads(unsigned int process, uint64_t start, uint64_t length_bytes);
void uffd_end_process(unsigned int process);

/* ---- guest-thread.c ---- */

/* Let the thread go on, or begin something new. */
void thread_run(struct thread *thread);
void thread_discard(struct thread *thread, struct area *area, struct page_range pages,
		    bool is_remove);
void thread_begin(struct thread *thread, struct area *area, uint64_t page, bool is_write);
void thread_queue(struct thread *thread, uint64_t flags);
void thread_abort(struct thread *thread);

/* ---- oracle.c ---- */

void oracle_init(struct model_memory *memory);
void oracle_read(struct model_memory *memory, uint64_t page, uint64_t token);
void oracle_write(struct model_memory *memory, uint64_t page, uint64_t token);
/* A discard begins; it takes a page that is there; its pages have gone; or its process died before. */
void oracle_discard_begins(struct area *area, uint64_t page, bool is_remove);
void oracle_discard_takes(struct area *area, uint64_t page);
void oracle_discard_ends(struct area *area, uint64_t page, bool is_remove, bool has_happened);
/* The file's page went, and nobody said so. */
void oracle_punched(struct model_memory *memory, uint64_t page);
/* The owner said that the page was discarded. */
void oracle_announced(struct model_memory *memory, uint64_t page);
/* Somebody else wrote into the file (it is shared memory). */
void oracle_poked(struct model_memory *memory, uint64_t page, uint64_t token);
/* A new engine has adopted the ledger. */
void oracle_recovered(struct model_memory *memory);
void oracle_trouble(struct model_memory *memory, uint64_t page, uint64_t n_pages);
uint64_t oracle_discarded(const struct model_memory *memory, uint64_t page);

/* ---- model-source.c ---- */

void model_source_open(struct model_memory *memory);
void model_source_close(struct model_memory *memory);
/* Complete one pending read of the callback source. Return: false if there is none. */
bool model_source_complete(void);
void model_source_forget(void);
void model_source_change(struct model_memory *memory);

/* ---- engine.c: the data plane under test ---- */

void engine_boot(const struct demand_config *with);
void engine_end(void);
/* One round, or the sleep after it. Return: true if it is about to sleep. */
bool engine_turn(void);
/* The engine dies here and now; engine_recover() is to follow. */
void engine_kill(void);
/* After a crash: throw the engine away, adopt the ledger. */
void engine_recover(void);
/* @kind: enum command_kind. */
void engine_command(unsigned int kind, struct model_memory *memory, struct page_range pages,
		    bool is_alone);
/* Answer one question of the engine. Return: false if there was none. */
bool engine_answer_chore(void);
void engine_show_area(struct area *area);
/* Of one that is leaving. Return: false if it is too early. */
bool engine_hide_area(struct area *area);
void engine_open_area(struct area *area);
/* One round or sleep, and nothing else: whoever calls finds out whether the engine has died. */
void engine_round(void);
bool engine_has_ended(void);
bool engine_is_asleep(void);
/* No source is asked. */
bool engine_is_idle(void);
/* Invariants that hold between any two calls. */
void engine_check(void);
/* Invariants that hold when nothing is under way. */
void engine_check_rest(void);
/* The ledger says that an engine was putting the page in. */
bool engine_is_in_doubt(const struct model_memory *memory, uint64_t page);
/* enum page_state */
unsigned int engine_page_state(const struct model_memory *memory, uint64_t page);

/* ---- fake-scan.c ---- */

/* Between them others go on whenever the kernel is entered, or the ledger stored into. */
void harvest_begin(void);
void harvest_end(void);
void harvest_others(void);

/* ---- midway.c ---- */

/* A part of a round of the engine, or the rest of it; or nothing, if it is held. */
void midway_go_on(void);
/* Somebody waits for it, as long as it takes. */
void midway_let_go(void);
/* It stands between two rounds afterwards. */
void midway_finish(void);
/*
 * The engine may stop here, if it runs on its way; @is_likely: others can see what it has done.
 * Return: false if it is somebody else who calls.
 */
bool midway_stop(bool is_likely);
/* The engine fills a page. */
void midway_check_awake(void);

/* ---- tracking.c: consumers of what was written ---- */

struct guest;
/* For an engine that begins, or takes over; before its first round. */
void tracking_build(struct guest *guest, bool is_new);
bool tracking_is_on(void);
void tracking_start(unsigned int number);
/* A consumer starts, reads or stops. */
void tracking_act(void);
/* A mapping is about to go. Return: false if the engine has died over it. */
bool tracking_leave(struct area *area);
/* The page was written just now. */
void tracking_check_write(const struct model_memory *memory, uint64_t page);
/* It changed in a way that nobody can know of. */
void tracking_ignore(const struct model_memory *memory, uint64_t page);
/* Nobody writes: everybody has been told of everything. */
void tracking_check(void);

/* ---- crash.c: dying ---- */

/* Return: true if the kernel is frozen, that is, the engine is dead already. */
bool crash_point(void);
/* Before and after each store into the ledger. */
void store_point(void);
void crash_arm(uint64_t n_points);
/* The ledger that is to be kept; -EBADF: none. */
void crash_watch(int ledger_fd);
/* Put the ledger back as it was when the engine died; the kernel works again. */
void crash_restore(void);

/* ---- coverage.c: the decision table ---- */

/* Return: how many cells were hit less than @n_wanted times, each said. */
unsigned int coverage_report(uint64_t n_wanted);

/* ---- chaos.c, episode.c ---- */

/* One thing happens: to the guest, the engine, or the machine. */
void chaos_step(void);
/* A thread that has nothing else to do begins to discard pages. */
void chaos_discard(void);
/* Take out an area that is leaving, if the engine lets it go already. */
void chaos_unplug(struct area *area);
/* Forget announcements of a former episode. */
void chaos_reset(void);
/* Set a world up, @n_steps of chaos, then calm: everybody must get what he waits for. */
void episode_run(uint64_t n_steps);
