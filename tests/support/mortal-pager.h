/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A pager that may be killed: an engine in a process of its own, which hands its ledger and its
 * handles to the test as a service manager would keep them, and whose successor adopts them.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "support/paged-child.h"
#include "ufd/pager.h"

#define FATE_SEALED UINT64_MAX

/* Where a pager kills itself: shared by all processes of the test. Readable and writable. */
struct fate {
	_Atomic uint64_t n_points;    /* passed so far; see fate_point() */
	_Atomic uint64_t dies_at;     /* 0: lives; FATE_SEALED: it dies right now, or is dead */
	_Atomic uint32_t dies_unread; /* after it has read a REMOVE, before it has applied it */
	_Atomic uint32_t dies_copied; /* after bytes went in, before that is known */
	_Atomic uint32_t has_died;
};

/* What is kept of one guest. Readable. */
struct kept {
	int ledger; /* -1: nothing yet */
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n_handles;
};

/* Done by the pager's process. @argument: memory that is shared. Return: 0 or -errno of the engine. */
typedef int (*mortal_work)(struct ufd_pager_guest *guest, void *argument);

/* How a guest of one memory is made. @child, @source_fd: borrowed by the pager's process. */
struct mortal_guest {
	const struct paged_child *child;
	enum child_memory kind;
	const char *spec;
	int source_fd;
	uint32_t no_background;
	uint64_t window_bytes;
	bool is_split;	     /* the child's second half is a memory of its own, for mortal_plug() */
	uint32_t track;	     /* enum ufd_track */
	uint32_t populated;  /* 1 + enum ufd_populated; 0: as the kind allows */
	mortal_work prepare; /* before the guest is started the first time; may be NULL */
	void *argument;	     /* for @prepare */
};

struct mortal {
	pid_t pid; /* 0: none runs */
	int socket;
	struct kept kept;
	struct fate *fate;
	struct mortal_guest guest; /* as it was started */
};

void mortal_init(struct mortal *mortal);
void mortal_done(struct mortal *mortal); /* kills what runs */

/*
 * A pager with a new guest, or one that adopts what was kept. Returns when it serves, or is dead.
 * Return: 0, -ESRCH (it died on its way), -errno of the engine.
 */
int mortal_start(struct mortal *mortal, const struct mortal_guest *guest);
int mortal_adopt(struct mortal *mortal);

/* Have the pager add the second half, or take it out. Return: as starting. */
int mortal_plug(struct mortal *mortal, bool is_in);

/* Have it fill all that is absent. Return: the same. */
int mortal_finish(struct mortal *mortal);

/* Have it do something else. @kill_after_ns: it is killed if it takes longer; UINT64_MAX: never. Return: the same. */
int mortal_do(struct mortal *mortal, mortal_work work, void *argument, uint64_t kill_after_ns);

/* SIGKILL, and wait for its end. */
void mortal_kill(struct mortal *mortal);
/* Wait for an end that it finds itself. */
void mortal_wait(struct mortal *mortal);
bool mortal_is_alive(struct mortal *mortal);

/* An instruction that matters was reached: the process may end here. For wrapped functions. */
void fate_point(void);

/* A function of the engine, wrapped by the linker, with a point before it and one behind it. */
#define FATE_WRAP(type, name, parameters, arguments) \
	type __real_##name parameters;               \
	type __wrap_##name parameters;               \
	type __wrap_##name parameters                \
	{                                            \
		type result;                         \
                                                     \
		fate_point();                        \
		result = __real_##name arguments;    \
		fate_point();                        \
		return result;                       \
	}

#define FATE_WRAP_VOID(name, parameters, arguments) \
	void __real_##name parameters;              \
	void __wrap_##name parameters;              \
	void __wrap_##name parameters               \
	{                                           \
		fate_point();                       \
		__real_##name arguments;            \
		fate_point();                       \
	}

/* A REMOVE was read; bytes went in. */
void fate_read(void);
void fate_copied(void);
