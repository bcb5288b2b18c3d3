/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many small guests in a few processes, each of which knows what its pages must hold.
 *
 *	many-vmm --write-image FILE --guests N
 *	many-vmm --image FILE --guests N [--processes M] [--socket PATH] [--no-duplicate]
 *
 * ATTACHED N is said when the daemon pages all of them. Then each line on stdin begins a round, in
 * which one page of each guest is compared that nobody has touched yet; there are four. With a
 * number in the line, that process gets SIGKILL first. A line of JSON ends the round; times are
 * counted from its beginning. With --no-duplicate no userfaultfd is kept, as by a VMM that hands its
 * own over and closes it.
 *
 * Exit status: 0 if no page was wrong, 1 if one was, 2 if something failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <ufd/ufd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/pattern.h"

#define PAGES	    4 /* of each guest, one a round */
#define GUEST_BYTES (PAGES * PATTERN_BLOCK_BYTES)
#define N_THREADS   2 /* of each process */
#define SEED	    7

/* What the processes have in common. */
struct board {
	sem_t attached;		 /* posted by each process */
	pthread_barrier_t begin; /* of a round; for the processes and who started them */
	pthread_barrier_t end;
	uint64_t began_ns;
	/* By all threads, relaxed: only sums and extremes. */
	uint64_t n_wrong, n_checked;
	uint64_t first_ns, last_ns; /* a guest's page was there */
};

struct many {
	const char *image;
	const char *socket;
	size_t n_guests, n_processes;
	bool has_duplicates;
	struct board *board; /* shared */

	/* Of this process; a guest is known by its number among all. */
	size_t first, end;
	struct ufd_client **clients; /* owned; index: from @first on */
	char **bytes;		     /* owned; likewise */
	int done_fd;		     /* eventfd: a thread has ended */
};

struct worker {
	struct many *many;
	size_t index;
	size_t page;
	pthread_t thread;
};

static _Noreturn void give_up(const char *what, int error)
{
	fprintf(stderr, "many-vmm: %s: %s\n", what, strerror(error));
	exit(2);
}

static void *allocate(size_t n, size_t n_bytes)
{
	void *bytes = calloc(n, n_bytes);

	if (!bytes)
		give_up("out of memory", ENOMEM);
	return bytes;
}

/* No holes: each page must be asked for. */
static void write_image(const char *path, size_t n_guests)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char block[PATTERN_BLOCK_BYTES];

	if (fd < 0)
		give_up(path, errno);
	for (uint64_t i = 0; i < n_guests * PAGES; i++) {
		pattern_write(block, SEED, i, 1);
		if (write(fd, block, sizeof(block)) != sizeof(block))
			give_up("cannot write the image", errno);
	}
	close(fd);
}

/* ---- attaching ---- */

/* The numbers stay taken, so that libufd closes nothing else by them. */
static void drop_duplicates(void)
{
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	char path[64], target[64];

	for (int fd = STDERR_FILENO + 1; fd < nothing; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target));
		if (n > 0 && memmem(target, (size_t)n, "[userfaultfd]", 13))
			dup2(nothing, fd);
	}
	close(nothing);
}

/* A page that nobody may touch keeps the kernel from making one mapping of two neighbours. */
static char *make_memory(void)
{
	char *bytes = mmap(NULL, GUEST_BYTES + PATTERN_BLOCK_BYTES, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (bytes == MAP_FAILED || mprotect(bytes, GUEST_BYTES, PROT_READ | PROT_WRITE) < 0)
		give_up("mmap", errno);
	return bytes;
}

static struct ufd_client *attach(const struct many *many, size_t number, char *bytes)
{
	char name[32], source[4200];
	const char *why = "";
	UFD_OPTS(ufd_client_opts, opts, .guest = name, .socket_path = many->socket,
		 .background = UFD_CLIENT_OFF, .window_bytes = UFD_CLIENT_NO_WINDOW);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "ram", .address = bytes,
		 .length = GUEST_BYTES, .source = source);
	struct ufd_client *client;
	int r;

	snprintf(name, sizeof(name), "many-%zu", number);
	snprintf(source, sizeof(source), "file:%s,offset=%zu", many->image, number * GUEST_BYTES);
	r = ufd_client_new(&client, &opts, &why);
	if (r)
		give_up(why, -r);
	r = ufd_client_add_memory(client, &memory);
	if (r == 0)
		r = ufd_client_attach(client);
	if (r)
		give_up(ufd_client_error(client), -r);
	return client;
}

/* ---- comparing ---- */

static void count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static void keep_extremes(struct board *board, uint64_t now_ns)
{
	uint64_t first_ns = __atomic_load_n(&board->first_ns, __ATOMIC_RELAXED);
	uint64_t last_ns = __atomic_load_n(&board->last_ns, __ATOMIC_RELAXED);

	while (now_ns < first_ns &&
	       !__atomic_compare_exchange_n(&board->first_ns, &first_ns, now_ns, true,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	while (now_ns > last_ns &&
	       !__atomic_compare_exchange_n(&board->last_ns, &last_ns, now_ns, true,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static void check_page(const struct many *many, size_t number, size_t page)
{
	const char *bytes = many->bytes[number - many->first] + page * PATTERN_BLOCK_BYTES;

	count(&many->board->n_checked);
	if (!pattern_is_right(bytes, SEED, number * PAGES + page, 1))
		count(&many->board->n_wrong);
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	const struct many *many = worker->many;
	uint64_t one = 1;

	for (size_t i = many->first + worker->index; i < many->end; i += N_THREADS) {
		check_page(many, i, worker->page);
		keep_extremes(many->board, clock_now_ns());
	}
	if (write(many->done_fd, &one, sizeof(one)) < 0)
		give_up("eventfd", errno);
	return NULL;
}

/* Look after the daemon until every thread has ended. */
static void supervise(const struct many *many)
{
	size_t n = many->end - many->first;
	struct pollfd *fds = allocate(n + 1, sizeof(*fds));
	uint64_t n_done = 0, value;

	for (size_t i = 0; i < n; i++)
		fds[i] = (struct pollfd){ ufd_client_fd(many->clients[i]), POLLIN, 0 };
	fds[n] = (struct pollfd){ many->done_fd, POLLIN, 0 };
	while (n_done < N_THREADS) {
		if (poll(fds, n + 1, -1) < 0 && errno != EINTR)
			give_up("poll", errno);
		for (size_t i = 0; i < n; i++)
			if (fds[i].revents)
				ufd_client_dispatch(many->clients[i]);
		if (fds[n].revents && read(many->done_fd, &value, sizeof(value)) > 0)
			n_done += value;
	}
	free(fds);
}

static void compare(struct many *many, size_t page)
{
	struct worker workers[N_THREADS];

	for (size_t i = 0; i < N_THREADS; i++) {
		workers[i] = (struct worker){ .many = many, .index = i, .page = page };
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			give_up("thread", EAGAIN);
	}
	supervise(many);
	for (size_t i = 0; i < N_THREADS; i++)
		pthread_join(workers[i].thread, NULL);
}

/* ---- the processes ---- */

static _Noreturn void run_process(struct many *many, size_t index)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	many->first = many->n_guests * index / many->n_processes;
	many->end = many->n_guests * (index + 1) / many->n_processes;
	many->clients = allocate(many->end - many->first, sizeof(*many->clients));
	many->bytes = allocate(many->end - many->first, sizeof(*many->bytes));
	many->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (many->done_fd < 0)
		give_up("eventfd", errno);
	for (size_t i = many->first; i < many->end; i++) {
		many->bytes[i - many->first] = make_memory();
		many->clients[i - many->first] = attach(many, i, many->bytes[i - many->first]);
	}
	if (!many->has_duplicates)
		drop_duplicates();
	sem_post(&many->board->attached);
	for (size_t page = 0; page < PAGES; page++) {
		pthread_barrier_wait(&many->board->begin);
		compare(many, page);
		pthread_barrier_wait(&many->board->end);
	}
	exit(0);
}

/* A process that failed has said so. */
static void wait_until_attached(struct board *board)
{
	struct timespec soon;

	do {
		if (waitpid(-1, NULL, WNOHANG) != 0)
			exit(2);
		soon = (struct timespec){ .tv_sec = time(NULL) + 1 };
	} while (sem_timedwait(&board->attached, &soon) < 0);
}

/* One after the other: so many calls at once the daemon does not take. */
static void start_processes(struct many *many)
{
	pthread_barrierattr_t shared;

	many->board = mmap(NULL, sizeof(*many->board), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (many->board == MAP_FAILED)
		give_up("mmap", errno);
	sem_init(&many->board->attached, 1, 0);
	pthread_barrierattr_init(&shared);
	pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&many->board->begin, &shared, (unsigned int)many->n_processes + 1);
	pthread_barrier_init(&many->board->end, &shared, (unsigned int)many->n_processes + 1);
	for (size_t i = 0; i < many->n_processes; i++) {
		pid_t pid = fork();

		if (pid < 0)
			give_up("fork", errno);
		if (pid == 0)
			run_process(many, i);
		wait_until_attached(many->board);
	}
}

static void report(const struct many *many)
{
	const struct board *board = many->board;

	printf("{\"ok\":%s,\"guests\":%zu,\"pages_checked\":%llu,\"wrong_pages\":%llu,"
	       "\"first_served_ms\":%.1f,\"last_served_ms\":%.1f}\n",
	       board->n_wrong ? "false" : "true", many->n_guests,
	       (unsigned long long)board->n_checked, (unsigned long long)board->n_wrong,
	       (double)(board->first_ns - board->began_ns) / NSEC_PER_MSEC,
	       (double)(board->last_ns - board->began_ns) / NSEC_PER_MSEC);
}

static void run_round(const struct many *many)
{
	struct board *board = many->board;
	char line[64] = "";
	long pid;

	if (!fgets(line, sizeof(line), stdin))
		give_up("nobody said go on", ENODATA);
	pid = strtol(line, NULL, 10);
	board->first_ns = UINT64_MAX;
	board->last_ns = 0;
	board->began_ns = clock_now_ns();
	if (pid > 1 && kill((pid_t)pid, SIGKILL) < 0)
		give_up("kill", errno);
	pthread_barrier_wait(&board->begin);
	pthread_barrier_wait(&board->end);
	report(many);
}

static int run(struct many *many)
{
	bool is_bad = false;
	int status;

	start_processes(many);
	printf("ATTACHED %zu\n", many->n_guests);
	for (size_t i = 0; i < PAGES; i++)
		run_round(many);
	while (wait(&status) > 0)
		is_bad |= status != 0;
	if (is_bad)
		return 2;
	return many->board->n_wrong ? 1 : 0;
}

static const struct option long_options[] = {
	{ "write-image", required_argument, NULL, 'W' },
	{ "image", required_argument, NULL, 'i' },
	{ "socket", required_argument, NULL, 's' },
	{ "guests", required_argument, NULL, 'n' },
	{ "processes", required_argument, NULL, 'p' },
	{ "no-duplicate", no_argument, NULL, 'D' },
	{},
};

int main(int argc, char **argv)
{
	struct many many = { .n_guests = 1, .n_processes = 1, .has_duplicates = true };
	const char *written = NULL;
	int option;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == 'W')
			written = optarg;
		else if (option == 'i')
			many.image = optarg;
		else if (option == 's')
			many.socket = optarg;
		else if (option == 'n')
			many.n_guests = strtoul(optarg, NULL, 10);
		else if (option == 'p')
			many.n_processes = strtoul(optarg, NULL, 10);
		else if (option == 'D')
			many.has_duplicates = false;
		else
			return 2;
	}
	if (written) {
		write_image(written, many.n_guests);
		return 0;
	}
	return run(&many);
}
