/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Adoption of a guest's parts: processes, memories with their sources, mappings. See adoption.h. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "pager/adoption.h"
#include "pager/kinds.h"
#include "source/kinds.h"

#define WHAT_BYTES     (UFD_NAME_BYTES + 32)
#define ADDRESS_MAX    (UINT64_C(1) << 57) /* more than any user address, and far from wrapping */
#define HALF_MAX_BYTES (UINT64_C(1) << 47) /* undone in steps, it must come to an end */

/* ---- processes ---- */

static const char *check_uffd(struct adoption *adoption, uint32_t id, int fd)
{
	struct recorded_mapper recorded;
	uint64_t features;
	int r = uffd_inspect(fd, &features);

	/* the process may have taken it off the open file, which it shares with us */
	if (r == -EWOULDBLOCK && uffd_make_nonblocking(fd) == 0)
		r = uffd_inspect(fd, &features);
	if (r < 0)
		return "is no userfaultfd in use";
	if (roster_get_mapper(adoption->ledger, id, &recorded) || features != recorded.features)
		return "is another userfaultfd, with other features";
	return NULL;
}

static const char *check_pidfd(struct adoption *adoption, uint32_t id, int fd)
{
	struct recorded_mapper recorded;
	uint64_t ticks;
	pid_t pid;
	int r = pidfd_get_pid(fd, &pid);

	/* whoever has ended cannot be asked for more */
	if (r == -ESRCH)
		return NULL;
	if (r < 0)
		return "is no pidfd";
	if (roster_get_mapper(adoption->ledger, id, &recorded) || pid != recorded.pid)
		return "is that of another process";
	if (pidfd_start_ticks(pid, &ticks) == 0 && ticks != recorded.start_ticks)
		return "is that of a later process";
	return NULL;
}

static const char *check_pagemap(struct adoption *adoption, uint32_t id, int fd)
{
	char path[48], target[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return "cannot be looked at";
	target[n] = '\0';
	return strstr(target, "/pagemap") ? NULL : "is no pagemap";
}

/*
 * The process as the ledger names it, by its pid and its start: no guess. Return: 0 with a pidfd, or
 * -EBADF in *@ret_fd if it has ended; -errno if that cannot be told.
 */
static int find_process(const struct recorded_mapper *recorded, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t ticks;
	int r;

	*ret_fd = -EBADF;
	r = pidfd_open_pid(&fd, recorded->pid);
	if (r == -ESRCH)
		return 0;
	if (r < 0)
		return r;
	/* read after it was opened: if this is the process, so is the pidfd */
	r = pidfd_start_ticks(recorded->pid, &ticks);
	if (r < 0 && r != -ESRCH)
		return r;
	if (r == 0 && ticks == recorded->start_ticks && pidfd_is_alive(fd))
		*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Return: 0; *@ret_fd is -EBADF if the process has ended. -errno (reported). */
static int adopt_pidfd(struct adoption *adoption, uint32_t id,
		       const struct recorded_mapper *recorded, const char *what, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	int r;

	r = adoption_kept(adoption, UFD_HANDLE_PIDFD, id, check_pidfd, what, &fd);
	if (r == -ENOENT && find_process(recorded, ret_fd) == 0)
		return 0;
	if (r == -ENOENT)
		r = adoption_refetch(adoption, UFD_HANDLE_PIDFD, id, check_pidfd, what, &fd);
	if (r < 0)
		return r;
	*ret_fd = pidfd_is_alive(fd) ? TAKE_FD(fd) : -EBADF;
	return 0;
}

static void mark_used(struct adoption *adoption, uint32_t id)
{
	for (size_t i = 0; i < adoption->opts.n_handles; i++)
		if (adoption->opts.handles[i].id == id &&
		    adoption->opts.handles[i].kind <= UFD_HANDLE_PAGEMAP)
			adoption->are_used[i] = true;
}

/* Return: 0, -errno. */
static int adopt_mapper(struct adoption *adoption, uint32_t id,
			const struct recorded_mapper *recorded)
{
	_cleanup_(closep) int uffd = -EBADF, pidfd = -EBADF, pagemap = -EBADF;
	struct mapper *mapper;
	char what[WHAT_BYTES];
	int r;

	snprintf(what, sizeof(what), "process %d", recorded->pid);
	r = adopt_pidfd(adoption, id, recorded, what, &pidfd);
	if (r == 0 && pidfd < 0) {
		adoption_report(adoption, "Process %d has ended.", recorded->pid);
		mark_used(adoption, id);
	} else if (r == 0) {
		r = adoption_handle(adoption, UFD_HANDLE_UFFD, id, check_uffd, what, &uffd);
		/* without it we open our own when we need it, if we may */
		if (r == 0 && recorded->has_pagemap)
			(void)adoption_handle(adoption, UFD_HANDLE_PAGEMAP, id, check_pagemap, what,
					      &pagemap);
	}
	/*
	 * It was being announced when the former process died: nothing was registered with it. Or the
	 * guest was being freed, which came as far as that nobody has its userfaultfd any more.
	 */
	if (r < 0 &&
	    (!adoption->n_mappings[id] || (adoption->is_nowhere && !adoption->paged->is_started)))
		closep(&pidfd), pidfd = -EBADF;
	else if (r < 0)
		return r;

	r = guest_add_mapper(adoption->paged->guest, uffd, pidfd, pagemap, recorded->pid,
			     recorded->features, &mapper);
	if (r)
		return -EBADMSG;
	mapper->start_ticks = recorded->start_ticks;
	mapper->is_gone = pidfd < 0;
	mapper->has_own_pagemap = pagemap >= 0;
	uffd = pidfd = pagemap = -EBADF;
	return 0;
}

/* How many mappings each mapper has, and which memories are shown. Return: 0, -EBADMSG. */
static int count_mappings(struct adoption *adoption)
{
	struct recorded_mapping mapping;
	uint32_t cursor = 0;
	int r;

	while ((r = roster_next(adoption->ledger, &cursor, &mapping)) == 0) {
		if (mapping.mapper >= MAX_MAPPERS || mapping.memory >= MAX_MEMORIES)
			break;
		adoption->n_mappings[mapping.mapper]++;
		adoption->is_shown[mapping.memory] |= mapping.stage == MAPPING_OPEN;
		adoption->n_memories = (uint32_t)max_u64(adoption->n_memories, mapping.memory + 1);
	}
	if (r == -ENOENT)
		return 0;
	adoption_report(adoption, "The records of mappings are damaged.");
	return -EBADMSG;
}

int adopt_mappers(struct adoption *adoption)
{
	const struct guest *guest = adoption->paged->guest;
	bool is_any_alive = false;
	uint32_t n = 0;
	int r;

	r = count_mappings(adoption);
	for (uint32_t id = 0; r == 0 && id < MAX_MAPPERS; id++) {
		struct recorded_mapper recorded;

		r = roster_get_mapper(adoption->ledger, id, &recorded);
		if (r == -ENOENT) {
			r = adoption->n_mappings[id] ? LEDGER_DAMAGED : 0;
			continue;
		}
		if (r == 0 && id != n++)
			r = LEDGER_DAMAGED; /* they are numbered without gaps */
		if (r == 0)
			r = adopt_mapper(adoption, id, &recorded);
	}
	if (r == LEDGER_DAMAGED) {
		adoption_report(adoption, "The record of a process is missing or damaged.");
		return -EBADMSG;
	}
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < guest->n_mappers; i++)
		is_any_alive |= !guest->mappers[i].is_gone;
	if (guest->n_mappers && !is_any_alive) {
		adoption_report(adoption, "Every process of the guest has ended.");
		return -ESRCH;
	}
	return 0;
}

/* ---- sources ---- */

static const char *check_source(struct adoption *adoption, uint32_t id, int fd)
{
	struct source_identity now;
	struct source *source;
	struct kept_source kept;
	const char *instead = NULL;
	int r;

	if (kept_source_get(adoption->ledger, id, &kept))
		return "has no record";
	r = kinds_source_reopen(&source, kept.spec, fd, NULL);
	if (r < 0) {
		instead = "cannot be read from";
	} else {
		if (source_file(source, &now) < 0 || !source_is_same_file(&now, &kept.identity))
			instead = "is not what it was: another file, or it was changed";
		source_unref(source);
	}
	adoption->refused = 0;
	if (instead)
		adoption->refused = r < 0 && r != -EBADF && r != -EINVAL ? r : -ESTALE;
	kept_source_done(&kept);
	return instead;
}

static int open_source(struct adoption *adoption, uint32_t id, const struct kept_source *kept,
		       const char *what, struct source **ret)
{
	_cleanup_(closep) int fd = -EBADF;
	int r;

	adoption->refused = 0;
	if (!kept->spec[0]) {
		adoption_report(adoption,
				"The source of %s was made by a program, and cannot be made "
				"again.",
				what);
		return -EBADF;
	}
	if (kept->is_file) {
		r = adoption_handle(adoption, UFD_HANDLE_SOURCE, id, check_source, what, &fd);
		if (r < 0)
			return adoption->refused ? adoption->refused : r;
	}
	r = kinds_source_reopen(ret, kept->spec, kept->is_file ? fd : -1, NULL);
	if (r < 0)
		adoption_report(adoption, "The source of %s cannot be opened: %s.", what,
				strerror(-r));
	return r;
}

/* Return: 0, -EBADMSG, -EBADF, -ESTALE, -errno. */
static int adopt_source(struct adoption *adoption, struct memory *memory, const char *what)
{
	struct ufd_pager_guest *paged = adoption->paged;
	struct kept_source kept = {};
	struct source *source = NULL;
	int r;

	r = kept_source_get(adoption->ledger, memory->id, &kept);
	if (r == -ENOENT || r == LEDGER_DAMAGED) {
		adoption_report(adoption, "The record of the source of %s is missing or damaged.",
				what);
		return -EBADMSG;
	}
	if (r < 0)
		return r;
	free(paged->specs[memory->id]);
	paged->specs[memory->id] = kept.spec;
	r = open_source(adoption, memory->id, &kept, what, &source);
	if (r < 0 && !memory->n_absent)
		r = source_new_gone(&source, kept.spec); /* it is not needed any more */
	if (r < 0)
		return r;
	paged->sources[memory->id] = source;
	memory->source = source;
	if (source->is_backing == memory->is_backing_source &&
	    source_length(source) >= memory->source_offset &&
	    source_length(source) - memory->source_offset >= memory->length_bytes)
		return 0;
	if (!memory->n_absent && !memory->is_backing_source)
		return 0;
	adoption_report(adoption, "The source of %s is not the one that was recorded.", what);
	return -EBADMSG;
}

/* ---- memories ---- */

static const char *check_backing(struct adoption *adoption, uint32_t id, int fd)
{
	struct stat stat;
	dev_t device;
	ino_t inode;

	if (fstat(fd, &stat) < 0 || memory_recorded_file(adoption->ledger, id, &device, &inode))
		return "cannot be looked at";
	return stat.st_dev == device && stat.st_ino == inode ? NULL : "is another file";
}

/* No two memories may share states, nor names. */
static bool is_distinct(const struct guest *guest, const struct memory *memory)
{
	uint64_t end = memory->states_offset + page_states_bytes(memory_n_pages(memory));

	for (uint32_t i = 0; i < guest->n_memories; i++) {
		const struct memory *other = guest->memories[i];

		if (other->is_forgotten)
			continue;
		if (strcmp(other->name, memory->name) == 0 ||
		    (memory->states_offset <
			     other->states_offset + page_states_bytes(memory_n_pages(other)) &&
		     other->states_offset < end))
			return false;
	}
	return true;
}

/* @config: as recorded. Return: 0 with a memory that no guest owns yet, -errno. */
static int open_memory(struct adoption *adoption, uint32_t id, struct memory_config *config,
		       const char *what, struct memory **ret)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	_cleanup_(closep) int backing = -EBADF;
	int r;

	if (config->kind != BACKING_ANON) {
		r = adoption_handle(adoption, UFD_HANDLE_BACKING, id, check_backing, what,
				    &backing);
		if (r < 0)
			return r;
	}
	config->backing = backing;
	r = memory_adopt(&memory, id, config, adoption->ledger);
	if (r == LEDGER_DAMAGED || r == -EINVAL ||
	    (r == 0 && !is_distinct(adoption->paged->guest, memory))) {
		adoption_report(adoption, "The record of %s is damaged.", what);
		return -EBADMSG;
	}
	if (r < 0)
		return r;
	*ret = TAKE_PTR(memory);
	return 0;
}

/* Return: 0, -EBADMSG, -EBADF, -ESTALE, -errno. */
static int adopt_recorded(struct adoption *adoption, uint32_t id, struct memory_config *config,
			  struct memory **ret)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct source **source = &adoption->paged->sources[id];
	char what[WHAT_BYTES];
	int r;

	snprintf(what, sizeof(what), "memory `%s`", config->name);
	r = open_memory(adoption, id, config, what, &memory);
	if (r == 0)
		r = adopt_source(adoption, memory, what);
	/* it was being declared when the former process died: nothing of it is anywhere */
	if ((r == -EBADF || r == -ESTALE) && !adoption->is_shown[id]) {
		memory = memory_free(memory);
		*source = source_unref(*source);
		r = memory_new_forgotten(&memory, id);
	}
	if (r == 0)
		*ret = TAKE_PTR(memory);
	return r;
}

static int adopt_memory(struct adoption *adoption, uint32_t id)
{
	struct memory *memory = NULL;
	struct memory_config config;
	int r;

	r = memory_recorded(adoption->ledger, id, &config);
	if (r == -ENOENT && !adoption->is_shown[id]) {
		r = memory_new_forgotten(&memory, id);
	} else if (r || config.page_bytes > PAGE_MAX_BYTES) {
		adoption_report(adoption, "The record of memory %u is missing or damaged.", id);
		r = -EBADMSG;
	} else {
		r = adopt_recorded(adoption, id, &config, &memory);
	}
	if (r < 0)
		return r;
	r = guest_add_memory(adoption->paged->guest, memory);
	assert(r == 0); /* ids come in order, and end with the last there may be */
	return 0;
}

int adopt_memories(struct adoption *adoption)
{
	struct memory_config config;
	uint32_t n = adoption->n_memories;
	int r = 0;

	for (uint32_t id = 0; id < MAX_MEMORIES; id++)
		if (memory_recorded(adoption->ledger, id, &config) != -ENOENT)
			n = (uint32_t)max_u64(n, id + 1);
	for (uint32_t id = 0; r == 0 && id < n; id++)
		r = adopt_memory(adoption, id);
	return r;
}

/* ---- mappings ---- */

static bool mapping_is_sound(const struct recorded_mapping *recorded, const struct memory *memory)
{
	if (!recorded->range.length_bytes ||
	    !is_aligned(recorded->range.start.v | recorded->range.length_bytes |
				recorded->offset_bytes,
			memory->page_bytes) ||
	    recorded->range.start.v >= ADDRESS_MAX || recorded->range.length_bytes > ADDRESS_MAX)
		return false;
	/* how long it was cannot be told any more */
	if (memory->is_forgotten)
		return recorded->range.length_bytes <= HALF_MAX_BYTES;
	return recorded->offset_bytes <= memory->length_bytes &&
	       recorded->range.length_bytes <= memory->length_bytes - recorded->offset_bytes;
}

static int report_mapping(const struct adoption *adoption, const struct recorded_mapping *recorded)
{
	adoption_report(adoption, "The record of a mapping of process %d at %#llx is damaged.",
			adoption->paged->guest->mappers[recorded->mapper].pid,
			(unsigned long long)recorded->range.start.v);
	return -EBADMSG;
}

/*
 * One that is arriving or leaving stays closed, and is taken out by the start: until then the view tells what a discard
 * through it means. Return: 0, -EBADMSG, -ENOMEM.
 */
static int adopt_mapping(struct adoption *adoption, const struct recorded_mapping *recorded)
{
	struct guest *guest = adoption->paged->guest;
	struct mapping mapping = {
		.mapper = &guest->mappers[recorded->mapper],
		.memory = guest->memories[recorded->memory],
		.range = recorded->range,
		.offset_bytes = recorded->offset_bytes,
		.stage = recorded->stage,
		.place = recorded->place,
		.is_open = recorded->stage == MAPPING_OPEN,
	};
	struct guest_view *old;
	struct mapping *added;
	int r = GUEST_UNKNOWN;

	if (mapping_is_sound(recorded, mapping.memory) &&
	    !mapping_is_private_and_shown(guest->view, &mapping))
		r = guest_add_mapping(guest, &mapping, &old, &added);
	if (r < 0)
		return r;
	if (r > 0)
		return report_mapping(adoption, recorded);
	free(old);
	if (!mapping.is_open)
		adoption_report(adoption, "A mapping of process %d at %#llx was only half %s.",
				mapping.mapper->pid, (unsigned long long)recorded->range.start.v,
				recorded->stage == MAPPING_LEAVING ? "removed" : "made");
	return 0;
}

int adopt_mappings(struct adoption *adoption)
{
	struct recorded_mapping recorded;
	uint32_t cursor = 0;
	int r = 0;

	/* their ids were checked by count_mappings() and the records they stand for */
	while (r == 0 && roster_next(adoption->ledger, &cursor, &recorded) == 0)
		r = adopt_mapping(adoption, &recorded);
	return r;
}
