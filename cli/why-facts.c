/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Gathering: the ledger, the processes, the pager, who holds what. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "fd-walk.h"
#include "why.h"

/* Since the beginning: all is said within two seconds, a source that must be tried included. */
#define LEDGER_PATIENCE_NS (900 * NSEC_PER_MSEC)
#define HOLDER_PATIENCE_NS (1400 * NSEC_PER_MSEC)
#define LATE_BEAT_US	   2000000 /* a demand thread that is awake turns far more often */
#define CLOCK_SLACK_US	   1000000

/* Something we could not see, and the command that shows it. */
__attribute__((format(printf, 3, 4))) static void add_unseen(struct why *why, const char *command,
							     const char *what, ...)
{
	char text[WHY_TEXT_BYTES];
	va_list arguments;

	va_start(arguments, what);
	vsnprintf(text, sizeof(text), what, arguments);
	va_end(arguments);
	json_array_append_new(why->unseen,
			      json_pack("{s:s, s:s}", "what", text, "command", command));
}

/* ---- the ledger ------------------------------------------------------------------------------ */

static bool is_wanted(struct ledger *ledger, void *userdata)
{
	const struct why *why = userdata;

	if (strcmp(ledger_guest_name(ledger), why->asked) == 0)
		return true;
	return why->pid && ledger_has_pid(ledger, why->pid);
}

static int find_ledger(struct why *why)
{
	int r;

	why->search = (struct ledger_search){
		.socket_path = why->socket_path,
		.directory = why->directory,
		.guest = why->asked,
		.pid = why->pid,
		.matches = is_wanted,
		.userdata = why,
		.deadline_ns = why->begun_ns + LEDGER_PATIENCE_NS,
	};
	r = ledger_search_run(&why->search);
	if (r < 0 || !why->search.ledger)
		return r;
	return ledger_view_new(&why->view, why->search.ledger);
}

/* ---- the processes --------------------------------------------------------------------------- */

/* A pid may have come again: a ledger's process has the start time that was written with it. */
static bool is_same_process(const struct process *process, const struct recorded_mapper *mapper)
{
	uint64_t ticks_us = 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);

	return !mapper->start_ticks || process->started_us == mapper->start_ticks * ticks_us;
}

static int add_process(struct why *why, pid_t pid, uint32_t mapper)
{
	struct why_process *entry = &why->processes[why->n_processes];
	int r;

	*entry = (struct why_process){ .pid = pid, .mapper = mapper };
	r = process_read(&entry->process, pid);
	if (r == -ENOMEM)
		return r;
	if (entry->process && why->view &&
	    !is_same_process(entry->process, &why->view->mappers[mapper]))
		entry->process = process_free(entry->process);
	if (entry->process)
		entry->is_frozen = cgroup_find_frozen(pid, &entry->frozen);
	why->n_processes++;
	return 0;
}

static int find_processes(struct why *why)
{
	int r = 0;

	for (uint32_t i = 0; why->view && i < why->view->n_mappers && r == 0; i++)
		r = add_process(why, why->view->mappers[i].pid, i);
	if (!why->view && why->pid)
		r = add_process(why, why->pid, 0);
	if (r < 0)
		return r;
	if (!why->view && (!why->n_processes || !why->processes[0].process))
		return -ENOENT;
	return 0;
}

/* ---- the pager ------------------------------------------------------------------------------- */

/* CLOCK_BOOTTIME less CLOCK_MONOTONIC: what the machine slept. */
static uint64_t slept_us(void)
{
	struct timespec boot, monotonic;

	clock_gettime(CLOCK_BOOTTIME, &boot);
	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	return (uint64_t)(boot.tv_sec - monotonic.tv_sec) * 1000000 +
	       (uint64_t)((boot.tv_nsec - monotonic.tv_nsec) / 1000);
}

/*
 * Who writes this ledger. As its own pid namespace shows it; the process that holds the ledger is
 * the same seen from here, unless it only keeps it.
 */
static pid_t find_pager_pid(const struct why *why)
{
	pid_t pid = why->view ? (pid_t)why->view->board->pager_pid : 0;

	if (why->search.origin == LEDGER_OF_DAEMON)
		return why->search.daemon_pid;
	if (why->search.origin == LEDGER_OF_PROCESS && why->search.holder != 1 && pid) {
		_cleanup_(process_freep) struct process *holder = NULL;

		if (process_read(&holder, why->search.holder) == 0 && holder->inner_pid == pid)
			return holder->pid;
	}
	if (!pid && why->search.origin == LEDGER_OF_PROCESS && why->search.holder != 1)
		return why->search.holder;
	return pid ? pid : why->search.daemon_pid;
}

static bool is_beating(const struct why *why)
{
	const struct board *board = why->view ? why->view->board : NULL;

	return board && (board->is_asleep || why->now_us < board->beat_us + LATE_BEAT_US);
}

static enum pager_state judge_pager(struct why *why)
{
	const struct process *pager = why->pager;
	uint64_t beat_us = why->view ? why->view->board->beat_us : 0;

	if (!pager || process_count(pager, THREAD_DEAD) == pager->n_threads)
		return PAGER_GONE;
	/* the number of a process that is gone came again */
	if (beat_us && pager->started_us > beat_us + slept_us() + CLOCK_SLACK_US)
		return PAGER_GONE;
	/* the signal stops all threads, but those that nothing can interrupt come to it later */
	if (process_count(pager, THREAD_STOPPED))
		return PAGER_STOPPED;
	if (process_count(pager, THREAD_TRACED))
		return PAGER_TRACED;
	if (cgroup_find_frozen(pager->pid, &why->pager_cgroup))
		return PAGER_FROZEN;
	if (why->view && !is_beating(why))
		return PAGER_HANGS;
	if (why->search.answer == DAEMON_ANSWERS && why->search.daemon_pid == pager->pid)
		return PAGER_ANSWERS;
	return why->view ? PAGER_WORKS : PAGER_HANGS;
}

static int find_pager(struct why *why)
{
	why->pager_pid = find_pager_pid(why);
	if (!why->pager_pid)
		return 0;
	if (process_read(&why->pager, why->pager_pid) == -ENOMEM)
		return -ENOMEM;
	why->pager_state = judge_pager(why);
	if (why->pager_state == PAGER_GONE)
		why->pager = process_free(why->pager);
	return 0;
}

/* ---- who holds what -------------------------------------------------------------------------- */

static bool is_of_interest(const struct why *why, uint64_t inode)
{
	for (uint32_t i = 0; i < why->n_processes; i++)
		for (size_t j = 0;
		     why->processes[i].process && j < why->processes[i].process->n_uffds; j++)
			if (why->processes[i].process->uffds[j].inode == inode)
				return true;
	return false;
}

static bool visit_holder(pid_t pid, int fd, const char *name, void *userdata)
{
	struct why_holder holder = { .pid = pid, .fd = fd };
	struct why *why = userdata;
	struct stat stat_of_fd;
	char path[64];

	if (strcmp(name, "anon_inode:[userfaultfd]") == 0) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
		if (stat(path, &stat_of_fd) < 0 || !is_of_interest(why, stat_of_fd.st_ino))
			return true;
		holder.inode = stat_of_fd.st_ino;
		if (why_holds(why, pid, holder.inode))
			return true;
	} else if (strcmp(name, "/dev/fuse")) {
		return true;
	}
	why->holders[why->n_holders++] = holder;
	return why->n_holders < WHY_MAX_HOLDERS;
}

static void find_holders(struct why *why)
{
	struct fd_walk walk = {
		.first = why->pager_pid,
		.deadline_ns = why->begun_ns + HOLDER_PATIENCE_NS,
	};

	fd_walk(&walk, visit_holder, why);
}

bool why_holds(const struct why *why, pid_t pid, uint64_t inode)
{
	for (size_t i = 0; i < why->n_holders; i++)
		if (why->holders[i].pid == pid && why->holders[i].inode == inode)
			return true;
	return false;
}

/* ---- what we could not see ------------------------------------------------------------------- */

static void note_unseen(struct why *why)
{
	char command[128];

	snprintf(command, sizeof(command), "sudo ufdctl why %s", why->asked);
	if (!why->view && why->search.answer == DAEMON_REFUSES)
		add_unseen(why, command, "the ledger: ufdd gives it to the guest's owner and root");
	else if (!why->view && why->search.n_hidden)
		add_unseen(
			why, command,
			"whether a pager has this guest: the files of %zu processes are hidden from us",
			why->search.n_hidden);
	else if (!why->view && why->search.is_cut)
		add_unseen(why, command,
			   "the ledger: there are too many processes to look at in time");
	for (uint32_t i = 0; i < why->n_processes; i++) {
		const struct process *process = why->processes[i].process;

		if (process && !process->may_see_waits)
			add_unseen(why, command, "what the threads of process %d are blocked in",
				   process->pid);
		if (process && !process->may_see_fds)
			add_unseen(why, command, "the userfaultfds of process %d", process->pid);
	}
	if (why->view && why->view->n_damaged)
		add_unseen(why, "journalctl -u ufdd", "%u damaged records of the ledger",
			   why->view->n_damaged);
}

int why_gather(struct why *why)
{
	int r;

	why->begun_ns = clock_now_ns();
	why->unseen = json_array();
	r = find_ledger(why);
	if (r == 0)
		r = find_processes(why);
	if (r < 0)
		return r;
	why->now_us = clock_now_ns() / NSEC_PER_USEC;
	r = find_pager(why);
	if (r < 0)
		return r;
	find_holders(why);
	note_unseen(why);
	why_find_pages(why);
	why_find_threads(why);
	return 0;
}

void why_done(struct why *why)
{
	for (uint32_t i = 0; i < why->n_processes; i++)
		process_free(why->processes[i].process);
	process_free(why->pager);
	ledger_view_free(why->view);
	ledger_search_done(&why->search);
	json_decref(why->unseen);
}
