/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Option structs that grow. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/opts.h"
#include "support/unit.h"

struct known {
	size_t size;
	uint64_t first;
	uint64_t second;
};

/* The caller's struct of a later release. */
struct newer {
	size_t size;
	uint64_t first;
	uint64_t second;
	uint64_t third;
};

static const struct {
	const char *what;
	struct newer given;
	int result;
	uint64_t first, second;
} loads[] = {
	{ "our own age", { sizeof(struct known), 1, 2, 3 }, 0, 1, 2 },
	{ "older: the end is default", { offsetof(struct known, second), 1, 2, 3 }, 0, 1, 0 },
	{ "older, cut within a field", { offsetof(struct known, second) + 4, 1, 2, 3 }, 0, 1, 2 },
	{ "nothing but the size", { sizeof(size_t), 1, 2, 3 }, 0, 0, 0 },
	{ "newer, its new field unused", { sizeof(struct newer), 1, 2, 0 }, 0, 1, 2 },
	{ "newer, its new field used", { sizeof(struct newer), 1, 2, 3 }, -E2BIG, 0, 0 },
	{ "newer, only the last byte used",
	  { sizeof(struct newer), 1, 2, UINT64_C(1) << 56 },
	  -E2BIG,
	  0,
	  0 },
	{ "no size", { 0, 1, 2, 3 }, -EINVAL, 0, 0 },
	{ "a size smaller than itself", { sizeof(size_t) - 1, 1, 2, 3 }, -EINVAL, 0, 0 },
};

START_TEST(structs_of_any_age_load)
{
	struct known known;

	memset(&known, 0xff, sizeof(known));
	ck_assert_msg(opts_load(&known, sizeof(known), &loads[_i].given) == loads[_i].result, "%s",
		      loads[_i].what);
	ck_assert_uint_eq(known.first, loads[_i].first);
	ck_assert_uint_eq(known.second, loads[_i].second);
}
END_TEST

START_TEST(no_struct_is_every_default)
{
	struct known known = { 1, 2, 3 };

	ck_assert_int_eq(opts_load(&known, sizeof(known), NULL), 0);
	ck_assert_uint_eq(known.size, 0);
	ck_assert_uint_eq(known.first, 0);
	ck_assert_uint_eq(known.second, 0);
}
END_TEST

int main(void)
{
	return unit_run("opts", (struct unit_test[]){
					UNIT_TABLE(structs_of_any_age_load, loads),
					UNIT(no_struct_is_every_default),
					{},
				});
}
