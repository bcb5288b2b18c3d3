/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The world of the model test: processes, their page tables, files, threads of the guest, and time.
 *
 * Theory of operation. The fake kernel (fake-*.c) stands in for lib/kernel and for the clock, and
 * keeps everything here. One random schedule at a time (an episode) drives three parties in turn,
 * all on one thread: the guest's threads (guest-thread.c), whoever else touches the memory
 * (chaos.c), and the real data plane (engine.c calls demand_step() and demand_sleep()). Only who reads what
 * was written meets the data plane in the middle of a round (midway.c).
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
#define N_CONSUMERS 3

#define TOKEN_TORN  UINT64_C(0xdead00000000dead)

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
	bool is_leaving; /* unregistered; shown until no message of it can come any more */
	bool is_private; /* not the file's pages */
	bool is_armed;	 /* registered for write-protection */
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
	uint64_t n_changes;	 /* that a consumer must be told of */
	bool is_unknown;	 /* the engine takes it for absent, and its owner has filled it */
	bool is_touched;	 /* by anybody but the engine, ever */
	bool is_strange;	 /* others wrote it last, and said nothing */
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
	struct memory *memory; /* the engine's */
};

/* Who reads what was written. */
struct model_consumer {
	bool is_started;
	uint64_t epoch;			    /* that it has got */
	uint64_t seen[N_MEMORIES][N_PAGES]; /* n_changes of each page when it was copied */
};

struct world {
	struct process processes[N_PROCESSES];
	struct area areas[N_AREAS];
	struct thread threads[N_THREADS];
	struct model_memory memories[N_MEMORIES];
	struct model_consumer consumers[N_CONSUMERS];
	unsigned int n_processes, n_memories, n_threads;

	uint64_t now_ns;
	uint64_t next_token;
	uint64_t next_message;
	uint64_t n_kernel_calls; /* since the engine was last entered */
	uint64_t pool_free;	 /* huge pages */
	bool is_out_of_memory;
	bool is_source_bad;
	bool is_continue_open; /* Linux before 6.4: CONTINUE knows no MODE_WP */
	bool may_graduate;
	bool may_track;
	unsigned int crash_weight; /* crashes mend lost wake-ups: some episodes have few or none */
	bool is_calm;		   /* nothing fails by chance */
	bool is_still;		   /* the guest is paused: none of its threads runs */

	uint64_t crash_in; /* crash points until the engine dies; 0: it lives */
	bool is_frozen;
};

extern struct world world;
