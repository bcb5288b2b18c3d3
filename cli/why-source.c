/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Causes that lie in a source: it hangs, fails, or is no longer what it was. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/units.h"
#include "image/image-source.h"
#include "source/file-spec.h"
#include "why-cause.h"
#include "why.h"

#define PROBE_PATIENCE_NS (300 * NSEC_PER_MSEC)
#define LONG_READ_US	  1000000
#define SHOWN_BYTES	  256

/* Readable. The file that a page comes from, and whether it answers now. */
struct source_look {
	char open_path[512]; /* for us */
	char shown[SHOWN_BYTES];
	uint64_t offset; /* in the file */
	bool is_file;
	struct source_probe probe;
	struct source_mount mount;
};

/* Its bytes lie packed, or in several files: only what unpacks them can tell. */
static bool is_image(const struct view_memory *memory)
{
	return image_spec_is(memory->spec);
}

/*
 * @may_read: try it ourselves. A file system that hangs keeps whoever reads from it, so that is done
 * only where the pager's own read is no proof.
 */
static void look_at_source(const struct why *why, const struct why_page *page, bool may_read,
			   struct source_look *ret)
{
	const struct view_memory *memory = why_memory(why, page);
	pid_t pid = why->pager ? why->pager->pid : getpid();
	char path[PATH_MAX];
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
	if (!is_open && file_spec_path(memory->spec, path) && path[0] == '/' &&
	    strlen(path) < sizeof(ret->open_path)) {
		strcpy(ret->open_path, path);
		snprintf(ret->shown, sizeof(ret->shown), "%.*s", (int)sizeof(ret->shown) - 1, path);
	}
	if (!is_open && !ret->open_path[0])
		snprintf(ret->shown, sizeof(ret->shown), "the file with inode %lu on device %u:%u",
			 memory->file.inode, major(memory->file.device),
			 minor(memory->file.device));
	if (is_image(memory) && may_read)
		source_probe_image(&ret->probe, memory->spec,
				   memory->source_offset + page->page * memory->page_bytes,
				   PROBE_PATIENCE_NS);
	else if (ret->open_path[0] && may_read)
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
	char folder[64];

	if (pid)
		(void)process_read(&server, pid);
	if (server && process_count(server, THREAD_STOPPED)) {
		why_remedy(cause,
			   "The process that serves this file system is stopped; it goes on.",
			   "kill -CONT %d", pid);
		return;
	}
	snprintf(folder, sizeof(folder), "/sys/fs/fuse/connections/%u", minor(device));
	why_remedy(
		cause,
		"Ends the read with an error, and the file system with it; then mount it again and "
		"see to its server.",
		"%secho 1 >%s/abort",
		access(folder, F_OK) == 0 ? ""
					  : "mount -t fusectl fusectl /sys/fs/fuse/connections; ",
		folder);
	if (server)
		snprintf(cause->after + strlen(cause->after),
			 sizeof(cause->after) - strlen(cause->after),
			 " The server is process %d (%s).", pid, server->name);
}

static void add_hanging_source(struct why *why, const struct why_page *page,
			       const struct source_look *look)
{
	const struct view_memory *memory = why_memory(why, page);
	struct why_cause *cause;
	char text[128];

	why_describe_page(why, page, text, sizeof(text));
	cause = why_add(
		why, "source_hangs", look->probe.result == PROBE_HANGS ? WHY_SURE : WHY_LIKELY,
		"The source does not answer: %s was asked for %s at offset %lu %.1f s ago.%s",
		look->shown, text, look->offset, why_seconds_since(why, page->read_us),
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
static bool is_changed(const struct source_identity *then, const struct source_probe *now)
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
	const struct source_identity *file = &why_memory(why, page)->file;
	struct why_cause *cause;
	char text[128], how[128] = "it was written to or replaced";

	if (look->probe.length_bytes && look->probe.length_bytes != file->length_bytes)
		snprintf(how, sizeof(how), "it had %lu bytes and has %lu now", file->length_bytes,
			 look->probe.length_bytes);
	why_describe_page(why, page, text, sizeof(text));
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

	why_describe_page(why, page, text, sizeof(text));
	if (look->probe.why[0])
		cause = why_add(why, "source_error", WHY_SURE,
				"The source fails: %s. It is wanted for %s, for %.1f s now.",
				look->probe.why, text, why_seconds_since(why, page->since_us));
	else
		cause = why_add(
			why, "source_error", WHY_SURE,
			"The source fails: %s gives %s (%s) for %s at offset %lu, for %.1f s now.",
			look->shown, strerrorname_np(page->error) ?: "an error",
			strerror(page->error), text, look->offset,
			why_seconds_since(why, page->since_us));
	if (!cause)
		return;
	if (is_image(why_memory(why, page)))
		why_remedy(
			cause,
			"Names all that is broken. Copy those bytes from a sound copy of the file back into "
			"it, in place: ufdd tries again by itself, at least once a second, and goes on.",
			"ufdctl image verify '%s'", look->shown);
	else
		why_remedy(
			cause,
			"Shows the error. Mend the file's disk, server or file system: ufdd tries again "
			"by itself, at least once a second, and goes on when this command succeeds.",
			"dd if='%s' of=/dev/null bs=%lu skip=%lu count=1 iflag=direct", look->shown,
			block, look->offset / block);
}

/* ---- what is wrong with it ------------------------------------------------------------------- */

bool why_find_failing_source(struct why *why, const struct why_page *page)
{
	struct source_look look;

	look_at_source(why, page, true, &look);
	if (page->error == ESTALE && is_changed(&why_memory(why, page)->file, &look.probe))
		add_changed_source(why, page, &look);
	else if (look.probe.result == PROBE_HANGS)
		add_hanging_source(why, page, &look);
	else if (look.probe.result == PROBE_READS && !why_is_pager_well(why))
		return false; /* it is in order by now, and nobody is there to see it */
	else
		add_failing_source(why, page, &look);
	return true;
}

bool why_find_slow_source(struct why *why, const struct why_page *page)
{
	bool is_long = page->read_us && why->now_us > page->read_us + LONG_READ_US;
	struct source_look look;

	if (!is_long)
		return false;
	look_at_source(why, page, !why_is_pager_well(why), &look);
	/* a pager that is stopped takes no answer: only what we find ourselves counts */
	if (look.probe.result != PROBE_HANGS && !why_is_pager_well(why))
		return false;
	add_hanging_source(why, page, &look);
	return true;
}
