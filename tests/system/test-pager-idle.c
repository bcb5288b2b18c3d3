/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an idle guest costs, what a ledger and hot-plug cost, and what the watchdog is told. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "support/unit.h"
#include "ufd/pager.h"

/* A guest whose one process is this one. */
struct own {
	struct ufd_pager_guest *guest;
	volatile unsigned char *view;
	uint64_t length;
	int uffd, pidfd, memfd;
};

static void own_init(struct own *own, struct ufd_pager *pager, const char *name, uint64_t length,
		     struct ufd_source *source, uint32_t no_background)
{
	enum uffd_way way = features_get()->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE;
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = no_background,
		 .other_mappers = UFD_OTHERS_IGNORE);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = length, .source = source,
		 .kind = UFD_MEMORY_SHMEM);
	uint32_t mapper, id;
	int r;

	r = uffd_open(&own->uffd, way, features_wanted(false));
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(pidfd_open_pid(&own->pidfd, getpid()), 0);
	ck_assert_int_eq(backing_create(&own->memfd, "own", length, 0), 0);
	own->length = length;
	own->view = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, own->memfd, 0);
	ck_assert_ptr_ne((void *)own->view, MAP_FAILED);
	memory.backing = own->memfd;
	ck_assert_int_eq(ufd_pager_guest_new(pager, &own->guest, name, &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(own->guest, own->uffd, own->pidfd, -1, &mapper),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_memory(own->guest, &memory, &id), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(own->guest, mapper, id, (uintptr_t)own->view,
						     length, 0, NULL),
			 0);
	ck_assert_int_eq(ufd_pager_guest_start(own->guest), 0);
}

/* The guest goes before: unmapping would wait for it to hear of that. */
static void own_done(struct own *own)
{
	ufd_pager_guest_free(own->guest);
	munmap((void *)own->view, own->length);
	close(own->uffd);
	close(own->pidfd);
	close(own->memfd);
}

static uint64_t ledger_bytes(const struct own *own)
{
	struct stat stat;

	ck_assert_int_eq(fstat(ufd_pager_guest_ledger(own->guest), &stat), 0);
	return (uint64_t)stat.st_blocks * 512;
}

/* ---- ledgers: 64 KiB a GiB, and at most 256 KiB ---- */

START_TEST(a_ledger_costs_64_kib_a_gib_and_256_kib)
{
	struct ufd_pager *pager;
	struct ufd_source *zero;
	uint64_t new_bytes;
	struct own own;

	ck_assert_int_eq(ufd_pager_new(&pager, NULL), 0);
	ck_assert_int_eq(ufd_source_open(&zero, "zero", -1, NULL), 0);
	own_init(&own, pager, "large", 4 * GIB, zero, 1);
	new_bytes = ledger_bytes(&own);
	ck_assert_uint_le(new_bytes, 256 * KIB);
	/* more events than the recorder holds, and a state for every page */
	for (uint64_t at = 0; at < 5000 * 64 * KIB; at += 64 * KIB)
		ck_assert_uint_eq(own.view[at], 0);
	ck_assert_int_eq(ufd_pager_guest_finish(own.guest, 0), 0);
	printf("# a ledger of 4 GiB: %llu KiB when new, %llu KiB when complete\n",
	       (unsigned long long)new_bytes / 1024, (unsigned long long)ledger_bytes(&own) / 1024);
	ck_assert_uint_ge(ledger_bytes(&own), 4 * 64 * KIB);
	ck_assert_uint_le(ledger_bytes(&own), 4 * 64 * KIB + 256 * KIB);
	own_done(&own);
	ufd_source_unref(zero);
	ufd_pager_free(pager);
}
END_TEST

/* ---- memory that comes and goes ---- */

#define N_CYCLES 64

static unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static unsigned int count_maps(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	unsigned int n = 0;
	int c;

	ck_assert_ptr_nonnull(file);
	while ((c = getc(file)) != EOF)
		n += c == '\n';
	fclose(file);
	return n;
}

/* A memory of 2 MiB, with a page that was read. */
static void plug_and_unplug(struct own *own, struct ufd_source *source)
{
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "dimm", .length = 2 * MIB, .source = source,
		 .kind = UFD_MEMORY_SHMEM);
	volatile unsigned char *view;
	uint32_t id;

	ck_assert_int_eq(backing_create(&memory.backing, "dimm", memory.length, 0), 0);
	view = mmap(NULL, memory.length, PROT_READ | PROT_WRITE, MAP_SHARED, memory.backing, 0);
	ck_assert_ptr_ne((void *)view, MAP_FAILED);
	ck_assert_int_eq(ufd_pager_guest_add_memory(own->guest, &memory, &id), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(own->guest, 0, id, (uintptr_t)view,
						     memory.length, 0, NULL),
			 0);
	ck_assert_uint_eq(view[4096], 0);
	ck_assert_int_eq(
		ufd_pager_guest_remove_mapping(own->guest, 0, (uintptr_t)view, memory.length), 0);
	munmap((void *)view, memory.length);
	close(memory.backing);
}

START_TEST(memory_that_comes_and_goes_costs_nothing)
{
	struct ufd_pager *pager;
	struct ufd_source *zero;
	unsigned int n_fds, n_maps;
	struct stat before, after;
	struct own own;

	ck_assert_int_eq(ufd_pager_new(&pager, NULL), 0);
	ck_assert_int_eq(ufd_source_open(&zero, "zero", -1, NULL), 0);
	own_init(&own, pager, "plugged", MIB, zero, 1);
	for (unsigned int i = 0; i < 4; i++)
		plug_and_unplug(&own, zero);
	n_fds = count_fds();
	n_maps = count_maps();
	ck_assert_int_eq(fstat(ufd_pager_guest_ledger(own.guest), &before), 0);
	for (unsigned int i = 0; i < N_CYCLES; i++)
		plug_and_unplug(&own, zero);
	ck_assert_int_eq(fstat(ufd_pager_guest_ledger(own.guest), &after), 0);
	ck_assert_uint_lt(count_fds(), n_fds + N_CYCLES / 4);
	ck_assert_uint_lt(count_maps(), n_maps + N_CYCLES / 4);
	ck_assert_int_eq(after.st_size, before.st_size);
	/* the flight recorder fills meanwhile */
	ck_assert_int_le(after.st_blocks * 512, before.st_blocks * 512 + 72 * (int64_t)KIB);
	own_done(&own);
	ufd_source_unref(zero);
	ufd_pager_free(pager);
}
END_TEST

/* ---- idle guests: 64 KiB, and their ledger ---- */

#define N_IDLE 48

static uint64_t resident_bytes(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "re");
	unsigned long long kib = 0;
	char line[256];

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "Rss: %llu kB", &kib) == 1)
			break;
	fclose(file);
	return kib * KIB;
}

/* What is resident of a view of ours is the guest's, not the engine's. */
static uint64_t touched_bytes(const struct own *own)
{
	unsigned char pages[1024];
	uint64_t n = 0;

	ck_assert_int_eq(mincore((void *)own->view, own->length, pages), 0);
	for (uint64_t i = 0; i < own->length / 4096; i++)
		n += pages[i] & 1;
	return n * 4096;
}

static const struct {
	const char *what;
	uint32_t no_background;
	bool is_finished;
} idles[] = {
	{ "complete", 0, true },
	{ "waiting for faults", 1, false },
};

START_TEST(an_idle_guest_costs_64_kib_and_its_ledger)
{
	struct ufd_pager *pager;
	struct ufd_source *source;
	struct own owns[N_IDLE];
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	unit_skip("a sanitizer has memory of its own");
#endif
	uint64_t before, after, ledgers = 0, touched = 0, each;
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	static unsigned char bytes[4 * MIB];

	memset(bytes, 0x5a, sizeof(bytes));
	ck_assert_int_eq(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
	ck_assert_int_eq(ufd_pager_new(&pager, NULL), 0);
	ck_assert_int_eq(ufd_source_open(&source, "file:", fd, NULL), 0);
	/* what the first one costs is also the process's */
	own_init(&owns[0], pager, "first", 4 * MIB, source, 0);
	ck_assert_int_eq(ufd_pager_guest_finish(owns[0].guest, 0), 0);
	own_done(&owns[0]);

	before = resident_bytes();
	for (unsigned int i = 0; i < N_IDLE; i++) {
		UFD_OPTS(ufd_guest_stats, stats);
		char name[16];

		snprintf(name, sizeof(name), "idle%u", i);
		own_init(&owns[i], pager, name, 4 * MIB, source, idles[_i].no_background);
		ck_assert_uint_eq(owns[i].view[3 * MIB], 0x5a);
		if (!idles[_i].is_finished)
			continue;
		ck_assert_int_eq(ufd_pager_guest_finish(owns[i].guest, 0), 0);
		while (!stats.is_graduated)
			ck_assert_int_eq(ufd_pager_guest_stats(owns[i].guest, &stats), 0);
	}
	/* they have been idle for a while */
	for (unsigned int tries = 0; tries < 40; tries++) {
		struct timespec moment = { .tv_nsec = 100 * (long)NSEC_PER_MSEC };

		after = resident_bytes();
		ledgers = touched = 0;
		for (unsigned int i = 0; i < N_IDLE; i++) {
			ledgers += ledger_bytes(&owns[i]);
			touched += touched_bytes(&owns[i]);
		}
		each = (after - before - ledgers - touched) / N_IDLE;
		if (after > before + ledgers + touched && each <= 64 * KIB)
			break;
		nanosleep(&moment, NULL);
	}
	printf("# an idle guest (%s): %llu KiB and its ledger of %llu KiB\n", idles[_i].what,
	       (unsigned long long)each / 1024, (unsigned long long)ledgers / N_IDLE / 1024);
	ck_assert_uint_gt(after, before + ledgers + touched);
	ck_assert_uint_le(each, 64 * KIB);
	for (unsigned int i = 0; i < N_IDLE; i++)
		own_done(&owns[i]);
	ufd_source_unref(source);
	ufd_pager_free(pager);
	close(fd);
}
END_TEST

/* ---- the watchdog ---- */

/* A source that breaks its word: it blocks. */
struct blocker {
	sem_t go_on;
	_Atomic bool is_entered;
};

static int block_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		      struct ufd_read *read)
{
	struct blocker *blocker = userdata;

	atomic_store(&blocker->is_entered, true);
	while (sem_wait(&blocker->go_on) < 0)
		;
	sem_post(&blocker->go_on);
	return UFD_SOURCE_ZERO;
}

static void wait_a_moment(void)
{
	struct timespec moment = { .tv_nsec = (long)NSEC_PER_MSEC };

	nanosleep(&moment, NULL);
}

START_TEST(who_does_not_turn_is_named)
{
	UFD_OPTS(ufd_source_ops, ops, .length = MIB, .read = block_read);
	struct blocker blocker = {};
	struct ufd_source *source, *zero;
	struct ufd_pager *pager;
	struct own well, stuck;
	const char *name = "nobody";
	uint64_t start_ns;
	uint32_t id = 0;

	sem_init(&blocker.go_on, 0, 0);
	ck_assert_int_eq(ufd_pager_new(&pager, NULL), 0);
	ck_assert_int_eq(ufd_source_new(&source, &ops, &blocker), 0);
	ck_assert_int_eq(ufd_source_open(&zero, "zero", -1, NULL), 0);
	own_init(&well, pager, "well", MIB, zero, 1);
	own_init(&stuck, pager, "stuck", MIB, source, 1);

	/* asleep they are well, however often one asks */
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(ufd_pager_is_alive(pager, &name), 1);
	ck_assert_str_eq(name, "nobody");

	(void)ufd_pager_guest_prefetch(stuck.guest, id, 0, 4096);
	while (!atomic_load(&blocker.is_entered))
		wait_a_moment();
	start_ns = clock_now_ns();
	while (ufd_pager_is_alive(pager, &name))
		wait_a_moment();
	ck_assert_str_eq(name, "stuck");
	ck_assert_uint_lt(clock_now_ns() - start_ns, 30 * NSEC_PER_SEC);

	sem_post(&blocker.go_on);
	while (!ufd_pager_is_alive(pager, &name))
		wait_a_moment();
	own_done(&well);
	own_done(&stuck);
	ufd_source_unref(source);
	ufd_source_unref(zero);
	ufd_pager_free(pager);
	sem_destroy(&blocker.go_on);
}
END_TEST

/* ---- a source that never answers ---- */

static int never_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		      struct ufd_read *read)
{
	*(struct ufd_read * _Atomic *)userdata = read;
	return UFD_SOURCE_PENDING;
}

START_TEST(to_leave_waits_for_no_source)
{
	UFD_OPTS(ufd_source_ops, ops, .length = MIB, .read = never_read);
	struct ufd_read *_Atomic pending = NULL;
	struct ufd_source *source;
	struct ufd_pager *pager;
	struct own own;
	uint64_t start_ns;

	ck_assert_int_eq(ufd_pager_new(&pager, NULL), 0);
	ck_assert_int_eq(ufd_source_new(&source, &ops, &pending), 0);
	own_init(&own, pager, "waits", MIB, source, 1);
	(void)ufd_pager_guest_prefetch(own.guest, 0, 0, 4096);
	while (!pending)
		wait_a_moment();
	start_ns = clock_now_ns();
	own.guest = ufd_pager_guest_leave(own.guest);
	ck_assert_uint_lt(clock_now_ns() - start_ns, 30 * NSEC_PER_SEC); /* not for ever */
	/* and should the answer come after all, it finds where it belongs */
	ufd_read_complete(pending, UFD_SOURCE_ZERO);
	own_done(&own);
	ufd_source_unref(source);
	ufd_pager_free(pager);
	/* the ring and the signal of what was left behind stay open, until the process ends */
	_exit(0);
}
END_TEST

int main(void)
{
	return unit_run("pager-idle",
			(struct unit_test[]){
				UNIT(a_ledger_costs_64_kib_a_gib_and_256_kib),
				UNIT(memory_that_comes_and_goes_costs_nothing),
				UNIT_TABLE(an_idle_guest_costs_64_kib_and_its_ledger, idles),
				UNIT(who_does_not_turn_is_named),
				UNIT(to_leave_waits_for_no_source),
				{},
			});
}
