/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Room in memory control groups, from trees that are plain folders here. */
#include "kernel/memcg.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "support/unit.h"

#define NONE UINT64_MAX

/* What a file of a group says; @folder below the tree. */
struct fact {
	const char *folder, *file, *text;
};

static const struct {
	const char *what;
	bool is_v1;
	const char *prefix, *membership;
	struct fact facts[8];
	uint64_t easy, limit;
} rows[] = {
	{ "no limit anywhere",
	  false,
	  "",
	  "0::/a\n",
	  { { "/a", "memory.max", "max\n" }, { "/a", "memory.current", "5\n" } },
	  NONE,
	  NONE },
	{ "the group's own limit",
	  false,
	  "",
	  "0::/a\n",
	  { { "/a", "memory.max", "1000\n" }, { "/a", "memory.current", "300\n" } },
	  700,
	  1000 },
	{ "a limit above it is narrower",
	  false,
	  "",
	  "0::/a/b\n",
	  { { "/a", "memory.max", "1000\n" },
	    { "/a", "memory.current", "900\n" },
	    { "/a/b", "memory.max", "600\n" },
	    { "/a/b", "memory.current", "100\n" } },
	  100,
	  1000 },
	{ "throttling comes before killing",
	  false,
	  "",
	  "0::/a\n",
	  { { "/a", "memory.max", "1000\n" },
	    { "/a", "memory.high", "500\n" },
	    { "/a", "memory.current", "300\n" } },
	  200,
	  500 },
	{ "cached files count as room",
	  false,
	  "",
	  "0::/a\n",
	  { { "/a", "memory.max", "1000\n" },
	    { "/a", "memory.current", "990\n" },
	    { "/a", "memory.stat", "anon 5\ninactive_file 200\nactive_file 100\n" } },
	  310,
	  1000 },
	{ "beyond the limit there is no room",
	  false,
	  "",
	  "0::/a\n",
	  { { "/a", "memory.max", "1000\n" }, { "/a", "memory.current", "1200\n" } },
	  0,
	  1000 },
	{ "version 1",
	  true,
	  "",
	  "9:cpu,memory:/x\n4:pids:/a\n0::/a\n",
	  { { "/x", "memory.limit_in_bytes", "1000\n" },
	    { "/x", "memory.usage_in_bytes", "400\n" },
	    { "/x", "memory.stat", "inactive_file 9\ntotal_inactive_file 50\n" } },
	  650,
	  1000 },
	{ "version 1 without a limit",
	  true,
	  "",
	  "4:memory:/a\n",
	  { { "/a", "memory.limit_in_bytes", "9223372036854771712\n" } },
	  NONE,
	  NONE },
	{ "another controller's group is not asked",
	  true,
	  "",
	  "4:memoryless:/a\n0::/a\n",
	  { { "/a", "memory.limit_in_bytes", "1\n" } },
	  NONE,
	  NONE },
	{ "a mount of a part of the tree",
	  false,
	  "/up",
	  "0::/up/a\n",
	  { { "/a", "memory.max", "1000\n" }, { "/a", "memory.current", "1\n" } },
	  999,
	  1000 },
	{ "a group beside that part",
	  false,
	  "/up",
	  "0::/upper\n",
	  { { "", "memory.max", "10\n" } },
	  NONE,
	  NONE },
	{ "a group outside our namespace",
	  false,
	  "",
	  "0::/../a\n",
	  { { "/a", "memory.max", "1\n" } },
	  NONE,
	  NONE },
};

static void write_fact(const char *root, const struct fact *fact)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s%s", root, fact->folder);
	for (char *at = path + strlen(root); (at = strchr(at + 1, '/'));) {
		*at = '\0';
		(void)mkdir(path, 0700);
		*at = '/';
	}
	(void)mkdir(path, 0700);
	snprintf(path + strlen(path), 64, "/%s", fact->file);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fputs(fact->text, file);
	fclose(file);
}

START_TEST(the_narrowest_level_counts)
{
	struct cgroup_tree tree = { .controller = rows[_i].is_v1 ? "memory" : NULL };
	char root[] = "/tmp/ufd-memcg-XXXXXX", command[64];
	struct memcg_room room;

	ck_assert_ptr_nonnull(mkdtemp(root));
	strcpy(tree.folder, root);
	strcpy(tree.prefix, rows[_i].prefix);
	for (const struct fact *fact = rows[_i].facts; fact->folder; fact++)
		write_fact(root, fact);
	ck_assert_int_eq(memcg_room_of_member(&tree, rows[_i].membership, &room), 0);
	snprintf(command, sizeof(command), "rm -r %s", root);
	ck_assert_int_eq(system(command), 0);

	ck_assert_msg(room.easy_bytes == rows[_i].easy, "%s: %llu", rows[_i].what,
		      (unsigned long long)room.easy_bytes);
	ck_assert_msg(room.limit_bytes == rows[_i].limit, "%s: limit %llu", rows[_i].what,
		      (unsigned long long)room.limit_bytes);
	ck_assert_msg(room.hard_bytes >= room.easy_bytes, "%s", rows[_i].what);
	ck_assert_msg((room.group == 0) == (rows[_i].limit == NONE), "%s", rows[_i].what);
}
END_TEST

START_TEST(a_process_that_is_gone_has_no_room)
{
	struct cgroup_tree tree;
	struct memcg_room room = { .easy_bytes = 5 };

	ck_assert_int_eq(memcg_find_tree(&tree), 0);
	ck_assert_int_eq(memcg_room_of_process(&tree, (1 << 22) - 1, &room), -ESRCH);
	ck_assert_uint_eq(room.easy_bytes, 5);
	ck_assert_int_eq(memcg_room_of_process(&tree, getpid(), &room), 0);
	ck_assert_uint_ne(room.easy_bytes, 5);
}
END_TEST

int main(void)
{
	return unit_run("memcg", (struct unit_test[]){
					 UNIT_TABLE(the_narrowest_level_counts, rows),
					 UNIT(a_process_that_is_gone_has_no_room),
					 {},
				 });
}
