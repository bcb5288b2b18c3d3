/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A toy VMM: threads that touch a memory paged by ufdd, and know what every page must hold. */

/*
 *	toy-vmm --write-image FILE --mib N [--seed S]
 *	toy-vmm --socket PATH --image FILE --mib N [options]
 *
 * The first writes a sparse image, the second has it paged through libufd. Pages are split among
 * the threads, each of which visits its own in random or sequential order: the first visit compares
 * (and with --write rewrites, with --discard gives every fourth back); once all threads are through,
 * a second round compares everything again. On stdout:
 *
 *	ATTACHED PID		the daemon pages us
 *	HALF			half of the first round is done; the daemon may be killed now
 *	LOST, RESUMED, REATTACHED, ...	what libufd reports of the daemon
 *
 * and last one line of JSON. With --no-client nobody is called: it says READY PID, waits for a line
 * on stdin (so that somebody can attach it by pid) and goes on. SIGUSR1 ends the pauses of --pause-us.
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
#include <time.h>
#include <ufd/ufd.h>
#include <unistd.h>

#include "support/pattern.h"
#include "support/toy-image.h"

#define MIB	      (UINT64_C(1) << 20)
#define HUGE_BYTES    (2 * MIB)
#define MAX_THREADS   64
#define DISCARD_EVERY 4

enum kind { ANON, SHMEM, HUGETLB };

struct options {
	const char *write_image;
	const char *image;
	const char *socket;
	const char *name;
	const char *source; /* file or backing */
	enum kind kind;
	uint64_t mib;
	uint64_t hot_mib; /* added when half of the first round is done */
	uint64_t seed;
	unsigned int n_threads;
	unsigned int pause_us; /* after each page of the first round */
	bool is_random;
	bool is_user_mode;
	bool is_writing;
	bool is_discarding;
	bool is_holding;  /* before the second round, until there is a line on stdin */
	bool is_punching; /* discards are holes in the file, which the kernel tells nobody of */
	bool is_background;
	bool has_client;
};

/* One memory. Blocks are counted from the image's first byte, so the hot one continues it. */
struct memory {
	const char *name;
	char *bytes;
	int backing;
	uint64_t length_bytes;
	uint64_t image_offset_bytes;
	uint8_t *generations; /* per page: what it must hold; DISCARDED: zero */
};

#define DISCARDED 255

struct toy {
	struct options options;
	uint64_t page_bytes;
	struct memory memories[2];
	unsigned int n_memories;
	struct ufd_client *client;
	pthread_mutex_t client_lock;  /* libufd takes one call at a time */
	pthread_barrier_t round_over; /* the threads' first one */
	sem_t hot_added;	      /* once for each thread */
	int half_fd;		      /* eventfd: half of the first round is done */
	int done_fd;		      /* eventfd: a thread has ended */

	/* Counted by all threads, relaxed: only sums, read by who joined them. */
	uint64_t n_visited, n_checked, n_wrong, n_zero, n_discarded, n_written;
	/* By the main thread. */
	unsigned int n_lost, n_back;
};

struct worker {
	struct toy *toy;
	unsigned int index;
	pthread_t thread;
};

static _Noreturn void give_up(const char *what, int error)
{
	fprintf(stderr, "toy-vmm: %s: %s\n", what, strerror(error));
	exit(2);
}

static void *allocate(size_t n_bytes)
{
	void *bytes = calloc(1, n_bytes);

	if (!bytes)
		give_up("out of memory", ENOMEM);
	return bytes;
}

static void count(uint64_t *counter, uint64_t n)
{
	__atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

static void signal_fd(int fd)
{
	if (write(fd, &(uint64_t){ 1 }, sizeof(uint64_t)) < 0)
		give_up("eventfd", errno);
}

/* ---- memories -------------------------------------------------------------------------------- */

/* Source `backing`: the bytes are in the file before anybody maps it for the guest. */
static void fill_backing(const struct toy *toy, const struct memory *memory)
{
	uint64_t first_block = memory->image_offset_bytes / PATTERN_BLOCK_BYTES;
	char *bytes = mmap(NULL, memory->length_bytes, PROT_WRITE, MAP_SHARED, memory->backing, 0);

	if (bytes == MAP_FAILED)
		give_up("cannot map the backing", errno);
	for (uint64_t at = 0; at < memory->length_bytes; at += PATTERN_BLOCK_BYTES)
		pattern_write(bytes + at, toy->options.seed, first_block + at / PATTERN_BLOCK_BYTES,
			      0);
	munmap(bytes, memory->length_bytes);
}

static void make_memory(struct toy *toy, const char *name, uint64_t mib, uint64_t offset_bytes)
{
	struct memory *memory = &toy->memories[toy->n_memories++];
	unsigned int flags = MFD_CLOEXEC | (toy->options.kind == HUGETLB ? MFD_HUGETLB : 0);

	*memory = (struct memory){ .name = name,
				   .backing = -1,
				   .length_bytes = mib * MIB,
				   .image_offset_bytes = offset_bytes };
	memory->generations = allocate(memory->length_bytes / toy->page_bytes);

	if (toy->options.kind != ANON) {
		memory->backing = memfd_create(name, flags);
		if (memory->backing < 0 || ftruncate(memory->backing, memory->length_bytes) < 0)
			give_up("memfd", errno);
		if (!strcmp(toy->options.source, "backing"))
			fill_backing(toy, memory);
	}
	memory->bytes = mmap(NULL, memory->length_bytes, PROT_READ | PROT_WRITE,
			     memory->backing < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
						 : MAP_SHARED,
			     memory->backing, 0);
	if (memory->bytes == MAP_FAILED)
		give_up("mmap", errno);
}

/* ---- the daemon ------------------------------------------------------------------------------ */

static void on_event(struct ufd_client *client, uint32_t event, void *userdata)
{
	static const char *const words[] = {
		[UFD_CLIENT_LOST] = "LOST",
		[UFD_CLIENT_RESUMED] = "RESUMED",
		[UFD_CLIENT_REATTACHED] = "REATTACHED",
		[UFD_CLIENT_REFUSED] = "REFUSED",
		[UFD_CLIENT_STRANDED] = "STRANDED",
	};
	struct toy *toy = userdata;

	toy->n_lost += event == UFD_CLIENT_LOST;
	toy->n_back += event == UFD_CLIENT_RESUMED || event == UFD_CLIENT_REATTACHED;
	printf("%s", words[event]);
	printf(event == UFD_CLIENT_REFUSED ? " %s\n" : "\n", ufd_client_error(client));
}

static void add_memory(struct toy *toy, const struct memory *memory)
{
	char source[4200];
	UFD_OPTS(ufd_client_memory_opts, opts, .name = memory->name, .address = memory->bytes,
		 .length = memory->length_bytes, .source = source, .page_bytes = toy->page_bytes,
		 .backing = memory->backing > 0 ? memory->backing : 0);
	int r;

	snprintf(source, sizeof(source), "file:%s,offset=%llu", toy->options.image,
		 (unsigned long long)memory->image_offset_bytes);
	if (!strcmp(toy->options.source, "backing"))
		strcpy(source, "backing");

	pthread_mutex_lock(&toy->client_lock);
	r = ufd_client_add_memory(toy->client, &opts);
	pthread_mutex_unlock(&toy->client_lock);
	if (r)
		give_up(ufd_client_error(toy->client), -r);
}

static void attach(struct toy *toy)
{
	const struct options *options = &toy->options;
	const char *why = "";
	UFD_OPTS(ufd_client_opts, opts, .guest = options->name, .socket_path = options->socket,
		 .on_event = on_event, .userdata = toy,
		 .flags = (options->is_user_mode ? UFD_CLIENT_USER_MODE : 0),
		 .populated = strcmp(options->source, "backing") ? 0 : UFD_CLIENT_POPULATED_KEEP,
		 .background = options->is_background ? UFD_CLIENT_ON : UFD_CLIENT_OFF);
	int r = ufd_client_new(&toy->client, &opts, &why);

	if (r)
		give_up(why, -r);
	add_memory(toy, &toy->memories[0]);
	r = ufd_client_attach(toy->client);
	if (r)
		give_up(ufd_client_error(toy->client), -r);
	printf("ATTACHED %d\n", getpid());
}

static void wait_for_line(void)
{
	char line[64];

	printf("READY %d\n", getpid());
	if (!fgets(line, sizeof(line), stdin))
		give_up("nobody said go on", ENODATA);
}

/* ---- the threads ----------------------------------------------------------------------------- */

static bool page_is_right(const struct toy *toy, const struct memory *memory, uint64_t page)
{
	const char *bytes = memory->bytes + page * toy->page_bytes;
	uint64_t first_block = (memory->image_offset_bytes + page * toy->page_bytes) /
			       PATTERN_BLOCK_BYTES;
	uint8_t generation = memory->generations[page];
	bool is_right = true;

	for (uint64_t i = 0; i < toy->page_bytes / PATTERN_BLOCK_BYTES; i++) {
		const char *block = bytes + i * PATTERN_BLOCK_BYTES;

		is_right &= generation == DISCARDED ? pattern_is_all_zero(block)
						    : pattern_is_right(block, toy->options.seed,
								       first_block + i, generation);
	}
	return is_right;
}

static void check_page(struct toy *toy, const struct memory *memory, uint64_t page)
{
	count(&toy->n_checked, 1);
	count(&toy->n_zero, memory->generations[page] == DISCARDED);
	if (page_is_right(toy, memory, page))
		return;
	if (__atomic_fetch_add(&toy->n_wrong, 1, __ATOMIC_RELAXED) < 10)
		fprintf(stderr, "toy-vmm: page %llu of %s is wrong (generation %u)\n",
			(unsigned long long)page, memory->name, memory->generations[page]);
}

static void write_page(struct toy *toy, struct memory *memory, uint64_t page)
{
	char *bytes = memory->bytes + page * toy->page_bytes;
	uint64_t first_block = (memory->image_offset_bytes + page * toy->page_bytes) /
			       PATTERN_BLOCK_BYTES;

	memory->generations[page]++;
	for (uint64_t i = 0; i < toy->page_bytes / PATTERN_BLOCK_BYTES; i++)
		pattern_write(bytes + i * PATTERN_BLOCK_BYTES, toy->options.seed, first_block + i,
			      memory->generations[page]);
	count(&toy->n_written, 1);
}

/* Announced first, done then; left alone while the daemon is away. */
static void discard_page(struct toy *toy, struct memory *memory, uint64_t page)
{
	uint64_t offset = page * toy->page_bytes;
	int r = 0;

	if (toy->client) {
		pthread_mutex_lock(&toy->client_lock);
		r = ufd_client_note_discard(toy->client, memory->name, offset, toy->page_bytes);
		pthread_mutex_unlock(&toy->client_lock);
	}
	if (r && r != -ETIMEDOUT && r != -ECONNRESET)
		return;
	if (toy->options.is_punching
		    ? fallocate(memory->backing, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)offset, (off_t)toy->page_bytes)
		    : madvise(memory->bytes + offset, toy->page_bytes,
			      memory->backing < 0 ? MADV_DONTNEED : MADV_REMOVE))
		give_up("cannot discard", errno);
	/* After a half-told one the page may be zero or the source's: write it, then it is known. */
	memory->generations[page] = DISCARDED;
	if (r) {
		memset(memory->bytes + offset, 0, toy->page_bytes);
		return;
	}
	count(&toy->n_discarded, 1);
}

static bool is_hurried(void)
{
	sigset_t pending;

	return sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1);
}

static void visit_first(struct toy *toy, struct memory *memory, uint64_t page)
{
	uint64_t n_pages = memory->length_bytes / toy->page_bytes;

	check_page(toy, memory, page);
	if (toy->options.is_writing)
		write_page(toy, memory, page);
	if (toy->options.is_discarding && page % DISCARD_EVERY == 1)
		discard_page(toy, memory, page);
	if (__atomic_add_fetch(&toy->n_visited, 1, __ATOMIC_RELAXED) == (n_pages + 1) / 2)
		signal_fd(toy->half_fd);
	if (toy->options.pause_us && !is_hurried())
		usleep(toy->options.pause_us);
}

static uint64_t *make_order(const struct worker *worker, uint64_t n_pages, uint64_t *ret_n)
{
	const struct options *options = &worker->toy->options;
	uint64_t *order = allocate((n_pages / options->n_threads + 1) * sizeof(*order));
	uint64_t n = 0;

	for (uint64_t page = worker->index; page < n_pages; page += options->n_threads)
		order[n++] = page;
	for (uint64_t i = n; options->is_random && i > 1; i--) {
		uint64_t other = pattern_mix(options->seed + worker->index * n_pages + i) % i;
		uint64_t page = order[other];

		order[other] = order[i - 1];
		order[i - 1] = page;
	}
	*ret_n = n;
	return order;
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct toy *toy = worker->toy;
	struct memory *first = &toy->memories[0];
	uint64_t n, *order = make_order(worker, first->length_bytes / toy->page_bytes, &n);

	for (uint64_t i = 0; i < n; i++)
		visit_first(toy, first, order[i]);
	free(order);

	pthread_barrier_wait(&toy->round_over);
	sem_wait(&toy->hot_added);
	for (unsigned int m = 0; m < toy->n_memories; m++) {
		order = make_order(worker, toy->memories[m].length_bytes / toy->page_bytes, &n);
		for (uint64_t i = 0; i < n; i++)
			check_page(toy, &toy->memories[m], order[i]);
		free(order);
	}
	signal_fd(toy->done_fd);
	return NULL;
}

/* ---- the main thread ------------------------------------------------------------------------- */

static void dispatch(struct toy *toy)
{
	pthread_mutex_lock(&toy->client_lock);
	ufd_client_dispatch(toy->client);
	pthread_mutex_unlock(&toy->client_lock);
}

/* Half of the first round is done. */
static void go_on(struct toy *toy)
{
	const struct options *options = &toy->options;

	if (options->hot_mib) {
		make_memory(toy, "hot", options->hot_mib, (options->mib - options->hot_mib) * MIB);
		if (toy->client)
			add_memory(toy, &toy->memories[1]);
	}
	if (options->is_holding)
		wait_for_line();
	for (unsigned int i = 0; i < options->n_threads; i++)
		sem_post(&toy->hot_added);
	printf("HALF\n");
}

/* Look after the daemon until every thread has ended. */
static void supervise(struct toy *toy)
{
	uint64_t n_done = 0, value;

	while (n_done < toy->options.n_threads) {
		struct pollfd fds[] = {
			{ .fd = toy->client ? ufd_client_fd(toy->client) : -1, .events = POLLIN },
			{ .fd = toy->half_fd, .events = POLLIN },
			{ .fd = toy->done_fd, .events = POLLIN },
		};

		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			give_up("poll", errno);
		if (fds[0].revents)
			dispatch(toy);
		if (fds[1].revents && read(toy->half_fd, &value, sizeof(value)) > 0)
			go_on(toy);
		if (fds[2].revents && read(toy->done_fd, &value, sizeof(value)) > 0)
			n_done += value;
	}
}

static void report(const struct toy *toy)
{
	printf("{\"ok\":%s,\"pages_checked\":%llu,\"wrong_pages\":%llu,\"zero_pages\":%llu,"
	       "\"written_pages\":%llu,\"discarded_pages\":%llu,\"memories\":%u,\"lost\":%u,"
	       "\"back\":%u}\n",
	       toy->n_wrong ? "false" : "true", (unsigned long long)toy->n_checked,
	       (unsigned long long)toy->n_wrong, (unsigned long long)toy->n_zero,
	       (unsigned long long)toy->n_written, (unsigned long long)toy->n_discarded,
	       toy->n_memories, toy->n_lost, toy->n_back);
}

static int run(const struct options *options)
{
	struct toy toy = { .options = *options, .client_lock = PTHREAD_MUTEX_INITIALIZER };
	struct worker workers[MAX_THREADS];

	toy.page_bytes = options->kind == HUGETLB ? HUGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE);
	toy.half_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	toy.done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (toy.half_fd < 0 || toy.done_fd < 0)
		give_up("eventfd", errno);
	pthread_barrier_init(&toy.round_over, NULL, options->n_threads);
	sem_init(&toy.hot_added, 0, 0);

	make_memory(&toy, "ram", options->mib - options->hot_mib, 0);
	if (options->has_client)
		attach(&toy);
	else
		wait_for_line();

	for (unsigned int i = 0; i < options->n_threads; i++) {
		workers[i] = (struct worker){ .toy = &toy, .index = i };
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			give_up("thread", errno);
	}
	supervise(&toy);
	for (unsigned int i = 0; i < options->n_threads; i++)
		pthread_join(workers[i].thread, NULL);
	report(&toy);
	ufd_client_free(toy.client);
	for (unsigned int i = 0; i < toy.n_memories; i++)
		free(toy.memories[i].generations);
	return toy.n_wrong ? 1 : 0;
}

static const struct option long_options[] = {
	{ "write-image", required_argument, NULL, 'W' },
	{ "image", required_argument, NULL, 'i' },
	{ "socket", required_argument, NULL, 's' },
	{ "name", required_argument, NULL, 'n' },
	{ "source", required_argument, NULL, 'S' },
	{ "memory", required_argument, NULL, 'm' },
	{ "mib", required_argument, NULL, 'M' },
	{ "hot-mib", required_argument, NULL, 'H' },
	{ "seed", required_argument, NULL, 'e' },
	{ "threads", required_argument, NULL, 't' },
	{ "pause-us", required_argument, NULL, 'p' },
	{ "order", required_argument, NULL, 'o' },
	{ "user-mode", no_argument, NULL, 'u' },
	{ "write", no_argument, NULL, 'w' },
	{ "discard", no_argument, NULL, 'd' },
	{ "punch", no_argument, NULL, 'P' },
	{ "hold", no_argument, NULL, 'h' },
	{ "background", no_argument, NULL, 'b' },
	{ "no-client", no_argument, NULL, 'x' },
	{},
};

static void take_option(struct options *options, int option)
{
	switch (option) {
	case 'W':
		options->write_image = optarg;
		break;
	case 'i':
		options->image = optarg;
		break;
	case 's':
		options->socket = optarg;
		break;
	case 'n':
		options->name = optarg;
		break;
	case 'S':
		options->source = optarg;
		break;
	case 'm':
		options->kind = !strcmp(optarg, "anon")	     ? ANON
				: !strcmp(optarg, "hugetlb") ? HUGETLB
							     : SHMEM;
		break;
	case 'M':
		options->mib = strtoull(optarg, NULL, 10);
		break;
	case 'H':
		options->hot_mib = strtoull(optarg, NULL, 10);
		break;
	case 'e':
		options->seed = strtoull(optarg, NULL, 10);
		break;
	case 't':
		options->n_threads = strtoul(optarg, NULL, 10);
		break;
	case 'p':
		options->pause_us = strtoul(optarg, NULL, 10);
		break;
	case 'o':
		options->is_random = strcmp(optarg, "sequential") != 0;
		break;
	case 'u':
		options->is_user_mode = true;
		break;
	case 'w':
		options->is_writing = true;
		break;
	case 'd':
		options->is_discarding = true;
		break;
	case 'P':
		options->is_discarding = options->is_punching = true;
		break;
	case 'h':
		options->is_holding = true;
		break;
	case 'b':
		options->is_background = true;
		break;
	case 'x':
		options->has_client = false;
		break;
	default:
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct options options = { .name = "toy",
				   .source = "file",
				   .kind = SHMEM,
				   .mib = 64,
				   .seed = 1,
				   .n_threads = 4,
				   .is_random = true,
				   .has_client = true };
	sigset_t hurry;
	int option;

	sigemptyset(&hurry);
	sigaddset(&hurry, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &hurry, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		take_option(&options, option);
	if (options.n_threads < 1 || options.n_threads > MAX_THREADS || options.mib < 4 ||
	    options.hot_mib >= options.mib) {
		fprintf(stderr, "toy-vmm: a number makes no sense\n");
		return 2;
	}

	if (options.write_image) {
		int r = toy_image_write(options.write_image, options.seed, options.mib * MIB);

		if (r < 0)
			give_up(options.write_image, -r);
		return 0;
	}
	return run(&options);
}
