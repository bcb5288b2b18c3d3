/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What makes a twin of the daemon: before main() it takes the board and the plan of its parent. */
#include <event2/event.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inject/board.h"
#include "inject/live.h"
#include "inject/wraps.h"

static __attribute__((constructor)) void begin(void)
{
	const char *order = getenv("UFD_INJECT");
	struct board_plan plan;
	struct board *board;
	int board_fd, n = 0;

	if (!order || sscanf(order, "%d %n", &board_fd, &n) != 1 ||
	    !board_parse_plan(order + n, &plan))
		_exit(EXIT_FAILURE);
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, board_fd, 0);
	if (board == MAP_FAILED)
		_exit(EXIT_FAILURE);
	close(board_fd);
	json_set_alloc_funcs(__wrap_malloc, __wrap_free);
	event_set_mem_functions(__wrap_malloc, __wrap_realloc, __wrap_free);
	board_arm(board, &plan);
}

/* After an orderly end everything has been given back. */
static __attribute__((destructor)) void end(void)
{
	board_disarm();
	libevent_global_shutdown();
	if (live_report())
		_exit(99);
}
