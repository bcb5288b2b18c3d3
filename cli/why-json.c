/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All that was found, for programs; the names are those of ufdctl-why(1). */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "why.h"

static const char *sureness_name(enum why_sureness sureness)
{
	static const char *const names[] = { "unknown", "likely", "sure" };

	return names[sureness];
}

static const char *pager_state_name(enum pager_state state)
{
	static const char *const names[] = { "unknown", "answers", "works",  "hangs",
					     "stopped", "traced",  "frozen", "gone" };

	return names[state];
}

/* How long ago, in milliseconds; null if unknown. What was written while we looked is now. */
static json_t *age(const struct why *why, uint64_t us)
{
	uint64_t ago_us = us < why->now_us ? why->now_us - us : 0;

	return us ? json_integer((json_int_t)(ago_us / 1000)) : json_null();
}

static json_t *text_or_null(const char *text)
{
	return text && text[0] ? json_string(text) : json_null();
}

static json_t *cause_json(const struct why_cause *cause)
{
	return json_pack("{s:s, s:b, s:s, s:s, s:o, s:o}", "cause", cause->word, "is_us",
			 cause->is_us, "sureness", sureness_name(cause->sureness), "sentence",
			 cause->sentence, "remedy", text_or_null(cause->remedy), "after",
			 text_or_null(cause->after));
}

static json_t *thread_json(const struct why *why, const struct why_thread *waiter)
{
	const struct why_page *page = waiter->page >= 0 ? &why->pages[waiter->page] : NULL;
	bool has_address = waiter->origin != ADDRESS_UNKNOWN;

	return json_pack("{s:i, s:i, s:s, s:s, s:o, s:s, s:o, s:o, s:o}", "pid",
			 why->processes[waiter->process].pid, "tid", waiter->thread->tid, "name",
			 waiter->thread->name, "ours", sureness_name(waiter->is_ours), "address",
			 has_address ? json_integer((json_int_t)waiter->address) : json_null(),
			 "address_from", why_origin_name(waiter->origin), "since_ms",
			 age(why, waiter->since_us), "memory",
			 page ? json_string(why->view->memories[page->memory].name) : json_null(),
			 "page", page ? json_integer((json_int_t)page->page) : json_null());
}

static json_t *page_json(const struct why *why, const struct why_page *page)
{
	const struct view_memory *memory = &why->view->memories[page->memory];
	const struct view_settings *settings = &why->view->settings;
	static const char *const policies[] = { "stall", "poison", "kill" };
	json_t *json = json_pack(
		"{s:s, s:I, s:I, s:s, s:s, s:b, s:o, s:o, s:i, s:o, s:o, s:o, s:I}", "memory",
		memory->name, "page", (json_int_t)page->page, "offset_bytes",
		(json_int_t)(page->page * memory->page_bytes), "state",
		page_state_name(page->state), "doing", why_doing_name(page->doing), "poisoned",
		page->is_poisoned, "since_ms", age(why, page->since_us), "read_ms",
		age(why, page->read_us), "tries", (int)page->n_tries, "retry_in_ms",
		page->retry_at_us > why->now_us
			? json_integer((json_int_t)((page->retry_at_us - why->now_us) / 1000))
			: json_null(),
		"error",
		page->error ? json_string(strerrorname_np(page->error) ?: "?") : json_null(),
		"source", text_or_null(memory->spec), "source_offset_bytes",
		(json_int_t)(memory->spec_offset + memory->source_offset +
			     page->page * memory->page_bytes));

	if (!settings->is_known)
		return json;
	json_object_set_new(json, "policy",
			    json_string(settings->policy < 3 ? policies[settings->policy] : "?"));
	if (settings->policy && page->since_us)
		json_object_set_new(
			json, "deadline_in_ms",
			json_integer((json_int_t)(page->since_us +
						  settings->deadline_ns / NSEC_PER_USEC) /
					     1000 -
				     (json_int_t)(why->now_us / 1000)));
	return json;
}

static json_t *holders_json(const struct why *why, uint64_t inode)
{
	json_t *pids = json_array();

	for (size_t i = 0; i < why->n_holders; i++)
		if (why->holders[i].inode == inode)
			json_array_append_new(pids, json_integer(why->holders[i].pid));
	return pids;
}

static json_t *process_json(const struct why *why, const struct why_process *entry)
{
	const struct process *process = entry->process;
	json_t *uffds = json_array();
	char state[2] = "X";

	for (size_t i = 0; process && i < process->n_uffds; i++) {
		const struct process_uffd *uffd = &process->uffds[i];

		json_array_append_new(
			uffds,
			json_pack("{s:i, s:I, s:I, s:b, s:o}", "fd", uffd->fd, "pending",
				  (json_int_t)uffd->n_pending, "total", (json_int_t)uffd->n_total,
				  "ours", why->view && why_is_our_uffd(why, process, uffd->inode),
				  "holders", holders_json(why, uffd->inode)));
	}
	if (process)
		state[0] = process->state;
	return json_pack("{s:i, s:o, s:b, s:s, s:i, s:o}", "pid", entry->pid, "name",
			 process ? json_string(process->name) : json_null(), "alive",
			 process != NULL, "state", state, "threads",
			 process ? (int)process->n_threads : 0, "userfaultfds", uffds);
}

static json_t *pager_json(const struct why *why)
{
	const struct board *board = why->view ? why->view->board : NULL;

	return json_pack(
		"{s:s, s:o, s:o, s:o, s:o, s:I}", "state", pager_state_name(why->pager_state),
		"pid", why->pager_pid ? json_integer(why->pager_pid) : json_null(), "version",
		text_or_null(why->search.daemon_version), "answered_ms",
		why->search.answered_ns
			? json_integer((json_int_t)(why->search.answered_ns / NSEC_PER_MSEC))
			: json_null(),
		"beat_ms", board ? age(why, board->beat_us) : json_null(), "parked_faults",
		board ? (json_int_t)board->n_parked : (json_int_t)0);
}

static json_t *ledger_json(const struct why *why)
{
	static const char *const origins[] = { "none", "daemon", "process", "directory" };

	return json_pack("{s:s, s:o}", "from", origins[why->search.origin], "path",
			 text_or_null(why->search.path));
}

static json_t *memories_json(const struct why *why)
{
	json_t *memories = json_array();

	for (uint32_t i = 0; why->view && i < MAX_MEMORIES; i++) {
		const struct view_memory *memory = &why->view->memories[i];

		if (!memory->name[0])
			continue;
		json_array_append_new(
			memories,
			json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:i}", "name", memory->name,
				  "page_bytes", (json_int_t)memory->page_bytes, "absent_pages",
				  (json_int_t)memory->counts[PAGE_ABSENT], "filling_pages",
				  (json_int_t)memory->counts[PAGE_FILLING], "present_pages",
				  (json_int_t)memory->counts[PAGE_PRESENT], "removed_pages",
				  (json_int_t)memory->counts[PAGE_REMOVED], "poisoned_pages",
				  (int)memory->n_poisoned));
	}
	return memories;
}

json_t *why_to_json(const struct why *why)
{
	const struct why_cause *first = why->n_causes ? &why->causes[0] : NULL;
	json_t *causes = json_array(), *processes = json_array(), *threads = json_array();
	json_t *pages = json_array();

	for (size_t i = 0; i < why->n_causes; i++)
		json_array_append_new(causes, cause_json(&why->causes[i]));
	for (uint32_t i = 0; i < why->n_processes; i++)
		json_array_append_new(processes, process_json(why, &why->processes[i]));
	for (size_t i = 0; i < why->n_threads; i++)
		json_array_append_new(threads, thread_json(why, &why->threads[i]));
	for (size_t i = 0; i < why->n_pages; i++)
		if (why->pages[i].doing != PAGE_DONE)
			json_array_append_new(pages, page_json(why, &why->pages[i]));
	return json_pack(
		"{s:s, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:O, s:I}",
		"asked", why->asked, "guest",
		why->view ? json_string(why->view->name) : json_null(), "cause",
		first ? json_string(first->word) : json_null(), "is_us", first && first->is_us,
		"sentence", first ? json_string(first->sentence) : json_null(), "remedy",
		first ? text_or_null(first->remedy) : json_null(), "causes", causes, "threads",
		threads, "pages", pages, "processes", processes, "memories", memories_json(why),
		"pager", pager_json(why), "ledger", ledger_json(why), "unseen", why->unseen,
		"took_ms", (json_int_t)((clock_now_ns() - why->begun_ns) / NSEC_PER_MSEC));
}
