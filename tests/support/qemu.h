/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An unmodified QEMU as a child process of a test, with a small machine and a monitor. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Readable. Embedded; ends with qemu_stop() or with the test's process. */
struct qemu {
	pid_t pid;
	char directory[64]; /* its own; holds monitor and memory */
	char monitor[96];   /* path of the QMP socket */
	char memory[96];    /* path of the file behind its memory */
};

#define QEMU_MEMORY_MIB 16

/**
 * qemu_start() - run one until its monitor's socket is there
 * @options: more arguments, NULL at the end; NULL for none
 *
 * The machine has 16 MiB of shared memory in a file of its own directory, and no devices but the
 * board's; its firmware runs and finds nothing to boot. The memory's file is there once the monitor
 * has answered. Fails the test if QEMU does not start, skips it if there is none.
 */
void qemu_start(struct qemu *qemu, const char *const *options);

/* Kill it, if it still runs, and remove its directory. */
void qemu_stop(struct qemu *qemu);
