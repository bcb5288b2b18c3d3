/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that is handed over as Firecracker does it: anonymous, its userfaultfd with EVENT_REMOVE, a
 * JSON array beside it over a Unix socket. The VM is a process of its own for each arm, since whoever
 * serves it ends with it.
 */
#pragma once

#include "arm.h"

/* Of SERVER_FIRECRACKER and SERVER_PLAIN. With the server on @cpu. */
double handed_run(struct bench *bench, const struct arm *arm, int cpu);
