/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every row of the table says what people and programs need of it, in a form that both can use. */
#include <ctype.h>
#include <string.h>

#include "probe/probe.h"
#include "support/unit.h"

static const struct probe_check *const *all;
static size_t n_all;

static void load(void)
{
	all = probe_checks(&n_all);
	ck_assert_uint_ge(n_all, 90);
}

/* One line that another sentence can follow or a full stop be put behind. */
static void expect_line(const struct probe_check *check, const char *what, const char *text)
{
	size_t n = text ? strlen(text) : 0;

	ck_assert_msg(n > 3, "%s has no %s", check->id, what);
	ck_assert_msg(!isspace((unsigned char)text[0]) && !isspace((unsigned char)text[n - 1]),
		      "%s: space around its %s", check->id, what);
	ck_assert_msg(text[n - 1] != '.', "%s: its %s ends with a full stop", check->id, what);
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(!iscntrl((unsigned char)text[i]) && isascii(text[i]),
			      "%s: its %s is no line of plain text", check->id, what);
}

START_TEST(identifiers_are_unique_and_begin_with_their_group)
{
	load();
	for (size_t i = 0; i < n_all; i++) {
		const char *id = all[i]->id, *group = probe_group_name(all[i]->group);

		ck_assert_msg(strncmp(id, group, strlen(group)) == 0 && id[strlen(group)] == '.',
			      "%s is of group %s", id, group);
		for (const char *at = id + strlen(group) + 1; *at; at++)
			ck_assert_msg(islower((unsigned char)*at) || isdigit((unsigned char)*at) ||
					      *at == '-',
				      "%s has a '%c'", id, *at);
		ck_assert_msg(id[strlen(group) + 1], "%s names nothing", id);
		for (size_t j = 0; j < i; j++)
			ck_assert_msg(strcmp(all[j]->id, id), "there are two %s", id);
		ck_assert_ptr_eq(probe_find(id), all[i]);
	}
	ck_assert_ptr_null(probe_find("none.such"));
}
END_TEST

START_TEST(properties_are_told_in_one_line_and_only_once)
{
	load();
	for (size_t i = 0; i < n_all; i++) {
		expect_line(all[i], "title", all[i]->title);
		ck_assert_msg(strlen(all[i]->title) <= 72, "the title of %s has %zu characters",
			      all[i]->id, strlen(all[i]->title));
		for (size_t j = 0; j < i; j++)
			ck_assert_msg(strcmp(all[j]->title, all[i]->title),
				      "%s and %s have the same title", all[j]->id, all[i]->id);
	}
}
END_TEST

START_TEST(what_is_wanted_says_what_follows_otherwise)
{
	load();
	for (size_t i = 0; i < n_all; i++) {
		const struct probe_check *check = all[i];

		ck_assert_msg(check->run != NULL, "%s has no experiment", check->id);
		if (check->wanted) {
			expect_line(check, "consequence", check->consequence);
			ck_assert_msg(*check->wanted && strlen(check->wanted) < 64,
				      "no experiment can give the answer that %s wants", check->id);
		}
		if (check->remedy)
			expect_line(check, "remedy", check->remedy);
		ck_assert_msg(check->wanted || (!check->is_needed && !check->is_for_start),
			      "%s is needed, and every answer is fine", check->id);
	}
}
END_TEST

START_TEST(known_answers_are_in_the_order_of_releases)
{
	load();
	for (size_t i = 0; i < n_all; i++) {
		unsigned int before = 0;

		for (size_t j = 0; j < 4; j++) {
			const struct probe_known *known = &all[i]->known[j];

			ck_assert_msg(!known->since == !known->answer, "%s: half a known answer",
				      all[i]->id);
			if (!known->since)
				break;
			ck_assert_msg(known->since > before, "%s: known answers are in disorder",
				      all[i]->id);
			ck_assert_msg(known->since >> 16 < 10 && (known->since & 0xffff) < 100,
				      "%s: no such release", all[i]->id);
			ck_assert_msg(*known->answer && strlen(known->answer) < 64,
				      "no experiment can give an answer that %s knows", all[i]->id);
			before = known->since;
		}
	}
}
END_TEST

START_TEST(groups_stay_together_and_none_is_empty)
{
	unsigned int n_of[_PROBE_GROUP_MAX] = {};

	load();
	for (size_t i = 0; i < n_all; i++) {
		n_of[all[i]->group]++;
		ck_assert_msg(i == 0 || all[i]->group >= all[i - 1]->group,
			      "%s stands behind another group", all[i]->id);
	}
	for (int i = 0; i < _PROBE_GROUP_MAX; i++) {
		ck_assert_ptr_nonnull(probe_group_title(i));
		ck_assert_msg(n_of[i] > 0, "group %s has no check", probe_group_name(i));
	}
}
END_TEST

START_TEST(a_start_asks_for_little_and_for_what_matters)
{
	unsigned int n_for_start = 0, n_needed = 0;

	load();
	for (size_t i = 0; i < n_all; i++) {
		n_for_start += all[i]->is_for_start;
		n_needed += all[i]->is_for_start && all[i]->is_needed;
	}
	ck_assert_uint_ge(n_needed, 4);
	ck_assert_uint_le(n_for_start, 24);
}
END_TEST

int main(void)
{
	return unit_run("probe-table",
			(struct unit_test[]){
				UNIT(identifiers_are_unique_and_begin_with_their_group),
				UNIT(properties_are_told_in_one_line_and_only_once),
				UNIT(what_is_wanted_says_what_follows_otherwise),
				UNIT(known_answers_are_in_the_order_of_releases),
				UNIT(groups_stay_together_and_none_is_empty),
				UNIT(a_start_asks_for_little_and_for_what_matters),
				{},
			});
}
