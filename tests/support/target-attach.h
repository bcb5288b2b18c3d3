/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attaching to processes from tests, with the helper program of this build. */
#pragma once

#include "attach/process.h"

/* PROCESS_OPTS_DEFAULT, the helper, and a long timeout. */
extern const struct process_opts attach_opts;

/* Each fails the test, with the refusal's words, where process_attach() or process_detach()
 * refuses. */
void attach_to(pid_t pid, const struct process_opts *opts, struct process_attachment *ret);
void detach_from(const struct process_attachment *attachment);

/* Both, @n times. */
void attach_cycles(pid_t pid, int n);

/* process_attach() must refuse with io.ufd.guest.CannotAttach, this pid, and @words in its message.
 */
void expect_refusal(pid_t pid, const struct process_opts *opts, const char *words);
