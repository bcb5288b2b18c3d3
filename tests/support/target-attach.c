/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attaching to processes from tests. */
#include "support/target-attach.h"

#include <string.h>

#include "refusal.h"
#include "support/unit.h"

const struct process_opts attach_opts = {
	.timeout_ns = 30 * NSEC_PER_SEC, /* a loaded machine is no failure */
	.pidfd = -EBADF,
	.device_fd = -EBADF,
	.remote_device = -1,
	.helper = UFDD_ATTACH_BUILT,
};

static const char *message_of(const struct refusal *refusal)
{
	return json_string_value(json_object_get(refusal->parameters, "message"));
}

void attach_to(pid_t pid, const struct process_opts *opts, struct process_attachment *ret)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	int r = process_attach(pid, opts, ret, &refusal);

	ck_assert_msg(r == 0, "%s: %s", refusal.error, message_of(&refusal));
}

void detach_from(const struct process_attachment *attachment)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	int r = process_detach(attachment, &attach_opts, &refusal);

	ck_assert_msg(r == 0, "%s: %s", refusal.error, message_of(&refusal));
}

void attach_cycles(pid_t pid, int n)
{
	for (int i = 0; i < n; i++) {
		_cleanup_(process_attachment_done) struct process_attachment attachment =
			PROCESS_ATTACHMENT_NONE;

		attach_to(pid, &attach_opts, &attachment);
		detach_from(&attachment);
	}
}

void expect_refusal(pid_t pid, const struct process_opts *opts, const char *words)
{
	_cleanup_(process_attachment_done) struct process_attachment attachment =
		PROCESS_ATTACHMENT_NONE;
	_cleanup_(refusal_done) struct refusal refusal = {};

	ck_assert_int_eq(process_attach(pid, opts, &attachment, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.CannotAttach");
	ck_assert_int_eq(json_integer_value(json_object_get(refusal.parameters, "pid")), pid);
	ck_assert_msg(strstr(message_of(&refusal), words) != NULL, "%s", message_of(&refusal));
	ck_assert_int_eq(attachment.uffd, -EBADF);
}
