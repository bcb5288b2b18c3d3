/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every call below libufd fails once, with a real daemon that dies and comes back: one that keeps what it
 * knew, and one that does not. Whatever fails, each page holds its bytes, and nothing leaks.
 */
#include <jansson.h>
#include <signal.h>

#include "inject/client-play.h"
#include "inject/rounds.h"
#include "inject/wraps.h"
#include "kernel/features.h"

static void play_all(struct board *board, const struct board_plan *plan, bool forgets)
{
	struct play play;

	play_init(&play);
	play.ufdd.forgets = forgets;
	if (!ufdd_start(&play.ufdd, NULL))
		rounds_fail("ufdd does not start");

	board_arm(board, plan);
	play_use(&play);
	(void)ufdd_stop(&play.ufdd, SIGKILL);
	if (!ufdd_start(&play.ufdd, NULL))
		rounds_fail("ufdd does not start");
	play_go_on(&play);
	play_detach(&play);
	play.client = LOUD(ufd_client_free(play.client));
	board_disarm();
	play_done(&play);
}

static void play_adopted(struct board *board, int board_fd, const struct board_plan *plan)
{
	play_all(board, plan, false);
}

static void play_forgotten(struct board *board, int board_fd, const struct board_plan *plan)
{
	play_all(board, plan, true);
}

static const char *const unless[] = {
	/* once a process, before a run begins; or of the test */
	"probe", "backing_create",
	/* the daemon's part of what is linked here as a whole */
	"uffd_is_gone", "uffd_is_changing", "uffd_register", "uffd_unregister", "uffd_continue",
	"uffd_poison", "uffd_write_protect", "uffd_handshake", "backing_write", "pagemap_scan",
	"add_process",
	/* of huge pages */
	"backing_find_data",
	/* of replies with fds, and of long ones */
	"frame_reader_next", "frame_reader_feed", NULL
};

int main(int argc, char **argv)
{
	struct scenario scenarios[] = { { "client", play_adopted },
					{ "client of a daemon that forgets", play_forgotten },
					{} };

	json_set_alloc_funcs(__wrap_malloc, __wrap_free);
	if (!features_get()->may_syscall && !features_get()->may_device)
		scenarios[0].skip_reason = scenarios[1].skip_reason =
			"no userfaultfd for faults of the kernel";
	return rounds_run(scenarios, NULL, unless, argc, argv);
}
