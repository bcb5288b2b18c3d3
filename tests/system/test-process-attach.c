/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attaching to an unmodified process and leaving it again, without its noticing. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "attach/process.h"
#include "base/cleanup.h"
#include "kernel/uffd.h"
#include "refusal.h"
#include "support/target-busy.h"
#include "support/unit.h"

static const struct process_opts opts = PROCESS_OPTS_DEFAULT;

static void attach(pid_t pid, struct process_attachment *ret)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	int r = process_attach(pid, &opts, ret, &refusal);

	ck_assert_msg(r == 0, "%s: %s", refusal.error,
		      json_string_value(json_object_get(refusal.parameters, "message")));
}

static void detach(const struct process_attachment *attachment)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	int r = process_detach(attachment, &opts, &refusal);

	ck_assert_msg(r == 0, "%s: %s", refusal.error,
		      json_string_value(json_object_get(refusal.parameters, "message")));
}

static void cycle(pid_t pid)
{
	_cleanup_(process_attachment_done) struct process_attachment attachment =
		PROCESS_ATTACHMENT_NONE;

	attach(pid, &attachment);
	detach(&attachment);
}

/* 7 rows of 43 cycles: every kind of call gets interrupted, in the main thread and in others. */
START_TEST(three_hundred_cycles_disturb_nothing)
{
	_cleanup_(freep) char *before = NULL, *after = NULL;
	struct busy busy;
	size_t n;

	busy_start(&busy, _i, false, NULL);
	before = list_fds_of(busy.pid, &n);
	for (int i = 0; i < 43; i++)
		cycle(busy.pid);
	busy_check(&busy);
	after = list_fds_of(busy.pid, &n);
	ck_assert_str_eq(before, after);
	busy_done(&busy);
}
END_TEST

static const enum busy_role all_roles[_BUSY_N];

int main(void)
{
	return unit_run("process-attach",
			(struct unit_test[]){
				UNIT_TABLE(three_hundred_cycles_disturb_nothing, all_roles),
				{},
			});
}
