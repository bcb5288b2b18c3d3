/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest of a soak run: it restores a memory lazily, uses it, and begins anew when it is complete.
 *
 *	soak-guest --board FD --index N --kind KIND --socket PATH --image PATH --mib N --seed S
 *
 * A round: an empty memory whose bytes are a part of the image (another one each round) is paged by
 * the daemon; threads touch three quarters of it in random order, compare, rewrite and discard;
 * the daemon fills the rest and lets go; everything is compared once more. What each thread is doing
 * stands on the board, where the controller sees what was wrong and who is stuck.
 *
 * Exit status: 0 when told to stop (wrong pages are on the board), 2 if something failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "support/pattern.h"
#include "support/soak-board.h"
#include "support/soak-consumer.h"
#include "support/soak-memory.h"
#include "support/soak-paging.h"
#include "support/soak-worker.h"

#define WAIT_MS 100

struct options {
	int board_fd;
	unsigned int index;
	const char *kind;
	const char *socket;
	const char *image;
	uint64_t length_bytes;
	uint64_t seed;
};

/* What soak.c deals out to guests in turn. */
static const struct kind {
	const char *name;
	enum soak_kind memory;
	bool by_pid, has_window, has_background, has_image_fd, is_backing;
	bool is_tracked; /* somebody keeps a copy by what it writes */
} kinds[] = {
	{ "shmem", SOAK_SHMEM, .is_tracked = true },
	{ "anon", SOAK_ANON, .is_tracked = true },
	{ "pid", SOAK_SHMEM, .by_pid = true, .is_tracked = true },
	{ "hugetlb", SOAK_HUGETLB, .is_tracked = true },
	{ "shmem-filling", SOAK_SHMEM, .has_window = true, .has_background = true,
	  .has_image_fd = true, .is_tracked = true },
	{ "backing", SOAK_SHMEM, .is_backing = true },
	{ "pid-window", SOAK_SHMEM, .by_pid = true, .has_window = true },
	{ "anon-window", SOAK_ANON, .has_window = true, .has_image_fd = true },
	{ "pid-hugetlb", SOAK_HUGETLB, .by_pid = true },
};

struct soak {
	struct options options;
	const struct kind *kind;
	struct soak_board *all;
	struct soak_guest *board;
	struct soak_paging paging;
	struct soak_memory memory;
	struct soak_consumer consumer;
	int done_fd; /* eventfd: a worker has ended */
};

struct job {
	struct soak *soak;
	struct soak_worker worker;
	void (*run)(struct soak_worker *worker);
	pthread_t thread;
};

static void set_phase(struct soak *soak, enum soak_phase phase)
{
	atomic_store(&soak->board->phase_ns, clock_now_ns());
	atomic_store(&soak->board->phase, phase);
}

/* ---- a round --------------------------------------------------------------------------------- */

static void *job_main(void *userdata)
{
	struct job *job = userdata;
	uint64_t one = 1;

	job->run(&job->worker);
	if (write(job->soak->done_fd, &one, sizeof(one)) < 0)
		soak_give_up("eventfd", errno);
	return NULL;
}

/* Have every thread do its part, and look after the daemon meanwhile. */
static void run_workers(struct soak *soak, uint64_t round, void (*run)(struct soak_worker *))
{
	struct job jobs[SOAK_N_THREADS];
	uint64_t n_done = 0, value;

	for (unsigned int i = 0; i < SOAK_N_THREADS; i++) {
		uint64_t chance = soak->options.seed ^ round << 32 ^ soak->options.index << 16 ^ i;

		jobs[i] = (struct job){
			.soak = soak,
			.run = run,
			.worker = { .all = soak->all,
				    .board = soak->board,
				    .thread = &soak->board->threads[i],
				    .paging = &soak->paging,
				    .memory = &soak->memory,
				    .index = i,
				    .chance = pattern_mix(chance) },
		};
		if (pthread_create(&jobs[i].thread, NULL, job_main, &jobs[i]))
			soak_give_up("thread", EAGAIN);
	}
	while (n_done < SOAK_N_THREADS) {
		soak_paging_wait(&soak->paging, soak->done_fd, WAIT_MS);
		if (read(soak->done_fd, &value, sizeof(value)) > 0)
			n_done += value;
	}
	for (unsigned int i = 0; i < SOAK_N_THREADS; i++)
		pthread_join(jobs[i].thread, NULL);
}

/* Other bytes each round, and other guests' at that, so that a page of before is not right again. */
static uint64_t first_block(const struct soak *soak, uint64_t round)
{
	uint64_t part = (soak->options.index + round) % (soak->all->n_guests + 1);

	return part * (soak->options.length_bytes / PATTERN_BLOCK_BYTES);
}

static void arrive(struct soak *soak, uint64_t round)
{
	set_phase(soak, SOAK_ARRIVING);
	do {
		if (soak->memory.bytes)
			soak_memory_done(&soak->memory);
		soak_memory_init(&soak->memory, soak->kind->memory, soak->options.length_bytes,
				 soak->options.seed, first_block(soak, round),
				 soak->kind->is_backing);
	} while (!soak_paging_arrive(&soak->paging, &soak->memory));
}

static uint64_t count_absent(const struct soak *soak)
{
	uint64_t n = 0;

	if (soak->kind->has_window || soak->kind->has_background)
		return 0;
	for (uint64_t page = 0; page < soak->memory.n_pages; page++)
		n += !soak_memory_is_hole(&soak->memory, page);
	return n;
}

static void run_round(struct soak *soak, uint64_t round)
{
	arrive(soak, round);
	atomic_store(&soak->board->n_absent, count_absent(soak));
	if (soak->kind->is_tracked)
		soak_consumer_start(&soak->consumer, soak->paging.way.name, soak->options.socket,
				    soak->board, &soak->memory);
	set_phase(soak, SOAK_RUNNING);
	run_workers(soak, round, soak_worker_run);
	if (soak->kind->is_tracked)
		soak_consumer_end(&soak->consumer);

	set_phase(soak, SOAK_LEAVING);
	atomic_store(&soak->board->n_absent, 0);
	soak_paging_leave(&soak->paging);
	set_phase(soak, SOAK_CHECKING);
	run_workers(soak, round, soak_worker_check);
	soak_memory_done(&soak->memory);
	atomic_fetch_add(&soak->board->n_rounds, 1);
}

/* ---- the program ----------------------------------------------------------------------------- */

static void open_board(struct soak *soak)
{
	off_t length = lseek(soak->options.board_fd, 0, SEEK_END);

	if (length < 0)
		soak_give_up("no board", errno);
	soak->all = mmap(NULL, (size_t)length, PROT_READ | PROT_WRITE, MAP_SHARED,
			 soak->options.board_fd, 0);
	if (soak->all == MAP_FAILED)
		soak_give_up("cannot map the board", errno);
	close(soak->options.board_fd);
	soak->board = &soak->all->guests[soak->options.index];
}

static void open_paging(struct soak *soak)
{
	const struct kind *kind = soak->kind;
	struct soak_way way = {
		.socket_path = soak->options.socket,
		.image_path = soak->options.image,
		.image_fd = -EBADF,
		.by_pid = kind->by_pid,
		.has_window = kind->has_window,
		.has_background = kind->has_background,
		.is_backing = kind->is_backing,
	};
	char *name;

	if (kind->has_image_fd)
		way.image_fd = open(soak->options.image, O_RDONLY | O_CLOEXEC);
	if (asprintf(&name, "%s-%u", kind->name, soak->options.index) < 0)
		soak_give_up("out of memory", ENOMEM);
	way.name = name; /* until the program ends */
	soak_paging_init(&soak->paging, &way, soak->board);
}

static int take_options(struct options *options, int argc, char **argv)
{
	static const struct option known[] = {
		{ "board", required_argument, NULL, 'b' },
		{ "index", required_argument, NULL, 'n' },
		{ "kind", required_argument, NULL, 'k' },
		{ "socket", required_argument, NULL, 's' },
		{ "image", required_argument, NULL, 'i' },
		{ "mib", required_argument, NULL, 'm' },
		{ "seed", required_argument, NULL, 'e' },
		{},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case 'b':
			options->board_fd = atoi(optarg);
			break;
		case 'n':
			options->index = (unsigned int)atoi(optarg);
			break;
		case 'k':
			options->kind = optarg;
			break;
		case 's':
			options->socket = optarg;
			break;
		case 'i':
			options->image = optarg;
			break;
		case 'm':
			options->length_bytes = strtoull(optarg, NULL, 10) * MIB;
			break;
		case 'e':
			options->seed = strtoull(optarg, NULL, 10);
			break;
		default:
			return -EINVAL;
		}
	}
	return options->kind && options->socket && options->image && options->length_bytes
		       ? 0
		       : -EINVAL;
}

int main(int argc, char **argv)
{
	struct soak soak = { .options.board_fd = -EBADF };

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || take_options(&soak.options, argc, argv) < 0)
		soak_give_up("started wrongly", EINVAL);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].name, soak.options.kind))
			soak.kind = &kinds[i];
	if (!soak.kind)
		soak_give_up(soak.options.kind, EINVAL);

	open_board(&soak);
	open_paging(&soak);
	soak.done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (soak.done_fd < 0)
		soak_give_up("eventfd", errno);
	for (uint64_t round = 0; !atomic_load(&soak.all->must_stop); round++)
		run_round(&soak, round);
	set_phase(&soak, SOAK_DONE);
	return 0;
}
