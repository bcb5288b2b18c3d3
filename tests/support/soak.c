/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The controller of a soak run: it kills ufdd at random moments while guests that know what each of
 * their pages must hold go on.
 *
 *	soak --kills N --guests M --seed S --guest PROGRAM --image PATH --socket PATH --result FILE
 *	     (--group CGROUP | --ufdd PROGRAM --state-dir DIR) [--huge-pages] [--until-lost]
 *	soak --hold-huge-pages N
 *
 * An episode is a kill, and in one of four a second one as soon as the successor runs, or a little
 * later while it recovers; in one of twenty a third. Then every thread that was in an operation must
 * come out of it before the next episode: a wake that is forgotten is not repaired by the
 * next recovery. A thread that does not within LOST_S is a lost guest, as is one that ends, or whose
 * arrival or leave takes longer than PHASE_S. One that has been at it for PATIENCE_NS is given a rest
 * from kills, since each of them sends it back to where it began.
 *
 * The second form only holds huge pages until its input ends.
 *
 * --until-lost: the daemon is one that must lose a guest; stop at the first.
 * Exit status: 0, 1 (a page was wrong, a guest was lost, or ufdd ended by itself), 2 (the run failed).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
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
#include "support/hugepages.h"
#include "support/pattern.h"
#include "support/soak-board.h"
#include "support/soak-daemon.h"
#include "support/soak-judge.h"

#define GUEST_MIB	UINT64_C(16)
#define MAX_KILLS_EACH	3
#define LOST_S		30
#define LOST_BROKEN_S	4 /* of a daemon that must lose a guest */
#define PHASE_S		60
#define PATIENCE_NS	NSEC_PER_SEC
#define STOP_S		60
#define MIN_PAUSE_US	15000
#define MAX_PAUSE_US	120000
#define AIM_NS		(5 * NSEC_PER_MSEC)
#define RECOVERY_US	12000 /* a follow-up kill comes within this time */
#define LOOK_US		500
#define REPORT_EVERY_NS (5 * NSEC_PER_SEC)

#ifdef __x86_64__
#define CAN_ATTACH_BY_PID true
#else
#define CAN_ATTACH_BY_PID false
#endif

struct options {
	unsigned int n_kills;
	unsigned int n_guests;
	uint64_t seed;
	const char *guest;
	const char *image;
	const char *result;
	bool has_huge_pages;
	bool is_until_lost;
};

struct child {
	pid_t pid; /* 0 when it was reaped */
	char name[32];
	bool is_lost;
};

struct run {
	struct options options;
	struct soak_daemon daemon;
	struct soak_board *board;
	int board_fd;
	struct child children[SOAK_N_GUESTS];
	uint64_t chance;
	uint64_t *stalls_ns; /* of each counted kill */
	unsigned int n_kills, n_counted, n_lost;
	bool has_crashed;
	uint64_t reported_ns;
};

static _Noreturn void give_up(const char *what, int error)
{
	fprintf(stderr, "soak: %s: %s\n", what, strerror(error));
	exit(2);
}

static uint64_t below(struct run *run, uint64_t limit)
{
	return pattern_mix(run->options.seed ^ ++run->chance) % limit;
}

/* ---- the guests ------------------------------------------------------------------------------ */

/* The parts of the image, one more than there are guests. */
static void write_image(const struct run *run)
{
	uint64_t n_blocks = (run->options.n_guests + 1) * GUEST_MIB * MIB / PATTERN_BLOCK_BYTES;
	_cleanup_(closep) int fd = open(run->options.image,
					O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	char block[PATTERN_BLOCK_BYTES];

	if (fd < 0 || ftruncate(fd, (off_t)(n_blocks * sizeof(block))) < 0)
		give_up(run->options.image, errno);
	for (uint64_t i = 0; i < n_blocks; i++) {
		if (pattern_is_zero(run->options.seed, i))
			continue;
		pattern_write(block, run->options.seed, i, 0);
		if (pwrite(fd, block, sizeof(block), (off_t)(i * sizeof(block))) != sizeof(block))
			give_up(run->options.image, errno);
	}
}

static void make_board(struct run *run)
{
	size_t length = sizeof(struct soak_board) +
			run->options.n_guests * sizeof(struct soak_guest);

	run->board_fd = memfd_create("soak-board", 0); /* the guests inherit it */
	if (run->board_fd < 0 || ftruncate(run->board_fd, (off_t)length) < 0)
		give_up("board", errno);
	run->board = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, run->board_fd, 0);
	if (run->board == MAP_FAILED)
		give_up("board", errno);
	run->board->n_guests = run->options.n_guests;
}

static void start_guest(struct run *run, unsigned int index)
{
	static const char *const kinds[] = { "shmem",	   "pid",	    "anon",
					     "hugetlb",	   "shmem-filling", "backing",
					     "pid-window", "anon-window",   "pid-hugetlb" };
	struct child *child = &run->children[index];
	const char *kind = kinds[index % (sizeof(kinds) / sizeof(*kinds))];
	char board[16], number[16], mib[16], seed[24];

	if ((strstr(kind, "hugetlb") && !run->options.has_huge_pages) ||
	    (strstr(kind, "pid") && !CAN_ATTACH_BY_PID))
		kind = "anon";
	snprintf(board, sizeof(board), "%d", run->board_fd);
	snprintf(number, sizeof(number), "%u", index);
	snprintf(mib, sizeof(mib), "%llu", (unsigned long long)GUEST_MIB);
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)run->options.seed);
	snprintf(child->name, sizeof(child->name), "%s-%u", kind, index);
	atomic_store(&run->board->guests[index].phase_ns, clock_now_ns());
	child->pid = fork();
	if (child->pid < 0)
		give_up("fork", errno);
	if (child->pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(run->options.guest, run->options.guest, "--board", board, "--index", number, "--kind",
	      kind, "--socket", run->daemon.socket_path, "--image", run->options.image, "--mib",
	      mib, "--seed", seed, NULL);
	_exit(127);
}

static void lose(struct run *run, unsigned int guest, const char *why)
{
	struct child *child = &run->children[guest];

	if (child->is_lost)
		return;
	child->is_lost = true;
	run->n_lost++;
	fprintf(stderr, "LOST after %u kills: %s %s\n", run->n_kills, child->name, why);
	soak_judge_describe(run->board, guest, child->name);
}

/* Guests that ended, or that take too long for what the daemon owes them. */
static void look_after_guests(struct run *run)
{
	uint64_t now_ns = clock_now_ns();
	int status;

	for (unsigned int i = 0; i < run->options.n_guests; i++) {
		struct child *child = &run->children[i];
		struct soak_guest *guest = &run->board->guests[i];
		uint64_t since_ns = atomic_load(&guest->phase_ns);
		uint32_t phase = atomic_load(&guest->phase);

		if (child->pid && waitpid(child->pid, &status, WNOHANG) == child->pid) {
			child->pid = 0;
			if (phase != SOAK_DONE || status)
				lose(run, i, "has ended");
		}
		if (phase != SOAK_RUNNING && phase != SOAK_DONE &&
		    now_ns > since_ns + PHASE_S * NSEC_PER_SEC)
			lose(run, i, "does not get on");
	}
}

/* Nobody but us is to end it. */
static void look_after_daemon(struct run *run)
{
	if (run->has_crashed || !soak_daemon_is_dead(&run->daemon))
		return;
	fprintf(stderr, "soak: ufdd %d ended by itself\n", run->daemon.pid);
	run->has_crashed = true;
}

static bool has_failed(const struct run *run)
{
	return run->n_lost || run->has_crashed;
}

/* Everybody is to stop. Who does not is lost. */
static void stop_guests(struct run *run)
{
	uint64_t deadline_ns = clock_now_ns() + STOP_S * NSEC_PER_SEC;
	unsigned int n_alive = run->options.n_guests;

	atomic_store(&run->board->must_stop, 1);
	while (!has_failed(run) && n_alive && clock_now_ns() < deadline_ns) {
		usleep(LOOK_US);
		look_after_guests(run);
		n_alive = 0;
		for (unsigned int i = 0; i < run->options.n_guests; i++)
			n_alive += run->children[i].pid != 0;
	}
	for (unsigned int i = 0; i < run->options.n_guests; i++) {
		if (!run->children[i].pid)
			continue;
		if (!has_failed(run))
			lose(run, i, "does not come to its end");
		kill(run->children[i].pid, SIGKILL);
		waitpid(run->children[i].pid, NULL, 0);
	}
}

static uint64_t sum(const struct run *run, size_t field)
{
	uint64_t total = 0;

	for (unsigned int i = 0; i < run->options.n_guests; i++)
		total += atomic_load((_Atomic uint64_t *)((char *)&run->board->guests[i] + field));
	return total;
}

#define SUM(run, field) ((unsigned long long)sum(run, offsetof(struct soak_guest, field)))

/* ---- kills ----------------------------------------------------------------------------------- */

/* Is there a guest that is kept from arriving or leaving by so many kills? */
static bool is_kept_waiting(const struct run *run)
{
	uint64_t now_ns = clock_now_ns();

	for (unsigned int i = 0; i < run->options.n_guests; i++) {
		const struct soak_guest *guest = &run->board->guests[i];
		uint32_t phase = atomic_load(&guest->phase);

		if ((phase == SOAK_ARRIVING || phase == SOAK_LEAVING) &&
		    now_ns > atomic_load(&guest->phase_ns) + PATIENCE_NS)
			return true;
	}
	return false;
}

/* A moment by chance; for every second kill, then the moment somebody is at an absent page. */
static void await_moment(struct run *run)
{
	uint64_t until_ns;

	while (is_kept_waiting(run) && !has_failed(run)) {
		usleep(LOOK_US);
		look_after_daemon(run);
		look_after_guests(run);
	}
	usleep((useconds_t)(MIN_PAUSE_US + below(run, MAX_PAUSE_US)));
	until_ns = clock_now_ns() + AIM_NS;
	if (run->options.is_until_lost || below(run, 2))
		while (clock_now_ns() < until_ns && !soak_judge_has_pending(run->board))
			;
}

static bool await_daemon(struct run *run)
{
	if (soak_daemon_await(&run->daemon, clock_now_ns() + LOST_S * NSEC_PER_SEC))
		return true;
	fprintf(stderr, "soak: no ufdd was started within %d s\n", LOST_S);
	run->has_crashed = true;
	return false;
}

/* Has everybody who was in an operation at the last kill come out of it, and a fault been served? */
static bool is_over(struct run *run, const struct soak_kill *last)
{
	bool is_over = soak_judge_stall_ns(run->board, last) > 0;

	for (unsigned int i = 0; i < run->options.n_guests; i++)
		is_over &= !soak_judge_waits(run->board, i, last->dead_ns);
	return is_over;
}

static void await_recovery(struct run *run, const struct soak_kill *last)
{
	unsigned int patience_s = run->options.is_until_lost ? LOST_BROKEN_S : LOST_S;
	uint64_t deadline_ns = clock_now_ns() + patience_s * NSEC_PER_SEC;

	while (!is_over(run, last) && !has_failed(run)) {
		usleep(LOOK_US);
		look_after_daemon(run);
		look_after_guests(run);
		if (clock_now_ns() < deadline_ns)
			continue;
		for (unsigned int i = 0; i < run->options.n_guests; i++)
			if (soak_judge_waits(run->board, i, last->dead_ns))
				lose(run, i, "waits for a page");
		if (!has_failed(run)) {
			fprintf(stderr, "soak: no fault was served in %u s\n", patience_s);
			run->has_crashed = true;
		}
	}
}

static unsigned int kill_in_a_row(struct run *run, struct soak_kill *kills)
{
	unsigned int n = 1, chance = (unsigned int)below(run, 20);
	unsigned int n_wanted = chance == 0 ? 3 : chance < 5 ? 2 : 1;

	await_moment(run);
	look_after_daemon(run);
	if (has_failed(run))
		return 0;
	soak_daemon_kill(&run->daemon, &kills[0]);
	for (; n < n_wanted && await_daemon(run); n++) {
		if (below(run, 3))
			usleep((useconds_t)below(run, RECOVERY_US));
		soak_daemon_kill(&run->daemon, &kills[n]);
	}
	return n;
}

static void episode(struct run *run)
{
	struct soak_kill kills[MAX_KILLS_EACH];
	unsigned int n = kill_in_a_row(run, kills);

	run->n_kills += n;
	if (n && await_daemon(run))
		await_recovery(run, &kills[n - 1]);
	for (unsigned int i = 0; i < n && !has_failed(run); i++) {
		if (run->n_counted == run->options.n_kills ||
		    !soak_judge_counts(run->board, &kills[i]))
			continue;
		run->stalls_ns[run->n_counted++] = soak_judge_stall_ns(run->board, &kills[i]);
	}
	look_after_guests(run);
}

/* ---- results --------------------------------------------------------------------------------- */

static void say(struct run *run, bool is_last)
{
	uint64_t now_ns = clock_now_ns();

	if (!is_last && now_ns < run->reported_ns + REPORT_EVERY_NS)
		return;
	run->reported_ns = now_ns;
	printf("%u kills, %u with a fault; %llu rounds, %llu pages compared, %llu wrong; "
	       "%llu rewritten, %llu discarded; %llu epochs, %llu pages of copies compared; "
	       "clients: %llu resumed, %llu attached anew\n",
	       run->n_kills, run->n_counted, SUM(run, n_rounds), SUM(run, n_checked),
	       SUM(run, n_wrong), SUM(run, n_written), SUM(run, n_discarded), SUM(run, n_epochs),
	       SUM(run, n_copied), SUM(run, n_resumed), SUM(run, n_reattached));
}

static int compare(const void *one, const void *other)
{
	uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;

	return (a > b) - (a < b);
}

static void write_result(struct run *run)
{
	unsigned int n = run->n_counted;
	double p50_ms = 0, max_ms = 0;
	FILE *file = fopen(run->options.result, "we");

	if (!file)
		give_up(run->options.result, errno);
	qsort(run->stalls_ns, n, sizeof(*run->stalls_ns), compare);
	if (n) {
		p50_ms = (double)run->stalls_ns[n / 2] / NSEC_PER_MSEC;
		max_ms = (double)run->stalls_ns[n - 1] / NSEC_PER_MSEC;
	}
	fprintf(file,
		"{\"kills\":%u,\"kills_with_fault\":%u,\"wrong_pages\":%llu,\"lost_guests\":%u,"
		"\"stall_p50_ms\":%.1f,\"stall_max_ms\":%.1f}\n",
		run->n_kills, n, SUM(run, n_wrong), run->n_lost, p50_ms, max_ms);
	fclose(file);
}

/* ---- the program ----------------------------------------------------------------------------- */

static bool are_all_running(const struct run *run)
{
	for (unsigned int i = 0; i < run->options.n_guests; i++)
		if (atomic_load(&run->board->guests[i].phase) < SOAK_RUNNING)
			return false;
	return true;
}

static int run_all(struct run *run)
{
	run->stalls_ns = calloc(run->options.n_kills, sizeof(*run->stalls_ns));
	if (!run->stalls_ns)
		give_up("out of memory", ENOMEM);
	write_image(run);
	make_board(run);
	if (!await_daemon(run))
		return 2;
	for (unsigned int i = 0; i < run->options.n_guests; i++)
		start_guest(run, i);
	while (!are_all_running(run) && !has_failed(run)) {
		usleep(LOOK_US);
		look_after_daemon(run);
		look_after_guests(run);
	}
	if (has_failed(run))
		give_up("a guest did not start", ECANCELED);

	run->reported_ns = clock_now_ns();
	while (run->n_counted < run->options.n_kills && !has_failed(run)) {
		episode(run);
		say(run, false);
	}
	stop_guests(run);
	say(run, true);
	write_result(run);
	soak_daemon_done(&run->daemon);
	free(run->stalls_ns);
	return has_failed(run) || SUM(run, n_wrong) ? 1 : 0;
}

static int hold_huge_pages(unsigned int n)
{
	char byte;

	puts(hugepages_reserve(n) ? "held" : "none");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	return 0;
}

enum option_number {
	KILLS = 256,
	GUESTS,
	SEED,
	GUEST,
	IMAGE,
	SOCKET,
	RESULT,
	GROUP,
	UFDD,
	STATE_DIR,
	HUGE_PAGES,
	UNTIL_LOST,
	HOLD
};

static const struct option known[] = {
	{ "kills", required_argument, NULL, KILLS },
	{ "guests", required_argument, NULL, GUESTS },
	{ "seed", required_argument, NULL, SEED },
	{ "guest", required_argument, NULL, GUEST },
	{ "image", required_argument, NULL, IMAGE },
	{ "socket", required_argument, NULL, SOCKET },
	{ "result", required_argument, NULL, RESULT },
	{ "group", required_argument, NULL, GROUP },
	{ "ufdd", required_argument, NULL, UFDD },
	{ "state-dir", required_argument, NULL, STATE_DIR },
	{ "huge-pages", no_argument, NULL, HUGE_PAGES },
	{ "until-lost", no_argument, NULL, UNTIL_LOST },
	{ "hold-huge-pages", required_argument, NULL, HOLD },
	{},
};

static void take_option(struct run *run, int option)
{
	switch (option) {
	case KILLS:
		run->options.n_kills = (unsigned int)strtoul(optarg, NULL, 10);
		break;
	case GUESTS:
		run->options.n_guests = (unsigned int)strtoul(optarg, NULL, 10);
		break;
	case SEED:
		run->options.seed = strtoull(optarg, NULL, 10);
		break;
	case GUEST:
		run->options.guest = optarg;
		break;
	case IMAGE:
		run->options.image = optarg;
		break;
	case SOCKET:
		run->daemon.socket_path = optarg;
		break;
	case RESULT:
		run->options.result = optarg;
		break;
	case GROUP:
		run->daemon.group = optarg;
		break;
	case UFDD:
		run->daemon.program = optarg;
		break;
	case STATE_DIR:
		run->daemon.state_dir = optarg;
		break;
	case HUGE_PAGES:
		run->options.has_huge_pages = true;
		break;
	case UNTIL_LOST:
		run->options.is_until_lost = true;
		break;
	case HOLD:
		exit(hold_huge_pages((unsigned int)strtoul(optarg, NULL, 10)));
	default:
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct run run = { .daemon.pidfd = -EBADF };
	int option;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1)
		take_option(&run, option);
	if (!run.options.n_kills || !run.options.n_guests || run.options.n_guests > SOAK_N_GUESTS ||
	    !run.options.guest || !run.options.image || !run.options.result ||
	    !run.daemon.socket_path ||
	    (!run.daemon.group && (!run.daemon.program || !run.daemon.state_dir)))
		give_up("started wrongly", EINVAL);
	return run_all(&run);
}
