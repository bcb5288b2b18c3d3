/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Saves that died with the daemon: the guest is rid of what was started for them. */
#pragma once

struct registry;

/*
 * Looks at every guest that serves, after they were adopted. A guest that was paused for it goes on
 * by dirty/pause.h; here the consumer of its rounds is stopped, and its monitor's settings are put
 * back, on threads of the registry's own. Context: loop.
 */
void snapshot_abort_adopted(struct registry *registry);
