/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Owners of processes. */
#include "attach/owner.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "attach/arrival.h"
#include "refusal.h"

int owner_of_process(pid_t pid, uid_t *ret_uid)
{
	struct stat info;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	if (stat(path, &info) < 0)
		return -ESRCH;
	*ret_uid = info.st_uid;
	return 0;
}

int owner_check(pid_t pid, const struct arrival_rights *rights, struct refusal *refusal)
{
	uid_t owner;

	if (owner_of_process(pid, &owner) < 0)
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", pid), "there is no process %d", pid);
	if (!rights->is_admin && owner != rights->caller)
		return refusal_set(refusal, "org.varlink.service.PermissionDenied", NULL,
				   "process %d belongs to user %u", pid, owner);
	return 0;
}
