/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Firecracker's side of a restore by userfaultfd, and e2b's, without a VM: see usage below. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "support/sim-vm.h"

#define KEEPS_SOCKET 12 /* the first version that does */

static const char usage[] =
	"sim-firecracker --write FILE --mib N\n"
	"sim-firecracker --socket PATH --file FILE [OPTION...]\n"
	"\n"
	"Hands memory over at PATH as Firecracker does when it loads a snapshot, then reads all of it\n"
	"from several threads and compares every byte with FILE.\n"
	"\n"
	"  --write FILE          write a memory file and end; --mib N: its length, an even number\n"
	"  --version V           1.1 to 1.99, main (default) or e2b\n"
	"  --page-size N         4096 (default) or 2097152\n"
	"  --regions N           how many (2); --virtio-mem: half of the last one is plugged in later\n"
	"  --threads N           that touch (2), --passes N: how often (1), --seed N\n"
	"  --discards N          times that pages are discarded meanwhile (0)\n"
	"  --write-every N       then one word of every Nth page is written (0: none)\n"
	"  --kvm                 before that a vCPU reads 1024 pages; no --discards\n"
	"  --early-close         close the connection at once (before 1.12 always); --keep-open: never\n"
	"  --split-body          in pieces; --empty-first: a connection without a word comes first\n"
	"  --extra-keys          that nobody knows; --no-page-size: not even known ones\n"
	"  --no-memfd            e2b: anonymous memory; --sync-wp: no asynchronous write-protection\n"
	"  --die-in-fault        SIGKILL to itself after a quarter of the pages; --stop: SIGSTOP there\n"
	"  --hold                when all is checked and said, live on until stdin ends\n"
	"  --deadline N          seconds (30)\n"
	"  --sin S               silent, half, no-fd, garbage, secret-freedom, uffd-block,\n"
	"                        blocking-uffd, no-handshake, foreign-uffd; then wait to be refused.\n"
	"                        Each is an option of its own, too: --silent\n"
	"\n"
	"Last comes one line of JSON: pages, touched, kernel_touched, discarded, zero, written, wrong,\n"
	"first_wrong_offset, shown_dirty (as e2b's fork counts), elapsed_ms.\n"
	"Exit status: 0, 1 a byte was wrong, 2 failed, 3 refused (the connection was closed),\n"
	"5 deadline, 77 this host cannot.\n";

static const char *const sins[] = {
	[SIM_SILENT] = "silent",
	[SIM_HALF] = "half",
	[SIM_NO_FD] = "no-fd",
	[SIM_GARBAGE] = "garbage",
	[SIM_SECRET_FREEDOM] = "secret-freedom",
	[SIM_UFFD_BLOCK] = "uffd-block",
	[SIM_BLOCKING_UFFD] = "blocking-uffd",
	[SIM_NO_HANDSHAKE] = "no-handshake",
	[SIM_FOREIGN_UFFD] = "foreign-uffd",
};
#define N_SINS (sizeof(sins) / sizeof(sins[0]))

_Noreturn void sim_fail(int status, const char *what, int error)
{
	fprintf(stderr, "sim-firecracker: %s: %s\n", what, strerror(error));
	_exit(status);
}

static void on_alarm(int signal)
{
	static const char text[] = "sim-firecracker: the deadline has passed\n";

	(void)signal;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(SIM_LATE);
}

/* ---- options ---- */

enum {
	OPTION_VERSION = 256,
	OPTION_SOCKET,
	OPTION_FILE,
	OPTION_WRITE,
	OPTION_MIB,
	OPTION_PAGE_SIZE,
	OPTION_REGIONS,
	OPTION_THREADS,
	OPTION_PASSES,
	OPTION_SEED,
	OPTION_DISCARDS,
	OPTION_WRITE_EVERY,
	OPTION_DEADLINE,
	OPTION_SIN,
	OPTION_KVM,
	OPTION_VIRTIO_MEM,
	OPTION_EARLY_CLOSE,
	OPTION_KEEP_OPEN,
	OPTION_SPLIT_BODY,
	OPTION_EMPTY_FIRST,
	OPTION_EXTRA_KEYS,
	OPTION_NO_PAGE_SIZE,
	OPTION_NO_MEMFD,
	OPTION_SYNC_WP,
	OPTION_DIE,
	OPTION_STOP,
	OPTION_HOLD,
	OPTION_HELP,
	OPTION_SINS, /* and one for each */
};

static const struct option named[] = {
	{ "version", required_argument, NULL, OPTION_VERSION },
	{ "socket", required_argument, NULL, OPTION_SOCKET },
	{ "file", required_argument, NULL, OPTION_FILE },
	{ "write", required_argument, NULL, OPTION_WRITE },
	{ "mib", required_argument, NULL, OPTION_MIB },
	{ "page-size", required_argument, NULL, OPTION_PAGE_SIZE },
	{ "regions", required_argument, NULL, OPTION_REGIONS },
	{ "threads", required_argument, NULL, OPTION_THREADS },
	{ "passes", required_argument, NULL, OPTION_PASSES },
	{ "seed", required_argument, NULL, OPTION_SEED },
	{ "discards", required_argument, NULL, OPTION_DISCARDS },
	{ "write-every", required_argument, NULL, OPTION_WRITE_EVERY },
	{ "deadline", required_argument, NULL, OPTION_DEADLINE },
	{ "sin", required_argument, NULL, OPTION_SIN },
	{ "kvm", no_argument, NULL, OPTION_KVM },
	{ "virtio-mem", no_argument, NULL, OPTION_VIRTIO_MEM },
	{ "early-close", no_argument, NULL, OPTION_EARLY_CLOSE },
	{ "keep-open", no_argument, NULL, OPTION_KEEP_OPEN },
	{ "split-body", no_argument, NULL, OPTION_SPLIT_BODY },
	{ "empty-first", no_argument, NULL, OPTION_EMPTY_FIRST },
	{ "extra-keys", no_argument, NULL, OPTION_EXTRA_KEYS },
	{ "no-page-size", no_argument, NULL, OPTION_NO_PAGE_SIZE },
	{ "no-memfd", no_argument, NULL, OPTION_NO_MEMFD },
	{ "sync-wp", no_argument, NULL, OPTION_SYNC_WP },
	{ "die-in-fault", no_argument, NULL, OPTION_DIE },
	{ "stop", no_argument, NULL, OPTION_STOP },
	{ "hold", no_argument, NULL, OPTION_HOLD },
	{ "help", no_argument, NULL, OPTION_HELP },
};
#define N_NAMED (sizeof(named) / sizeof(named[0]))

/* What the course of the options leaves to the end. */
struct rest {
	const char *write;
	uint64_t mib;
	bool is_keep_open, has_no_memfd, does_die, does_stop;
};

static uint64_t number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 10);

	if (*end || end == text || value < least || value > most)
		sim_fail(SIM_FAILED, text, ERANGE);
	return value;
}

static void set_version(struct sim_options *options, const char *text)
{
	options->version = text;
	options->is_e2b = strcmp(text, "e2b") == 0;
	if (strncmp(text, "1.", 2) == 0)
		options->minor = (unsigned int)number(text + 2, 1, 99);
	else if (options->is_e2b || strcmp(text, "main") == 0)
		options->minor = 100;
	else
		sim_fail(SIM_FAILED, text, EINVAL);
}

static void set_sin(struct sim_options *options, const char *name)
{
	for (size_t i = 1; i < N_SINS; i++)
		if (strcmp(sins[i], name) == 0)
			options->sin = (enum sim_sin)i;
	if (!options->sin)
		sim_fail(SIM_FAILED, name, EINVAL);
}

static void set_value(struct sim_options *options, struct rest *rest, int option, const char *value)
{
	switch (option) {
	case OPTION_VERSION:
		set_version(options, value);
		break;
	case OPTION_SOCKET:
		options->socket = value;
		break;
	case OPTION_FILE:
		options->file = value;
		break;
	case OPTION_WRITE:
		rest->write = value;
		break;
	case OPTION_MIB:
		rest->mib = number(value, 2, 65536) & ~UINT64_C(1);
		break;
	case OPTION_PAGE_SIZE:
		options->page_bytes = number(value, SIM_BASE_BYTES, SIM_HUGE_BYTES);
		break;
	case OPTION_REGIONS:
		options->n_regions = (unsigned int)number(value, 1, SIM_MAX_REGIONS);
		break;
	case OPTION_THREADS:
		options->n_threads = (unsigned int)number(value, 1, SIM_MAX_THREADS);
		break;
	case OPTION_PASSES:
		options->n_passes = (unsigned int)number(value, 1, 1000);
		break;
	case OPTION_SEED:
		options->seed = number(value, 0, UINT32_MAX);
		break;
	case OPTION_DISCARDS:
		options->n_discards = number(value, 0, UINT32_MAX);
		break;
	case OPTION_WRITE_EVERY:
		options->write_every = number(value, 0, UINT32_MAX);
		break;
	case OPTION_DEADLINE:
		options->deadline_seconds = (unsigned int)number(value, 1, 3600);
		break;
	case OPTION_SIN:
		set_sin(options, value);
		break;
	}
}

static void set_flag(struct sim_options *options, struct rest *rest, int option)
{
	switch (option) {
	case OPTION_KVM:
		options->is_kvm = true;
		break;
	case OPTION_VIRTIO_MEM:
		options->has_virtio_mem = true;
		break;
	case OPTION_EARLY_CLOSE:
		options->is_early_close = true;
		break;
	case OPTION_KEEP_OPEN:
		rest->is_keep_open = true;
		break;
	case OPTION_SPLIT_BODY:
		options->is_split = true;
		break;
	case OPTION_EMPTY_FIRST:
		options->is_empty_first = true;
		break;
	case OPTION_EXTRA_KEYS:
		options->has_extra_keys = true;
		break;
	case OPTION_NO_PAGE_SIZE:
		options->has_page_size = false;
		break;
	case OPTION_NO_MEMFD:
		rest->has_no_memfd = true;
		break;
	case OPTION_SYNC_WP:
		options->is_sync_wp = true;
		break;
	case OPTION_DIE:
		rest->does_die = true;
		break;
	case OPTION_STOP:
		rest->does_stop = true;
		break;
	case OPTION_HOLD:
		options->does_hold = true;
		break;
	default:
		options->sin = (enum sim_sin)(option - OPTION_SINS);
	}
}

static void parse(struct sim_options *options, struct rest *rest, int argc, char **argv)
{
	struct option all[N_NAMED + N_SINS] = {};
	int option;

	memcpy(all, named, sizeof(named));
	for (size_t i = 1; i < N_SINS; i++)
		all[N_NAMED + i - 1] = (struct option){ sins[i], no_argument, NULL,
							OPTION_SINS + (int)i };
	while ((option = getopt_long(argc, argv, "", all, NULL)) != -1) {
		if (option == OPTION_HELP) {
			fputs(usage, stdout);
			exit(SIM_GOOD);
		}
		if (option == '?')
			exit(SIM_FAILED);
		if (option <= OPTION_SIN)
			set_value(options, rest, option, optarg);
		else
			set_flag(options, rest, option);
	}
	options->has_memfd = options->is_e2b && !rest->has_no_memfd;
	options->is_early_close |= options->minor < KEEPS_SOCKET;
	options->is_early_close &= !rest->is_keep_open;
	if (rest->write ? !rest->mib : !options->socket || !options->file) {
		fputs(usage, stderr);
		exit(SIM_FAILED);
	}
}

/* ---- the run ---- */

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void print(const struct sim *sim, uint64_t elapsed_ms)
{
	printf("{\"version\":\"%s\",\"page_size\":%llu,\"regions\":%u,\"pages\":%llu,"
	       "\"touched\":%llu,\"kernel_touched\":%llu,\"discarded\":%llu,\"zero\":%llu,"
	       "\"written\":%llu,\"wrong\":%llu,\"first_wrong_offset\":%lld,"
	       "\"shown_dirty\":%llu,\"elapsed_ms\":%llu}\n",
	       sim->options.version, (unsigned long long)sim->options.page_bytes,
	       sim->options.n_regions, (unsigned long long)sim->n_pages,
	       (unsigned long long)sim->n_touched, (unsigned long long)sim->n_kernel_touched,
	       (unsigned long long)sim->n_discarded, (unsigned long long)sim->n_zero,
	       (unsigned long long)sim->n_written, (unsigned long long)sim->n_wrong,
	       (long long)sim->first_wrong - 1, (unsigned long long)sim->n_shown_dirty,
	       (unsigned long long)elapsed_ms);
	fflush(stdout);
}

static void hold(void)
{
	char bytes[64];

	alarm(0);
	while (read(STDIN_FILENO, bytes, sizeof(bytes)) > 0)
		;
}

int main(int argc, char **argv)
{
	struct sim sim = { .memfd = -1, .uffd = -1, .socket = -1 };
	struct rest rest = {};
	uint64_t started_ms = now_ms();

	sim.options = (struct sim_options){ .page_bytes = SIM_BASE_BYTES,
					    .n_regions = 2,
					    .n_threads = 2,
					    .n_passes = 1,
					    .has_page_size = true,
					    .deadline_seconds = 30 };
	set_version(&sim.options, "main");
	parse(&sim.options, &rest, argc, argv);
	if (rest.write) {
		sim_write_file(rest.write, rest.mib);
		return SIM_GOOD;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGALRM, on_alarm);
	alarm(sim.options.deadline_seconds);
	sim_memory_make(&sim);
	if (rest.does_die)
		sim.options.die_after = sim.n_pages / 4 + 1;
	if (rest.does_stop)
		sim.options.stop_after = sim.n_pages / 4 + 1;
	if (sim.options.sin != SIM_FOREIGN_UFFD)
		sim_uffd_make(&sim);
	sim_hand_over(&sim);
	sim_run(&sim);
	sim_count_dirty(&sim);
	print(&sim, now_ms() - started_ms);
	if (sim.options.does_hold)
		hold();
	return sim.n_wrong ? SIM_WRONG : SIM_GOOD;
}
