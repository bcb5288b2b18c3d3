/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory that is saved, while a thread writes to it or not: by the parts that ufdd saves with, or by plain calls. */
#pragma once

struct arm;
struct bench;

/*
 * All into a memfd: no disk is measured. The writer stays on our CPU; who saves and who answers faults, on @cpu. What was
 * saved is compared with the memory as it was at the moment of the snapshot.
 *
 * RESULT_SAVE: nanoseconds until the image is committed; nobody writes. RESULT_PAUSE: nanoseconds that the writer
 * stands still; it writes every @arm->gap_ns. RESULT_WRITES_P99: of writes to pages that were written the last time before they
 * were protected, at most @arm->n_touches, as long as the save goes on; without a save so many.
 */
double saved_run(struct bench *bench, const struct arm *arm, int cpu);
