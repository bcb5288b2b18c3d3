/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a read found, on the wire. */
#include "control/dirty-reply.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dirty/tracking.h"
#include "refusal.h"
#include "support/unit.h"

#define PAGE 4096

/* Two memories; the second begins at page 16 of its owner's count and has a tail of 10 pages. */
static uint64_t first[64], second[2];
static struct tracking_memory memories[] = {
	{ .name = "ram0",
	  .length_bytes = 64 * 64 * PAGE,
	  .page_bytes = PAGE,
	  .words = first,
	  .n_words = 64 },
	{ .name = "vram",
	  .base_bytes = 16 * PAGE,
	  .length_bytes = 74 * PAGE,
	  .page_bytes = PAGE,
	  .words = second,
	  .n_words = 2 },
};

static struct tracking_epoch epoch_of(json_t *warnings)
{
	return (struct tracking_epoch){
		.epoch = { .size = sizeof(struct ufd_dirty_epoch), .epoch = 7 },
		.memories = memories,
		.n_memories = 2,
		.warnings = warnings,
	};
}

static json_t *reply_of(enum dirty_format format, int *ret_fd)
{
	struct refusal refusal = {};
	json_t *warnings = json_array(), *reply = NULL;
	struct tracking_epoch epoch = epoch_of(warnings);

	*ret_fd = -EBADF;
	ck_assert_int_eq(dirty_reply_new(&epoch, format, &reply, ret_fd, &refusal), 0);
	json_decref(warnings);
	ck_assert_int_eq(json_integer_value(json_object_get(reply, "epoch")), 7);
	return reply;
}

static json_int_t number(const json_t *reply, size_t memory, const char *name)
{
	const json_t *json = json_array_get(json_object_get(reply, "memories"), memory);

	ck_assert_msg(json_is_integer(json_object_get(json, name)), "%s is missing", name);
	return json_integer_value(json_object_get(json, name));
}

static const json_t *ranges_of(const json_t *reply, size_t memory)
{
	return json_object_get(json_array_get(json_object_get(reply, "memories"), memory),
			       "ranges");
}

static void assert_range(const json_t *ranges, size_t i, json_int_t offset, json_int_t length)
{
	const json_t *range = json_array_get(ranges, i);

	ck_assert_int_eq(json_integer_value(json_object_get(range, "offset_bytes")), offset);
	ck_assert_int_eq(json_integer_value(json_object_get(range, "length_bytes")), length);
}

START_TEST(few_ranges_lie_in_the_reply)
{
	json_t *reply;
	int fd;

	first[0] = UINT64_C(1) << 63 | 6;
	first[1] = 1;		/* goes on where the word before ended */
	second[1] = UINT64_MAX; /* of which 10 bits are pages */
	reply = reply_of(DIRTY_RANGES, &fd);
	ck_assert_int_eq(fd, -EBADF);
	ck_assert_ptr_null(json_object_get(reply, "fd"));
	ck_assert_uint_eq(json_array_size(ranges_of(reply, 0)), 2);
	assert_range(ranges_of(reply, 0), 0, PAGE, 2 * PAGE);
	assert_range(ranges_of(reply, 0), 1, 63 * PAGE, 2 * PAGE);
	ck_assert_uint_eq(json_array_size(ranges_of(reply, 1)), 1);
	assert_range(ranges_of(reply, 1), 0, (16 + 64) * PAGE, 10 * PAGE);
	ck_assert_int_eq(number(reply, 0, "dirty_bytes"), 4 * PAGE);
	ck_assert_int_eq(number(reply, 1, "dirty_bytes"), 10 * PAGE);
	ck_assert_int_eq(number(reply, 1, "base_bytes"), 16 * PAGE);
	json_decref(reply);
}
END_TEST

START_TEST(many_ranges_lie_in_a_file)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t pairs[2][2];
	json_t *reply;

	memset(first, 0x55, sizeof(first));
	second[0] = 2;
	reply = reply_of(DIRTY_RANGES, &fd);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(json_integer_value(json_object_get(reply, "fd")), 0);
	ck_assert_ptr_null(ranges_of(reply, 0));
	ck_assert_int_eq(number(reply, 0, "n_ranges"), 2048);
	ck_assert_int_eq(number(reply, 1, "n_ranges"), 1);
	ck_assert_int_eq(number(reply, 1, "fd_offset_bytes"), 2048 * 16);
	ck_assert_int_eq(pread(fd, pairs, sizeof(pairs), 2047 * 16), sizeof(pairs));
	ck_assert_uint_eq(le64toh(pairs[0][0]), UINT64_C(4094) * PAGE);
	ck_assert_uint_eq(le64toh(pairs[0][1]), PAGE);
	ck_assert_uint_eq(le64toh(pairs[1][0]), (16 + 1) * PAGE);
	json_decref(reply);
}
END_TEST

START_TEST(exactly_as_many_as_are_few_need_no_file)
{
	json_t *reply;
	int fd;

	for (size_t i = 0; i < DIRTY_INLINE_RANGES; i++)
		first[i / 32] |= UINT64_C(1) << (2 * (i % 32));
	reply = reply_of(DIRTY_RANGES, &fd);
	ck_assert_int_eq(fd, -EBADF);
	ck_assert_uint_eq(json_array_size(ranges_of(reply, 0)), DIRTY_INLINE_RANGES);
	json_decref(reply);
	second[0] = 1;
	reply = reply_of(DIRTY_RANGES, &fd);
	ck_assert_int_ge(fd, 0);
	closep(&fd);
	json_decref(reply);
}
END_TEST

START_TEST(nobody_can_change_the_file)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t word = 0;
	json_t *reply;
	int seals;

	second[1] = 5;
	reply = reply_of(DIRTY_BITMAP, &fd);
	ck_assert_int_eq(number(reply, 1, "fd_offset_bytes"), 64 * 8);
	ck_assert_int_eq(pread(fd, &word, 8, 64 * 8 + 8), 8);
	ck_assert_uint_eq(le64toh(word), 5);
	seals = fcntl(fd, F_GET_SEALS);
	ck_assert_int_eq(seals, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	ck_assert_int_eq(pwrite(fd, &word, 8, 0), -1);
	ck_assert_int_eq(ftruncate(fd, 0), -1);
	json_decref(reply);
}
END_TEST

START_TEST(words_are_words_of_the_interface)
{
	enum dirty_format format;
	uint32_t quiesce = 9;

	ck_assert_int_eq(dirty_format_parse(NULL, &format), 0);
	ck_assert_int_eq(format, DIRTY_RANGES);
	ck_assert_int_eq(dirty_format_parse("bitmap", &format), 0);
	ck_assert_int_eq(format, DIRTY_BITMAP);
	ck_assert_int_eq(dirty_format_parse("json", &format), -EINVAL);
	ck_assert_int_eq(quiesce_parse(NULL, &quiesce), 0);
	ck_assert_uint_eq(quiesce, QUIESCE_AUTO);
	ck_assert_int_eq(quiesce_parse("never", &quiesce), 0);
	ck_assert_str_eq(quiesce_word(quiesce), "never");
	ck_assert_int_eq(quiesce_parse("", &quiesce), -EINVAL);
}
END_TEST

int main(void)
{
	return unit_run("dirty-reply", (struct unit_test[]){
					       UNIT(few_ranges_lie_in_the_reply),
					       UNIT(many_ranges_lie_in_a_file),
					       UNIT(exactly_as_many_as_are_few_need_no_file),
					       UNIT(nobody_can_change_the_file),
					       UNIT(words_are_words_of_the_interface),
					       {},
				       });
}
