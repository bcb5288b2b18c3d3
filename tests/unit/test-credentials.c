/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who may do what. */
#include "control/credentials.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/unit.h"

#define OWN   500 /* ufdd's own user */
#define ALICE 1000
#define BOB   1001

static const struct {
	const char *what;
	uid_t uid;
	bool may[3]; /* by enum access */
	bool may_touch_alice;
	bool may_name_paths;
} people[] = {
	{ "root", 0, { true, true, true }, true, true },
	{ "ufdd's own user", OWN, { true, true, true }, true, true },
	{ "Alice", ALICE, { true, true, false }, true, false },
	{ "Bob", BOB, { true, true, false }, false, false },
};

START_TEST(each_may_what_the_table_says)
{
	const struct credentials who = { .pid = 1, .uid = people[_i].uid, .gid = 7 };

	for (int access = ACCESS_READ; access <= ACCESS_ADMIN; access++)
		ck_assert_msg(credentials_may(&who, OWN, (enum access)access) ==
				      people[_i].may[access],
			      "%s, access %d", people[_i].what, access);
	ck_assert_msg(credentials_may_touch(&who, OWN, ALICE) == people[_i].may_touch_alice, "%s",
		      people[_i].what);
	ck_assert_msg(credentials_may_name_paths(&who, OWN) == people[_i].may_name_paths, "%s",
		      people[_i].what);
}
END_TEST

START_TEST(the_kernel_says_who_is_there)
{
	struct credentials who = {};
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	ck_assert_int_eq(credentials_of_socket(pair[0], &who), 0);
	ck_assert_int_eq(who.pid, getpid());
	ck_assert_uint_eq(who.uid, geteuid());
	ck_assert_uint_eq(who.gid, getegid());
	close(pair[0]);
	close(pair[1]);
	ck_assert_int_eq(credentials_of_socket(pair[0], &who), -EBADF);
}
END_TEST

int main(void)
{
	return unit_run("credentials", (struct unit_test[]){
					       UNIT_TABLE(each_may_what_the_table_says, people),
					       UNIT(the_kernel_says_who_is_there),
					       {},
				       });
}
