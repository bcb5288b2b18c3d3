/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a VMM is told to pause, to go on, to save its devices and to load them. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "refusal.h"

struct driver;

/*
 * What a kind of VMM provides. Every function runs in a job thread, one at a time per driver, may
 * block up to the deadline in the driver, and answers 0 or -ECANCELED with @refusal set
 * (io.ufd.guest.DriverFailed and the VMM's own words).
 */
struct driver_ops {
	const char *kind;
	/* Stop all vCPUs; @ret_was_running is false if they stood still before. */
	int (*pause)(struct driver *driver, bool *ret_was_running, struct refusal *refusal);
	int (*resume)(struct driver *driver, struct refusal *refusal);
	/* Does it run? @ret_is_paused: it stands still, and resume() would let it go on. */
	int (*look)(struct driver *driver, bool *ret_is_running, bool *ret_is_paused,
		    struct refusal *refusal);
	/* Device state without memory, written to @state_fd from its position on. The guest is
	 * paused. */
	int (*save)(struct driver *driver, int state_fd, uint64_t *ret_bytes,
		    struct refusal *refusal);
	/*
	 * The reverse, into a VMM that waits for it. Loading touches guest memory: its faults must
	 * be served by another thread meanwhile. The guest is paused afterwards.
	 */
	int (*load)(struct driver *driver, int state_fd, struct refusal *refusal);
	/* What describes the machine in a manifest: an object of facts, for people. */
	int (*describe)(struct driver *driver, json_t **ret_machine, struct refusal *refusal);
	/*
	 * Settings that save() and load() change for a while, as one number; and, after a daemon that died
	 * meanwhile, as they were: what it left under way is ended.
	 */
	int (*remember)(struct driver *driver, uint32_t *ret_state, struct refusal *refusal);
	int (*recall)(struct driver *driver, uint32_t state, struct refusal *refusal);
	void (*close)(struct driver *driver);
};

/* Embedded by each kind as its first member. */
struct driver {
	const struct driver_ops *ops;
	uint64_t call_timeout_ns;     /* one command and its answer; may be changed at any time */
	uint64_t transfer_timeout_ns; /* device state as a whole */
};

/* Closes the connection; the VMM goes on as it is. */
static inline struct driver *driver_close(struct driver *driver)
{
	if (driver)
		driver->ops->close(driver);
	return NULL;
}
DEFINE_CLEANUP(struct driver, driver_close)
