/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another program's answer, and what the program before left. */
#include "upgrade/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "guest/flight.h"
#include "guest/ledger.h"
#include "refusal.h"
#include "store/store.h"
#include "support/unit.h"
#include "upgrade/dry-run.h"
#include "upgrade/hung.h"
#include "upgrade/program-file.h"
#include "upgrade/reexec.h"

static const char *words_of(const struct refusal *refusal)
{
	return json_string_value(json_object_get(refusal->parameters, "message"));
}

static const struct {
	const char *what;
	const char *text;
	const char *refused; /* NULL: it can take over */
} answers[] = {
	{ "one that can",
	  "{\"ufdd\":\"9\",\"layout\":2,\"oldest_layout\":1,\"adoptable\":3,\"refused\":[]}\n",
	  NULL },
	{ "one that says more",
	  "{\"ufdd\":\"9\",\"layout\":1,\"oldest_layout\":1,\"adoptable\":3,\"refused\":[],\"x\":1}",
	  NULL },
	{ "silence", "", "is no ufdd" },
	{ "no JSON", "usage: true\n", "is no ufdd" },
	{ "no object", "[1]", "is no ufdd" },
	{ "a member is missing", "{\"ufdd\":\"9\",\"layout\":1,\"adoptable\":3,\"refused\":[]}",
	  "is no ufdd" },
	{ "a key twice",
	  "{\"ufdd\":\"9\",\"ufdd\":\"8\",\"layout\":1,\"oldest_layout\":1,\"adoptable\":3,"
	  "\"refused\":[]}",
	  "is no ufdd" },
	{ "layouts the wrong way round",
	  "{\"ufdd\":\"9\",\"layout\":1,\"oldest_layout\":2,\"adoptable\":3,\"refused\":[]}",
	  "is no ufdd" },
	{ "a version without end",
	  "{\"ufdd\":\"0123456789012345678901234567890123456789012345678901234567890123\","
	  "\"layout\":1,\"oldest_layout\":1,\"adoptable\":3,\"refused\":[]}",
	  "is no ufdd" },
	{ "one that overlooked a guest",
	  "{\"ufdd\":\"9\",\"layout\":1,\"oldest_layout\":1,\"adoptable\":2,\"refused\":[]}",
	  "did not look at every guest" },
	{ "one that refuses a guest",
	  "{\"ufdd\":\"9\",\"layout\":1,\"oldest_layout\":1,\"adoptable\":2,\"refused\":["
	  "{\"ledger\":1,\"why\":\"its ledger is damaged\"}]}",
	  "cannot take over guest `web`: its ledger is damaged (1 guests" },
	{ "one that refuses without a word",
	  "{\"ufdd\":\"9\",\"layout\":1,\"oldest_layout\":1,\"adoptable\":2,\"refused\":[7]}",
	  "cannot take over guest `?`" },
	{ "one from which there is no way back",
	  "{\"ufdd\":\"9\",\"layout\":9,\"oldest_layout\":8,\"adoptable\":3,\"refused\":[]}",
	  "there would be no way back" },
};

START_TEST(an_answer_is_taken_for_what_it_is)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	static const struct dry_run_guest guests[] = { { "db", -1 },
						       { "web", -1 },
						       { "mail", -1 } };
	struct dry_run told = {};
	int r = dry_run_parse(answers[_i].text, strlen(answers[_i].text), "/next/ufdd", guests, 3,
			      &told, &refusal);

	if (!answers[_i].refused) {
		ck_assert_msg(r == 0, "%s: %s", answers[_i].what, words_of(&refusal));
		ck_assert_str_eq(told.version, "9");
		ck_assert_uint_eq(told.n_adoptable, 3);
		return;
	}
	ck_assert_msg(r == -ECANCELED, "%s", answers[_i].what);
	ck_assert_str_eq(refusal.error, "io.ufd.manager.UpgradeRefused");
	ck_assert_msg(strstr(words_of(&refusal), answers[_i].refused) != NULL, "%s: %s",
		      answers[_i].what, words_of(&refusal));
	ck_assert_ptr_nonnull(strstr(words_of(&refusal), "/next/ufdd"));
	ck_assert_str_eq(told.version, "");
}
END_TEST

static const struct {
	const char *what;
	const char *path;
	const char *refused;
} programs[] = {
	{ "silent", "/bin/true", "is no ufdd" },
	{ "failing", "/bin/false", "is no ufdd" },
	{ "talking of other things", "/bin/echo", "is no ufdd" },
	{ "no program", "/etc/passwd", "cannot be run: Permission denied" },
};

START_TEST(a_program_that_is_no_ufdd_is_refused)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	_cleanup_(closep) int binary = open(programs[_i].path, O_RDONLY | O_CLOEXEC);
	struct dry_run told = {};

	ck_assert_int_ge(binary, 0);
	ck_assert_int_eq(
		dry_run(binary, programs[_i].path, NULL, 0, DRY_RUN_TIMEOUT_NS, &told, &refusal),
		-ECANCELED);
	ck_assert_msg(strstr(words_of(&refusal), programs[_i].refused) != NULL, "%s: %s",
		      programs[_i].what, words_of(&refusal));
}
END_TEST

static const struct {
	const char *what;
	const char *text; /* NULL: nothing was left */
	enum upgrade_kind kind;
	uint64_t parked_ns;
	bool is_draining;
} pasts[] = {
	{ "a start", NULL, UPGRADE_NONE, 0, false },
	{ "an upgrade",
	  "{\"kind\":\"upgrade\",\"from\":\"0.1\",\"parked_ns\":5,\"guests\":2,\"draining\":true}",
	  UPGRADE_FORWARD, 5, true },
	{ "a way back", "{\"kind\":\"rollback\",\"from\":\"0.1\",\"parked_ns\":6}", UPGRADE_BACK, 6,
	  false },
	{ "a failure", "{\"kind\":\"upgrade\",\"from\":\"0.1\",\"error\":\"no\",\"parked_ns\":7}",
	  UPGRADE_FAILED, 7, false },
	{ "words of a later release",
	  "{\"kind\":\"sideways\",\"from\":\"0.1\",\"parked_ns\":8,\"more\":[]}", UPGRADE_NONE, 8,
	  false },
	{ "no JSON", "upgrade", UPGRADE_NONE, 0, false },
	{ "odd types", "{\"kind\":1,\"from\":[],\"parked_ns\":\"x\",\"draining\":0}", UPGRADE_NONE,
	  0, false },
};

START_TEST(what_the_program_before_left_is_read_and_taken_away)
{
	_cleanup_(upgrade_freep) struct upgrade *upgrade = NULL;

	if (pasts[_i].text)
		setenv(REEXEC_VARIABLE, pasts[_i].text, 1);
	ck_assert_int_eq(upgrade_new(&upgrade), 0);
	ck_assert_msg(upgrade_past(upgrade)->kind == pasts[_i].kind, "%s", pasts[_i].what);
	ck_assert_uint_eq(upgrade_past(upgrade)->parked_ns, pasts[_i].parked_ns);
	ck_assert(upgrade_past(upgrade)->is_draining == pasts[_i].is_draining);
	ck_assert_ptr_null(getenv(REEXEC_VARIABLE));
}
END_TEST

static const struct {
	const char *name;
	bool is_ours;
	uint32_t min_reader; /* afterwards; 0: the newest */
} offers[] = {
	{ "old1", true, 1 },	 { "old99", true, 0 },	 { "old", false, 0 },  { "old0", false, 0 },
	{ "oldx", false, 0 },	 { "old1x", false, 0 },	 { "reply", true, 0 }, { "l1", false, 0 },
	{ "varlink", false, 0 }, { "stored", false, 0 },
};

START_TEST(fds_are_ours_by_their_names)
{
	_cleanup_(upgrade_freep) struct upgrade *upgrade = NULL;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uint32_t wanted = offers[_i].min_reader ? offers[_i].min_reader : ledger_layout;

	ck_assert_int_eq(upgrade_new(&upgrade), 0);
	ck_assert_msg(upgrade_offer(upgrade, offers[_i].name, fd) == offers[_i].is_ours, "%s",
		      offers[_i].name);
	if (!offers[_i].is_ours)
		close(fd);
	ck_assert_msg(upgrade_is_uncommitted(upgrade) ==
			      (offers[_i].is_ours && offers[_i].name[0] == 'o'),
		      "%s", offers[_i].name);
	ck_assert_uint_eq(upgrade_min_reader(upgrade), wanted);
	upgrade_commit(upgrade);
	ck_assert(!upgrade_is_uncommitted(upgrade));
	ck_assert_uint_eq(upgrade_min_reader(upgrade), ledger_layout);
}
END_TEST

START_TEST(a_program_that_was_left_again_is_forgotten)
{
	_cleanup_(store_freep) struct store *store = NULL;
	_cleanup_(upgrade_freep) struct upgrade *upgrade = NULL;

	setenv(REEXEC_VARIABLE, "{\"kind\":\"rollback\",\"from\":\"0.2\"}", 1);
	ck_assert_int_eq(upgrade_new(&upgrade), 0);
	ck_assert(upgrade_offer(upgrade, "old1", open("/dev/null", O_RDONLY | O_CLOEXEC)));
	ck_assert_int_eq(store_new(&store, NULL), 0);
	upgrade_settle(upgrade, store);
	ck_assert(!upgrade_is_uncommitted(upgrade));
}
END_TEST

static const struct {
	const char *what;
	const char *path;
	bool has_before;
	const char *refused; /* NULL: it is opened */
} targets[] = {
	{ "a program", "/bin/true", false, NULL },
	{ "what is on disk now", NULL, false, NULL },
	{ "nothing", "/no/such/ufdd", false, "No such file" },
	{ "a directory", "/tmp", false, "no regular file" },
	{ "a device", "/dev/null", false, "no regular file" },
	{ "from somewhere", "bin/true", false, "begin at the root" },
	{ "while one can be gone back from", "/bin/true", true, "--commit" },
};

START_TEST(a_path_names_a_program_or_is_refused)
{
	_cleanup_(upgrade_target_done) struct upgrade_target target = UPGRADE_TARGET_NONE;
	_cleanup_(upgrade_freep) struct upgrade *upgrade = NULL;
	_cleanup_(refusal_done) struct refusal refusal = {};
	int r;

	ck_assert_int_eq(upgrade_new(&upgrade), 0);
	if (targets[_i].has_before)
		upgrade_offer(upgrade, "old1", open("/dev/null", O_RDONLY | O_CLOEXEC));
	r = upgrade_target_open(upgrade, targets[_i].path, &target, &refusal);
	ck_assert_msg(r == (targets[_i].refused ? -ECANCELED : 0), "%s", targets[_i].what);
	ck_assert((target.binary >= 0) == (r == 0));
	if (targets[_i].refused)
		ck_assert_msg(strstr(words_of(&refusal), targets[_i].refused) != NULL, "%s: %s",
			      targets[_i].what, words_of(&refusal));
	else if (!targets[_i].path)
		ck_assert_ptr_nonnull(strstr(target.name, "test-upgrade"));
}
END_TEST

START_TEST(without_a_program_before_there_is_no_way_back)
{
	_cleanup_(upgrade_target_done) struct upgrade_target target = UPGRADE_TARGET_NONE;
	_cleanup_(upgrade_freep) struct upgrade *upgrade = NULL;
	_cleanup_(refusal_done) struct refusal refusal = {};

	ck_assert_int_eq(upgrade_new(&upgrade), 0);
	ck_assert_int_eq(upgrade_target_before(upgrade, &target, &refusal), -ECANCELED);
	ck_assert_ptr_nonnull(strstr(words_of(&refusal), "nothing to go back to"));
	upgrade_offer(upgrade, "old1", open("/dev/null", O_RDONLY | O_CLOEXEC));
	ck_assert_int_eq(upgrade_target_before(upgrade, &target, &refusal), 0);
	ck_assert(target.is_back);
}
END_TEST

static const struct {
	const char *what;
	enum board_state state;
	uint64_t age_us; /* of the read; 0: none */
	int result;
} reads[] = {
	{ "nothing is read", BOARD_FREE, 0, 0 },
	{ "a fill that does not read", BOARD_FILLING, 0, 0 },
	{ "a read that is over", BOARD_FREE, 5000000, 0 },
	{ "a read that does not end", BOARD_READING, 5000000, -ECANCELED },
};

START_TEST(a_source_that_does_not_answer_is_found)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct dry_run_guest guest = { .name = "web" };
	struct board *board;

	ck_assert_int_eq(ledger_new(&ledger, "web"), 0);
	guest.ledger = ledger_fd(ledger);
	board = ledger_board(ledger);
	board->fills[3].read_us = reads[_i].age_us
					  ? clock_now_ns() / NSEC_PER_USEC - reads[_i].age_us
					  : 0;
	board->fills[3].state = reads[_i].state;
	ck_assert_msg(hung_check(&guest, 1, &refusal) == reads[_i].result, "%s", reads[_i].what);
	if (reads[_i].result)
		ck_assert_msg(strstr(words_of(&refusal), "guest `web` has not answered") != NULL,
			      "%s", words_of(&refusal));
}
END_TEST

static const struct {
	const char *what;
	const char *name;
	mode_t mode;
	int result;
} files[] = {
	{ "as it was saved", "old7", 0700, 0 },
	{ "that others may write", "old7", 0722, -EPERM },
	{ "of another name", "older", 0700, -ENOENT },
	{ "that is not whole yet", "old7.new", 0700, -ENOENT },
};

START_TEST(a_program_can_wait_in_a_directory)
{
	_cleanup_(closep) int program = open("/bin/true", O_RDONLY | O_CLOEXEC), found = -EBADF;
	char directory[] = "/dev/shm/ufd-test.XXXXXX", path[64], name[16] = "";
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct dry_run told;

	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(program_file_load(directory, name, &found), -ENOENT);
	ck_assert_int_eq(program_file_save(directory, files[_i].name, program), 0);
	snprintf(path, sizeof(path), "%s/%s", directory, files[_i].name);
	ck_assert_int_eq(chmod(path, files[_i].mode), 0);
	ck_assert_msg(program_file_load(directory, name, &found) == files[_i].result, "%s",
		      files[_i].what);
	if (files[_i].result == 0) {
		ck_assert_str_eq(name, files[_i].name);
		/* it runs: it is not what we look for, but it says nothing wrong */
		ck_assert_int_eq(dry_run(found, "it", NULL, 0, DRY_RUN_TIMEOUT_NS, &told, &refusal),
				 -ECANCELED);
		ck_assert_ptr_nonnull(strstr(words_of(&refusal), "is no ufdd"));
	}
	program_file_remove(directory, files[_i].name);
	ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

int main(void)
{
	return unit_run(
		"upgrade",
		(struct unit_test[]){
			UNIT_TABLE(an_answer_is_taken_for_what_it_is, answers),
			UNIT_TABLE(a_program_that_is_no_ufdd_is_refused, programs),
			UNIT_TABLE(what_the_program_before_left_is_read_and_taken_away, pasts),
			UNIT_TABLE(fds_are_ours_by_their_names, offers),
			UNIT(a_program_that_was_left_again_is_forgotten),
			UNIT_TABLE(a_path_names_a_program_or_is_refused, targets),
			UNIT(without_a_program_before_there_is_no_way_back),
			UNIT_TABLE(a_program_can_wait_in_a_directory, files),
			UNIT_TABLE(a_source_that_does_not_answer_is_found, reads),
			{},
		});
}
