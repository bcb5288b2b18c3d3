/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PAGEMAP_SCAN of a process that runs, of another one, of one that has ended, and without privileges.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/pagemap.h"
#include "probe/lab.h"
#include "probe/scan.h"
#include "probe/table.h"

#define NOBODY 65534

static int open_pagemap(struct probe_run *run, pid_t pid)
{
	int fd = -EBADF, r = pagemap_open(&fd, pid);

	errno = -r;
	probe_must(run, r == 0, "open() of a pagemap");
	return fd;
}

/* Return: regions or -errno. */
static int64_t scan_by(int pagemap, struct pm_scan_arg *scan)
{
	int n = ioctl(pagemap, PAGEMAP_SCAN, scan);

	return n < 0 ? -errno : n;
}

/* A child that tracks our inherited memory by a uffd of its own, and has written page 2 of it. */
struct peer {
	pid_t pid;
	int life; /* closed: it ends */
};

static _Noreturn void be_peer(struct probe_run *run, struct tracked *tracked, int ready, int life)
{
	char byte = 0;

	tracked_register(run, tracked);
	tracked_protect(run, tracked);
	tracked_store(tracked, 2);
	probe_must(run, write(ready, &byte, 1) == 1, "telling our parent");
	(void)!read(life, &byte, 1);
	_exit(EXIT_SUCCESS);
}

static struct peer start_peer(struct probe_run *run, struct tracked *tracked)
{
	struct peer peer;
	int ready[2], life[2];
	pid_t parent = getpid();
	char byte;

	probe_must(run, pipe2(ready, O_CLOEXEC) == 0 && pipe2(life, O_CLOEXEC) == 0, "pipe2()");
	peer.pid = fork();
	probe_must(run, peer.pid >= 0, "fork()");
	if (!peer.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(life[1]);
		if (getppid() == parent)
			be_peer(run, tracked, ready[1], life[0]);
		_exit(EXIT_FAILURE);
	}
	close(ready[1]);
	close(life[0]);
	peer.life = life[1];
	probe_must(run, read(ready[0], &byte, 1) == 1, "waiting for a child");
	return peer;
}

static void end_peer(const struct peer *peer)
{
	close(peer->life);
	waitpid(peer->pid, NULL, 0);
}

/* A child's memory, by a pagemap that was opened for reading: get and protect, then again. */
static void try_other_process(struct probe_run *run)
{
	struct tracked tracked = { .memory = lab_map(run, LAB_ANON, 4) };
	struct page_region regions[4] = {};
	struct pm_scan_arg scan;
	struct peer peer;
	int64_t first, second;
	int pagemap;

	for (size_t i = 0; i < 4; i++)
		lab_fill(&tracked.memory, i, 0xa1);
	peer = start_peer(run, &tracked);
	pagemap = open_pagemap(run, peer.pid);
	scan = tracked_scan(&tracked, DIRTY, regions, 4);
	first = scan_by(pagemap, &scan);
	probe_step(run, "%lld regions; the first begins at page %zu", (long long)first,
		   tracked_page(&tracked, regions[0].start));
	second = scan_by(pagemap, &scan);
	end_peer(&peer);
	if (first == 1 && tracked_page(&tracked, regions[0].start) != 2)
		probe_answer(run, "another page");
	else
		probe_answer(run, "%lld %lld", (long long)first, (long long)second);
}

/* A child that has ended, with a page that it wrote and nobody has scanned. */
static void try_dead(struct probe_run *run)
{
	struct tracked tracked = { .memory = lab_map(run, LAB_ANON, 4) };
	struct page_region regions[4] = {};
	struct pm_scan_arg scan;
	struct peer peer;
	int64_t n;
	int pagemap;

	for (size_t i = 0; i < 4; i++)
		lab_fill(&tracked.memory, i, 0xa1);
	peer = start_peer(run, &tracked);
	pagemap = open_pagemap(run, peer.pid);
	end_peer(&peer);
	scan = tracked_scan(&tracked, DIRTY, regions, 4);
	n = scan_by(pagemap, &scan);
	probe_detail(run, "it returned %lld and walked %zu of 4 pages", (long long)n,
		     scan.walk_end ? tracked_page(&tracked, scan.walk_end) : 0);
	if (n < 0)
		probe_answer(run, "%s", probe_errno((int)n));
	else
		probe_answer(run, "%s", n == 0 && scan.walk_end == scan.end ? "clean" : "other");
}

/* What a child without privileges scans, or opens. */
struct unprivileged {
	struct probe_run *run;
	int pagemap;
	pid_t target;
	struct pm_scan_arg *scan;
};

static void drop_privileges(struct probe_run *run)
{
	pid_t parent = getppid();

	probe_must(run, setresgid(NOBODY, NOBODY, NOBODY) == 0, "setresgid()");
	probe_must(run, setresuid(NOBODY, NOBODY, NOBODY) == 0, "setresuid()");
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of users forgets it */
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
}

static int scan_unprivileged(void *argument)
{
	struct unprivileged *self = argument;
	int64_t n;

	drop_privileges(self->run);
	n = scan_by(self->pagemap, self->scan);
	return n < 0 ? 100 : (int)n;
}

static int open_unprivileged(void *argument)
{
	struct unprivileged *self = argument;
	_cleanup_(closep) int fd = -EBADF;

	drop_privileges(self->run);
	return -pagemap_open(&fd, self->target);
}

static void need_root(struct probe_run *run)
{
	if (geteuid() != 0)
		probe_skip(run, "only root has privileges to drop");
}

static void try_dropped(struct probe_run *run)
{
	struct tracked tracked;
	struct page_region regions[4] = {};
	struct pm_scan_arg scan;
	struct unprivileged child = { .run = run, .scan = &scan };
	int status;

	need_root(run);
	tracked = tracked_prepare(run, LAB_ANON, 4);
	scan = tracked_scan(&tracked, DIRTY, regions, 4);
	child.pagemap = open_pagemap(run, getpid());
	tracked_store(&tracked, 1);
	status = lab_fork(run, scan_unprivileged, &child);
	probe_detail(run, "of one written page %lld are so after it",
		     (long long)tracked_count(run, &tracked));
	probe_answer(run, status == 100 ? "refused" : "%d written", status);
}

static void try_open(struct probe_run *run)
{
	struct unprivileged child = { .run = run, .target = getpid() };

	need_root(run);
	probe_answer(run, "%s", probe_errno(lab_fork(run, open_unprivileged, &child)));
}

#define RACE_PAGES  256
#define RACE_STORES 50000
#define PAGE_WORDS  512

/* A thread that writes one page after the other, each many times, and never comes back to it. */
struct racer {
	const struct lab_memory *memory;
	size_t first, end;
};

static intptr_t race(void *argument)
{
	const struct racer *racer = argument;

	for (size_t i = racer->first; i < racer->end; i++) {
		uint64_t *words = (void *)lab_page(racer->memory, i);

		for (uint64_t n = 1; n <= RACE_STORES; n++)
			__atomic_store_n(words + n % PAGE_WORDS, n, __ATOMIC_RELAXED);
	}
	return 0;
}

/* As it is copied beside who writes it: word by word. */
static void copy_page(uint8_t *to, const uint8_t *from)
{
	const uint64_t *words = (const void *)from;
	uint64_t *copies = (void *)to;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		copies[i] = __atomic_load_n(words + i, __ATOMIC_RELAXED);
}

/* One round of pre-copy: take what was written, then copy it. Return: pages. */
static size_t copy_written(struct probe_run *run, const struct tracked *tracked, uint8_t *image)
{
	struct page_region regions[RACE_PAGES];
	struct pm_scan_arg scan = tracked_scan(tracked, DIRTY, regions, RACE_PAGES);
	int64_t n = lab_scan_raw(run, &scan);
	size_t n_pages = 0;

	errno = n < 0 ? (int)-n : 0;
	probe_must(run, n >= 0 && scan.walk_end == scan.end, "a scan beside writers");
	for (int64_t i = 0; i < n; i++) {
		size_t first = tracked_page(tracked, regions[i].start);
		size_t end = tracked_page(tracked, regions[i].end);

		for (size_t j = first; j < end; j++, n_pages++)
			copy_page(image + j * 4096, lab_page(&tracked->memory, j));
	}
	return n_pages;
}

/* Rounds of pre-copy beside two writers; the last when they have ended. */
static void try_race(struct probe_run *run, enum lab_backing backing)
{
	struct tracked tracked = tracked_prepare(run, backing, RACE_PAGES);
	struct lab_memory image = lab_map(run, LAB_ANON, RACE_PAGES);
	struct racer left = { &tracked.memory, 0, RACE_PAGES / 2 };
	struct racer right = { &tracked.memory, RACE_PAGES / 2, RACE_PAGES };
	struct lab_thread *writers[2];
	size_t n_copies = 0, n_rounds = 0, n_wrong = 0;

	memcpy(image.at, tracked.memory.at, image.length_bytes);
	writers[0] = lab_start(run, race, &left);
	writers[1] = lab_start(run, race, &right);
	for (bool is_over = false; !is_over; n_rounds++) {
		is_over = lab_ended(writers[0], 0) && lab_ended(writers[1], 0);
		n_copies += copy_written(run, &tracked, image.at);
	}
	for (size_t i = 0; i < RACE_PAGES; i++)
		n_wrong += !!memcmp(lab_page(&image, i), lab_page(&tracked.memory, i), 4096);
	probe_detail(run, "%zu rounds copied %zu pages", n_rounds, n_copies);
	probe_answer(run, "%zu lost", n_wrong);
}

static void try_race_anon(struct probe_run *run)
{
	try_race(run, LAB_ANON);
}

static void try_race_shmem(struct probe_run *run)
{
	try_race(run, LAB_SHMEM);
}

static const struct probe_check checks[] = {
	{
		.id = "scan.other-process",
		.group = PROBE_SCAN,
		.title = "Another process's memory is scanned and protected through its pagemap",
		.wanted = "1 0",
		.consequence = "track=scan does not work",
		.remedy = "attach guests with track=wp",
		.run = try_other_process,
	},
	{
		.id = "scan.dead",
		.group = PROBE_SCAN,
		.title = "A scan of a process that has ended says ESRCH",
		.wanted = "ESRCH",
		.known = { { PROBE_KERNEL(6, 18), "clean" } },
		.consequence = "the dead look clean: ufd asks the pidfd after each scan",
		.run = try_dead,
	},
	{
		.id = "scan.dropped",
		.group = PROBE_SCAN,
		.title = "An open pagemap goes on working for who has dropped his privileges",
		.wanted = "1 written",
		.consequence = "track=scan needs CAP_SYS_PTRACE for as long as it runs",
		.run = try_dropped,
	},
	{
		.id = "scan.open",
		.group = PROBE_SCAN,
		.title = "Opening the pagemap of another user's process says EACCES",
		.wanted = "EACCES",
		.consequence = "any user of this host learns what others have in memory",
		.run = try_open,
	},
	{
		.id = "scan.race",
		.group = PROBE_SCAN,
		.title = "Pre-copy of anonymous memory beside two writers loses nothing",
		.wanted = "0 lost",
		.consequence = "track=scan loses writes",
		.remedy = "attach guests with track=wp",
		.run = try_race_anon,
	},
	{
		.id = "scan.race-shmem",
		.group = PROBE_SCAN,
		.title = "Pre-copy of shmem beside two writers loses nothing",
		.wanted = "0 lost",
		.consequence = "track=scan loses writes",
		.remedy = "attach guests with track=wp",
		.run = try_race_shmem,
	},
};

const struct probe_family probe_family_scan_process = PROBE_FAMILY(checks);
