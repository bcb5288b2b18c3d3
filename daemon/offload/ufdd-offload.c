/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdd-offload: serves one restored Cloud Hypervisor for ufdd, and outlives it. Started by ufdd, not by hand. */
/*
 * Theory of operation
 *
 * The end of its fault connection tells a Cloud Hypervisor that all of its memory is there. So the
 * connection must not end with ufdd: it is served by this program, in a session of its own and deaf to
 * signals, and when ufdd ends the guest does not even notice. If this program is killed, ufdd starts it
 * anew with what both of them keep (and, below systemd, the manager of services): see delivery.h. Only the
 * end of both at once, where nobody else keeps it, ends the connection too early.
 *
 *	ufdd-offload restore DIR SOCKET NAME local|inline paused|run	stdin: to ufdd
 *	ufdd-offload go-on						stdin: the bundle
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "log-ids.h"
#include "log.h"
#include "offload/restore.h"

static int run_restore(int argc, char **argv, int fd)
{
	struct restore_wish wish;

	if (argc != 7)
		return EXIT_FAILURE;
	wish = (struct restore_wish){
		.directory = argv[2],
		.socket = argv[3],
		.name = argv[4],
		.is_inline = strcmp(argv[5], "inline") == 0,
		.is_paused = strcmp(argv[6], "paused") == 0,
	};
	restore_run(fd, &wish);
	return EXIT_SUCCESS;
}

static int run_go_on(int fd)
{
	int r = restore_go_on(fd);

	if (r < 0)
		log_error(LOG_FIELDS(.error = r, .message_id = LOG_ID_NOT_ADOPTED),
			  "a restored guest of Cloud Hypervisor cannot be served again: it waits, "
			  "and has to be ended");
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	sigset_t all;
	int fd = -EBADF;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	(void)setsid();
	umask(0077);
	log_open();
	if (argc < 2 || fd_duplicate(&fd, STDIN_FILENO) < 0) {
		fputs("ufdd-offload is started by ufdd\n", stderr);
		return EXIT_FAILURE;
	}
	if (strcmp(argv[1], "restore") == 0)
		return run_restore(argc, argv, fd);
	if (strcmp(argv[1], "go-on") == 0)
		return run_go_on(fd);
	return EXIT_FAILURE;
}
