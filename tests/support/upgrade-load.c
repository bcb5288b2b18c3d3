/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ufdd is upgraded and rolled back in turn while guests that know their pages go on.
 *
 *	upgrade-load --rounds N --guests M --guest PROGRAM --image PATH --socket PATH --next PROGRAM [--kill]
 *
 * With --kill ufdd gets SIGKILL as soon as it has answered; somebody else starts it anew.
 * PROGRAM of --guest is soak-guest, that of --next what ufdd is upgraded to; its version ends in
 * "-next". The last line of output is one of JSON. `stall` is what ufdd says, `fault` how long the
 * slowest fault took that was under way while ufdd was not there.
 *
 * Exit status: 0; 1 if a page was wrong or a guest was lost; 2 if an upgrade failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "support/pattern.h"
#include "support/soak-board.h"
#include "support/soak-judge.h"
#include "wire/varlink-client.h"

#define GUEST_MIB UINT64_C(16)
#define SEED	  UINT64_C(7)
#define LOST_NS	  (30 * NSEC_PER_SEC)
#define CALL_NS	  (60 * NSEC_PER_SEC)
#define AIM_NS	  (5 * NSEC_PER_MSEC)
#define LOOK_US	  500
#define PAUSE_US  20000

struct load {
	unsigned int n_rounds;
	unsigned int n_guests;
	const char *guest;
	const char *image;
	const char *socket;
	const char *next;
	bool with_kill;
	struct soak_board *board;
	int board_fd;
	pid_t children[SOAK_N_GUESTS];
	unsigned int n_lost;
	uint64_t *stalls_ns;
	uint64_t fault_max_ns;
};

static _Noreturn void give_up(const char *what, int error)
{
	fprintf(stderr, "upgrade-load: %s: %s\n", what, strerror(error));
	exit(2);
}

/* ---- guests ---- */

static void write_image(const struct load *load)
{
	uint64_t n_blocks = (load->n_guests + 1) * GUEST_MIB * MIB / PATTERN_BLOCK_BYTES;
	_cleanup_(closep) int fd = open(load->image, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
					0644);
	char block[PATTERN_BLOCK_BYTES];

	if (fd < 0 || ftruncate(fd, (off_t)(n_blocks * sizeof(block))) < 0)
		give_up(load->image, errno);
	for (uint64_t i = 0; i < n_blocks; i++) {
		if (pattern_is_zero(SEED, i))
			continue;
		pattern_write(block, SEED, i, 0);
		if (pwrite(fd, block, sizeof(block), (off_t)(i * sizeof(block))) != sizeof(block))
			give_up(load->image, errno);
	}
}

static void make_board(struct load *load)
{
	size_t length = sizeof(struct soak_board) + load->n_guests * sizeof(struct soak_guest);

	load->board_fd = memfd_create("soak-board", 0); /* the guests inherit it */
	if (load->board_fd < 0 || ftruncate(load->board_fd, (off_t)length) < 0)
		give_up("board", errno);
	load->board = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, load->board_fd, 0);
	if (load->board == MAP_FAILED)
		give_up("board", errno);
	load->board->n_guests = load->n_guests;
}

static void start_guest(struct load *load, unsigned int index)
{
	static const char *const kinds[] = { "shmem",	      "pid",	 "anon",
					     "shmem-filling", "backing", "anon-window" };
	const char *kind = kinds[index % (sizeof(kinds) / sizeof(*kinds))];
	char board[16], number[16], mib[16], seed[24];

	snprintf(board, sizeof(board), "%d", load->board_fd);
	snprintf(number, sizeof(number), "%u", index);
	snprintf(mib, sizeof(mib), "%llu", (unsigned long long)GUEST_MIB);
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)SEED);
	load->children[index] = fork();
	if (load->children[index] < 0)
		give_up("fork", errno);
	if (load->children[index])
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(load->guest, load->guest, "--board", board, "--index", number, "--kind", kind,
	      "--socket", load->socket, "--image", load->image, "--mib", mib, "--seed", seed, NULL);
	_exit(127);
}

static void lose(struct load *load, unsigned int guest, const char *why)
{
	char name[32];

	snprintf(name, sizeof(name), "%u (%s)", guest, why);
	load->n_lost++;
	soak_judge_describe(load->board, guest, name);
}

static void look_after_guests(struct load *load)
{
	for (unsigned int i = 0; i < load->n_guests; i++) {
		int status;

		if (!load->children[i] || waitpid(load->children[i], &status, WNOHANG) == 0)
			continue;
		load->children[i] = 0;
		if (atomic_load(&load->board->guests[i].phase) != SOAK_DONE || status)
			lose(load, i, "has ended");
	}
}

/* Until @is_so says yes of every guest. Return: false if somebody is lost. */
static bool await_guests(struct load *load, bool (*is_so)(struct load *, unsigned int, uint64_t),
			 uint64_t argument, const char *why)
{
	uint64_t deadline_ns = clock_now_ns() + LOST_NS;

	while (!load->n_lost) {
		unsigned int n_late = 0;

		for (unsigned int i = 0; i < load->n_guests; i++) {
			bool is_late = !is_so(load, i, argument);

			n_late += is_late;
			if (is_late && clock_now_ns() > deadline_ns)
				lose(load, i, why);
		}
		if (!n_late)
			return true;
		usleep(LOOK_US);
		look_after_guests(load);
	}
	return false;
}

static bool has_begun(struct load *load, unsigned int guest, uint64_t unused)
{
	return atomic_load(&load->board->guests[guest].phase) >= SOAK_RUNNING;
}

static bool has_come_out(struct load *load, unsigned int guest, uint64_t since_ns)
{
	return !soak_judge_waits(load->board, guest, since_ns);
}

static bool has_ended(struct load *load, unsigned int guest, uint64_t unused)
{
	return !load->children[guest];
}

static void stop_guests(struct load *load)
{
	atomic_store(&load->board->must_stop, 1);
	await_guests(load, has_ended, 0, "does not come to its end");
	for (unsigned int i = 0; i < load->n_guests; i++)
		if (load->children[i]) {
			kill(load->children[i], SIGKILL);
			waitpid(load->children[i], NULL, 0);
		}
}

/* ---- upgrades ---- */

/* The slowest fault that was under way some time between these two. */
static void measure_faults(struct load *load, uint64_t from_ns, uint64_t to_ns)
{
	for (unsigned int i = 0; i < load->n_guests * SOAK_N_THREADS; i++) {
		struct soak_thread *thread =
			&load->board->guests[i / SOAK_N_THREADS].threads[i % SOAK_N_THREADS];

		for (unsigned int j = 0; j < SOAK_N_FAULTS; j++) {
			uint64_t began_ns = atomic_load(&thread->faults[j].began_ns);
			uint64_t ended_ns = atomic_load(&thread->faults[j].ended_ns);

			if (ended_ns > from_ns && began_ns < to_ns && began_ns < ended_ns)
				load->fault_max_ns = max_u64(load->fault_max_ns,
							     ended_ns - began_ns);
		}
	}
}

static void await_moment(const struct load *load)
{
	uint64_t until_ns;

	usleep(PAUSE_US);
	until_ns = clock_now_ns() + AIM_NS;
	while (clock_now_ns() < until_ns && !soak_judge_has_pending(load->board))
		;
}

/* One call. Return: 0 with owned parameters, -ECONNRESET and the like; an error of ufdd's ends us. */
static int call(const struct load *load, const char *method, json_t *parameters, json_t **ret)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	int r = varlink_client_connect(&client, load->socket);

	if (r == 0)
		r = varlink_client_call(client, method, parameters, NULL, 0,
					clock_now_ns() + CALL_NS, &answer);
	json_decref(parameters);
	if (r == 0 && answer.error) {
		fprintf(stderr, "%s: %s\n", answer.error,
			json_string_value(json_object_get(answer.parameters, "message")));
		give_up(method, EPROTO);
	}
	if (r == 0)
		*ret = json_incref(answer.parameters);
	return r;
}

static uint64_t upgrade(const struct load *load, bool is_back)
{
	json_t *parameters = is_back ? json_pack("{s:b}", "rollback", 1)
				     : json_pack("{s:s}", "binary", load->next);
	json_t *reply = NULL;
	const char *version;
	uint64_t stall_ns;
	int r = call(load, "io.ufd.manager.Upgrade", parameters, &reply);

	if (r < 0)
		give_up(is_back ? "rolling back" : "upgrading", -r);
	version = json_string_value(json_object_get(reply, "version"));
	if (!version || (strstr(version, "-next") == NULL) != is_back)
		give_up("the version that serves now", EBADMSG);
	stall_ns = (uint64_t)json_integer_value(json_object_get(reply, "stall_ns"));
	json_decref(reply);
	return stall_ns;
}

static pid_t daemon_pid(const struct load *load)
{
	json_t *reply = NULL;
	pid_t pid = 0;

	if (call(load, "io.ufd.manager.Status", NULL, &reply) == 0)
		pid = (pid_t)json_integer_value(json_object_get(reply, "pid"));
	json_decref(reply);
	return pid;
}

/* And until the next one answers. */
static void kill_daemon(const struct load *load, pid_t pid)
{
	uint64_t deadline_ns = clock_now_ns() + LOST_NS;
	pid_t next;

	if (!pid || kill(pid, SIGKILL) < 0)
		give_up("killing ufdd", ESRCH);
	while ((next = daemon_pid(load)) == 0 || next == pid) {
		if (clock_now_ns() > deadline_ns)
			give_up("no ufdd was started anew", ETIMEDOUT);
		usleep(LOOK_US);
	}
}

static void round_one(struct load *load, unsigned int round)
{
	pid_t pid = load->with_kill ? daemon_pid(load) : 0;
	uint64_t before_ns, after_ns;

	await_moment(load);
	before_ns = clock_now_ns();
	load->stalls_ns[round] = upgrade(load, round % 2);
	if (load->with_kill)
		kill_daemon(load, pid);
	after_ns = clock_now_ns();
	await_guests(load, has_come_out, after_ns, "waits for a page");
	measure_faults(load, before_ns, after_ns);
}

/* ---- the program ---- */

static int compare(const void *one, const void *other)
{
	uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;

	return (a > b) - (a < b);
}

static double ms(uint64_t ns)
{
	return (double)ns / (double)NSEC_PER_MSEC;
}

static int report(struct load *load)
{
	unsigned long long n_wrong = 0, n_checked = 0;

	for (unsigned int i = 0; i < load->n_guests; i++) {
		n_wrong += atomic_load(&load->board->guests[i].n_wrong);
		n_checked += atomic_load(&load->board->guests[i].n_checked);
	}
	qsort(load->stalls_ns, load->n_rounds, sizeof(*load->stalls_ns), compare);
	printf("{\"rounds\":%u,\"checked_pages\":%llu,\"wrong_pages\":%llu,\"lost_guests\":%u,"
	       "\"stall_p50_ms\":%.1f,\"stall_max_ms\":%.1f,\"fault_max_ms\":%.1f}\n",
	       load->n_rounds, n_checked, n_wrong, load->n_lost,
	       ms(load->stalls_ns[load->n_rounds / 2]), ms(load->stalls_ns[load->n_rounds - 1]),
	       ms(load->fault_max_ns));
	return n_wrong || load->n_lost || !n_checked ? 1 : 0;
}

static int run(struct load *load)
{
	int status;

	load->stalls_ns = calloc(load->n_rounds + 1, sizeof(*load->stalls_ns));
	if (!load->stalls_ns)
		give_up("stalls", ENOMEM);
	write_image(load);
	make_board(load);
	for (unsigned int i = 0; i < load->n_guests; i++)
		start_guest(load, i);
	await_guests(load, has_begun, 0, "was not attached");
	for (unsigned int i = 0; i < load->n_rounds && !load->n_lost; i++)
		round_one(load, i);
	stop_guests(load);
	status = report(load);
	free(load->stalls_ns);
	return status;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rounds", required_argument, NULL, 'r' },
		{ "guests", required_argument, NULL, 'n' },
		{ "guest", required_argument, NULL, 'g' },
		{ "image", required_argument, NULL, 'i' },
		{ "socket", required_argument, NULL, 's' },
		{ "next", required_argument, NULL, 'x' },
		{ "kill", no_argument, NULL, 'k' },
		{},
	};
	struct load load = {};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'r')
			load.n_rounds = (unsigned int)atoi(optarg);
		else if (option == 'n')
			load.n_guests = (unsigned int)atoi(optarg);
		else if (option == 'g')
			load.guest = optarg;
		else if (option == 'i')
			load.image = optarg;
		else if (option == 's')
			load.socket = optarg;
		else if (option == 'x')
			load.next = optarg;
		else if (option == 'k')
			load.with_kill = true;
		else
			return 2;
	}
	if (!load.n_rounds || !load.n_guests || load.n_guests > SOAK_N_GUESTS || !load.guest ||
	    !load.image || !load.socket || !load.next)
		give_up("options", EINVAL);
	return run(&load);
}
