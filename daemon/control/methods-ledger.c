/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ledger: for `ufdctl why`, which shows what is in it.
 *
 * Who gets it can read it and no more. A read-only fd alone would not do: a memfd is born with mode
 * 0777, so anybody could open it anew through /proc/self/fd and write. Its mode is for its owner
 * first, who is us or root.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <ufd/pager.h>

#include "control/call.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "control/methods-guest.h"
#include "registry.h"

int method_ledger(struct control *control, struct call *call, struct refusal *refusal)
{
	struct registration *registration;
	char path[64];
	int r, fd;

	r = guest_of_call(control, call, &registration, refusal);
	if (r < 0)
		return r;
	fd = ufd_pager_guest_ledger(registration->shown);
	if (fchmod(fd, 0600) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	call_reply_fd(call, json_pack("{s:i}", "ledger", 0), fd);
	return 0;
}
