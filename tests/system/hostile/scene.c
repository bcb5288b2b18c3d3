/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One attack after the other, each with a daemon of its own. */
#include "scene.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bystander.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "party.h"
#include "support/pattern.h"
#include "support/unit.h"

#define N_TOUCHES    300 /* before, and again during the attack */
#define N_TRIES	     8	 /* scenes until the timing must have been good */
#define SLOWER	     2
#define ANSWER_NS    (30 * NSEC_PER_SEC)
#define END_MS	     300 /* for the party to end by itself */
#define UNDER_WAY_NS (30 * NSEC_PER_SEC)

struct scene {
	const struct attack *attack;
	struct stage *stage;
	struct bystander bystander;
	char folder[64], socket[96], log[96], config[96];
	pid_t daemon, party;
	int daemon_pidfd;
	int image;
	int near_cpu, far_cpu; /* the bystander's, everybody else's */
};

/* ---- the daemon ---- */

static void set_limit(int resource, uint64_t value)
{
	struct rlimit limit = { value, value };

	if (value && setrlimit((__rlimit_resource_t)resource, &limit) < 0)
		_exit(1);
}

static _Noreturn void daemon_exec(const struct scene *scene, int listener)
{
	const struct scene_limits *limits = &scene->attack->limits;
	int out = open(scene->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	char pid[32];
	cpu_set_t cpus;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&cpus);
	CPU_SET(scene->far_cpu, &cpus);
	(void)sched_setaffinity(0, sizeof(cpus), &cpus);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	if (listener == 3)
		fcntl(3, F_SETFD, 0);
	else
		dup2(listener, 3);
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_FDNAMES", "varlink", 1);
	set_limit(RLIMIT_NOFILE, limits->nofile);
	set_limit(RLIMIT_AS, limits->as_bytes);
	if (limits->no_memlock)
		(void)setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){ 0, 0 });
	execl(UFDD_BUILT, "ufdd", "--config", scene->config, NULL);
	_exit(127);
}

static void daemon_start(struct scene *scene)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	FILE *file;
	int listener;

	strcpy(scene->folder, "/tmp/ufd-hostile-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(scene->folder));
	chmod(scene->folder, 0755);
	snprintf(scene->socket, sizeof(scene->socket), "%s/s", scene->folder);
	snprintf(scene->log, sizeof(scene->log), "%s/log", scene->folder);
	snprintf(scene->config, sizeof(scene->config), "%s/conf", scene->folder);
	file = fopen(scene->config, "we");
	ck_assert_ptr_nonnull(file);
	fputs("[daemon]\nlog-level = error\n", file);
	fclose(file);
	strcpy(address.sun_path, scene->socket);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	chmod(scene->socket, 0666);
	ck_assert_int_eq(listen(listener, 64), 0);
	scene->daemon = fork();
	ck_assert_int_ge(scene->daemon, 0);
	if (scene->daemon == 0)
		daemon_exec(scene, listener);
	close(listener);
	ck_assert_int_eq(pidfd_open_pid(&scene->daemon_pidfd, scene->daemon), 0);
}

/* It is gone within a second, whatever it was doing. */
static void daemon_kill(struct scene *scene)
{
	struct pollfd end = { .fd = scene->daemon_pidfd, .events = POLLIN };
	int n;

	ck_assert_msg(pidfd_is_alive(scene->daemon_pidfd), "the daemon has died: %s", scene->log);
	kill(scene->daemon, SIGKILL);
	n = poll(&end, 1, 1000);
	ck_assert_msg(n == 1, "SIGKILL did not end the daemon within a second");
	waitpid(scene->daemon, NULL, 0);
	closep(&scene->daemon_pidfd);
}

/* ---- the hostile party ---- */

static void party_start(struct scene *scene)
{
	struct party party = {
		.stage = scene->stage,
		.socket = scene->socket,
		.bystander = scene->bystander.pid,
		.daemon = scene->daemon,
		.bystander_uffd = scene->bystander.uffd,
		.bystander_pidfd = scene->bystander.pidfd,
		.bystander_pagemap = scene->bystander.pagemap,
		.bystander_address = scene->bystander.address,
	};
	pid_t self = getpid();
	cpu_set_t cpus;

	scene->party = fork();
	ck_assert_int_ge(scene->party, 0);
	if (scene->party)
		return;
	/* a group of its own, so that its children end with it */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != self)
		_exit(1);
	CPU_ZERO(&cpus);
	CPU_SET(scene->far_cpu, &cpus);
	(void)sched_setaffinity(0, sizeof(cpus), &cpus);
	scene->attack->run(&party);
	_exit(0);
}

static void check_stage(const struct scene *scene)
{
	ck_assert_msg(!scene->stage->complaint[0], "%s", scene->stage->complaint);
}

static void wait_under_way(const struct scene *scene)
{
	uint64_t until_ns = clock_now_ns() + UNDER_WAY_NS;

	while (!atomic_load(&scene->stage->is_under_way)) {
		check_stage(scene);
		if (scene->stage->skipped[0])
			return;
		ck_assert_msg(clock_now_ns() < until_ns, "the attack did not get under way");
		nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
	}
}

/* An attack of rounds must not have come to a halt; one that lasts counts none. */
static void wait_round(const struct scene *scene, uint64_t n_before)
{
	uint64_t until_ns = clock_now_ns() + UNDER_WAY_NS;

	while (n_before && atomic_load(&scene->stage->n_rounds) == n_before) {
		check_stage(scene);
		ck_assert_msg(clock_now_ns() < until_ns, "the attack came to a halt");
		nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
	}
}

static void party_end(struct scene *scene)
{
	struct pollfd end = { .events = POLLIN };

	/* it may have something to put away; if not soon, then not */
	atomic_store(&scene->stage->must_stop, true);
	if (pidfd_open_pid(&end.fd, scene->party) == 0) {
		(void)poll(&end, 1, END_MS);
		close(end.fd);
	}
	kill(-scene->party, SIGKILL);
	waitpid(scene->party, NULL, 0);
}

/* ---- the scene ---- */

static void scene_begin(struct scene *scene)
{
	unsigned char page[PAGE];
	cpu_set_t cpus;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &cpus))
			scene->far_cpu = i;
	for (int i = CPU_SETSIZE; i-- > 0;)
		if (CPU_ISSET(i, &cpus))
			scene->near_cpu = i;
	scene->stage = mmap(NULL, sizeof(*scene->stage), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(scene->stage, MAP_FAILED);
	scene->image = memfd_create("bystander-image", MFD_CLOEXEC);
	for (uint64_t i = 0; i < SCENE_N_PAGES; i++) {
		pattern_write(page, BYSTANDER_SEED, i, 0);
		ck_assert_int_eq(pwrite(scene->image, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	daemon_start(scene);
	bystander_start(&scene->bystander, scene->socket, scene->image, scene->near_cpu);
}

static void scene_end(struct scene *scene)
{
	char command[128];

	bystander_stop(&scene->bystander);
	snprintf(command, sizeof(command), "rm -r %s", scene->folder);
	ck_assert_int_eq(system(command), 0);
	munmap(scene->stage, sizeof(*scene->stage));
	closep(&scene->image);
}

/* It answers and knows its guest, which can go as it came. */
static void check_daemon(const struct scene *scene)
{
	static const char *const methods[] = { "io.ufd.guest.Show", "io.ufd.guest.Detach" };
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	json_t *call = json_pack("{s:s}", "name", BYSTANDER);

	ck_assert_msg(pidfd_is_alive(scene->daemon_pidfd), "the daemon has died: %s", scene->log);
	ck_assert_int_eq(varlink_client_connect(&client, scene->socket), 0);
	for (int i = 0; i < 2; i++) {
		_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

		ck_assert_msg(varlink_client_call(client, methods[i], call, NULL, 0,
						  clock_now_ns() + ANSWER_NS, &answer) == 0,
			      "%s is not answered any more", methods[i]);
		ck_assert_msg(!answer.error, "%s: %s", methods[i], answer.error);
	}
	json_decref(call);
}

/* Return: whether the bystander was served fast enough. */
static bool scene_try(const struct attack *attack, uint64_t *ret_quiet_ns,
		      uint64_t *ret_attacked_ns)
{
	struct scene scene = { .attack = attack };
	struct bystander_round quiet, attacked;
	uint64_t n_rounds;

	scene_begin(&scene);
	quiet = bystander_touch(&scene.bystander, N_TOUCHES);
	party_start(&scene);
	wait_under_way(&scene);
	if (scene.stage->skipped[0]) {
		char reason[sizeof(scene.stage->skipped)];

		strcpy(reason, scene.stage->skipped);
		party_end(&scene);
		daemon_kill(&scene);
		scene_end(&scene);
		unit_skip("%s", reason);
	}
	n_rounds = atomic_load(&scene.stage->n_rounds);
	attacked = bystander_touch(&scene.bystander, N_TOUCHES);
	check_stage(&scene);
	wait_round(&scene, n_rounds);
	atomic_store(&scene.stage->is_bystander_leaving, true);
	check_daemon(&scene);
	party_end(&scene);
	check_stage(&scene);
	ck_assert_uint_eq(quiet.n_wrong + attacked.n_wrong, 0);
	ck_assert_uint_eq(bystander_compare(&scene.bystander), 0);
	daemon_kill(&scene);
	scene_end(&scene);
	*ret_quiet_ns = quiet.p99_ns;
	*ret_attacked_ns = attacked.p99_ns;
	return attacked.p99_ns <= SLOWER * quiet.p99_ns;
}

void scene_play(const struct attack *attack)
{
	uint64_t quiet_ns = 0, attacked_ns = 0;
	bool is_fast = false;

	if (geteuid() != 0)
		unit_skip("needs root, to become somebody else");
	if (!features_get()->may_syscall)
		unit_skip("userfaultfd(2) is not permitted here");
	/* Other work on this machine hits one half or the other: the attack hits the same one each time. */
	printf("# %s\n", attack->name);
	fflush(stdout);
	for (int i = 0; i < N_TRIES && !is_fast; i++)
		is_fast = scene_try(attack, &quiet_ns, &attacked_ns);
	ck_assert_msg(is_fast, "the bystander's p99 was %llu ns, and %llu ns under attack",
		      (unsigned long long)quiet_ns, (unsigned long long)attacked_ns);
}
