/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sentences of threads. */
#include "base/sentence.h"

#include <pthread.h>
#include <string.h>

#include "support/unit.h"

__attribute__((format(printf, 1, 2))) static const char *say(const char *format, ...)
{
	const char *text;
	va_list args;

	va_start(args, format);
	text = sentence_make(format, args);
	va_end(args);
	return text;
}

START_TEST(one_may_be_part_of_the_next)
{
	const char *first = say("no %s", "file");
	const char *second = say("image: %s", first);

	ck_assert_str_eq(first, "no file");
	ck_assert_str_eq(second, "image: no file");
	ck_assert_str_eq(say("%s, again", second), "image: no file, again");
}
END_TEST

START_TEST(what_is_too_long_is_cut)
{
	static char path[20000];
	const char *text;

	memset(path, 'x', sizeof(path) - 1);
	text = say("%s", path);
	ck_assert_uint_eq(strlen(text), 8191);
	ck_assert_uint_eq(strspn(text, "x"), 8191);
}
END_TEST

static void *say_elsewhere(void *text)
{
	return strcmp(say("of another %s", "thread"), text) == 0 ? text : NULL;
}

START_TEST(each_thread_has_its_own)
{
	const char *ours = say("of %s", "this one");
	pthread_t thread;
	void *answer;

	for (unsigned int i = 0; i < 3; i++) {
		ck_assert_int_eq(pthread_create(&thread, NULL, say_elsewhere, "of another thread"),
				 0);
		ck_assert_int_eq(pthread_join(thread, &answer), 0);
		ck_assert_ptr_nonnull(answer);
	}
	ck_assert_str_eq(ours, "of this one");
}
END_TEST

int main(void)
{
	return unit_run("sentence", (struct unit_test[]){
					    UNIT(one_may_be_part_of_the_next),
					    UNIT(what_is_too_long_is_cut),
					    UNIT(each_thread_has_its_own),
					    {},
				    });
}
