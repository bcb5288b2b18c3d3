/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's own records in a guest's ledger: what the engine does not know.
 *
 * Each is written whole and read whole; a reader of another release takes what it knows, so they
 * grow at the end. None holds a pointer or the number of an fd of ours.
 *
 * Context of all: whoever has the engine's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ufd/pager.h>

#include "attach/paging.h"
#include "settings.h"

#define RECORD_PATH_BYTES 108

/* The registration. */
struct record_guest {
	uid_t owner;
	pid_t pid; /* the first process */
	enum front_end front_end;
	bool is_leaving; /* it is being taken down: whoever finds this goes on with it */
	uint64_t attached_ns;
	char qmp[RECORD_PATH_BYTES]; /* "" if there is none */
	struct settings settings;
};

/* A process that maps the guest's memory: the engine's mapper of the same number. */
struct record_mapper {
	pid_t pid;
	int remote_fd; /* of the process's own copy that we made there; -1: it made it itself */
	uint64_t uffd_inode; /* each userfaultfd has an inode of its own */
	bool has_duplicate;  /* the process held a copy of it when it became a mapper, */
	int copy_fd;	     /* of this number: where to look first */
};

/* Each return: 0, -ENOENT (getting), -EBADMSG (getting: too short), -ENOSPC (putting). */
int record_put_guest(struct ufd_pager_guest *guest, const struct record_guest *record);
int record_get_guest(const struct ufd_pager_guest *guest, struct record_guest *ret);

int record_put_mapper(struct ufd_pager_guest *guest, uint32_t mapper,
		      const struct record_mapper *record);
int record_get_mapper(const struct ufd_pager_guest *guest, uint32_t mapper,
		      struct record_mapper *ret);

/* Where a memory begins, in the count of whoever named it. */
int record_put_base(struct ufd_pager_guest *guest, uint32_t memory, uint64_t base_bytes);
int record_get_base(const struct ufd_pager_guest *guest, uint32_t memory, uint64_t *ret);

/*
 * A process that is about to get a userfaultfd from us, and after that its number there; it becomes
 * a mapper's when there is a mapper. Found after a crash, that copy is closed again.
 */
int record_put_attaching(struct ufd_pager_guest *guest, const struct record_mapper *record);
int record_get_attaching(const struct ufd_pager_guest *guest, struct record_mapper *ret);
void record_drop_attaching(struct ufd_pager_guest *guest);

/*
 * The engine records a mapper before it has a record here: if a crash came between the two, what is
 * known of it is what was recorded as it arrived. @pid: the engine's mapper's. Return: as getting.
 */
int record_find_mapper(const struct ufd_pager_guest *guest, uint32_t mapper, pid_t pid,
		       struct record_mapper *ret);

/* How a consumer of what was written is read: what the engine does not know of it. Zero is the default. */
struct record_consumer {
	char name[UFD_NAME_BYTES];
	uint32_t quiesce; /* enum quiesce */
	bool has_all_mappers;
	char qmp[RECORD_PATH_BYTES]; /* "": the guest's own */
};
/* By its name. Getting: an engine's consumer without a record has the default. */
int record_put_consumer(struct ufd_pager_guest *guest, const struct record_consumer *record);
int record_get_consumer(const struct ufd_pager_guest *guest, const char *name,
			struct record_consumer *ret);
void record_drop_consumer(struct ufd_pager_guest *guest, const char *name);
/* Drops those of consumers that are not there: their start was not finished. */
void record_keep_consumers(struct ufd_pager_guest *guest,
			   bool (*is_there)(struct ufd_pager_guest *guest, const char *name));

/* Its VMM ran and is about to be paused, or is: whoever finds this lets it go on. @qmp: its monitor. */
int record_put_pause(struct ufd_pager_guest *guest, const char *qmp);
int record_get_pause(const struct ufd_pager_guest *guest, char ret_qmp[RECORD_PATH_BYTES]);
void record_drop_pause(struct ufd_pager_guest *guest);
