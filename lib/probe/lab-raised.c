/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Did an access raise a message, or did it end without one? */
#include "probe/lab.h"

bool lab_raised(struct probe_run *run, int uffd, struct lab_thread *thread,
		struct uffd_msg *ret_message)
{
	for (int i = 0; i < 1000; i++) {
		if (lab_message(run, uffd, 1, ret_message))
			return true;
		if (lab_ended(thread, 1))
			return false;
	}
	probe_break(run, "an access neither ended nor raised a message");
}
