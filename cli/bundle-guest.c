/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests in a bundle. Ledgers are decoded here rather than copied, and of processes only those files
 * of /proc are taken that describe: a bundle leaves the house, so no byte of a guest may be in it.
 */
#include "bundle-guest.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/units.h"
#include "bundle.h"
#include "cgroup.h"
#include "kernel/procfs.h"
#include "ledger-view.h"
#include "process.h"

#define MAX_FDS 20000

/* ---- processes ------------------------------------------------------------------------------- */

static void write_threads(FILE *out, const struct process *process)
{
	fprintf(out, "%-8s %-5s %-16s %-28s %-8s %s\n", "TID", "STATE", "NAME", "IN", "SYSCALL",
		"PC");
	for (size_t i = 0; i < process->n_threads; i++) {
		const struct thread *thread = &process->threads[i];

		fprintf(out, "%-8d %-5c %-16s %-28s %-8ld 0x%lx\n", thread->tid, thread->state,
			thread->name, thread->inside[0] ? thread->inside : "-",
			thread->has_syscall ? thread->syscall : -2, thread->pc);
	}
	for (size_t i = 0; i < process->n_uffds; i++)
		fprintf(out, "userfaultfd %d: inode %lu, %lu pending, %lu in all\n",
			process->uffds[i].fd, process->uffds[i].inode, process->uffds[i].n_pending,
			process->uffds[i].n_total);
}

static void add_threads(struct bundle *bundle, const char *prefix, pid_t pid)
{
	_cleanup_(process_freep) struct process *process = NULL;
	_cleanup_(freep) char *text = NULL;
	char member[256];
	size_t n_text;
	FILE *out;

	snprintf(member, sizeof(member), "%s/threads.txt", prefix);
	if (process_read(&process, pid) != 0) {
		bundle_note_missing(bundle, member, "process %d has gone", pid);
		return;
	}
	out = open_memstream(&text, &n_text);
	if (!out)
		return;
	write_threads(out, process);
	fclose(out);
	bundle_add_bytes(bundle, member, text, n_text);
}

/* Their names and positions; what is behind them is not read. */
static void add_fds(struct bundle *bundle, const char *prefix, pid_t pid)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	_cleanup_(freep) char *text = NULL;
	char path[64], member[256], name[512], info[2048];
	struct dirent *entry;
	size_t n_text, n = 0;
	FILE *out;

	snprintf(member, sizeof(member), "%s/fds.txt", prefix);
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir) {
		bundle_note_missing(bundle, member, "%s: %s", path, strerror(errno));
		return;
	}
	out = open_memstream(&text, &n_text);
	while (out && (entry = readdir(dir)) && n < MAX_FDS) {
		int fd = (int)strtol(entry->d_name, NULL, 10);

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		process_fd_name(pid, fd, name, sizeof(name));
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
		fprintf(out, "%d -> %s\n%s\n", fd, name,
			procfs_read(path, info, sizeof(info), NULL) == 0 ? info : "");
		n++;
	}
	if (!out)
		return;
	fclose(out);
	bundle_add_bytes(bundle, member, text, n_text);
}

static void add_cgroup(struct bundle *bundle, const char *prefix, pid_t pid)
{
	struct cgroup cgroup;
	char text[CGROUP_FOLDER_BYTES + 128], member[256];

	if (!cgroup_find_memory(pid, &cgroup))
		return;
	snprintf(text, sizeof(text), "folder %s\nlimit_bytes %lu\nused_bytes %lu\n", cgroup.folder,
		 cgroup.limit_bytes, cgroup.used_bytes);
	snprintf(member, sizeof(member), "%s/memory-limit.txt", prefix);
	bundle_add_text(bundle, member, text);
}

void bundle_add_process(struct bundle *bundle, pid_t pid)
{
	static const char *const files[] = { "status", "stat",	       "limits", "maps",
					     "smaps",  "smaps_rollup", "cgroup", "mountinfo" };
	char path[64], member[256], prefix[64];

	snprintf(prefix, sizeof(prefix), "processes/%d", pid);
	snprintf(member, sizeof(member), "%s/threads.txt", prefix);
	if (bundle_has(bundle, member))
		return;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (access(path, F_OK) < 0) {
		bundle_note_missing(bundle, prefix, "process %d has ended", pid);
		return;
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[i]);
		snprintf(member, sizeof(member), "%s/%s", prefix, files[i]);
		bundle_copy(bundle, member, path);
	}
	add_threads(bundle, prefix, pid);
	add_fds(bundle, prefix, pid);
	add_cgroup(bundle, prefix, pid);
}

/* ---- ledgers --------------------------------------------------------------------------------- */

static void write_memories(FILE *out, const struct ledger_view *view)
{
	for (uint32_t i = 0; i < MAX_MEMORIES; i++) {
		const struct view_memory *memory = &view->memories[i];

		if (!memory->name[0])
			continue;
		fprintf(out, "memory %u: %s, %lu pages of %lu bytes, source '%s' + %lu\n", i,
			memory->name, memory->n_pages, memory->page_bytes, memory->spec,
			memory->source_offset);
		for (int state = 0; state < PAGE_STATES; state++)
			fprintf(out, "  %-8s %lu\n", page_state_name(state), memory->counts[state]);
		for (uint32_t j = 0; j < memory->n_poisoned; j++)
			fprintf(out, "  poisoned page %lu\n", memory->poisoned[j]);
	}
	for (uint32_t i = 0; i < view->n_mappers; i++)
		fprintf(out, "mapper %u: pid %d, started at tick %lu, features 0x%lx\n", i,
			view->mappers[i].pid, view->mappers[i].start_ticks,
			view->mappers[i].features);
	for (uint32_t i = 0; i < view->n_mappings; i++)
		fprintf(out, "mapping %u: mapper %u, memory %u, stage %d, 0x%lx + 0x%lx at 0x%lx\n",
			view->mappings[i].place, view->mappings[i].mapper, view->mappings[i].memory,
			view->mappings[i].stage, view->mappings[i].range.start.v,
			view->mappings[i].range.length_bytes, view->mappings[i].offset_bytes);
	if (view->settings.is_known)
		fprintf(out,
			"policy %u, deadline %lu ns, background %d at %lu bytes a second, graduated %d\n",
			view->settings.policy, view->settings.deadline_ns,
			view->settings.has_background, view->settings.background_rate,
			view->settings.is_graduated);
	fprintf(out, "damaged records %u\n", view->n_damaged);
}

static void write_board(FILE *out, const struct board *board)
{
	fprintf(out,
		"now_us %lu\nbeat_us %lu\npager_pid %u\nis_asleep %u\nparked %lu\nheld_since_us %lu\n",
		clock_now_ns() / NSEC_PER_USEC, board->beat_us, board->pager_pid, board->is_asleep,
		board->n_parked, board->held_since_us);
	for (unsigned int i = 0; i < BOARD_N_FILLS; i++) {
		const struct board_fill *fill = &board->fills[i];

		if (fill->state == BOARD_FREE)
			continue;
		fprintf(out,
			"fill %u: state %u, cause %u, memory %u, page %lu + %u, since_us %lu, read_us %lu, "
			"retry_at_us %lu, tries %u, error %d\n",
			i, fill->state, fill->cause, fill->memory, fill->page, fill->n_pages,
			fill->since_us, fill->read_us, fill->retry_at_us, fill->n_tries,
			fill->error);
	}
	for (unsigned int i = 0; i < BOARD_N_STALLS; i++) {
		const struct board_stall *stall = &board->stalls[i];

		if (stall->since_us)
			fprintf(out,
				"stall %u: memory %u, page %lu, since_us %lu, retry_at_us %lu, error %d\n",
				i, stall->memory, stall->page, stall->since_us, stall->retry_at_us,
				stall->error);
	}
}

static void write_flight(FILE *out, const struct flight *flight)
{
	struct flight_event event;
	struct flight_cursor cursor = {};

	while (flight_next(flight, &cursor, &event))
		fprintf(out, "%lu.%06lu %-12s memory %u page %lu value %d\n",
			event.time_us / 1000000, event.time_us % 1000000,
			flight_kind_name(event.kind), event.memory, event.page, event.value);
}

/*
 * A guest's name may hold what a file name should not; and two pagers may each have a guest of the
 * same name.
 */
static void folder_of(struct bundle *bundle, const char *name, char ret[128])
{
	char member[256];
	size_t n = 0;

	n += (size_t)snprintf(ret, 128, "guests/");
	for (; *name && n < 120; name++)
		ret[n++] = isalnum((unsigned char)*name) || strchr("-_", *name) ? *name : '_';
	ret[n] = '\0';
	for (int i = 2; i < 10000; i++) {
		snprintf(member, sizeof(member), "%s/ledger.txt", ret);
		if (!bundle_has(bundle, member))
			return;
		snprintf(ret + n, 128 - n, ".%d", i);
	}
}

void bundle_add_ledger(struct bundle *bundle, struct ledger *ledger, const char *path)
{
	_cleanup_(ledger_view_freep) struct ledger_view *view = NULL;
	_cleanup_(freep) char *text = NULL;
	char folder[128], member[256];
	size_t n_text;
	FILE *out;

	if (ledger_view_new(&view, ledger) != 0)
		return;
	folder_of(bundle, view->name, folder);
	out = open_memstream(&text, &n_text);
	if (!out)
		return;
	fprintf(out, "ledger from %s\n", path);
	write_memories(out, view);
	fputs("\nboard\n", out);
	write_board(out, view->board);
	fputs("\nflight recorder, CLOCK_MONOTONIC\n", out);
	write_flight(out, view->flight);
	fclose(out);
	snprintf(member, sizeof(member), "%s/ledger.txt", folder);
	bundle_add_bytes(bundle, member, text, n_text);
	for (uint32_t i = 0; i < view->n_mappers; i++)
		bundle_add_process(bundle, view->mappers[i].pid);
}
