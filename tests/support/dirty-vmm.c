/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VMM whose threads write the pages that they are told to: what a tracker must tell is known. */

/*
 *	dirty-vmm --socket PATH --name NAME --mib N [--image FILE] [--consumer C] [--track scan|wp]
 *	dirty-vmm --no-client --mib N
 *
 * With --halves its memory is handed over as two, `low` and `high`, which lie in one file.
 *
 * Says `ATTACHED PID` (without a client `READY PID`), then takes a command a line on stdin and answers each
 * with one line:
 *
 *	w PAGE...	write these, the threads share them		ok
 *	d PAGE		discard it					ok
 *	r PAGE		its first word					16 hexadecimal digits
 *	busy		write random pages, all threads, until calm	ok
 *	calm		a bit a page that was written since busy	hexadecimal, lowest page first
 *	pin PAGE	register it as a buffer of an io_uring		ok, or the errno
 *	unpin		and give it back				ok
 */
#include <getopt.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <ufd/ufd.h>
#include <unistd.h>

#define MIB	  (UINT64_C(1) << 20)
#define PAGE	  4096
#define N_THREADS 4
#define MAX_LINE  (1 << 20)

struct vmm {
	const char *socket, *name, *image, *consumer;
	uint64_t mib;
	uint32_t track;
	bool has_client, has_halves;
	int memfd;
	volatile char *memory;
	uint64_t n_pages;
	_Atomic uint64_t *written; /* a bit a page, since busy */
	_Atomic bool is_busy;
	pthread_t threads[N_THREADS];
	uint64_t *pages; /* of a command */
	size_t n_wanted;
	struct ufd_client *client;
	struct io_uring ring;
};

struct worker {
	struct vmm *vmm;
	unsigned int index;
};

static _Noreturn void give_up(const char *what, int error)
{
	fprintf(stderr, "dirty-vmm: %s: %s\n", what, strerror(error));
	exit(2);
}

static void write_page(struct vmm *vmm, uint64_t page)
{
	__atomic_add_fetch(&vmm->memory[page * PAGE + 8], 1, __ATOMIC_RELAXED);
}

static void *write_wanted(void *argument)
{
	const struct worker *worker = argument;

	for (size_t i = worker->index; i < worker->vmm->n_wanted; i += N_THREADS)
		write_page(worker->vmm, worker->vmm->pages[i]);
	return NULL;
}

/* The bit is set first: a page that was written and is not in the list would accuse nobody. */
static void *write_random(void *argument)
{
	const struct worker *worker = argument;
	struct vmm *vmm = worker->vmm;
	uint64_t state = worker->index * UINT64_C(0x9e3779b97f4a7c15) + 1;

	while (atomic_load(&vmm->is_busy)) {
		uint64_t page;

		state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
		page = (state >> 33) % vmm->n_pages;
		atomic_fetch_or(&vmm->written[page / 64], UINT64_C(1) << (page % 64));
		write_page(vmm, page);
		if (state >> 60 == 0)
			usleep(100);
	}
	return NULL;
}

static struct worker workers[N_THREADS];

static void start_threads(struct vmm *vmm, void *(*run)(void *))
{
	for (unsigned int i = 0; i < N_THREADS; i++) {
		workers[i] = (struct worker){ vmm, i };
		if (pthread_create(&vmm->threads[i], NULL, run, &workers[i]))
			give_up("no thread", EAGAIN);
	}
}

static void join_threads(struct vmm *vmm)
{
	for (unsigned int i = 0; i < N_THREADS; i++)
		pthread_join(vmm->threads[i], NULL);
}

/* ---- commands ---- */

static void take_pages(struct vmm *vmm, char *words)
{
	vmm->n_wanted = 0;
	for (char *word = strtok(words, " \n"); word; word = strtok(NULL, " \n"))
		vmm->pages[vmm->n_wanted++] = strtoull(word, NULL, 10) % vmm->n_pages;
}

static void discard(struct vmm *vmm)
{
	uint64_t offset = vmm->pages[0] * PAGE;
	int r = 0;

	if (vmm->client)
		r = ufd_client_note_discard(vmm->client, "ram", offset, PAGE);
	if (r < 0 || madvise((char *)vmm->memory + offset, PAGE, MADV_REMOVE) < 0)
		give_up("discard", r < 0 ? -r : errno);
}

/* The memory is unplugged, and one of the same name plugged at its place, which has nothing in it. */
static void exchange(struct vmm *vmm)
{
	UFD_OPTS(ufd_client_memory_opts, ram, .name = "ram", .address = (char *)vmm->memory,
		 .length = vmm->mib * MIB, .source = "zero", .backing = vmm->memfd);
	int r = ufd_client_remove_region(vmm->client, (char *)vmm->memory, vmm->mib * MIB);

	if (r == 0 && madvise((char *)vmm->memory, vmm->mib * MIB, MADV_REMOVE) < 0)
		r = -errno;
	if (r == 0)
		r = ufd_client_add_memory(vmm->client, &ram);
	if (r < 0)
		give_up("exchange", -r);
}

static void calm(struct vmm *vmm)
{
	atomic_store(&vmm->is_busy, false);
	join_threads(vmm);
	for (uint64_t i = 0; i < vmm->n_pages / 8; i++)
		printf("%02x", (unsigned int)(vmm->written[i / 8] >> (i % 8 * 8) & 0xff));
	putchar('\n');
	for (uint64_t i = 0; i < vmm->n_pages / 64; i++)
		atomic_store(&vmm->written[i], 0);
}

static int pin(struct vmm *vmm)
{
	struct iovec buffer = { (char *)vmm->memory + vmm->pages[0] * PAGE, PAGE };
	int r = io_uring_queue_init(4, &vmm->ring, 0);

	return r < 0 ? r : io_uring_register_buffers(&vmm->ring, &buffer, 1);
}

static void obey(struct vmm *vmm, char *line)
{
	char verb = line[0];
	int r;

	take_pages(vmm, line + strcspn(line, " \n"));
	if (verb == 'w') {
		start_threads(vmm, write_wanted);
		join_threads(vmm);
	} else if (verb == 'd') {
		discard(vmm);
	} else if (verb == 'x') {
		exchange(vmm);
	} else if (verb == 'r') {
		printf("%016llx\n",
		       *(volatile unsigned long long *)(vmm->memory + vmm->pages[0] * PAGE));
		return;
	} else if (verb == 'b') {
		atomic_store(&vmm->is_busy, true);
		start_threads(vmm, write_random);
	} else if (verb == 'c') {
		calm(vmm);
		return;
	} else if (verb == 'p') {
		r = pin(vmm);
		printf(r ? "%d\n" : "ok\n", -r);
		return;
	} else if (verb == 'u') {
		io_uring_queue_exit(&vmm->ring);
	}
	puts("ok");
}

/* Look after the daemon, and after commands. */
static void serve(struct vmm *vmm)
{
	char *line = malloc(MAX_LINE);

	for (;;) {
		struct pollfd fds[] = {
			{ .fd = 0, .events = POLLIN },
			{ .fd = vmm->client ? ufd_client_fd(vmm->client) : -1, .events = POLLIN },
		};

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			ufd_client_dispatch(vmm->client);
		if (!fds[0].revents)
			continue;
		if (!fgets(line, MAX_LINE, stdin))
			exit(0);
		obey(vmm, line);
		fflush(stdout);
	}
}

/* ---- the guest ---- */

static int add_memories(struct vmm *vmm, const struct ufd_client_memory_opts *all)
{
	struct ufd_client_memory_opts half = *all;
	int r;

	if (!vmm->has_halves)
		return ufd_client_add_memory(vmm->client, all);
	half.name = "low";
	half.length /= 2;
	r = ufd_client_add_memory(vmm->client, &half);
	half.name = "high";
	half.address = (char *)half.address + half.length;
	half.offset = half.length;
	return r ? r : ufd_client_add_memory(vmm->client, &half);
}

static void attach(struct vmm *vmm)
{
	char source[4200] = "zero";
	const char *why = "";
	UFD_OPTS(ufd_client_opts, opts, .guest = vmm->name, .socket_path = vmm->socket,
		 .track = vmm->track, .consumer = vmm->consumer, .background = UFD_CLIENT_OFF,
		 .window_bytes = UFD_CLIENT_NO_WINDOW);
	UFD_OPTS(ufd_client_memory_opts, ram, .name = "ram", .address = (char *)vmm->memory,
		 .length = vmm->mib * MIB, .source = source, .backing = vmm->memfd);
	int r;

	if (vmm->image)
		snprintf(source, sizeof(source), "file:%s", vmm->image);
	r = ufd_client_new(&vmm->client, &opts, &why);
	if (r < 0)
		give_up(why, -r);
	r = add_memories(vmm, &ram);
	if (r == 0)
		r = ufd_client_attach(vmm->client);
	if (r < 0)
		give_up(ufd_client_error(vmm->client), -r);
}

static void make_memory(struct vmm *vmm)
{
	vmm->n_pages = vmm->mib * MIB / PAGE;
	vmm->memfd = memfd_create("dirty-ram", MFD_CLOEXEC);
	if (vmm->memfd < 0 || ftruncate(vmm->memfd, (off_t)(vmm->mib * MIB)) < 0)
		give_up("memfd", errno);
	vmm->memory = mmap(NULL, vmm->mib * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, vmm->memfd, 0);
	vmm->written = calloc(vmm->n_pages / 64, sizeof(*vmm->written));
	vmm->pages = calloc(MAX_LINE, sizeof(*vmm->pages));
	if (vmm->memory == MAP_FAILED || !vmm->written || !vmm->pages)
		give_up("no memory", ENOMEM);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "name", required_argument, NULL, 'n' },
		{ "mib", required_argument, NULL, 'm' },
		{ "image", required_argument, NULL, 'i' },
		{ "consumer", required_argument, NULL, 'c' },
		{ "track", required_argument, NULL, 't' },
		{ "no-client", no_argument, NULL, 'x' },
		{ "halves", no_argument, NULL, 'h' },
		{},
	};
	struct vmm vmm = { .name = "dirty", .mib = 8, .has_client = true };
	int value;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setvbuf(stdin, NULL, _IONBF, 0); /* poll() knows of no buffer */
	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value == 's')
			vmm.socket = optarg;
		else if (value == 'n')
			vmm.name = optarg;
		else if (value == 'm')
			vmm.mib = strtoull(optarg, NULL, 10);
		else if (value == 'i')
			vmm.image = optarg;
		else if (value == 'c')
			vmm.consumer = optarg;
		else if (value == 't')
			vmm.track = strcmp(optarg, "wp") ? UFD_CLIENT_SCAN : UFD_CLIENT_WP;
		else if (value == 'h')
			vmm.has_halves = true;
		else if (value == 'x')
			vmm.has_client = false;
		else
			return 2;
	}
	make_memory(&vmm);
	if (vmm.has_client)
		attach(&vmm);
	printf("%s %d\n", vmm.has_client ? "ATTACHED" : "READY", getpid());
	fflush(stdout);
	serve(&vmm);
}
