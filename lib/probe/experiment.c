/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an experiment says of itself. */
#include "probe/experiment.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "probe/run.h"

#define STEP_BYTES 256

#define SAY(to, format)                                       \
	do {                                                  \
		va_list arguments;                            \
                                                              \
		va_start(arguments, format);                  \
		vsnprintf(to, sizeof(to), format, arguments); \
		va_end(arguments);                            \
	} while (0)

void probe_answer(struct probe_run *run, const char *format, ...)
{
	SAY(run->answer, format);
}

void probe_detail(struct probe_run *run, const char *format, ...)
{
	SAY(run->detail, format);
}

/* Threads, and children that the experiment forked, say their lines without waiting for each other. */
void probe_step(struct probe_run *run, const char *format, ...)
{
	char line[STEP_BYTES];
	size_t at, n;

	SAY(line, format);
	n = strlen(line);
	line[n++] = '\n'; /* in place of the NUL */
	at = atomic_fetch_add_explicit(&run->n_steps, n, memory_order_relaxed);
	if (at + n < sizeof(run->steps)) /* what does not fit is left out */
		memcpy(run->steps + at, line, n);
}

/* The first to say how it ended is believed; @text of it, or NULL. */
static _Noreturn void end(struct probe_run *run, enum probe_ending ending, const char *text)
{
	int none = PROBE_ENDING_NONE;

	if (atomic_compare_exchange_strong(&run->ending, &none, PROBE_ENDING_CLAIMED)) {
		if (text)
			snprintf(run->detail, sizeof(run->detail), "%s", text);
		atomic_store_explicit(&run->ending, ending, memory_order_release);
	}
	/* our end takes all threads along: not while one of them is in the middle of it */
	while (atomic_load_explicit(&run->ending, memory_order_acquire) == PROBE_ENDING_CLAIMED)
		sched_yield();
	_exit(0); /* no handler and no buffer of the caller's runs here again */
}

void probe_skip(struct probe_run *run, const char *format, ...)
{
	char text[PROBE_DETAIL_BYTES];

	SAY(text, format);
	end(run, PROBE_ENDING_SKIPPED, text);
}

void probe_break(struct probe_run *run, const char *format, ...)
{
	char text[PROBE_DETAIL_BYTES];

	SAY(text, format);
	end(run, PROBE_ENDING_BROKEN, text);
}

void probe_run_try(struct probe_run *run, const struct probe_check *check)
{
	check->run(run);
	end(run, PROBE_ENDING_RETURNED, NULL);
}

const char *probe_errno(int error)
{
	const char *name;

	if (!error)
		return "ok";
	name = strerrorname_np(error < 0 ? -error : error);
	return name ? name : "an errno without a name";
}
