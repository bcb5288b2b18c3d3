/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The service manager's fd store. */
#include "store/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>

#define BARRIER_US UINT64_C(5000000)

static size_t number_of(const char *variable)
{
	const char *text = getenv(variable);
	unsigned long number;
	char *end;

	if (!text || *text < '0' || *text > '9')
		return 0;
	errno = 0;
	number = strtoul(text, &end, 10);
	return errno || *end ? 0 : number;
}

/* Before systemd 254 only the unit itself can say what it asked for. */
size_t manager_store_max(void)
{
	size_t n;

	if (!getenv("NOTIFY_SOCKET"))
		return 0;
	n = number_of("FDSTORE");
	return n ? n : number_of("UFD_FDSTORE_MAX");
}

int manager_keep(const char *name, int fd)
{
	char text[64];
	int r;

	snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
	r = sd_pid_notify_with_fds(0, 0, text, &fd, 1);
	return r < 0 ? r : r == 0 ? -ENOTCONN : 0;
}

int manager_remove(const char *name)
{
	int r = sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);

	return r < 0 ? r : 0;
}

int manager_barrier(void)
{
	int r = sd_notify_barrier(0, BARRIER_US);

	return r < 0 ? r : r == 0 ? -ENOTCONN : 0;
}
