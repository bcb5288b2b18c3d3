/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The world of the model test: processes, their page tables, files, threads of the guest, and time.
 *
 * Theory of operation. The fake kernel (fake-*.c) stands in for lib/kernel and for the clock, and
 * keeps everything here. One random schedule at a time (an episode) drives three parties in turn,
 * all on one thread: the guest's threads (guest-thread.c), whoever else touches the memory
 * (chaos.c), and the real data plane (engine.c calls demand_step() and demand_sleep()).
 *
 * A page's content is a token of 64 bits, which lies at the first and the last 8 bytes of the page
 * wherever the page is bytes in a buffer. What a page must read is kept by oracle.c.
 *
 * The data plane may die at any call of the kernel and at any store into the ledger: crash_point()
 * then keeps a copy of the ledger, and the kernel is frozen: nothing that the dead engine does until
 * it returns has an effect. engine_recover() puts the copy back, and a new engine adopts it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"
#include "kernel/backing.h"

#define N_PROCESSES 3
#define N_AREAS	    8
#define N_THREADS   10
#define N_MEMORIES  2
#define N_PAGES	    160 /* the most of one memory */

#define TOKEN_TORN  UINT64_C(0xdead00000000dead)

/* Fake fds: numbers that no real fd has. */
#define FAKE_FD_FIRST 0x100000
enum fake_fd_kind { FAKE_UFFD, FAKE_PIDFD, FAKE_PAGEMAP };

struct demand_config;
struct mapping;
struct memory;
struct source;

/* What a page table entry of a mapping holds. */
enum pte_kind {
	PTE_NONE,
	PTE_FILE, /* the file's page; read-only in a private mapping */
	PTE_OWN,  /* an anonymous page */
	PTE_ZERO, /* the shared zero page */
	PTE_SWAP, /* an anonymous page, swapped out */
	PTE_POISON,
};

struct pte {
	enum pte_kind kind;
	bool is_wp;	/* on PTE_NONE: a write-protect marker */
	uint64_t token; /* of PTE_OWN and PTE_SWAP */
};

/* A page in a file's cache. */
struct file_page {
	bool is_cached;	 /* swapped out counts */
	bool is_data;	 /* false: fallocated and never used */
	bool is_broken;	 /* hardware poison */
	bool is_foreign; /* made by others while it was absent */
	uint64_t token;
};

struct file {
	int fd;		  /* a real, empty memfd: memories duplicate and stat it */
	int fd_of_memory; /* the engine's duplicate */
	bool is_huge;
	bool has_foreign_mapping;
	uint64_t n_pages; /* as long as it is now */
	struct file_page pages[N_PAGES];
};

struct process {
	bool is_alive;
	bool has_remove_events;
	bool is_wp_async;
	bool is_registered;	 /* false once graduated */
	unsigned int n_changing; /* discards whose event is unread, or whose thread has not run */
};

/* A mapping, as the engine knows it; munmap() and splits show in the pages. */
struct area {
	bool is_used;
	bool is_shown; /* in the engine's view */
	bool is_open;
	bool is_private; /* not the file's pages */
	bool is_armed;	 /* a tracker is: registered for write-protection, all protected */
	unsigned int process;
	unsigned int memory;
	struct hva start;
	uint64_t first_page; /* of the memory */
	uint64_t n_pages;
	bool is_mapped[N_PAGES];
	uint8_t vma[N_PAGES]; /* neighbours with different numbers lie in different VMAs */
	struct pte ptes[N_PAGES];
	struct mapping *mapping; /* in the engine's newest view */
};

enum thread_state {
	THREAD_IDLE,
	THREAD_RUNNABLE,     /* in the middle of an access: goes on when it is run */
	THREAD_WAITS,	     /* in a fault */
	THREAD_EVENT_UNREAD, /* in madvise(), before its event was read */
	THREAD_EVENT_READ,
	THREAD_ZAPS, /* the address space is no longer changing: the pages go next */
};

struct thread {
	enum thread_state state;
	unsigned int process;
	struct area *area;
	uint64_t page;	  /* of the area */
	uint64_t n_pages; /* madvise() */
	bool is_write;
	bool is_remove;	      /* MADV_REMOVE, else MADV_DONTNEED */
	bool is_read;	      /* its message was */
	unsigned int n_storm; /* a signal is pending: how often the message still comes again */
	uint64_t queued_at;   /* order of messages */
	uint64_t fault_flags;
	uint64_t token; /* to write */
	uint64_t waits_since_ns;
};

/* What a page must read. */
struct expected {
	uint64_t value;
	uint64_t others[8]; /* may be read instead; the first read decides */
	unsigned int n_others;
	unsigned int n_discards; /* under way: value or what a discard leaves */
	bool is_changed;	 /* by the guest, since a tracker was armed */
	bool is_in_doubt;	 /* claimed by an engine that died: who made it cannot be told */
	bool had_trouble;	 /* its bytes could not be had at some time: poison is right */
};

enum source_kind { SOURCE_KIND_ZERO, SOURCE_KIND_CALLBACK, SOURCE_KIND_FILE, SOURCE_KIND_BACKING };

struct model_memory {
	bool is_used;
	enum backing_kind kind;
	enum source_kind source_kind;
	uint64_t page_bytes;
	uint64_t n_pages;
	uint64_t source_offset;
	struct file file;
	struct source *source;
	int source_fd; /* of SOURCE_KIND_FILE */
	bool is_source_changed;
	uint64_t source_tokens[N_PAGES];
	struct expected expected[N_PAGES];
	_Atomic uint64_t dirty[(N_PAGES + 63) / 64];
	bool is_tracked;
	struct memory *memory; /* the engine's */
};

struct world {
	struct process processes[N_PROCESSES];
	struct area areas[N_AREAS];
	struct thread threads[N_THREADS];
	struct model_memory memories[N_MEMORIES];
	unsigned int n_processes, n_memories, n_threads;

	uint64_t now_ns;
	uint64_t next_token;
	uint64_t next_message;
	uint64_t n_kernel_calls; /* since the engine was last entered */
	uint64_t pool_free;	 /* huge pages */
	bool is_out_of_memory;
	bool is_source_bad;
	bool may_graduate;
	unsigned int crash_weight; /* crashes mend lost wake-ups: some episodes have few or none */
	bool is_calm;		   /* nothing fails by chance */

	uint64_t crash_in; /* crash points until the engine dies; 0: it lives */
	bool is_frozen;
};

extern struct world world;

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
/* Write-protect everything, as arming a tracker does. */
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
/* A discard begins; its pages go; or its process died before. */
void oracle_discard_begins(struct area *area, uint64_t page, bool is_remove);
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
void engine_hide_area(struct area *area);
void engine_open_area(struct area *area);
void engine_track(struct model_memory *memory);
bool engine_has_ended(void);
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

/* ---- crash.c: dying ---- */

/* Return: true if the kernel is frozen, that is, the engine is dead already. */
bool crash_point(void);
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
/* Arm a tracker on it, if nothing stands against it. */
void chaos_track(struct model_memory *memory);
/* Forget announcements of a former episode. */
void chaos_reset(void);
/* Set a world up, @n_steps of chaos, then calm: everybody must get what he waits for. */
void episode_run(uint64_t n_steps);
