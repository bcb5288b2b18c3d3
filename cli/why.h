/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Why a guest, or any process, does not go on.
 *
 * Theory of operation: facts are gathered first (why-facts.c: the ledger, the processes, the pager;
 * why-thread.c: who waits where; why-page.c: what is done about it), all of them from outside and
 * none by waiting for anybody longer than a moment. Then causes are found (why-cause.h),
 * the one that stuck first in front. cmd-why.c prints them.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"
#include "ledger-search.h"
#include "ledger-view.h"
#include "process.h"
#include "source-probe.h"

#define WHY_MAX_PAGES	64
#define WHY_MAX_THREADS 256
#define WHY_MAX_CAUSES	8
#define WHY_MAX_HOLDERS 64
#define WHY_TEXT_BYTES	512

/* How sure a statement is. */
enum why_sureness { WHY_UNKNOWN, WHY_LIKELY, WHY_SURE };

/* What the pager's process is at. */
enum pager_state {
	PAGER_UNKNOWN,
	PAGER_ANSWERS, /* calls, at once */
	PAGER_WORKS, /* its demand thread turns, or sleeps; calls were not answered, or not made */
	PAGER_HANGS, /* it lives, and its demand thread does not turn */
	PAGER_STOPPED, /* by a signal */
	PAGER_TRACED,  /* by a debugger */
	PAGER_FROZEN,  /* its cgroup */
	PAGER_GONE,
};

/* What is done about a page that somebody waits for. */
enum page_doing {
	PAGE_QUEUED,   /* nothing: its fault is not read, or waits for others */
	PAGE_READING,  /* the source was asked */
	PAGE_TO_RETRY, /* a try failed, the next is due */
	PAGE_PUTTING,  /* its bytes are being put in */
	PAGE_ASKING,   /* somebody else touched it: is it shared? */
	PAGE_STALLED,  /* its bytes cannot be had; tried again and again */
	PAGE_HELD,     /* it must wait for memory of the cgroup */
	PAGE_DONE,     /* it is there */
};

/* Readable. Times are CLOCK_MONOTONIC microseconds, 0 unknown. */
struct why_page {
	uint32_t memory;
	uint64_t page;
	enum page_state state;
	enum page_doing doing;
	uint64_t since_us;
	uint64_t read_us;
	uint64_t retry_at_us;
	uint32_t n_tries;
	int error;
	bool is_poisoned;
};

enum address_origin {
	ADDRESS_UNKNOWN,
	ADDRESS_OF_FAULT,   /* the kernel told it with the fault */
	ADDRESS_OF_SYSCALL, /* an argument of the system call that it is in */
	ADDRESS_OF_BOARD,   /* the only page that is waited for */
};

/* Readable. One that waits for a userfaultfd. */
struct why_thread {
	uint32_t process; /* index */
	const struct thread *thread;
	enum why_sureness is_ours;
	enum address_origin origin;
	uint64_t address;
	int page; /* index in pages; -1 */
	uint64_t since_us;
};

/* Readable. */
struct why_process {
	pid_t pid;
	uint32_t mapper;	 /* number in the ledger */
	struct process *process; /* owned; NULL if it has ended */
	struct cgroup frozen;	 /* if is_frozen */
	bool is_frozen;
};

/* Readable. A fd that somebody has: of one of the processes' userfaultfds, or of /dev/fuse. */
struct why_holder {
	pid_t pid;
	int fd;
	uint64_t inode; /* of the userfaultfd; 0: /dev/fuse */
};

/* Readable. */
struct why_cause {
	const char *word; /* stable, for programs */
	bool is_us;
	enum why_sureness sureness;
	char sentence[WHY_TEXT_BYTES];
	char remedy[WHY_TEXT_BYTES]; /* one shell command; "" if there is nothing to do */
	char after[WHY_TEXT_BYTES];  /* what it does, or what to do if it does not help */
};

/* Readable. */
struct why {
	const char *asked;
	pid_t pid; /* asked for; 0 for a name */
	const char *socket_path;
	const char *directory;
	uint64_t begun_ns;
	uint64_t now_us;

	struct ledger_search search;
	struct ledger_view *view; /* owned; NULL: not a guest, or not to be seen */
	struct why_process processes[MAX_MAPPERS];
	uint32_t n_processes;
	pid_t pager_pid;       /* 0: none ever */
	struct process *pager; /* owned; NULL if gone or unknown */
	enum pager_state pager_state;
	struct cgroup pager_cgroup; /* PAGER_FROZEN */
	struct why_holder holders[WHY_MAX_HOLDERS];
	size_t n_holders;

	struct why_page pages[WHY_MAX_PAGES];
	size_t n_pages;
	struct why_thread threads[WHY_MAX_THREADS];
	size_t n_threads;
	struct why_cause causes[WHY_MAX_CAUSES];
	size_t n_causes;
	json_t *unseen; /* owned array of {what, command} */
};

/* why-facts.c. Return: 0, -ENOENT (no such guest or process), -ENOMEM. */
int why_gather(struct why *why);
void why_done(struct why *why);
/* Does @pid hold the userfaultfd with this inode? */
bool why_holds(const struct why *why, pid_t pid, uint64_t inode);

/* why-page.c */
void why_find_pages(struct why *why);
/* The entry of that page, made if need be; NULL when there are too many. */
struct why_page *why_page_get(struct why *why, uint32_t memory, uint64_t page);
const char *why_doing_name(enum page_doing doing);

/* why-thread.c */
void why_find_threads(struct why *why);
/* Is this userfaultfd, which @process has, one that the pager serves? */
bool why_is_our_uffd(const struct why *why, const struct process *process, uint64_t inode);
const char *why_origin_name(enum address_origin origin);

/* why-cause.c: all causes that hold, the first one first. */
void why_find_causes(struct why *why);

/* why-json.c: all of it. */
json_t *why_to_json(const struct why *why);
