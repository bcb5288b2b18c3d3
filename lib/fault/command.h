/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the demand thread is told, what it tells, and what it asks of bulk threads. */
#pragma once

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

struct before_write;
struct guest_view;
struct mapping;
struct memory;

enum command_kind {
	COMMAND_SHOW_VIEW, /* use @view from now on; the old one is free to go afterwards */
	COMMAND_OPEN,	   /* @mapping was proved empty: serve it, and wake who waited */
	COMMAND_CLOSE, /* @mapping was unregistered: fill through others; -EBUSY while a message of it may be unread */
	COMMAND_PREFETCH, /* fill @pages of @memory before other background work; -EBUSY if 64 wait
			    */
	COMMAND_DISCARD,  /* @pages read zero from now on */
	COMMAND_WRITTEN,  /* the owner wrote @pages: present and dirty */
	COMMAND_FINISH,	  /* fill everything, without rate limit */
	COMMAND_KEEP,	  /* @pages exist already: present (populated=keep) */
	COMMAND_VERDICT, /* @is_alone: nobody else maps @memory, its foreign page may be overwritten
			  */
	COMMAND_GRADUATE, /* @memory is about to be unregistered: the kernel is the truth now */
	COMMAND_FORGET, /* @memory is mapped nowhere any more: drop its pages; -EBUSY while one is read */
	COMMAND_REPLACE, /* @memory takes the place of the forgotten one with its id */
	COMMAND_TELL,	 /* put @notice into the queue, whose one producer is the demand thread */
	COMMAND_TRACK, /* what is done from now on is protected and marked for those who are armed; @memory is
			 * registered again */
	COMMAND_HOLES, /* present pages of @pages that are not there are removed; if @is_written, that was a write */
	COMMAND_BEFORE_WRITE, /* @before_write is asked from now on; NULL: nobody; -EBUSY: another one is */
	COMMAND_WAKE_ALL, /* every mapping of every mapper, after adoption */
	COMMAND_STOP,
};

/* Rare things, for the owner of the guest. @kind: enum ufd_event_kind of ufd/pager.h. */
struct notice {
	uint32_t kind;
	uint64_t time_ns;
	struct memory *memory; /* or NULL */
	uint64_t offset_bytes;
	int64_t value;
};

/* On the caller's stack until it is done. */
struct command {
	enum command_kind kind;
	struct guest_view *view;
	struct mapping *mapping;
	struct memory *memory;
	struct before_write *before_write;
	struct page_range pages;
	bool is_alone;
	bool is_written;
	struct notice notice;
	int result;
	sem_t done; /* private to demand_command() */
};

enum chore_kind {
	CHORE_FOREIGN,	/* who else maps @memory? Answer by COMMAND_VERDICT about @page */
	CHORE_COMPLETE, /* nothing of the guest is absent: graduate it */
};

/* Work for a bulk thread: it may block there. */
struct chore {
	enum chore_kind kind;
	struct memory *memory;
	uint64_t page;
};
