/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a client is told at its birth and of its memories, before any daemon hears of it. */
#include <errno.h>
#include <unistd.h>

#include "test-client.h"

#define PAGE	  ((uint64_t)sysconf(_SC_PAGESIZE))
#define LONG_NAME "0123456789012345678901234567890123456789012345678901234567890123"

/* ---- options --------------------------------------------------------------------------------- */

static const struct {
	const char *what;
	struct ufd_client_opts opts;
	int result;
	const char *error;
} bad_opts[] = {
	{ "no name", { .guest = NULL }, -EINVAL, "1 to 63 bytes" },
	{ "empty name", { .guest = "" }, -EINVAL, "1 to 63 bytes" },
	{ "name of 64 bytes", { .guest = LONG_NAME }, -EINVAL, "1 to 63 bytes" },
	{ "name that is no UTF-8", { .guest = "\xff" }, -EINVAL, "UTF-8" },
	{ "unknown flag", { .guest = "g", .flags = 1u << 31 }, -EINVAL, "flags" },
	{ "unknown policy", { .guest = "g", .policy = 4 }, -EINVAL, "a value" },
	{ "unknown tracker", { .guest = "g", .track = 3 }, -EINVAL, "a value" },
	{ "a consumer without a name", { .guest = "g", .consumer = "" }, -EINVAL, "consumer" },
	{ "a consumer of 64 bytes", { .guest = "g", .consumer = LONG_NAME }, -EINVAL, "consumer" },
	{ "unknown mappers", { .guest = "g", .other_mappers = 4 }, -EINVAL, "a value" },
	{ "unknown populated", { .guest = "g", .populated = 4 }, -EINVAL, "a value" },
	{ "unknown switch", { .guest = "g", .background = 3 }, -EINVAL, "a value" },
	{ "a rate beyond all",
	  { .guest = "g", .background_rate = 1ull << 63 },
	  -EINVAL,
	  "too big" },
	{ "reserved is not 0", { .guest = "g", .reserved = { 0, 1 } }, -EINVAL, "does not know" },
	{ "fd that is no socket", { .guest = "g", .connection = 1 }, -ENOTSOCK, "no socket" },
	{ "fd that is closed", { .guest = "g", .connection = 999 }, -ENOTSOCK, "no socket" },
};

START_TEST(new_says_what_is_wrong_with_an_option)
{
	struct ufd_client *untouched = (void *)1, *client = untouched;
	struct ufd_client_opts opts = bad_opts[_i].opts;
	const char *error = NULL;

	opts.size = sizeof(opts);
	opts.flags |= UFD_CLIENT_USER_MODE;
	ck_assert_msg(ufd_client_new(&client, &opts, &error) == bad_opts[_i].result, "%s: %s",
		      bad_opts[_i].what, error);
	ck_assert_msg(strstr(error, bad_opts[_i].error) != NULL, "%s: %s", bad_opts[_i].what,
		      error);
	ck_assert_ptr_eq(client, untouched);
}
END_TEST

START_TEST(new_refuses_options_of_the_future_unless_they_are_zero)
{
	struct {
		struct ufd_client_opts known;
		uint64_t newer;
	} opts = { .known = { .size = sizeof(opts), .guest = "g", .flags = UFD_CLIENT_USER_MODE },
		   .newer = 1 };
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	const char *error;

	ck_assert_int_eq(ufd_client_new(&client, &opts.known, &error), -E2BIG);
	ck_assert_ptr_nonnull(strstr(error, "newer"));
	opts.newer = 0;
	if (ufd_client_new(&client, &opts.known, &error) == -ENOSYS)
		unit_skip("%s", error);
	ck_assert_ptr_nonnull(client);
}
END_TEST

START_TEST(a_new_client_is_detached_and_has_nothing_to_say)
{
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;
	struct pollfd entry = { .events = POLLIN };

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	ck_assert_uint_eq(ufd_client_state(client), UFD_CLIENT_DETACHED);
	ck_assert_str_eq(ufd_client_error(client), "");
	entry.fd = ufd_client_fd(client);
	ck_assert_int_eq(poll(&entry, 1, 0), 0);
	ck_assert_int_eq(ufd_client_dispatch(client), 0);
	ck_assert_ptr_null(ufd_client_free(NULL));
}
END_TEST

/* ---- memories -------------------------------------------------------------------------------- */

static const struct {
	const char *what;
	struct ufd_client_memory_opts opts;
	int result;
	const char *error;
} bad_memories[] = {
	{ "no name", { .source = "zero", .length = 4096 }, -EINVAL, "name" },
	{ "long name", { .name = LONG_NAME, .source = "zero" }, -EINVAL, "name" },
	{ "no source", { .name = "m" }, -EINVAL, "source" },
	{ "source that is no UTF-8",
	  { .name = "m", .source = "file:\xff", .length = 1 << 20 },
	  -EINVAL,
	  "UTF-8" },
	{ "backing without one", { .name = "m", .source = "backing" }, -EINVAL, "needs a memory" },
	{ "private anonymous", { .name = "m", .source = "zero", .flags = 1 }, -EINVAL, "private" },
	{ "unknown flag", { .name = "m", .source = "zero", .flags = 2 }, -EINVAL, "flags" },
	{ "odd page size", { .name = "m", .source = "zero", .page_bytes = 5000 }, -EINVAL, "page" },
	{ "small page size",
	  { .name = "m", .source = "zero", .page_bytes = 512 },
	  -EINVAL,
	  "page" },
	{ "nothing", { .name = "m", .source = "zero" }, -EINVAL, "whole pages" },
	{ "half a page", { .name = "m", .source = "zero", .length = 100 }, -EINVAL, "whole pages" },
	{ "odd offset",
	  { .name = "m", .source = "zero", .length = 1 << 20, .offset = 8 },
	  -EINVAL,
	  "whole" },
	{ "odd address",
	  { .name = "m", .source = "zero", .length = 1 << 20, .address = (void *)8 },
	  -EINVAL,
	  "whole" },
	{ "past the end of memory",
	  { .name = "m", .source = "zero", .length = -4096, .address = (void *)(1 << 20) },
	  -EINVAL,
	  "whole" },
	{ "a pipe as backing",
	  { .name = "m", .source = "zero", .length = 1 << 20, .backing = 1 },
	  -EBADF,
	  "no memfd" },
	{ "a closed backing",
	  { .name = "m", .source = "zero", .length = 1 << 20, .backing = 999 },
	  -EBADF,
	  "no memfd" },
	{ "a closed source",
	  { .name = "m", .source = "file:", .length = 1 << 20, .source_fd = 999 },
	  -EBADF,
	  "source_fd" },
	{ "a name that is taken",
	  { .name = "ram", .source = "zero", .length = 1 << 20 },
	  -EEXIST,
	  "already" },
};

START_TEST(add_memory_says_what_is_wrong)
{
	struct ufd_client_memory_opts opts = bad_memories[_i].opts;
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;
	int r;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	add_ram(client, 4 * PAGE);
	opts.size = sizeof(opts);
	r = ufd_client_add_memory(client, &opts);
	ck_assert_msg(r == bad_memories[_i].result, "%s: %d, %s", bad_memories[_i].what, r,
		      ufd_client_error(client));
	ck_assert_msg(strstr(ufd_client_error(client), bad_memories[_i].error) != NULL, "%s: %s",
		      bad_memories[_i].what, ufd_client_error(client));
}
END_TEST

START_TEST(mappings_may_touch_but_not_overlap)
{
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;
	char *ram;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	ram = add_ram(client, 4 * PAGE);
	UFD_OPTS(ufd_client_region_opts, opts, .memory = "ram", .address = ram + 4 * PAGE,
		 .length = PAGE, .offset = 4 * PAGE);
	ck_assert_int_eq(ufd_client_add_region(client, &opts), 0);
	opts.address = ram + 3 * PAGE;
	ck_assert_int_eq(ufd_client_add_region(client, &opts), -EEXIST);
	opts.address = ram - PAGE;
	opts.length = 6 * PAGE;
	ck_assert_int_eq(ufd_client_add_region(client, &opts), -EEXIST);
	opts.length = PAGE;
	ck_assert_int_eq(ufd_client_add_region(client, &opts), 0);
	opts.memory = "rom";
	ck_assert_int_eq(ufd_client_add_region(client, &opts), -ENOENT);
	ck_assert_ptr_nonnull(strstr(ufd_client_error(client), "no memory rom"));
	opts.memory = NULL;
	ck_assert_int_eq(ufd_client_add_region(client, &opts), -ENOENT);

	ck_assert_int_eq(ufd_client_remove_region(client, ram, 3 * PAGE), -ENOENT);
	ck_assert_int_eq(ufd_client_remove_region(client, ram, 4 * PAGE), 0);
	ck_assert_int_eq(ufd_client_remove_region(client, ram, 4 * PAGE), -ENOENT);
}
END_TEST

START_TEST(a_memory_without_mappings_is_forgotten)
{
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;
	char *ram;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	ram = add_ram(client, 4 * PAGE);
	ck_assert_int_eq(ufd_client_remove_region(client, ram, 4 * PAGE), 0);
	add_ram(client, PAGE); /* the name is free again */
}
END_TEST

int main(void)
{
	return unit_run("client-options",
			(struct unit_test[]){
				UNIT_TABLE(new_says_what_is_wrong_with_an_option, bad_opts),
				UNIT(new_refuses_options_of_the_future_unless_they_are_zero),
				UNIT(a_new_client_is_detached_and_has_nothing_to_say),
				UNIT_TABLE(add_memory_says_what_is_wrong, bad_memories),
				UNIT(mappings_may_touch_but_not_overlap),
				UNIT(a_memory_without_mappings_is_forgotten),
				{},
			});
}
