/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records in shared memory. The promise is about processes killed at any instruction, so that is
 * what is tried: a child is stepped by its tracer, and after each instruction that changed the
 * area a copy of it is opened as a new process would.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/records.h"
#include "support/unit.h"

enum { HALF = 1024, AREA = 2 * HALF, HEAD_BYTES = 16, RECORD_HEAD_BYTES = 32 };

static uint64_t area[AREA / 8], copy[AREA / 8];

static void put(struct records *records, uint32_t tag, uint32_t id, const char *text)
{
	ck_assert_int_eq(records_put(records, tag, id, text, strlen(text) + 1), 0);
}

/* The text of a record, or "none". */
static const char *get(const struct records *records, uint32_t tag, uint32_t id)
{
	const void *data = NULL;
	size_t n_bytes = 0;

	if (records_get(records, tag, id, &data, &n_bytes) == -ENOENT)
		return "none";
	ck_assert_ptr_nonnull(data);
	ck_assert_ptr_nonnull(memchr(data, '\0', n_bytes));
	return data;
}

static unsigned int count(const struct records *records)
{
	size_t cursor = 0, n_bytes;
	unsigned int n = 0;
	uint32_t tag, id;
	const void *data;

	while (records_next(records, &cursor, &tag, &id, &data, &n_bytes))
		n++;
	return n;
}

START_TEST(a_record_is_replaced_by_tag_and_id)
{
	struct records records;

	records_format(&records, area, HALF);
	put(&records, 1, 0, "one");
	put(&records, 1, 1, "two");
	put(&records, 2, 0, "three");
	put(&records, 1, 0, "a longer one");
	ck_assert_str_eq(get(&records, 1, 0), "a longer one");
	ck_assert_str_eq(get(&records, 1, 1), "two");
	ck_assert_str_eq(get(&records, 2, 0), "three");
	ck_assert_uint_eq(count(&records), 3);

	records_drop(&records, 1, 1);
	ck_assert_str_eq(get(&records, 1, 1), "none");
	ck_assert_uint_eq(count(&records), 2);

	ck_assert_int_eq(records_open(&records, area, HALF), 0);
	ck_assert_str_eq(get(&records, 1, 0), "a longer one");
	ck_assert_str_eq(get(&records, 2, 0), "three");
	ck_assert_uint_eq(count(&records), 2);
	ck_assert_uint_eq(records.n_damaged, 0);
}
END_TEST

/* Sizes around what is left; each is replaced so often that both halves are used many times. */
START_TEST(a_full_half_makes_room_by_moving_what_is_alive)
{
	static char text[200];
	struct records records;

	records_format(&records, area, HALF);
	put(&records, 9, 9, "stays");
	for (unsigned int i = 0; i < 1000; i++) {
		memset(text, 'a' + i % 26, i % sizeof(text));
		text[i % sizeof(text)] = '\0';
		put(&records, 1, i % 3, text);
		ck_assert_str_eq(get(&records, 1, i % 3), text);
		ck_assert_str_eq(get(&records, 9, 9), "stays");
		if (i % 50 == 0)
			ck_assert_int_eq(records_open(&records, area, HALF), 0);
	}
	ck_assert_uint_gt(records.generation, 100);
	ck_assert_uint_eq(count(&records), 4);
}
END_TEST

START_TEST(a_full_area_refuses_and_keeps_what_it_has)
{
	char filler[HALF] = "";
	struct records records;
	unsigned int n = 0;

	records_format(&records, area, HALF);
	while (records_put(&records, 1, n, filler, 100) == 0)
		n++;
	ck_assert_uint_eq(n, (HALF - HEAD_BYTES) / (RECORD_HEAD_BYTES + 104));
	memcpy(copy, area, AREA);
	ck_assert_int_eq(records_put(&records, 1, 0, filler, 400), -ENOSPC);
	ck_assert_int_eq(records_put(&records, 2, 0, filler, SIZE_MAX), -ENOSPC);
	ck_assert_int_eq(records_put(&records, 2, 0, filler, HALF - 8), -ENOSPC);
	ck_assert_mem_eq(area, copy, AREA);

	/* replacing takes no more room than there was, even when there is none to append */
	ck_assert_int_eq(records_put(&records, 1, 0, filler, 100), 0);
	ck_assert_uint_eq(count(&records), n);
	records_drop(&records, 1, 0);
	ck_assert_int_eq(records_put(&records, 2, 0, filler, 100), 0);
	ck_assert_uint_eq(count(&records), n);
}
END_TEST

START_TEST(damage_is_skipped_counted_and_left_behind_by_the_next_change)
{
	unsigned char *bytes = (unsigned char *)area;
	struct records records;

	records_format(&records, area, HALF);
	put(&records, 1, 0, "one");
	put(&records, 2, 0, "two");
	put(&records, 3, 0, "three");
	bytes[HEAD_BYTES + RECORD_HEAD_BYTES] ^= 0x10; /* the o of one */
	memcpy(copy, area, AREA);

	ck_assert_int_eq(records_open(&records, area, HALF), 0);
	ck_assert_uint_eq(records.n_damaged, 1);
	ck_assert_str_eq(get(&records, 1, 0), "none");
	ck_assert_str_eq(get(&records, 2, 0), "two");
	ck_assert_uint_eq(count(&records), 2);
	ck_assert_mem_eq(area, copy, AREA); /* looking has changed nothing */

	put(&records, 1, 0, "one again");
	ck_assert_int_eq(records_open(&records, area, HALF), 0);
	ck_assert_uint_eq(records.n_damaged, 0);
	ck_assert_str_eq(get(&records, 1, 0), "one again");
	ck_assert_str_eq(get(&records, 3, 0), "three");
}
END_TEST

START_TEST(a_length_that_cannot_be_is_not_followed)
{
	struct records records;
	uint32_t length = UINT32_MAX - 7;

	records_format(&records, area, HALF);
	put(&records, 1, 0, "one");
	put(&records, 2, 0, "two");
	memcpy((unsigned char *)area + HEAD_BYTES + 24, &length, sizeof(length));
	ck_assert_int_eq(records_open(&records, area, HALF), 0);
	ck_assert_uint_eq(records.n_damaged, 1);
	ck_assert_uint_eq(count(&records), 0);
	put(&records, 3, 0, "three");
	ck_assert_uint_eq(count(&records), 1);
}
END_TEST

START_TEST(no_whole_half_is_damage)
{
	struct records records;

	memset(area, 0, sizeof(area));
	ck_assert_int_eq(records_open(&records, area, HALF), RECORDS_DAMAGED);
	memset(area, 0xa5, sizeof(area));
	ck_assert_int_eq(records_open(&records, area, HALF), RECORDS_DAMAGED);
}
END_TEST

/* Nothing but luck could fail here without a sanitizer; with one, every byte read outside does. */
START_TEST(random_bytes_and_flips_are_survived)
{
	unsigned char *bytes;
	struct records records;
	unsigned int seed = 1;

	bytes = malloc(AREA); /* of exact size, for the sanitizer */
	for (unsigned int round = 0; round < 20000; round++) {
		memset(bytes, 0, AREA);
		records_format(&records, bytes, HALF);
		for (unsigned int i = 0; i < 12; i++)
			put(&records, i % 5, i % 2, "some text or other, long enough");
		for (unsigned int i = 0; i < 1 + round % 8; i++)
			bytes[rand_r(&seed) % AREA] ^= 1 << rand_r(&seed) % 8;
		if (round % 4 == 0)
			for (unsigned int i = HEAD_BYTES; i < HALF; i++)
				bytes[i] = rand_r(&seed);

		if (records_open(&records, bytes, HALF) == RECORDS_DAMAGED)
			continue;
		ck_assert_uint_le(count(&records), 10);
		if (records_put(&records, 7, 7, "new", 4) == 0) {
			ck_assert_int_eq(records_open(&records, bytes, HALF), 0);
			ck_assert_str_eq(get(&records, 7, 7), "new");
			ck_assert_uint_eq(records.n_damaged, 0);
		}
	}
	free(bytes);
}
END_TEST

/* ---- killed at any instruction --------------------------------------------------------------- */

enum change {
	APPEND,
	REPLACE,
	DROP,
	REPLACE_WHEN_FULL,
	APPEND_WHEN_FULL,
	REPLACE_UNTIDY,
	DROP_UNTIDY
};

static const struct {
	const char *what;
	enum change change;
	const char *before, *after; /* of the record that changes */
} crashes[] = {
	{ "append", APPEND, "none", "new" },
	{ "replace", REPLACE, "old", "new" },
	{ "drop", DROP, "old", "none" },
	{ "replace where there is no room to append", REPLACE_WHEN_FULL, "old", "new" },
	{ "append where there is no room", APPEND_WHEN_FULL, "none", "new" },
	{ "replace beside what a crash left", REPLACE_UNTIDY, "old", "new" },
	{ "drop beside what a crash left", DROP_UNTIDY, "old", "none" },
};

/* Dropped records until the other half is whole as well, and not even a small one fits. */
static void fill_with_dead(struct records *records)
{
	while (records->generation < 3 || HALF - records->end_bytes >= RECORD_HEAD_BYTES + 8) {
		uint32_t room = HALF - records->end_bytes;

		put(records, 3, 0, room > 200 ? "a dead record of some length" : "dead");
		records_drop(records, 3, 0);
	}
}

/* What the area looks like before the change. */
static void prepare(struct records *records, void *shared, enum change change)
{
	unsigned char *bytes = shared;

	records_format(records, shared, HALF);
	put(records, 1, 0, "kept");
	if (change != APPEND && change != APPEND_WHEN_FULL)
		put(records, 1, 1, "old");
	put(records, 2, 0, "kept, too");
	if (change == REPLACE_WHEN_FULL || change == APPEND_WHEN_FULL)
		fill_with_dead(records);
	if (change == REPLACE_UNTIDY || change == DROP_UNTIDY) {
		/* killed before the checksum was written */
		memset(bytes + records->end_bytes + 8, 0x5a, 200);
		ck_assert_int_eq(records_open(records, shared, HALF), 0);
		ck_assert(records->is_untidy);
	}
}

static void apply(struct records *records, enum change change)
{
	if (change == DROP || change == DROP_UNTIDY)
		records_drop(records, 1, 1);
	else
		records_put(records, 1, 1, "new", 4);
}

/* As a new process would find it. Return: has the change happened? */
static bool check_after_kill(const void *shared, unsigned int row)
{
	struct records records;
	bool is_after;

	memcpy(copy, shared, AREA);
	ck_assert_int_eq(records_open(&records, copy, HALF), 0);
	is_after = !strcmp(get(&records, 1, 1), crashes[row].after);
	if (!is_after)
		ck_assert_str_eq(get(&records, 1, 1), crashes[row].before);
	ck_assert_uint_eq(count(&records), 2 + !!strcmp(get(&records, 1, 1), "none"));

	/* and it can go on from there */
	put(&records, 5, 5, "x");
	ck_assert_int_eq(records_open(&records, copy, HALF), 0);
	ck_assert_uint_eq(records.n_damaged, 0);
	ck_assert_str_eq(get(&records, 5, 5), "x");
	ck_assert_str_eq(get(&records, 1, 0), "kept");
	ck_assert_str_eq(get(&records, 2, 0), "kept, too");
	ck_assert_str_eq(get(&records, 1, 1), is_after ? crashes[row].after : crashes[row].before);
	return is_after;
}

/*
 * A half that is being written counts as none, even if the one in use should be lost: without that
 * one's head, what was not whole is damage, and what opens is complete.
 */
static void check_half_being_written(const void *shared, const void *initial, uint32_t active,
				     unsigned int row)
{
	uint32_t body = !active * HALF + HEAD_BYTES;
	struct records records;

	if (!memcmp((const char *)shared + body, (const char *)initial + body, HALF - HEAD_BYTES))
		return;
	memcpy(copy, shared, AREA);
	memset((char *)copy + active * HALF, 0, HEAD_BYTES);
	if (records_open(&records, copy, HALF) == RECORDS_DAMAGED)
		return;
	ck_assert_str_eq(get(&records, 1, 0), "kept");
	ck_assert_str_eq(get(&records, 2, 0), "kept, too");
	ck_assert_str_eq(get(&records, 1, 1), crashes[row].after);
}

static pid_t start_traced(struct records *records, enum change change)
{
	pid_t parent = getpid(), pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(77);
		raise(SIGSTOP);
		apply(records, change);
		_exit(0);
	}
	return pid;
}

START_TEST(a_kill_at_any_instruction_leaves_the_old_or_the_new)
{
	unsigned char *shared = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				     -1, 0);
	static unsigned char last[AREA], initial[AREA];
	struct records records;
	unsigned int n_stores = 0;
	bool is_after = false;
	int status;
	pid_t pid;

	ck_assert(shared != MAP_FAILED);
	prepare(&records, shared, crashes[_i].change);
	memcpy(last, shared, AREA);
	memcpy(initial, shared, AREA);
	pid = start_traced(&records, crashes[_i].change);
	for (;;) {
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status))
			break;
		ck_assert(WIFSTOPPED(status));
		if (memcmp(last, shared, AREA)) {
			bool was_after = is_after;

			memcpy(last, shared, AREA);
			is_after = check_after_kill(shared, _i);
			check_half_being_written(shared, initial, records.active, _i);
			ck_assert_msg(is_after >= was_after, "%s: went back", crashes[_i].what);
			n_stores++;
		}
		ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
	}
	if (WEXITSTATUS(status) == 77)
		unit_skip("ptrace is not allowed here");
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	ck_assert(is_after);
	ck_assert_uint_ge(n_stores, crashes[_i].change == DROP ? 1 : 4);
	munmap(shared, AREA);
}
END_TEST

int main(void)
{
	return unit_run(
		"records",
		(struct unit_test[]){
			UNIT(a_record_is_replaced_by_tag_and_id),
			UNIT(a_full_half_makes_room_by_moving_what_is_alive),
			UNIT(a_full_area_refuses_and_keeps_what_it_has),
			UNIT(damage_is_skipped_counted_and_left_behind_by_the_next_change),
			UNIT(a_length_that_cannot_be_is_not_followed),
			UNIT(no_whole_half_is_damage),
			UNIT(random_bytes_and_flips_are_survived),
			UNIT_TABLE(a_kill_at_any_instruction_leaves_the_old_or_the_new, crashes),
			{},
		});
}
