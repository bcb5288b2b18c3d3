/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every call of ufdd fails once: while it starts and serves, and while it takes over what another left.
 *
 * It may refuse a call, and then does it when asked again. It may refuse to start, and then has let go
 * of nobody. A guest may stall, and then the next ufdd has it. It may not end once it serves, not
 * keep what it opened for a guest that is gone, and show no wrong page.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "inject/client-play.h"
#include "inject/rounds.h"
#include "kernel/features.h"
#include "wire/varlink-client.h"

#define PATIENCE_NS (5 * NSEC_PER_SEC)
#define EXIT_LEAK   99 /* preload.c */

static unsigned int count_fds(const struct play *play)
{
	unsigned int n = 0;
	char path[64];
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", play->ufdd.pid);
	folder = opendir(path);
	while (folder && readdir(folder))
		n++;
	if (folder)
		closedir(folder);
	return n;
}

/* Any answer will do, and none. */
static void ask(struct varlink_client *client, const char *method, json_t *parameters)
{
	struct varlink_answer answer = {};

	if (varlink_client_call(client, method, parameters, NULL, 0, clock_now_ns() + NSEC_PER_SEC,
				&answer) == 0)
		varlink_answer_done(&answer);
	json_decref(parameters);
}

/* What an operator asks. */
static void look(const struct play *play)
{
	static const char *const methods[] = { "io.ufd.manager.Status", "io.ufd.guest.List",
					       "io.ufd.guest.Show", "io.ufd.guest.Prefetch" };

	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		struct varlink_client *client = NULL;

		if (varlink_client_connect(&client, play->ufdd.socket) < 0)
			continue;
		ask(client, methods[i],
		    i < 2   ? json_object()
		    : i < 3 ? json_pack("{s:s}", "name", "g")
			    : json_pack("{s:s, s:s}", "name", "g", "memory", "anon"));
		varlink_client_free(client);
	}
}

/* A start that is refused leaves everything as it was. */
static void start(struct play *play, const struct ufdd_twin *twin)
{
	int status;

	play->twin = twin;
	if (ufdd_start(&play->ufdd, twin))
		return;
	status = ufdd_stop(&play->ufdd, SIGKILL);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_FAILURE)
		rounds_fail("ufdd does not start, and ends with %#x", status);
	play->twin = NULL;
	if (!ufdd_start(&play->ufdd, NULL))
		rounds_fail("ufdd does not start");
}

/* What a stranger gave us and nobody can close beside stays open: lib/kernel/closing.c. */
static unsigned int n_kept_open(const struct board_plan *plan)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < plan->n_faults; i++)
		n += plan->faults[i].error == EAGAIN;
	return n;
}

static void end(struct play *play, unsigned int n_fds)
{
	const struct timespec moment = { .tv_nsec = 5 * NSEC_PER_MSEC };
	uint64_t deadline_ns = clock_now_ns() + PATIENCE_NS;
	int status;

	while (play->twin && count_fds(play) > n_fds) {
		if (clock_now_ns() > deadline_ns)
			rounds_fail("ufdd had %u fds before the guest came, and has %u now", n_fds,
				    count_fds(play));
		nanosleep(&moment, NULL);
	}
	status = ufdd_stop(&play->ufdd, SIGTERM);
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_LEAK)
		rounds_fail("ufdd leaks");
	if (status != 0)
		rounds_fail("ufdd ends with %#x", status);
}

static void play_serving(struct board *board, int board_fd, const struct board_plan *plan)
{
	struct ufdd_twin twin = { board_fd, plan };
	unsigned int n_fds;
	struct play play;

	play_init(&play);
	start(&play, &twin);
	look(&play);
	n_fds = count_fds(&play) + n_kept_open(plan);
	play_use(&play);
	look(&play);
	play_go_on(&play);
	play_detach(&play);
	play.client = ufd_client_free(play.client);
	end(&play, n_fds);
	play_done(&play);
}

static void play_taking_over(struct board *board, int board_fd, const struct board_plan *plan)
{
	struct ufdd_twin twin = { board_fd, plan };
	struct play play;

	play_init(&play);
	start(&play, NULL);
	play_use(&play);
	(void)ufdd_stop(&play.ufdd, SIGKILL);
	start(&play, &twin);
	look(&play);
	play_go_on(&play);
	play_detach(&play);
	play.client = ufd_client_free(play.client);
	end(&play, UINT32_MAX);
	play_done(&play);
}

int main(int argc, char **argv)
{
	struct scenario scenarios[] = { { "ufdd that serves", play_serving, true },
					{ "ufdd that takes over", play_taking_over, true },
					{} };
	static char program[512];
	ssize_t n = readlink("/proc/self/exe", program, 400);

	if (n < 0)
		return EXIT_FAILURE;
	strcpy(strrchr(program, '/'), "/ufdd-inject");
	if (!features_get()->may_syscall && !features_get()->may_device)
		scenarios[0].skip_reason = scenarios[1].skip_reason =
			"no userfaultfd for faults of the kernel";
	return rounds_run(scenarios, program, NULL, argc, argv);
}
