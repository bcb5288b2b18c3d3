/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose process it is, and whether a caller may have it attached. */
#pragma once

#include <sys/types.h>

struct arrival_rights;
struct refusal;

/* As /proc says: root's if the process is not dumpable. Return: 0, -ESRCH. Context: any. */
int owner_of_process(pid_t pid, uid_t *ret_uid);

/* Return: 0, or -ECANCELED with CannotAttach or PermissionDenied. */
int owner_check(pid_t pid, const struct arrival_rights *rights, struct refusal *refusal);
