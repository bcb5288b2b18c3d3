/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loads device state into a QEMU whose memory somebody else filled: the eager side of a comparison. */

/*
 *	load-snapshot DIRECTORY QMP
 *
 * The same steps as the daemon's last ones of a restore, so that what differs between both sides is
 * only how the memory gets there.
 */
#include <stdio.h>

#include "driver/qmp.h"
#include "snapshots/restore.h"

int main(int argc, char **argv)
{
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct refusal refusal = {};
	uint64_t running_ns;
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: load-snapshot DIRECTORY QMP\n");
		return 2;
	}
	r = qmp_connect(&qmp, argv[2], 0, &refusal);
	if (!r)
		r = snapshot_load_and_run(qmp_driver(qmp), argv[1], false, &running_ns, &refusal);
	if (r)
		fprintf(stderr, "load-snapshot: %s\n",
			json_string_value(json_object_get(refusal.parameters, "message")));
	refusal_done(&refusal);
	return r ? 1 : 0;
}
