/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The SPEC of a file, taken apart. */
#include <string.h>

#include "source/file-spec.h"
#include "support/unit.h"

static const struct {
	const char *spec, *path, *rest;
} specs[] = {
	{ "file:/a", "/a", "" },
	{ "file:/a,,b", "/a,b", "" },
	{ "file:/a,,offset=1,,", "/a,offset=1,", "" },
	{ "file:/a,,,offset=4K", "/a,", ",offset=4K" },
	{ "file:,offset=1", "", ",offset=1" },
	{ "file:", "", "" },
};

START_TEST(a_path_may_have_commas)
{
	char path[PATH_MAX];

	ck_assert_str_eq(file_spec_path(specs[_i].spec, path), specs[_i].rest);
	ck_assert_str_eq(path, specs[_i].path);
}
END_TEST

START_TEST(what_is_no_file_or_too_long_is_none)
{
	char path[PATH_MAX], spec[PATH_MAX + 8] = "file:";

	ck_assert_ptr_null(file_spec_path("zero", path));
	ck_assert_ptr_null(file_spec_path("", path));
	memset(spec + 5, 'a', PATH_MAX - 1);
	ck_assert_str_eq(file_spec_path(spec, path), "");
	memset(spec + 5, 'a', PATH_MAX);
	ck_assert_ptr_null(file_spec_path(spec, path));
}
END_TEST

int main(void)
{
	const struct unit_test tests[] = {
		UNIT_TABLE(a_path_may_have_commas, specs),
		UNIT(what_is_no_file_or_too_long_is_none),
		{},
	};

	return unit_run("file-spec", tests);
}
