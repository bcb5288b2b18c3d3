/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory whose writes are tracked: by the engine, in this process, or by the barest calls there are. */
#pragma once

struct arm;
struct bench;

/*
 * RESULT_HARVEST: nanoseconds to learn which of @arm->n_touches pages, of all, were written, and to protect
 * them again. RESULT_P50: of the first write to a page. All pages exist. @cpu: of who answers faults.
 */
double tracked_run(struct bench *bench, const struct arm *arm, int cpu);
