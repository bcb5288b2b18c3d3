/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linked into a ufdd of its own (ufdd-mortal): it is killed at a step of its way that a test names.
 *
 * A step is a store into a ledger, what makes or undoes a registration, or a word with the helper that
 * attaches. UFD_MORTAL="STEP FILE": counted from 1 once FILE is there, it dies before step STEP.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "attach/inject.h"
#include "guest/ledger.h"
#include "kernel/uffd.h"

static unsigned int last_step;
static char file[256];
static _Atomic unsigned int n_steps;

static __attribute__((constructor)) void begin(void)
{
	const char *order = getenv("UFD_MORTAL");

	if (!order || sscanf(order, "%u %255s", &last_step, file) != 2)
		_exit(EXIT_FAILURE);
}

static void step(const char *name)
{
	if (access(file, F_OK) < 0 || atomic_fetch_add(&n_steps, 1) + 1 != last_step)
		return;
	dprintf(STDERR_FILENO, "killed before step %u, %s\n", last_step, name);
	raise(SIGKILL);
}

/* The linker's names for a function that is wrapped, and for what it was. */
#define MORTAL(type, name, parameters, arguments) \
	type __real_##name parameters;            \
	type __wrap_##name parameters;            \
	type __wrap_##name parameters             \
	{                                         \
		step(#name);                      \
		return __real_##name arguments;   \
	}

#define MORTAL_VOID(name, parameters, arguments) \
	void __real_##name parameters;           \
	void __wrap_##name parameters;           \
	void __wrap_##name parameters            \
	{                                        \
		step(#name);                     \
		__real_##name arguments;         \
	}

MORTAL(int, ledger_put_record,
       (struct ledger * ledger, uint32_t tag, uint32_t id, const void *data, size_t n_bytes),
       (ledger, tag, id, data, n_bytes))
MORTAL_VOID(ledger_drop_record, (struct ledger * ledger, uint32_t tag, uint32_t id),
	    (ledger, tag, id))
MORTAL_VOID(ledger_unlink, (const struct ledger *ledger, int directory), (ledger, directory))
MORTAL(int, uffd_register, (int fd, struct hva_range range, unsigned int modes, uint64_t *ioctls),
       (fd, range, modes, ioctls))
MORTAL(int, uffd_unregister, (int fd, struct hva_range range), (fd, range))
MORTAL(int, inject_send,
       (int socket, const void *bytes, size_t n_bytes, const int *fds, size_t n_fds),
       (socket, bytes, n_bytes, fds, n_fds))
