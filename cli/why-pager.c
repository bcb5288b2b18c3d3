/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Causes that lie in the pager's process: it is held, hangs, or is gone. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "why-cause.h"
#include "why.h"

/* What the pager waits for itself, if it hangs. */
static void describe_hang(const struct why *why, char *ret, size_t n_ret)
{
	snprintf(ret, n_ret, "why is not seen");
	for (size_t i = 0; i < why->pager->n_threads; i++) {
		const struct thread *thread = &why->pager->threads[i];

		if (strcmp(thread->name, "ufd-demand") || thread->wait != THREAD_BLOCKED)
			continue;
		snprintf(ret, n_ret, "one of its demand threads, %d, is in %s", thread->tid,
			 thread->inside);
		if (thread->state == 'D')
			return;
	}
}

static void remedy_gone_pager(const struct why *why, struct why_cause *cause)
{
	const char *after = "The guest waits meanwhile, loses nothing, and goes on.";

	if (access("/run/systemd/system", F_OK) == 0)
		why_remedy(cause, after, "systemctl restart ufdd");
	else if (why->search.origin == LEDGER_OF_DIRECTORY)
		why_remedy(cause, after, "ufdd --socket '%s' --state-dir '%s' &", why->socket_path,
			   why->directory);
	else
		why_remedy(cause, after, "ufdd --socket '%s' &", why->socket_path);
}

static void add_gone_pager(struct why *why)
{
	bool is_other = why->search.answer == DAEMON_ANSWERS &&
			why->search.daemon_pid != why->pager_pid;
	struct why_cause *cause;

	if (is_other)
		cause = why_add(
			why, "daemon_gone", WHY_SURE,
			"The pager that served this guest, process %d, is gone, and the ufdd that "
			"runs now, process %d, has not taken it over.",
			why->pager_pid, why->search.daemon_pid);
	else
		cause = why_add(
			why, "daemon_gone", WHY_SURE,
			"The pager that serves this guest, process %d, is gone, and no other one has "
			"taken over; its last sign of life was %.1f s ago.",
			why->pager_pid, why_seconds_since(why, why->view->board->beat_us));
	if (!cause)
		return;
	if (is_other)
		why_remedy(cause, "Says why it was not taken over.",
			   "journalctl -u ufdd --grep '%s'", why->view->name);
	else
		remedy_gone_pager(why, cause);
}

void why_find_pager_cause(struct why *why)
{
	struct why_cause *cause;
	pid_t pid = why->pager_pid;
	char text[192];

	switch (why->pager_state) {
	case PAGER_GONE:
		add_gone_pager(why);
		return;
	case PAGER_STOPPED:
		cause = why_add(
			why, "daemon_stopped", WHY_SURE,
			"The pager, process %d (%s), is stopped by a signal; it last turned %.1f s "
			"ago.",
			pid, why->pager->name,
			why_seconds_since(why, why->view ? why->view->board->beat_us : 0));
		why_remedy(cause, "It goes on, and with it the guest.", "kill -CONT %d", pid);
		return;
	case PAGER_TRACED:
		cause = why_add(why, "daemon_traced", WHY_SURE,
				"The pager, process %d (%s), is held by a debugger, process %d.",
				pid, why->pager->name, why->pager->tracer);
		why_remedy(cause, "Ends the debugger, which lets the pager go.", "kill %d",
			   why->pager->tracer);
		return;
	case PAGER_FROZEN:
		cause = why_add(why, "daemon_frozen", WHY_SURE,
				"The pager, process %d (%s), is frozen with its control group %s.",
				pid, why->pager->name, why->pager_cgroup.folder);
		if (cause)
			cgroup_thaw_command(&why->pager_cgroup, cause->remedy,
					    sizeof(cause->remedy));
		return;
	case PAGER_HANGS:
		describe_hang(why, text, sizeof(text));
		cause = why_add(
			why, "daemon_hangs", WHY_LIKELY,
			"The pager, process %d (%s), lives, but its thread for this guest has not "
			"turned for %.1f s: %s.",
			pid, why->pager->name,
			why_seconds_since(why, why->view ? why->view->board->beat_us : 0), text);
		why_remedy(
			cause,
			"Ends it with a core for its authors; its service manager starts it again, and "
			"the guest goes on.",
			"kill -ABRT %d", pid);
		return;
	default:
		return;
	}
}
