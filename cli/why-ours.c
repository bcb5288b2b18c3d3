/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Causes on our side of a fault: the source, memory to put bytes into, the pager's own process.
 *
 * The pager may be stopped after a page got stuck, or a page may look stuck only because the pager
 * is stopped. The board tells what was so when it was last written; whether it still is, is asked
 * of the source, the pool and the cgroup themselves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/units.h"
#include "why.h"

#define PROBE_PATIENCE_NS (300 * NSEC_PER_MSEC)
#define LONG_READ_US	  1000000
#define SHOWN_BYTES	  256

/* ---- words ----------------------------------------------------------------------------------- */

static bool is_pager_well(const struct why *why)
{
	return why->pager_state == PAGER_ANSWERS || why->pager_state == PAGER_WORKS;
}

static const struct view_memory *memory_of(const struct why *why, const struct why_page *page)
{
	return &why->view->memories[page->memory];
}

static void describe_page(const struct why *why, const struct why_page *page, char *ret,
			  size_t n_ret)
{
	snprintf(ret, n_ret, "page %lu of memory %s (offset 0x%lx)", page->page,
		 memory_of(why, page)->name, page->page * memory_of(why, page)->page_bytes);
}

static double seconds_since(const struct why *why, uint64_t us)
{
	return us && us < why->now_us ? (double)(why->now_us - us) / 1e6 : 0;
}

/* ---- the source ------------------------------------------------------------------------------ */

/* Readable. The file that a page comes from, and whether it answers now. */
struct source_look {
	char open_path[512]; /* for us */
	char shown[SHOWN_BYTES];
	uint64_t offset; /* in the file */
	bool is_file;
	struct source_probe probe;
	struct source_mount mount;
};

/*
 * @may_read: try it ourselves. A file system that hangs keeps whoever reads from it, so that is done
 * only where the pager's own read is no proof.
 */
static void look_at_source(const struct why *why, const struct why_page *page, bool may_read,
			   struct source_look *ret)
{
	const struct view_memory *memory = memory_of(why, page);
	pid_t pid = why->pager ? why->pager->pid : getpid();
	bool is_open;

	*ret = (struct source_look){
		.is_file = memory->has_file,
		.offset = memory->spec_offset + memory->source_offset +
			  page->page * memory->page_bytes,
	};
	snprintf(ret->shown, sizeof(ret->shown), "%.*s", (int)sizeof(ret->shown) - 1,
		 memory->spec[0] ? memory->spec : "its source");
	if (!memory->has_file)
		return;
	(void)source_find_mount(pid, memory->file.device, &ret->mount);
	is_open = why->pager && source_find_open(pid, memory->file.device, memory->file.inode,
						 ret->open_path, ret->shown, sizeof(ret->shown));
	if (!is_open && strncmp(memory->spec, "file:/", 6) == 0) {
		snprintf(ret->shown, sizeof(ret->shown), "%.*s",
			 (int)strcspn(memory->spec + 5, ","), memory->spec + 5);
		snprintf(ret->open_path, sizeof(ret->open_path), "%s", ret->shown);
	}
	if (!is_open && !ret->open_path[0])
		snprintf(ret->shown, sizeof(ret->shown), "the file with inode %lu on device %u:%u",
			 memory->file.inode, major(memory->file.device),
			 minor(memory->file.device));
	if (ret->open_path[0] && may_read)
		source_probe_run(&ret->probe, ret->open_path, ret->offset, PROBE_PATIENCE_NS);
}

/* Who serves a FUSE mount: the one whose fd says so, or the only one there is. */
static pid_t find_fuse_server(const struct why *why, uint64_t device)
{
	pid_t only = 0;
	size_t n = 0;

	for (size_t i = 0; i < why->n_holders; i++) {
		uint64_t connection;

		if (why->holders[i].inode)
			continue;
		connection = source_fuse_connection(why->holders[i].pid, why->holders[i].fd);
		if (connection && connection == minor(device))
			return why->holders[i].pid;
		n += why->holders[i].pid != only;
		only = why->holders[i].pid;
	}
	return n == 1 ? only : 0;
}

static void remedy_hanging_fuse(const struct why *why, struct why_cause *cause, uint64_t device)
{
	_cleanup_(process_freep) struct process *server = NULL;
	pid_t pid = find_fuse_server(why, device);

	if (pid)
		(void)process_read(&server, pid);
	if (server && process_count(server, THREAD_STOPPED)) {
		why_remedy(cause,
			   "The process that serves this file system is stopped; it goes on.",
			   "kill -CONT %d", pid);
		return;
	}
	why_remedy(
		cause,
		"Ends the read with an error, and the file system with it; then mount it again and "
		"see to its server.",
		"echo 1 >/sys/fs/fuse/connections/%u/abort", minor(device));
	if (server)
		snprintf(cause->after + strlen(cause->after),
			 sizeof(cause->after) - strlen(cause->after),
			 " The server is process %d (%s).", pid, server->name);
}

static void add_hanging_source(struct why *why, const struct why_page *page,
			       const struct source_look *look)
{
	const struct view_memory *memory = memory_of(why, page);
	struct why_cause *cause;
	char text[128];

	describe_page(why, page, text, sizeof(text));
	cause = why_add(
		why, "source_hangs", look->probe.result == PROBE_HANGS ? WHY_SURE : WHY_LIKELY,
		"The source does not answer: %s was asked for %s at offset %lu %.1f s ago.%s",
		look->shown, text, look->offset, seconds_since(why, page->read_us),
		look->probe.result == PROBE_HANGS
			? " A read of our own at that offset does not return either."
			: "");
	if (!cause)
		return;
	if (strncmp(look->mount.kind, "fuse", 4) == 0)
		remedy_hanging_fuse(why, cause, memory->file.device);
	else
		why_remedy(
			cause,
			"Shows which server or disk that is; when it answers again, so does ufdd.",
			"findmnt --target '%s'", look->mount.point[0] ? look->mount.point : "/");
}

/* Is the file still the one that was opened? */
static bool is_changed(const struct view_file *then, const struct source_probe *now)
{
	if (now->result == PROBE_NOT_MADE || now->result == PROBE_HANGS || !then->modified_s)
		return true; /* nothing speaks against what the pager found */
	return then->length_bytes != now->length_bytes || then->modified_s != now->modified_s ||
	       then->modified_ns != now->modified_ns || then->changed_s != now->changed_s ||
	       then->changed_ns != now->changed_ns;
}

static void add_changed_source(struct why *why, const struct why_page *page,
			       const struct source_look *look)
{
	const struct view_file *file = &memory_of(why, page)->file;
	struct why_cause *cause;
	char text[128], how[128] = "it was written to or replaced";

	if (look->probe.length_bytes && look->probe.length_bytes != file->length_bytes)
		snprintf(how, sizeof(how), "it had %lu bytes and has %lu now", file->length_bytes,
			 look->probe.length_bytes);
	describe_page(why, page, text, sizeof(text));
	cause = why_add(
		why, "source_changed", WHY_SURE,
		"The source changed while it was in use (%s), so nothing is read from it any "
		"more: %s, wanted for %s.",
		how, look->shown, text);
	if (cause && why->processes[0].process)
		why_remedy(
			cause,
			"There is no way back for this guest, since old and new bytes would mix: end "
			"it and restore it from an image that nobody writes to.",
			"kill -KILL %d", why->processes[0].pid);
}

static void add_failing_source(struct why *why, const struct why_page *page,
			       const struct source_look *look)
{
	uint64_t block = 4096;
	struct why_cause *cause;
	char text[128];

	describe_page(why, page, text, sizeof(text));
	cause = why_add(why, "source_error", WHY_SURE,
			"The source fails: %s gives %s (%s) for %s at offset %lu, for %.1f s now.",
			look->shown, strerrorname_np(page->error) ?: "an error",
			strerror(page->error), text, look->offset,
			seconds_since(why, page->since_us));
	if (cause)
		why_remedy(
			cause,
			"Shows the error. Mend the file's disk, server or file system: ufdd tries again "
			"by itself, at least once a second, and goes on when this command succeeds.",
			"dd if='%s' of=/dev/null bs=%lu skip=%lu count=1 iflag=direct", look->shown,
			block, look->offset / block);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t read_pool(uint64_t page_bytes, const char *file)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s",
		 page_bytes / KIB, file);
	return process_read_text(path, text, sizeof(text)) > 0 ? strtoull(text, NULL, 10) : 0;
}

/* Return: false if the pool has pages, so that the next try will do. */
static bool add_empty_pool(struct why *why, const struct why_page *page)
{
	const struct view_memory *memory = memory_of(why, page);
	uint64_t n_all = read_pool(memory->page_bytes, "nr_hugepages");
	uint64_t n_wanted = memory->counts[PAGE_ABSENT] + memory->counts[PAGE_FILLING];
	struct why_cause *cause;
	char text[128];

	if (read_pool(memory->page_bytes, "free_hugepages") >
	    read_pool(memory->page_bytes, "resv_hugepages"))
		return false;
	describe_page(why, page, text, sizeof(text));
	cause = why_add(
		why, "hugetlb_exhausted", WHY_SURE,
		"No huge page is free: all %lu of %lu KiB are taken or promised, and %s needs "
		"one, for %.1f s now.",
		n_all, memory->page_bytes / KIB, text, seconds_since(why, page->since_us));
	if (cause)
		why_remedy(cause,
			   "Room for all of this memory that is absent; ufdd goes on by itself.",
			   "echo %lu >/sys/kernel/mm/hugepages/hugepages-%lukB/nr_hugepages",
			   n_all + n_wanted, memory->page_bytes / KIB);
	return true;
}

static void add_memory_limit(struct why *why)
{
	pid_t pid = why->processes[0].pid;
	struct cgroup cgroup = {};
	uint64_t more_bytes = 64 * MIB;
	struct why_cause *cause;
	bool is_found = cgroup_find_memory(pid, &cgroup);

	for (uint32_t i = 0; i < MAX_MEMORIES; i++)
		more_bytes += why->view->memories[i].page_bytes *
			      (why->view->memories[i].counts[PAGE_ABSENT] +
			       why->view->memories[i].counts[PAGE_FILLING]);
	cause = why_add(
		why, "memory_limit", is_found ? WHY_SURE : WHY_LIKELY,
		"Filling is held back for %.1f s, because the memory control group of process %d "
		"is near its limit (%lu of %lu MiB%s%s): at the limit the kernel would kill it.",
		seconds_since(why, why->view->board->held_since_us), pid, cgroup.used_bytes / MIB,
		cgroup.limit_bytes / MIB, is_found ? ", " : "; we do not see which", cgroup.folder);
	if (!cause || !is_found)
		return;
	why_remedy(cause, "", "%s", "");
	cgroup_memory_command(&cgroup, more_bytes, cause->remedy, sizeof(cause->remedy));
	snprintf(cause->after, sizeof(cause->after),
		 "Room for all that is absent, %lu MiB; ufdd goes on by itself.", more_bytes / MIB);
}

static void add_no_memory(struct why *why, const struct why_page *page)
{
	struct why_cause *cause;
	char text[128];

	describe_page(why, page, text, sizeof(text));
	cause = why_add(why, "no_memory", WHY_LIKELY,
			"There is no memory to put %s into (%s), for %.1f s now.", text,
			page->error ? strerror(page->error) : "tried again and again",
			seconds_since(why, page->since_us));
	if (cause)
		why_remedy(cause,
			   "Shows what is short; when there is room, ufdd goes on by itself.",
			   "grep -E 'MemAvailable|SwapFree|Huge' /proc/meminfo; df -h /dev/shm");
}

/* ---- one page -------------------------------------------------------------------------------- */

static bool find_stall_cause(struct why *why, const struct why_page *page)
{
	struct source_look look;

	if (page->error == ENOMEM || page->error == ENOSPC || page->error == EEXIST) {
		if (memory_of(why, page)->kind == BACKING_HUGETLB && page->error != EEXIST) {
			if (add_empty_pool(why, page))
				return true;
			if (!is_pager_well(why))
				return false;
		}
		add_no_memory(why, page);
		return true;
	}
	look_at_source(why, page, true, &look);
	if (page->error == ESTALE && is_changed(&memory_of(why, page)->file, &look.probe))
		add_changed_source(why, page, &look);
	else if (look.probe.result == PROBE_HANGS)
		add_hanging_source(why, page, &look);
	else if (look.probe.result == PROBE_READS && !is_pager_well(why))
		return false; /* it is in order by now, and nobody is there to see it */
	else
		add_failing_source(why, page, &look);
	return true;
}

static bool find_read_cause(struct why *why, const struct why_page *page)
{
	bool is_long = page->read_us && why->now_us > page->read_us + LONG_READ_US;
	struct source_look look;

	if (!is_long)
		return false;
	look_at_source(why, page, !is_pager_well(why), &look);
	/* a pager that is stopped takes no answer: only what we find ourselves counts */
	if (look.probe.result != PROBE_HANGS && !is_pager_well(why))
		return false;
	add_hanging_source(why, page, &look);
	return true;
}

static void add_verdict(struct why *why, const struct why_page *page)
{
	struct why_cause *cause;
	char text[128];

	describe_page(why, page, text, sizeof(text));
	cause = why_add(
		why, "foreign_page", WHY_SURE,
		"Somebody else made %s appear in the file before it was filled; since %.1f s ufdd "
		"finds out whether its bytes may be restored (which processes map the memory).",
		text, seconds_since(why, page->since_us));
	if (cause)
		why_remedy(cause, "Shows who maps it; end those that are not of the guest.",
			   "grep -l '%s' /proc/[0-9]*/maps", memory_of(why, page)->name);
}

static bool find_page_cause(struct why *why, const struct why_page *page)
{
	switch (page->doing) {
	case PAGE_HELD:
		add_memory_limit(why);
		return true;
	case PAGE_STALLED:
		return find_stall_cause(why, page);
	case PAGE_READING:
		return find_read_cause(why, page);
	case PAGE_TO_RETRY:
		if (memory_of(why, page)->kind == BACKING_HUGETLB && add_empty_pool(why, page))
			return true;
		return page->error ? find_stall_cause(why, page) : false;
	case PAGE_ASKING:
		if (why->now_us < page->since_us + LONG_READ_US)
			return false;
		add_verdict(why, page);
		return true;
	default:
		return false;
	}
}

bool why_find_page_causes(struct why *why)
{
	const struct why_page *oldest = NULL;

	for (size_t i = 0; i < why->n_pages; i++) {
		const struct why_page *page = &why->pages[i];

		if (page->doing == PAGE_DONE || page->doing == PAGE_QUEUED)
			continue;
		if (!oldest || page->since_us < oldest->since_us)
			oldest = page;
	}
	if (oldest)
		return find_page_cause(why, oldest);
	if (why_is_filling_held(why)) {
		add_memory_limit(why);
		return true;
	}
	return false;
}

/* ---- the pager ------------------------------------------------------------------------------- */

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
			why->pager_pid, seconds_since(why, why->view->board->beat_us));
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
			seconds_since(why, why->view ? why->view->board->beat_us : 0));
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
			seconds_since(why, why->view ? why->view->board->beat_us : 0), text);
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

bool why_has_waiters(const struct why *why)
{
	for (size_t i = 0; i < why->n_threads; i++)
		if (why->threads[i].is_ours != WHY_UNKNOWN)
			return true;
	for (size_t i = 0; i < why->n_pages; i++)
		if (why->pages[i].doing != PAGE_DONE && !why->pages[i].is_poisoned)
			return true;
	return false;
}

bool why_is_filling_held(const struct why *why)
{
	return why->view->board->held_since_us && !ledger_view_is_complete(why->view);
}
