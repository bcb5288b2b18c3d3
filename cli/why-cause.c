/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What holds a guest up, the first one first: what keeps its own processes from running; then what
 * keeps a fault of ours unanswered; then what is not ours at all.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/units.h"
#include "monitor.h"
#include "why-cause.h"
#include "why.h"

#define MONITOR_PATIENCE_NS (200 * NSEC_PER_MSEC)
#define NOT_WOKEN_US	    1000000

struct why_cause *why_add(struct why *why, const char *word, enum why_sureness sureness,
			  const char *sentence, ...)
{
	struct why_cause *cause;
	va_list arguments;

	if (why->n_causes == WHY_MAX_CAUSES)
		return NULL;
	cause = &why->causes[why->n_causes++];
	*cause = (struct why_cause){ .word = word, .sureness = sureness };
	va_start(arguments, sentence);
	vsnprintf(cause->sentence, sizeof(cause->sentence), sentence, arguments);
	va_end(arguments);
	return cause;
}

void why_remedy(struct why_cause *cause, const char *after, const char *command, ...)
{
	va_list arguments;

	if (!cause)
		return;
	va_start(arguments, command);
	vsnprintf(cause->remedy, sizeof(cause->remedy), command, arguments);
	va_end(arguments);
	snprintf(cause->after, sizeof(cause->after), "%s", after);
}

/* ---- the guest's processes do not run -------------------------------------------------------- */

static void find_held_process(struct why *why, const struct why_process *entry)
{
	const struct process *process = entry->process;
	struct why_cause *cause;

	if (process_count(process, THREAD_TRACED)) {
		_cleanup_(process_freep) struct process *tracer = NULL;

		(void)process_read(&tracer, process->tracer);
		cause = why_add(why, "target_traced", WHY_SURE,
				"Process %d (%s) is held by a debugger: process %d (%s).",
				process->pid, process->name, process->tracer,
				tracer ? tracer->name : "?");
		why_remedy(cause, "Ends the debugger, which lets the process go.", "kill %d",
			   process->tracer);
	} else if (entry->is_frozen) {
		cause = why_add(why, "target_frozen", WHY_SURE,
				"Process %d (%s) is frozen with its control group %s.",
				process->pid, process->name, entry->frozen.folder);
		why_remedy(cause, "It goes on.", "%s", "");
		if (cause)
			cgroup_thaw_command(&entry->frozen, cause->remedy, sizeof(cause->remedy));
	} else if (process_count(process, THREAD_STOPPED)) {
		cause = why_add(why, "target_stopped", WHY_SURE,
				"Process %d (%s) is stopped by a signal.", process->pid,
				process->name);
		why_remedy(cause, "It goes on.", "kill -CONT %d", process->pid);
	}
}

static void find_held_processes(struct why *why)
{
	uint32_t n_alive = 0;

	for (uint32_t i = 0; i < why->n_processes; i++)
		if (why->processes[i].process &&
		    process_count(why->processes[i].process, THREAD_DEAD) <
			    why->processes[i].process->n_threads) {
			find_held_process(why, &why->processes[i]);
			n_alive++;
		}
	if (!n_alive)
		why_add(why, "target_gone", WHY_SURE,
			"Process %d has ended: there is nothing left that could go on.",
			why->n_processes ? why->processes[0].pid : why->pid);
}

/* ---- poison ---------------------------------------------------------------------------------- */

static void find_poison(struct why *why)
{
	uint64_t at_us = 0, n_poisoned = 0;
	struct flight_cursor cursor = {};
	const struct view_memory *memory = NULL;
	struct flight_event event;
	struct why_cause *cause;

	for (uint32_t i = 0; i < MAX_MEMORIES; i++) {
		n_poisoned += why->view->memories[i].n_poisoned;
		if (!memory && why->view->memories[i].n_poisoned)
			memory = &why->view->memories[i];
	}
	if (!n_poisoned)
		return;
	while (flight_next(why->view->flight, &cursor, &event))
		if (event.kind == FLIGHT_POISONED)
			at_us = event.time_us;
	cause = why_add(
		why, "page_poisoned", WHY_SURE,
		"The bytes of %lu page%s could not be had in time, so by its policy the guest got "
		"SIGBUS there: page %lu of memory %s%s.",
		n_poisoned, n_poisoned > 1 ? "s" : "", memory->poisoned[0], memory->name,
		n_poisoned > 1 ? " and others" : "");
	if (cause && at_us)
		snprintf(cause->sentence + strlen(cause->sentence),
			 sizeof(cause->sentence) - strlen(cause->sentence), " The last %.1f s ago.",
			 (double)(why->now_us - at_us) / 1e6);
	why_remedy(
		cause,
		"These pages do not come back: end the guest and restore it, once its source is in "
		"order.",
		"kill -KILL %d", why->processes[0].pid);
}

/* ---- it is us -------------------------------------------------------------------------------- */

/* The page is there, and who waits for it was not told. */
static bool find_lost_wake(struct why *why)
{
	for (size_t i = 0; i < why->n_threads; i++) {
		const struct why_thread *waiter = &why->threads[i];
		struct why_cause *cause;

		if (waiter->page < 0 || why->pages[waiter->page].doing != PAGE_DONE ||
		    waiter->origin != ADDRESS_OF_FAULT ||
		    why->now_us < waiter->since_us + NOT_WOKEN_US)
			continue;
		cause = why_add(
			why, "not_woken", WHY_LIKELY,
			"Thread %d waits at 0x%lx for a page that is there: it was not woken. That is "
			"an error of ufdd.",
			waiter->thread->tid, waiter->address);
		why_remedy(cause, "Makes its threads look again; please report this.",
			   "kill -STOP %d; kill -CONT %d", why->processes[waiter->process].pid,
			   why->processes[waiter->process].pid);
		return true;
	}
	return false;
}

/*
 * What stuck before the pager did is the first cause, and its remedy begins with letting the pager
 * go on: else nothing would come of it.
 */
static void lead_with_pager(struct why *why, size_t first)
{
	struct why_cause *page = &why->causes[first];
	const struct why_cause *pager = &why->causes[first + 1];
	char remedy[WHY_TEXT_BYTES];

	/* one that hangs may hang because of the very same page */
	if (why->n_causes < first + 2 || why->pager_state == PAGER_GONE ||
	    why->pager_state == PAGER_HANGS || !page->remedy[0] ||
	    snprintf(remedy, sizeof(remedy), "%s; %s", pager->remedy, page->remedy) >=
		    (int)sizeof(remedy))
		return;
	memcpy(page->remedy, remedy, sizeof(remedy));
}

static void find_ours(struct why *why)
{
	size_t first = why->n_causes;
	bool is_stuck = why_find_page_causes(why);

	if (!why_is_pager_well(why)) {
		why_find_pager_cause(why);
		if (is_stuck)
			lead_with_pager(why, first);
	} else if (!is_stuck && !find_lost_wake(why)) {
		why_add(why, "being_served", WHY_LIKELY,
			"%zu thread%s and %zu page%s wait for ufdd at this moment, and nothing of it is "
			"late: ask again in a second.",
			why->n_threads, why->n_threads == 1 ? "" : "s", why->n_pages,
			why->n_pages == 1 ? "" : "s");
	}
	for (size_t i = first; i < why->n_causes; i++)
		why->causes[i].is_us = true;
}

/* ---- it is somebody else --------------------------------------------------------------------- */

/* Who serves a userfaultfd that has unresolved faults: another process, or the target itself. */
static pid_t find_handler(const struct why *why, const struct process *process)
{
	pid_t handler = 0;

	for (size_t i = 0; i < process->n_uffds; i++) {
		if (!process->uffds[i].n_total ||
		    (why->view && why_is_our_uffd(why, process, process->uffds[i].inode)))
			continue;
		handler = handler ? handler : process->pid;
		for (size_t j = 0; j < why->n_holders; j++)
			if (why->holders[j].inode == process->uffds[i].inode &&
			    why->holders[j].pid != process->pid)
				handler = why->holders[j].pid;
	}
	return handler;
}

static bool find_other_uffd(struct why *why)
{
	for (size_t i = 0; i < why->n_threads; i++) {
		const struct why_thread *waiter = &why->threads[i];
		const struct process *process = why->processes[waiter->process].process;
		_cleanup_(process_freep) struct process *handler = NULL;
		struct why_cause *cause;
		pid_t pid;

		if (waiter->is_ours != WHY_UNKNOWN)
			continue;
		pid = find_handler(why, process);
		if (!pid || pid == process->pid || process_read(&handler, pid) != 0) {
			cause = why_add(
				why, "other_userfaultfd", pid ? WHY_SURE : WHY_LIKELY,
				"Thread %d of process %d (%s) waits for a userfaultfd that is not "
				"ufdd's; no other process that we see holds it, so %s.",
				waiter->thread->tid, process->pid, process->name,
				pid ? "a thread of the process itself must answer"
				    : "who answers is not known");
			why_remedy(cause, "Shows what the threads that might answer are doing.",
				   "grep . /proc/%d/task/*/wchan", process->pid);
			return true;
		}
		cause = why_add(
			why, "other_userfaultfd", WHY_SURE,
			"Thread %d of process %d (%s) waits for a userfaultfd that is not ufdd's: "
			"process %d (%s) serves it%s.",
			waiter->thread->tid, process->pid, process->name, pid, handler->name,
			process_count(handler, THREAD_STOPPED) ? ", and is stopped" : "");
		if (process_count(handler, THREAD_STOPPED))
			why_remedy(cause, "It goes on and answers.", "kill -CONT %d", pid);
		else
			why_remedy(cause, "Shows what that process is doing.",
				   "grep . /proc/%d/task/*/wchan", pid);
		return true;
	}
	return false;
}

static bool find_pause(struct why *why, const struct process *process)
{
	struct why_cause *cause;
	char path[512], state[64];

	if (!monitor_find(process->pid, path, sizeof(path)) ||
	    !monitor_ask(path, MONITOR_PATIENCE_NS, state, sizeof(state)) ||
	    strcmp(state, "running") == 0)
		return false;
	cause = why_add(
		why, "guest_paused", WHY_SURE,
		"The VMM, process %d (%s), runs, but its monitor says that the guest is not "
		"running: %s.",
		process->pid, process->name, state);
	why_remedy(
		cause, "Lets the guest run.",
		"printf '%%s\\n' '{\"execute\":\"qmp_capabilities\"}' '{\"execute\":\"cont\"}' | socat "
		"-t1 - UNIX-CONNECT:%s",
		path);
	return true;
}

/* The file that a system call with a file descriptor in front works on. */
static void describe_file(const struct process *process, const struct thread *thread, char *ret,
			  size_t n_ret)
{
	static const long calls[] = { SYS_read,	    SYS_write,	SYS_pread64,  SYS_pwrite64,
				      SYS_readv,    SYS_writev, SYS_recvfrom, SYS_recvmsg,
				      SYS_sendmsg,  SYS_fsync,	SYS_flock,    SYS_ioctl,
				      SYS_fallocate };
	char name[200];

	ret[0] = '\0';
	for (size_t i = 0; thread->has_syscall && i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (thread->syscall != calls[i])
			continue;
		process_fd_name(process->pid, (int)thread->arguments[0], name, sizeof(name));
		if (name[0])
			snprintf(ret, n_ret, ", on fd %d, %s", (int)thread->arguments[0], name);
	}
}

static bool find_block(struct why *why, const struct process *process)
{
	const struct thread *shown = NULL;
	struct why_cause *cause;
	char file[256];

	/* the first thread is the process to most people; one that cannot be killed says more */
	for (size_t i = 0; i < process->n_threads; i++) {
		const struct thread *thread = &process->threads[i];

		if (thread->wait == THREAD_BLOCKED &&
		    (!shown || (thread->state == 'D' && shown->state != 'D')))
			shown = thread;
	}
	if (!shown || process_count(process, THREAD_RUNS))
		return false;
	describe_file(process, shown, file, sizeof(file));
	cause = why_add(why, "blocked_elsewhere", WHY_SURE,
			"No fault of process %d (%s) waits. %s %d is blocked in %s%s%s.",
			process->pid, process->name,
			process->n_threads > 1 ? "Of its threads, none runs:" : "Thread",
			shown->tid, shown->inside, file,
			shown->state == 'D' ? ", where no signal reaches it" : "");
	why_remedy(cause, "Shows how it came there.", "cat /proc/%d/task/%d/stack", process->pid,
		   shown->tid);
	return true;
}

static void find_nothing(struct why *why)
{
	const struct process *process = NULL;
	struct why_cause *cause;
	uint64_t left_bytes = 0;

	for (uint32_t i = 0; i < why->n_processes && !process; i++)
		process = why->processes[i].process;
	if (!process)
		return;
	if (find_pause(why, process) || find_block(why, process))
		return;
	cause = why_add(
		why, "running", process->may_see_waits ? WHY_SURE : WHY_LIKELY,
		"Nothing holds process %d (%s) up: %zu of its %zu threads run, and no fault waits.",
		process->pid, process->name, process_count(process, THREAD_RUNS),
		process->n_threads);
	for (uint32_t i = 0; why->view && i < MAX_MEMORIES; i++)
		left_bytes += why->view->memories[i].page_bytes *
			      (why->view->memories[i].counts[PAGE_ABSENT] +
			       why->view->memories[i].counts[PAGE_FILLING]);
	if (left_bytes)
		why_remedy(cause, "Fills what is still absent, so that faults become rare.",
			   "ufdctl guest prefetch '%s'", why->view->name);
}

void why_find_causes(struct why *why)
{
	bool is_held;

	find_held_processes(why);
	is_held = why->n_causes > 0;
	if (why->view && (why_has_waiters(why) || why_is_filling_held(why)))
		find_ours(why);
	else if (why->view)
		find_poison(why);
	if (!find_other_uffd(why) && !is_held && !why->n_causes)
		find_nothing(why);
	/* nobody waits for it now, but it will be the next cause */
	if (why->view && !why_has_waiters(why) && !why_is_pager_well(why) &&
	    !ledger_view_is_complete(why->view))
		why_find_pager_cause(why);
}
