/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small files as text, and numbers in them. */
#include "kernel/procfs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/unit.h"

START_TEST(a_file_is_read_as_far_as_it_fits)
{
	char path[] = "/tmp/ufd-procfs-XXXXXX", text[8];
	int fd = mkstemp(path);
	size_t n = 0;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(procfs_read(path, text, sizeof(text), &n), 0);
	ck_assert_uint_eq(n, 0);
	ck_assert_str_eq(text, "");
	ck_assert_int_eq(write(fd, "1234567890", 10), 10);
	ck_assert_int_eq(procfs_read(path, text, sizeof(text), &n), 0);
	ck_assert_uint_eq(n, 7);
	ck_assert_str_eq(text, "1234567");
	close(fd);
	unlink(path);
	ck_assert_int_eq(procfs_read(path, text, sizeof(text), NULL), -ENOENT);
	ck_assert_str_eq(text, "");
	ck_assert_int_eq(procfs_read("/proc/self", text, sizeof(text), NULL), -EISDIR);
}
END_TEST

static const struct {
	const char *text, *key;
	bool is_found;
	uint64_t value;
} rows[] = {
	{ "pending:\t3\ntotal:\t17\n", "total", true, 17 },
	{ "pending:\t3\ntotal:\t17\n", "pending", true, 3 },
	{ "subtotal:\t17\n", "total", false, 0 },
	{ "totals:\t17\n", "total", false, 0 },
	{ "TracerPid:\t0\n", "TracerPid", true, 0 },
	{ "last:\t18446744073709551615", "last", true, UINT64_MAX },
	{ "", "last", false, 0 },
};

START_TEST(a_number_stands_behind_its_key)
{
	uint64_t value = 0;

	ck_assert_int_eq(procfs_find_number(rows[_i].text, rows[_i].key, &value),
			 rows[_i].is_found);
	ck_assert_uint_eq(value, rows[_i].value);
}
END_TEST

int main(void)
{
	return unit_run("procfs", (struct unit_test[]){
					  UNIT(a_file_is_read_as_far_as_it_fits),
					  UNIT_TABLE(a_number_stands_behind_its_key, rows),
					  {},
				  });
}
