/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What this host's kernel really does: one experiment a property.
 *
 * Theory of operation. A check is a row: the property in one line, the answer that a pager would want
 * of the kernel, the answers that kernels were seen to give, what another answer means for ufd, and
 * the experiment. Each experiment runs in a child process of its own with a deadline, so that one
 * which hangs, crashes or eats memory is a row of the result and not the end of the rest; whatever it
 * maps, opens or starts ends with its child. Nothing outside the child is changed: no sysctl, no
 * pool, no file that stays.
 *
 * Threads: one caller at a time; the experiments may start threads in their own processes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct probe_run; /* an experiment under way; see experiment.h */

enum probe_group {
	PROBE_HOST,	 /* versions, permissions, limits, services */
	PROBE_TRACKABLE, /* which memory can be registered and dirty-tracked, who needs notification */
	PROBE_FILL,	 /* COPY, ZEROPAGE, POISON, MOVE: results, markers, wake-ups */
	PROBE_CONTINUE, /* minor faults */
	PROBE_ACCESS,	/* forced copy-on-write, and reads and writes by the kernel */
	PROBE_MAPPER,	/* kernel users with a mapping of their own: KVM, pins */
	PROBE_ZAP,	/* the wp bit across zapping, swap, remapping and fork */
	PROBE_SCAN,	/* PAGEMAP_SCAN */
	PROBE_EVENT,	/* messages, events, life cycle */
	PROBE_URING,	/* io_uring on a uffd */
	_PROBE_GROUP_MAX,
};

/* What a kernel since this release was seen to answer, where that is not what is wanted. */
struct probe_known {
	unsigned int since; /* PROBE_KERNEL(6, 18); 0 ends the list */
	const char *answer;
};

#define PROBE_KERNEL(major, minor) ((major) << 16 | (minor))

/* Readable. One row of the table; see table.c. */
struct probe_check {
	const char *id; /* "continue.past-end": for --only; never changes */
	enum probe_group group;
	const char
		*title; /* the property, as a sentence without a full stop, 72 characters at most */
	const char *wanted;	     /* NULL: every answer is fine, the answer is the news */
	struct probe_known known[4]; /* oldest first */
	bool is_of_host;   /* a setting of the host: no release of the kernel makes it expected */
	bool is_needed;	   /* without the wanted answer missing, minor or wp paging cannot work */
	bool is_for_start; /* quick (< 5 ms) and asked by ufdd at its start, too */
	const char *consequence; /* of another answer than the wanted one, for ufd; one line */
	const char *remedy;	 /* what the administrator does about it; NULL: nothing */
	void (*run)(struct probe_run *run);
};

enum probe_result {
	PROBE_OK,
	PROBE_DIFFERS, /* another answer than wanted: harmless or worked around, see the consequence */
	PROBE_MISSING, /* the same of a needed check */
	PROBE_FAILED,  /* our experiment broke or hung */
	PROBE_SKIPPED, /* it could not be tried here; the detail says why */
	_PROBE_RESULT_MAX,
};

/* Readable; valid during the callback. */
struct probe_report {
	const struct probe_check *check;
	enum probe_result result;
	const char *answer; /* "" if it failed or was skipped */
	const char *detail; /* a sentence: what was seen, or why it failed or was skipped */
	const char *steps;  /* lines; what the experiment did and saw */
	bool is_as_known;   /* the answer is what the nearest known kernel gave */
	uint64_t took_ns;
};

/* Of every check of the table, in its order. The array is static. */
const struct probe_check *const *probe_checks(size_t *ret_n);

/* NULL if there is none of that id. */
const struct probe_check *probe_find(const char *id);

/*
 * The answer of the nearest known kernel: the newest not after @kernel, else the oldest. NULL: any, or
 * it is a setting of the host.
 */
const char *probe_expected(const struct probe_check *check, unsigned int kernel);

/* PROBE_KERNEL() of the running kernel. */
unsigned int probe_kernel(void);

const char *probe_group_name(enum probe_group group);	 /* "host" */
const char *probe_group_title(enum probe_group group);	 /* what it guards: "PAGEMAP_SCAN" */
const char *probe_result_name(enum probe_result result); /* "ok" */

/**
 * probe_run() - try checks, one after the other
 * @deadline_ns: for each; an experiment that hangs is killed and reported as failed
 * @reported:    called for each in turn; NULL is allowed
 *
 * Context: the only thread of a process, for experiments allocate and start threads in forks of it;
 * blocks, allocates. SIGALRM and other signals of the caller do not disturb it. Children are reaped by
 * their pidfds.
 * Return: 0; -errno if no child could be started at all.
 */
int probe_run(const struct probe_check *const *checks, size_t n_checks, uint64_t deadline_ns,
	      void (*reported)(const struct probe_report *report, void *context), void *context);

#define PROBE_DEADLINE_NS (UINT64_C(3) * 1000 * 1000 * 1000)
