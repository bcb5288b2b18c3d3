/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cloud Hypervisor's messages, byte for byte, and what its Config says of memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/cloud-hypervisor.h"
#include "base/cleanup.h"
#include "refusal.h"
#include "support/unit.h"

static const struct {
	const char *what;
	uint8_t bytes[CH_HEAD_BYTES];
	int result;
	enum ch_command command;
	uint64_t n_payload;
} requests[] = {
	{ "Start", { 1 }, 0, CH_START, 0 },
	{ "Start of another version", { 1, 0, 1 }, -ECANCELED, 0, 0 },
	{ "Start with a payload", { 1, 0, 0, 0, 0, 0, 0, 0, 1 }, -ECANCELED, 0, 0 },
	{ "Config", { 2, 0, 0, 0, 0, 0, 0, 0, 0, 2 }, 0, CH_CONFIG, 512 },
	{ "Config without bytes", { 2 }, -ECANCELED, 0, 0 },
	{ "Config of 64 MiB", { 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4 }, 0, CH_CONFIG, CH_MAX_TEXT },
	{ "Config of more", { 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4 }, -ECANCELED, 0, 0 },
	{ "State", { 3, 0, 0, 0, 0, 0, 0, 0, 7 }, 0, CH_STATE, 7 },
	{ "Memory", { 4, 0, 0, 0, 0, 0, 0, 0, 32 }, 0, CH_MEMORY, 32 },
	{ "Memory with half a range", { 4, 0, 0, 0, 0, 0, 0, 0, 24 }, -ECANCELED, 0, 0 },
	{ "Complete", { 5 }, 0, CH_COMPLETE, 0 },
	{ "Abandon", { 6 }, 0, CH_ABANDON, 0 },
	{ "MemoryFd", { 7, 0, 0, 0, 0, 0, 0, 0, 4 }, 0, CH_MEMORY_FD, 4 },
	{ "MemoryFd without a slot", { 7 }, -ECANCELED, 0, 0 },
	{ "CompletePaused", { 8 }, 0, CH_COMPLETE_PAUSED, 0 },
	{ "PageFault", { 9, 0, 0, 0, 0, 0, 0, 0, 16 }, 0, CH_PAGE_FAULT, 16 },
	{ "what is behind the last", { 10 }, -ECANCELED, 0, 0 },
	{ "what is before the first", { 0 }, -ECANCELED, 0, 0 },
	{ "a length of all ones",
	  { 3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255 },
	  -ECANCELED,
	  0,
	  0 },
};

START_TEST(requests_are_told_apart)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct ch_request request = {};
	uint8_t again[CH_HEAD_BYTES];

	ck_assert_msg(ch_request_read(requests[_i].bytes, CH_HEAD_BYTES, &request, &refusal) ==
			      requests[_i].result,
		      "%s", requests[_i].what);
	if (requests[_i].result < 0) {
		ck_assert_str_eq(refusal.error, "io.ufd.handoff.BadMessage");
		return;
	}
	ck_assert_int_eq(request.command, requests[_i].command);
	ck_assert_uint_eq(request.n_payload, requests[_i].n_payload);
	ch_request_write(&request, again);
	ck_assert_mem_eq(again, requests[_i].bytes, CH_HEAD_BYTES);
}
END_TEST

START_TEST(a_beginning_is_not_enough)
{
	static const uint8_t ok[CH_HEAD_BYTES] = { 1 };
	struct ch_response response = {};
	struct ch_request request = {};
	struct refusal refusal = {};

	for (size_t n = 0; n < CH_HEAD_BYTES; n++) {
		ck_assert_int_eq(ch_request_read(ok, n, &request, &refusal), CH_MORE);
		ck_assert_int_eq(ch_response_read(ok, n, &response, &refusal), CH_MORE);
	}
	ck_assert_int_eq(ch_request_read(ok, CH_HEAD_BYTES, &request, &refusal), 0);
	ck_assert_int_eq(ch_response_read(ok, CH_HEAD_BYTES, &response, &refusal), 0);
	ck_assert(response.is_ok);
}
END_TEST

START_TEST(responses_are_ok_or_an_error)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	static const uint8_t error[CH_HEAD_BYTES] = { 2, 0, 0, 0, 0, 0, 0, 0, 5 };
	static const uint8_t neither[CH_HEAD_BYTES] = { 3 };
	struct ch_response response = { .is_ok = true };
	uint8_t again[CH_HEAD_BYTES];

	ck_assert_int_eq(ch_response_read(error, sizeof(error), &response, &refusal), 0);
	ck_assert(!response.is_ok);
	ck_assert_uint_eq(response.n_payload, 5);
	ch_response_write(&response, again);
	ck_assert_mem_eq(again, error, sizeof(error));
	ck_assert_int_eq(ch_response_read(neither, sizeof(neither), &response, &refusal),
			 -ECANCELED);
}
END_TEST

START_TEST(ranges_slots_and_roles_are_little_endian)
{
	const struct ch_range range = { UINT64_C(0x0102030405060708), 0x1000 };
	static const uint8_t wanted[CH_HEAD_BYTES] = { 8, 7, 6, 5, 4, 3, 2, 1, 0, 16 };
	uint8_t bytes[CH_HEAD_BYTES], slot[CH_SLOT_BYTES], role[CH_ROLE_BYTES];
	struct ch_range again;

	ch_range_write(&range, bytes);
	ck_assert_mem_eq(bytes, wanted, sizeof(bytes));
	again = ch_range_read(bytes);
	ck_assert_uint_eq(again.address, range.address);
	ck_assert_uint_eq(again.length_bytes, range.length_bytes);
	ch_slot_write(0x01020304, slot);
	ck_assert_mem_eq(slot, ((uint8_t[]){ 4, 3, 2, 1 }), sizeof(slot));
	ck_assert_uint_eq(ch_slot_read(slot), 0x01020304);
	ch_role_write(CH_ROLE_FAULT, role);
	ck_assert_mem_eq(role, ((uint8_t[]){ 2, 0 }), sizeof(role));
}
END_TEST

#define MAPPING(slot, gpa, size, offset)                                             \
	"{\"slot\":" #slot ",\"gpa\":" #gpa ",\"size\":" #size ",\"zone_id\":\"z\"," \
	"\"virtio_mem\":false,\"file_offset\":" #offset "}"
#define CONFIG(list) "{\"memory_manager_data\":{\"guest_ram_mappings\":[" list "]},\"x\":1}"

static const struct {
	const char *what;
	const char *text;
	size_t n_mappings; /* 0: refused */
} configs[] = {
	{ "one", CONFIG(MAPPING(0, 0, 4096, 0)), 1 },
	{ "two in one file", CONFIG(MAPPING(0, 0, 8192, 0) "," MAPPING(3, 4294967296, 4096, 8192)),
	  2 },
	{ "with a number larger than int64_t elsewhere",
	  "{\"mask\":18446744073709551615,\"memory_manager_data\":{\"guest_ram_mappings\":[" MAPPING(
		  0, 0, 4096, 0) "]}}",
	  1 },
	{ "none", CONFIG(""), 0 },
	{ "no list", "{\"memory_manager_data\":{}}", 0 },
	{ "no object", "[1]", 0 },
	{ "no JSON", "{\"memory_manager_data\"", 0 },
	{ "a text as a number", CONFIG(MAPPING("0", 0, 4096, 0)), 0 },
	{ "a negative one", CONFIG(MAPPING(0, -4096, 4096, 0)), 0 },
	{ "a fraction", CONFIG(MAPPING(0, 0.5, 4096, 0)), 0 },
	{ "an empty one", CONFIG(MAPPING(0, 0, 0, 0)), 0 },
	{ "half a page", CONFIG(MAPPING(0, 0, 2048, 0)), 0 },
	{ "an address within a page", CONFIG(MAPPING(0, 512, 4096, 0)), 0 },
	{ "an offset within a page", CONFIG(MAPPING(0, 0, 4096, 1)), 0 },
	{ "a slot of more than 32 bits", CONFIG(MAPPING(4294967296, 0, 4096, 0)), 0 },
	{ "an end behind everything", CONFIG(MAPPING(0, 4503599627366400, 8192, 0)), 0 },
	{ "two of one slot", CONFIG(MAPPING(1, 0, 4096, 0) "," MAPPING(1, 4096, 4096, 0)), 0 },
	{ "two that overlap", CONFIG(MAPPING(1, 0, 8192, 0) "," MAPPING(2, 4096, 4096, 0)), 0 },
	{ "two that touch", CONFIG(MAPPING(1, 0, 8192, 0) "," MAPPING(2, 8192, 4096, 0)), 2 },
};

START_TEST(config_says_where_memory_is)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct ch_layout layout = {};
	int r = ch_layout_read(configs[_i].text, strlen(configs[_i].text), &layout, &refusal);

	ck_assert_msg(r == (configs[_i].n_mappings ? 0 : -ECANCELED), "%s: %d", configs[_i].what,
		      r);
	ck_assert_uint_eq(layout.n_mappings, configs[_i].n_mappings);
	if (r < 0)
		ck_assert_str_eq(refusal.error, "io.ufd.handoff.BadMessage");
}
END_TEST

START_TEST(config_with_too_many_mappings_is_refused)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct ch_layout layout = {};
	char *text = NULL;
	size_t n = 0;
	FILE *file = open_memstream(&text, &n);

	fputs("{\"memory_manager_data\":{\"guest_ram_mappings\":[", file);
	for (unsigned int i = 0; i <= CH_MAX_MAPPINGS; i++)
		fprintf(file, "%s{\"slot\":%u,\"gpa\":%u,\"size\":4096,\"file_offset\":0}",
			i ? "," : "", i, i * 4096);
	fputs("]}}", file);
	fclose(file);
	ck_assert_int_eq(ch_layout_read(text, n, &layout, &refusal), -ECANCELED);
	free(text);
}
END_TEST

static const struct {
	const char *what;
	struct ch_range range;
	int index;
} finds[] = {
	{ "the first page", { 0x10000, 4096 }, 0 },
	{ "all of it", { 0x10000, 0x4000 }, 0 },
	{ "the last page", { 0x13000, 4096 }, 0 },
	{ "across its end", { 0x13000, 8192 }, -1 },
	{ "behind it", { 0x14000, 4096 }, -1 },
	{ "before it", { 0xf000, 4096 }, -1 },
	{ "the other one", { 0x20000, 4096 }, 1 },
	{ "more than fits any", { 0x10000, UINT64_MAX }, -1 },
	{ "around zero", { UINT64_MAX - 4095, 8192 }, -1 },
};

START_TEST(a_range_lies_in_one_mapping_or_in_none)
{
	static const struct ch_layout layout = {
		.mappings = { { 0, 0x10000, 0x4000, 0 }, { 5, 0x20000, 0x1000, 0x4000 } },
		.n_mappings = 2,
	};

	ck_assert_msg(ch_layout_find(&layout, &finds[_i].range) == finds[_i].index, "%s",
		      finds[_i].what);
	ck_assert_int_eq(ch_layout_find_slot(&layout, 5), 1);
	ck_assert_int_eq(ch_layout_find_slot(&layout, 1), -1);
}
END_TEST

int main(void)
{
	return unit_run("cloud-hypervisor",
			(struct unit_test[]){
				UNIT_TABLE(requests_are_told_apart, requests),
				UNIT(a_beginning_is_not_enough),
				UNIT(responses_are_ok_or_an_error),
				UNIT(ranges_slots_and_roles_are_little_endian),
				UNIT_TABLE(config_says_where_memory_is, configs),
				UNIT(config_with_too_many_mappings_is_refused),
				UNIT_TABLE(a_range_lies_in_one_mapping_or_in_none, finds),
				{},
			});
}
