/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ledger of a real guest: what it costs, what it holds at most, where it lies, and that no bytes
 * in it, however wrong, end the process that adopts it. */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "guest/ledger.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "support/left-guest.h"
#include "support/unit.h"

static int map_at(struct left *left, uint64_t page, uint64_t n_pages)
{
	return ufd_pager_guest_add_mapping(left->guest, left->mapper, left->memory,
					   left->child.address + page * 4096, n_pages * 4096,
					   page * 4096, NULL);
}

static void leave_served(struct left *left)
{
	left_init(left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(map_at(left, 0, LEFT_PAGES / 2), 0);
	ck_assert_int_eq(map_at(left, LEFT_PAGES / 2, LEFT_PAGES / 2), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left->guest), 0);
	ck_assert_uint_eq(child_peek(&left->child, 1), child_word(1, 0));
	left_leave(left);
}

/* ---- bytes that are wrong ---- */

static const unsigned char *bytes_of(int fd, uint64_t *ret_length)
{
	struct stat stat;
	void *bytes;

	ck_assert_int_eq(fstat(fd, &stat), 0);
	bytes = malloc((size_t)stat.st_size);
	ck_assert_ptr_nonnull(bytes);
	ck_assert_int_eq(pread(fd, bytes, (size_t)stat.st_size, 0), stat.st_size);
	*ret_length = (uint64_t)stat.st_size;
	return bytes;
}

START_TEST(to_look_at_a_ledger_writes_nothing_into_it)
{
	struct left left;
	uint64_t length, length_after;
	const unsigned char *before, *after;
	int was_started;

	leave_served(&left);
	before = bytes_of(left.kept.ledger, &length);
	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	left.guest = ufd_pager_guest_leave(left.guest);
	after = bytes_of(left.kept.ledger, &length_after);
	ck_assert_uint_eq(length_after, length);
	ck_assert_mem_eq(after, before, length);
	free((void *)before);
	free((void *)after);
	left_must_serve(&left);
	left_done(&left);
}
END_TEST

/* A sealed copy with something changed, in the place of what was kept. */
static void put_copy(struct left *left, const unsigned char *bytes, uint64_t length)
{
	int fd = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	ck_assert_int_eq(write(fd, bytes, length), (ssize_t)length);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	close(left->kept.ledger);
	left->kept.ledger = fd;
}

/* Of those that were adopted some are served, too. Return: 1 if it was adopted. */
static unsigned int survive(struct left *left, unsigned int round)
{
	int was_started, r;

	r = left_adopt(left, &was_started);
	if (r < 0) {
		ck_assert_msg(left->reports[0], "refused with %s, and not a word", strerror(-r));
		return 0;
	}
	if (round % 16 == 0 && ufd_pager_guest_start(left->guest) == 0)
		left->guest = ufd_pager_guest_free(left->guest);
	left->guest = ufd_pager_guest_leave(left->guest);
	return 1;
}

START_TEST(flipped_bytes_are_refused_or_survived)
{
	unsigned int seed = 4711, n_adopted = 0;
	unsigned char *bytes, *copy;
	struct left left;
	uint64_t length;

	leave_served(&left);
	bytes = (unsigned char *)bytes_of(left.kept.ledger, &length);
	copy = malloc(length);
	for (unsigned int round = 0; round < 600; round++) {
		memcpy(copy, bytes, length);
		for (unsigned int i = 0; i <= round % 8; i++) {
			/* most of it is zero: flip also what is not */
			uint64_t at = (uint64_t)rand_r(&seed) % length;

			while (round % 4 && !copy[at])
				at = (at + 1) % length;
			copy[at] ^= (unsigned char)(1 << rand_r(&seed) % 8);
		}
		put_copy(&left, copy, length);
		n_adopted += survive(&left, round);
	}
	/* also states, messages and the board were hit */
	ck_assert_uint_gt(n_adopted, 20);
	ck_assert_uint_lt(n_adopted, 580);
	free(bytes);
	free(copy);
	left_done(&left);
}
END_TEST

/* Records whose checksum is right: what a bug, or somebody clever, wrote. */
static void forge(struct ledger *ledger, unsigned int *seed)
{
	static const uint32_t tags[] = { LEDGER_GUEST,	 LEDGER_MEMORY, LEDGER_MAPPER,
					 LEDGER_MAPPING, LEDGER_POISON, LEDGER_SOURCE };
	static const uint64_t values[] = { 0,	 1,    0xffffffff, UINT64_MAX, 1ull << 40,
					   4096, 4095, 1ull << 52, 1ull << 63 };
	uint32_t tag = tags[rand_r(seed) % 6], id = rand_r(seed) % 8 ? 0 : rand_r(seed) % 70;
	unsigned char data[2048];
	size_t n_bytes = 0;

	if (ledger_copy_record(ledger, tag, id, data, sizeof(data), &n_bytes) || n_bytes < 8)
		n_bytes = rand_r(seed) % 128;
	switch (rand_r(seed) % 4) {
	case 0:
		memcpy(data + rand_r(seed) % (n_bytes / 8 + 1) * 8, &values[rand_r(seed) % 9], 8);
		break;
	case 1:
		if (n_bytes)
			data[(size_t)rand_r(seed) % n_bytes] ^= (unsigned char)rand_r(seed);
		break;
	case 2:
		n_bytes = rand_r(seed) % 1200;
		break;
	case 3:
		ledger_drop_record(ledger, tag, id);
		return;
	}
	(void)ledger_put_record(ledger, tag, id, data, n_bytes);
}

START_TEST(forged_records_are_refused_or_survived)
{
	unsigned int seed = 815, n_adopted = 0;
	unsigned char *bytes;
	struct left left;
	uint64_t length;

	leave_served(&left);
	bytes = (unsigned char *)bytes_of(left.kept.ledger, &length);
	for (unsigned int round = 0; round < 1500; round++) {
		_cleanup_(ledger_freep) struct ledger *ledger = NULL;

		put_copy(&left, bytes, length);
		ck_assert_int_eq(ledger_adopt(&ledger, left.kept.ledger), 0);
		for (unsigned int i = 0; i <= round % 3; i++)
			forge(ledger, &seed);
		n_adopted += survive(&left, round);
	}
	ck_assert_uint_gt(n_adopted, 20);
	ck_assert_uint_lt(n_adopted, 1480);
	free(bytes);
	left_done(&left);
}
END_TEST

/* What has no record was never made; but then nobody keeps anything of it. */
START_TEST(records_that_are_lost_are_no_guest_that_never_was)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	struct left left;
	size_t cursor = 0, n_bytes;
	uint32_t tag, id;
	const void *data;
	int was_started;

	leave_served(&left);
	ck_assert_int_eq(ledger_adopt(&ledger, left.kept.ledger), 0);
	while (ledger_next_record(ledger, &cursor, &tag, &id, &data, &n_bytes, NULL)) {
		ledger_drop_record(ledger, tag, id);
		cursor = 0;
	}
	ck_assert_int_eq(left_adopt(&left, &was_started), -EBADMSG);
	while (left.kept.n_handles)
		left_lose(&left, left.kept.handles[0].kind, left.kept.handles[0].id);
	ck_assert_int_eq(left_adopt(&left, &was_started), -ESRCH);
	left_done(&left);
}
END_TEST

START_TEST(messages_and_puts_of_no_sense_are_survived)
{
	unsigned int seed = 99;
	struct left left;
	unsigned char *bytes;
	uint64_t length;

	leave_served(&left);
	bytes = (unsigned char *)bytes_of(left.kept.ledger, &length);
	for (unsigned int round = 0; round < 64; round++) {
		_cleanup_(ledger_freep) struct ledger *ledger = NULL;
		struct ledger_messages *messages;

		put_copy(&left, bytes, length);
		ck_assert_int_eq(ledger_adopt(&ledger, left.kept.ledger), 0);
		messages = ledger_messages(ledger);
		for (size_t i = 0; i < sizeof(*messages); i += 4)
			memcpy((char *)messages + i, &(int){ rand_r(&seed) }, 4);
		messages->mapper = round % 4;
		for (unsigned int i = 0; i < LEDGER_N_MESSAGES; i++) {
			messages->messages[i].event = UFFD_EVENT_REMOVE;
			if (i % 2)
				messages->messages[i].arg.remove.start = left.child.address +
									 i * 512;
		}
		ck_assert_uint_eq(survive(&left, 0), 1);
	}
	free(bytes);
	left_done(&left);
}
END_TEST

/* ---- limits ---- */

START_TEST(a_guest_has_1024_mappings_and_all_are_adopted)
{
	UFD_OPTS(ufd_guest_stats, stats);
	struct left left;
	uint64_t start_ns;
	int was_started, r;

	left_init_pages(&left, CHILD_SHMEM, 1025, NULL);
	for (uint64_t i = 0; i < 1025; i++) {
		r = map_at(&left, i, 1);
		ck_assert_msg(r == (i < 1024 ? 0 : -ENOSPC), "mapping %llu: %s",
			      (unsigned long long)i, strerror(-r));
	}
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	left_leave(&left);
	start_ns = clock_now_ns();
	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	printf("# 1024 mappings are served again after %llu us\n",
	       (unsigned long long)(clock_now_ns() - start_ns) / 1000);
	ck_assert_int_eq(ufd_pager_guest_stats(left.guest, &stats), 0);
	ck_assert_uint_eq(stats.n_mappings, 1024);
	for (uint64_t page = 0; page < 1024; page += 93)
		ck_assert_uint_eq(child_peek(&left.child, page), child_word(page, 0));
	/* a place that became free is taken again, and again survives */
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(left.guest, left.mapper,
							left.child.address + 500 * 4096, 4096),
			 0);
	ck_assert_int_eq(map_at(&left, 1024, 1), 0);
	left_leave(&left);
	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	ck_assert_uint_eq(child_peek(&left.child, 1024), child_word(1024, 0));
	left_done(&left);
}
END_TEST

/* A SPEC is at most as long as a path; 64 of the longest are more than the ledger holds. */
START_TEST(a_full_ledger_refuses_a_memory_and_keeps_the_others)
{
	struct left left;
	char spec[4096], name[16];
	int r = 0, n = 0;

	left_init(&left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(map_at(&left, 0, LEFT_PAGES), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	memset(spec, '/', sizeof(spec));
	memcpy(spec, "file:", 5);
	strcpy(spec + 3000, left.source_path);
	while (r == 0) {
		UFD_OPTS(ufd_pager_memory_opts, memory, .name = name, .length = 4096, .backing = -1,
			 .kind = UFD_MEMORY_ANON);
		uint32_t id;

		snprintf(name, sizeof(name), "full%d", ++n);
		ck_assert_int_eq(ufd_source_open(&memory.source, spec, -1, NULL), 0);
		r = ufd_pager_guest_add_memory(left.guest, &memory, &id);
		ufd_source_unref(memory.source);
	}
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_int_gt(n, 5);
	ck_assert_int_lt(n, 20);
	left_leave(&left);
	/* those that are mapped nowhere need none of their handles */
	for (int i = 1; i < n; i++)
		left_lose(&left, UFD_HANDLE_SOURCE, (uint32_t)i);
	left_must_serve(&left);
	ck_assert_ptr_nonnull(strstr(left.reports, "source of memory `full1` was not kept"));
	left_leave(&left);
	ck_assert_uint_eq(left.kept.n_handles, 4);
	left_done(&left);
}
END_TEST

/* ---- where it lies ---- */

static const struct {
	const char *path;
	int result;
} directories[] = {
	{ "/dev/shm", 0 },
	{ "/proc", -EMEDIUMTYPE },
	{ "/dev/null", -ENOTDIR },
	{ "/nowhere/at/all", -ENOENT },
	{ NULL, 0 },
};

START_TEST(ledgers_lie_in_a_directory_of_a_tmpfs)
{
	struct ufd_pager *pager;

	ck_assert_int_eq(ufd_pager_new(&pager, NULL), 0);
	ck_assert_int_eq(ufd_pager_set_ledger_directory(pager, directories[_i].path),
			 directories[_i].result);
	ufd_pager_free(pager);
}
END_TEST

START_TEST(a_ledger_in_a_directory_is_there_until_the_guest_is_freed)
{
	char directory[] = "/dev/shm/ledgers-XXXXXX", path[64];
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW,
		 .other_mappers = UFD_OTHERS_IGNORE);
	struct left left;
	uint32_t mapper, id;
	struct ufd_source *zero;

	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/filed.ledger", directory);
	left_init(&left, CHILD_SHMEM, NULL);
	left.guest = ufd_pager_guest_free(left.guest);
	ck_assert_int_eq(ufd_pager_set_ledger_directory(left.pager, directory), 0);
	ck_assert_int_eq(ufd_pager_guest_new(left.pager, &left.guest, "filed", &opts), 0);
	ck_assert_int_eq(ufd_source_open(&zero, "file:", left.source, NULL), 0);
	{
		UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = left.child.length,
			 .source = zero, .backing = left.child.memfd, .kind = UFD_MEMORY_SHMEM);

		ck_assert_int_eq(ufd_pager_guest_add_memory(left.guest, &memory, &id), 0);
	}
	ufd_source_unref(zero);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(left.guest, left.child.uffd, left.child.pidfd,
						    -1, &mapper),
			 0);
	ck_assert_int_eq(map_at(&left, 0, LEFT_PAGES), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	left_leave(&left);

	close(left.kept.ledger);
	left.kept.ledger = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(left.kept.ledger, 0);
	left_must_serve(&left);
	left.guest = ufd_pager_guest_free(left.guest);
	ck_assert_int_eq(access(path, F_OK), -1);
	left_done(&left);
	ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

int main(void)
{
	return unit_run("pager-ledger",
			(struct unit_test[]){
				UNIT(to_look_at_a_ledger_writes_nothing_into_it),
				UNIT(flipped_bytes_are_refused_or_survived),
				UNIT(forged_records_are_refused_or_survived),
				UNIT(records_that_are_lost_are_no_guest_that_never_was),
				UNIT(messages_and_puts_of_no_sense_are_survived),
				UNIT(a_guest_has_1024_mappings_and_all_are_adopted),
				UNIT(a_full_ledger_refuses_a_memory_and_keeps_the_others),
				UNIT_TABLE(ledgers_lie_in_a_directory_of_a_tmpfs, directories),
				UNIT(a_ledger_in_a_directory_is_there_until_the_guest_is_freed),
				{},
			});
}
