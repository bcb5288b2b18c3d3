/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bar for the impatient: only on a terminal, ten times a second. */
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "output.h"

#define BAR_CELLS 24

void progress_show(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes)
{
	uint64_t now_ns = clock_now_ns(), spent_ns, rate, cells;
	char done[32], total[32], speed[32];

	if (progress->session->is_quiet || progress->session->json != JSON_OFF || !isatty(2))
		return;
	if (progress->is_shown && now_ns - progress->shown_ns < 100 * NSEC_PER_MSEC &&
	    done_bytes < total_bytes)
		return;
	progress->shown_ns = now_ns;
	progress->is_shown = true;
	spent_ns = max_u64(now_ns - progress->started_ns, 1);
	rate = (uint64_t)((__uint128_t)done_bytes * NSEC_PER_SEC / spent_ns);
	cells = total_bytes ? (uint64_t)((__uint128_t)done_bytes * BAR_CELLS / total_bytes) : 0;
	output_bytes(progress->session, done_bytes, done, sizeof(done));
	output_bytes(progress->session, total_bytes, total, sizeof(total));
	output_bytes(progress->session, rate, speed, sizeof(speed));
	fprintf(stderr, "\r%s [%.*s%*s] %s of %s, %s/s", progress->what, (int)cells,
		"########################", (int)(BAR_CELLS - cells), "", done, total, speed);
	if (rate && done_bytes < total_bytes)
		fprintf(stderr, ", %lu s left", (total_bytes - done_bytes) / rate);
	fputs("\033[K", stderr);
}

void progress_end(struct progress *progress)
{
	if (progress->is_shown)
		fputc('\n', stderr);
	progress->is_shown = false;
}
