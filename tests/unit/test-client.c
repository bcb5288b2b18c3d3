/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The client's calls, against a daemon that answers as told. */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "test-client.h"

#define PAGE	  ((uint64_t)sysconf(_SC_PAGESIZE))
#define PATIENCE  (200 * NSEC_PER_MSEC)
#define HANG	  (20 * NSEC_PER_SEC) /* beyond the client's own patience: the machine may be slow */
#define LONG_NAME "0123456789012345678901234567890123456789012345678901234567890123"

/* ---- the message ----------------------------------------------------------------------------- */

START_TEST(attach_hands_over_what_was_described)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(frame_done) struct frame frame = {};
	_cleanup_(closep) int server = -EBADF;
	_cleanup_(closep) int memfd = memfd_create("test", MFD_CLOEXEC);
	json_t *regions, *rom;
	char link[64], path[64];
	char *ram, *view;

	ck_assert_int_eq(ftruncate(memfd, (off_t)(8 * PAGE)), 0);
	client = client_with_server(&server, 0, NULL, NULL, NULL);
	ram = add_ram(client, 4 * PAGE);
	view = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	UFD_OPTS(ufd_client_memory_opts, opts, .name = "rom", .source = "file:", .address = view,
		 .length = 4 * PAGE, .offset = PAGE, .backing = memfd, .source_fd = memfd);
	ck_assert_int_eq(ufd_client_add_memory(client, &opts), 0);
	UFD_OPTS(ufd_client_region_opts, more, .memory = "rom", .address = view + 4 * PAGE,
		 .length = PAGE);
	ck_assert_int_eq(ufd_client_add_region(client, &more), 0);

	server_says(server, ATTACHED(17));
	ck_assert_msg(ufd_client_attach(client) == 0, "%s", ufd_client_error(client));
	ck_assert_uint_eq(ufd_client_state(client), UFD_CLIENT_ATTACHED);
	ck_assert_int_eq(ufd_client_attach(client), -EALREADY);

	server_hears(server, &reader, "io.ufd.guest.Attach", &frame);
	ck_assert_str_eq(json_string_value(parameter(&frame, "name")), "g");
	snprintf(path, sizeof(path), "/proc/self/fd/%d",
		 frame.fds[json_integer_value(parameter(&frame, "uffd"))]);
	link[readlink(path, link, sizeof(link) - 1)] = '\0';
	ck_assert_str_eq(link, "anon_inode:[userfaultfd]");

	regions = parameter(&frame, "regions");
	ck_assert_uint_eq(json_array_size(regions), 3);
	ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(regions, 0), "address")),
			 (json_int_t)(uintptr_t)ram);
	ck_assert_ptr_null(json_object_get(json_array_get(regions, 0), "backing_fd"));
	rom = json_array_get(regions, 1);
	ck_assert_str_eq(json_string_value(json_object_get(rom, "source")), "file:");
	ck_assert_int_eq(json_integer_value(json_object_get(rom, "offset_bytes")),
			 (json_int_t)PAGE);
	ck_assert_int_eq(json_integer_value(json_object_get(rom, "source_fd")), 3);
	ck_assert_int_eq(json_integer_value(json_object_get(rom, "backing_fd")), 2);
	rom = json_array_get(regions, 2); /* the same backing, and no second source */
	ck_assert_int_eq(json_integer_value(json_object_get(rom, "backing_fd")), 2);
	ck_assert_ptr_null(json_object_get(rom, "source"));
	ck_assert_uint_eq(frame.n_fds, 4);

	server_says(server, DONE);
	ck_assert_int_eq(ufd_client_detach(client, NULL), 0);
}
END_TEST

START_TEST(settings_say_only_what_was_asked)
{
	static const struct ufd_client_opts asked = {
		.guest = "g",
		.policy = UFD_CLIENT_KILL,
		.fault_deadline_s = UFD_CLIENT_AT_ONCE,
		.track = UFD_CLIENT_WP,
		.other_mappers = UFD_CLIENT_OTHERS_EAGER,
		.populated = UFD_CLIENT_POPULATED_PUNCH,
		.background = UFD_CLIENT_OFF,
		.window_bytes = UFD_CLIENT_NO_WINDOW,
		.background_rate = 5,
		.cpu = 1,
		.spin_us = 7,
		.consumer = "backup",
	};
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(frame_done) struct frame frame = {};
	struct ufd_client_opts opts = asked;
	const char *error = "";
	json_t *wanted;
	int sockets[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	opts.size = sizeof(opts);
	opts.flags = UFD_CLIENT_USER_MODE;
	opts.connection = sockets[1];
	if (ufd_client_new(&client, &opts, &error) < 0)
		unit_skip("%s", error);
	server_says(sockets[0], "{\"error\":\"io.ufd.guest.GuestExists\"}");
	ck_assert_int_eq(ufd_client_attach(client), -EEXIST);
	server_hears(sockets[0], &reader, "io.ufd.guest.Attach", &frame);
	wanted = json_pack("{s:s,s:i,s:s,s:s,s:s,s:b,s:i,s:i,s:i,s:i}", "policy", "kill",
			   "fault_deadline_s", 0, "track", "wp", "other_mappers", "eager",
			   "populated", "punch", "background", 0, "window_bytes", 0,
			   "background_rate", 5, "cpu", 0, "spin_us", 7);
	ck_assert_str_eq(json_string_value(parameter(&frame, "consumer")), "backup");
	ck_assert_msg(json_equal(wanted, parameter(&frame, "settings")), "%s",
		      json_dumps(parameter(&frame, "settings"), 0));
	json_decref(wanted);
	close(sockets[0]);
	close(sockets[1]);
}
END_TEST

/* ---- refusals and trouble -------------------------------------------------------------------- */

#define REFUSAL(name) "{\"error\":\"" name "\",\"parameters\":{\"message\":\"because\"}}"

static const struct {
	const char *answer;
	int result;
	const char *text;
} refusals[] = {
	{ REFUSAL("io.ufd.guest.GuestExists"), -EEXIST, "because (io.ufd.guest.GuestExists)" },
	{ REFUSAL("io.ufd.guest.NoSuchGuest"), -ENOENT, "because" },
	{ REFUSAL("io.ufd.guest.BadFd"), -EBADF, "because" },
	{ REFUSAL("io.ufd.guest.BadRegion"), -EINVAL, "because" },
	{ REFUSAL("io.ufd.guest.BadSource"), -ENODATA, "because" },
	{ REFUSAL("io.ufd.guest.OtherMappers"), -EUSERS, "because" },
	{ REFUSAL("io.ufd.guest.NotEmpty"), -ENOTEMPTY, "because" },
	{ REFUSAL("io.ufd.guest.NotComplete"), -EBUSY, "because" },
	{ REFUSAL("io.ufd.guest.CannotAttach"), -EREMOTEIO, "because" },
	{ REFUSAL("io.ufd.manager.LimitReached"), -ENOSPC, "because" },
	{ REFUSAL("io.ufd.manager.NotSupported"), -EOPNOTSUPP, "because" },
	{ "{\"error\":\"io.ufd.manager.SystemError\",\"parameters\":{\"errno\":5}}", -EIO,
	  "refuses" },
	{ "{\"error\":\"io.ufd.manager.SystemError\",\"parameters\":{\"errno\":-5}}", -EREMOTEIO,
	  "refuses" },
	{ "{\"error\":\"io.ufd.manager.SystemError\",\"parameters\":{\"errno\":99999}}", -EREMOTEIO,
	  "refuses" },
	{ "{\"error\":\"org.varlink.service.PermissionDenied\"}", -EPERM, "run as root" },
	{ "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"cpu\"}}",
	  -EINVAL, "cpu" },
	{ "{\"error\":\"org.varlink.service.MethodNotFound\"}", -ENOSYS, "upgrade" },
	{ "{\"error\":\"org.varlink.service.InterfaceNotFound\"}", -ENOSYS, "upgrade" },
	{ "{\"error\":\"com.example.Whatever\"}", -EREMOTEIO, "com.example.Whatever" },
	{ "{\"error\":\"io.ufd.guest.BadRegion\",\"parameters\":{\"message\":\"a\\u001b[31mb\\nc\"}}",
	  -EINVAL, "a [31mb c" },
};

START_TEST(a_refusal_is_an_errno_and_the_daemons_words)
{
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	server_says(server, refusals[_i].answer);
	ck_assert_int_eq(ufd_client_attach(client), refusals[_i].result);
	ck_assert_msg(strstr(ufd_client_error(client), refusals[_i].text) != NULL, "%s",
		      ufd_client_error(client));
	ck_assert_uint_eq(ufd_client_state(client), UFD_CLIENT_DETACHED);

	/* The connection is good for another try. */
	server_says(server, ATTACHED(1));
	ck_assert_int_eq(ufd_client_attach(client), 0);
	server_says(server, DONE);
	ck_assert_int_eq(ufd_client_detach(client, NULL), 0);
}
END_TEST

static const struct {
	const char *what;
	const char *bytes;
	bool is_closed;
	int result;
} troubles[] = {
	{ "silence", "", false, -ETIMEDOUT },
	{ "the end", "", true, -ECONNRESET },
	{ "half an answer", "{\"parameters\":{\"gue", false, -ETIMEDOUT },
	{ "half an answer and the end", "{\"parameters\":{\"gue", true, -ECONNRESET },
	{ "no JSON", "hello, world", false, -EPROTO },
	{ "no object", "[1,2,3]", false, -EPROTO },
	{ "no reply", "{\"method\":\"io.ufd.guest.Attach\"}", false, -EPROTO },
	{ "parameters of the wrong kind", "{\"parameters\":7}", false, -EPROTO },
};

/* Detach by a new connection, whose daemon knows nothing of the guest. */
static void take_back(struct ufd_client *client)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(frame_done) struct frame frame = {};
	int sockets[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	ck_assert_int_eq(ufd_client_reconnect(client, sockets[1]), 0);
	server_says(sockets[0], NO_SUCH_GUEST);
	ck_assert_msg(ufd_client_detach(client, NULL) == 0, "%s", ufd_client_error(client));
	server_hears(sockets[0], &reader, "io.ufd.guest.Detach", &frame);
	ck_assert_int_eq(ufd_client_detach(client, NULL), -EINVAL);
	close(sockets[0]);
	close(sockets[1]);
}

START_TEST(trouble_on_the_connection_never_hangs_a_call)
{
	bool is_whole = troubles[_i].result == -EPROTO;
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;
	uint64_t before_ns, took_ns;
	int r;

	client = client_with_server(&server, PATIENCE, NULL, NULL, NULL);
	if (*troubles[_i].bytes)
		ck_assert_int_gt(
			send(server, troubles[_i].bytes, strlen(troubles[_i].bytes) + is_whole, 0),
			0);
	if (troubles[_i].is_closed)
		shutdown(server, SHUT_WR);
	before_ns = clock_now_ns();
	r = ufd_client_attach(client);
	took_ns = clock_now_ns() - before_ns;
	ck_assert_msg(r == troubles[_i].result, "%s: %d, %s", troubles[_i].what, r,
		      ufd_client_error(client));
	ck_assert_msg(took_ns < PATIENCE + HANG, "%s: %llu ns", troubles[_i].what,
		      (unsigned long long)took_ns);

	/* Whether it is attached is not known; there is no way to ask either. */
	ck_assert_int_eq(ufd_client_detach(client, NULL), -ENOTCONN);
	ck_assert_ptr_nonnull(strstr(ufd_client_error(client), "ufd_client_reconnect"));
	take_back(client);
}
END_TEST

static const struct {
	const char *path;
	int result;
	const char *text;
} bad_paths[] = {
	{ "/nonexistent/socket", -ENOENT, "start ufdd" },
	{ "/dev/null", -ECONNREFUSED, "start ufdd" },
	{ "/" LONG_NAME "/" LONG_NAME, -ENAMETOOLONG, "107" },
};

START_TEST(a_socket_that_is_not_there_is_named)
{
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .flags = UFD_CLIENT_USER_MODE,
		 .socket_path = bad_paths[_i].path);
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	const char *error;

	if (ufd_client_new(&client, &opts, &error) < 0)
		unit_skip("%s", error);
	ck_assert_int_eq(ufd_client_attach(client), bad_paths[_i].result);
	ck_assert_msg(strstr(ufd_client_error(client), bad_paths[_i].text) != NULL, "%s",
		      ufd_client_error(client));
	ck_assert_uint_eq(ufd_client_state(client), UFD_CLIENT_DETACHED);
	ck_assert_int_eq(ufd_client_detach(client, NULL), -EINVAL);
}
END_TEST

START_TEST(the_environment_names_the_socket)
{
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .flags = UFD_CLIENT_USER_MODE);
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	const char *error;

	setenv("UFD_SOCKET", "/nonexistent/by-environment", 1);
	if (ufd_client_new(&client, &opts, &error) < 0)
		unit_skip("%s", error);
	ck_assert_int_eq(ufd_client_attach(client), -ENOENT);
	ck_assert_ptr_nonnull(strstr(ufd_client_error(client), "/nonexistent/by-environment"));
}
END_TEST

/* ---- hot-plug and announcements -------------------------------------------------------------- */

START_TEST(hot_plug_and_announcements_are_calls_of_their_own)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;
	static const char *const methods[] = { "Attach",       "AddRegions",  "AddRegions",
					       "RemoveRegion", "NoteDiscard", "NoteWrite",
					       "Detach" };
	char *ram, *more;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	ram = add_ram(client, 4 * PAGE);
	server_says(server, ATTACHED(1));
	for (size_t i = 1; i < sizeof(methods) / sizeof(*methods); i++)
		server_says(server, DONE);
	ck_assert_int_eq(ufd_client_note_discard(client, "ram", 0, PAGE), -EINVAL);
	ck_assert_int_eq(ufd_client_attach(client), 0);

	more = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "more", .source = "zero", .address = more,
		 .length = 2 * PAGE);
	UFD_OPTS(ufd_client_region_opts, region, .memory = "more", .address = more + 2 * PAGE,
		 .length = 2 * PAGE, .offset = 2 * PAGE);
	ck_assert_int_eq(ufd_client_add_memory(client, &memory), 0);
	ck_assert_int_eq(ufd_client_add_region(client, &region), 0);
	ck_assert_int_eq(ufd_client_remove_region(client, ram, 4 * PAGE), 0);
	ck_assert_int_eq(ufd_client_note_discard(client, "more", PAGE, 3 * PAGE), 0);
	ck_assert_int_eq(ufd_client_note_write(client, "more", 0, PAGE), 0);

	ck_assert_int_eq(ufd_client_note_discard(client, "more", 0, 5 * PAGE), -EINVAL);
	ck_assert_int_eq(ufd_client_note_discard(client, "more", 0, -PAGE), -EINVAL);
	ck_assert_int_eq(ufd_client_note_write(client, "more", 0, 0), -EINVAL);
	ck_assert_int_eq(ufd_client_note_write(client, "more", 1, PAGE), -EINVAL);
	ck_assert_int_eq(ufd_client_note_write(client, "ram", 0, PAGE), -ENOENT);
	ck_assert_int_eq(ufd_client_note_write(client, NULL, 0, PAGE), -ENOENT);
	ck_assert_int_eq(ufd_client_detach(client, NULL), 0);

	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
		_cleanup_(frame_done) struct frame frame = {};
		char method[64];

		snprintf(method, sizeof(method), "io.ufd.guest.%s", methods[i]);
		server_hears(server, &reader, method, &frame);
		ck_assert_str_eq(json_string_value(parameter(&frame, "name")), "g");
	}
}
END_TEST

START_TEST(a_refused_hot_add_leaves_nothing_behind)
{
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(closep) int server = -EBADF;
	char *more;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	add_ram(client, 4 * PAGE);
	server_says(server, ATTACHED(1));
	ck_assert_int_eq(ufd_client_attach(client), 0);
	more = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "more", .source = "zero", .address = more,
		 .length = PAGE);
	server_says(server, REFUSAL("io.ufd.manager.LimitReached"));
	ck_assert_int_eq(ufd_client_add_memory(client, &memory), -ENOSPC);
	ck_assert_uint_eq(ufd_client_state(client), UFD_CLIENT_ATTACHED);
	server_says(server, DONE);
	ck_assert_int_eq(ufd_client_add_memory(client, &memory), 0);
	server_says(server, DONE);
	ck_assert_int_eq(ufd_client_detach(client, NULL), 0);
}
END_TEST

START_TEST(detach_passes_on_that_pages_are_absent)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	_cleanup_(frame_done) struct frame attach = {}, detach = {};
	_cleanup_(closep) int server = -EBADF;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	server_says(server, ATTACHED(1));
	ck_assert_int_eq(ufd_client_attach(client), 0);
	UFD_OPTS(ufd_client_detach_opts, opts, .no_populate = 1);
	server_says(server, REFUSAL("io.ufd.guest.NotComplete"));
	ck_assert_int_eq(ufd_client_detach(client, &opts), -EBUSY);
	ck_assert_uint_eq(ufd_client_state(client), UFD_CLIENT_ATTACHED);
	server_hears(server, &reader, "io.ufd.guest.Attach", &attach);
	server_hears(server, &reader, "io.ufd.guest.Detach", &detach);
	ck_assert(json_is_false(parameter(&detach, "populate")));
	opts.no_populate = 2;
	ck_assert_int_eq(ufd_client_detach(client, &opts), -EINVAL);
	server_says(server, DONE);
	ck_assert_int_eq(ufd_client_detach(client, NULL), 0);
}
END_TEST

/* Close every userfaultfd of this process. Return: how many there were. */
static int close_uffds(void)
{
	int n = 0;

	for (int fd = 0; fd < 100; fd++) {
		char path[64], link[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (readlink(path, link, sizeof(link) - 1) <= 0 ||
		    strcmp(link, "anon_inode:[userfaultfd]") != 0)
			continue;
		close(fd);
		n++;
	}
	return n;
}

START_TEST(a_freed_client_leaves_an_attached_guest_its_userfaultfd)
{
	_cleanup_(closep) int server = -EBADF;
	struct ufd_client *client;

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	ufd_client_free(client);
	ck_assert_int_eq(close_uffds(), 0);
	closep(&server);

	client = client_with_server(&server, 0, NULL, NULL, NULL);
	server_says(server, ATTACHED(1));
	ck_assert_int_eq(ufd_client_attach(client), 0);
	ufd_client_free(client);
	ck_assert_int_eq(close_uffds(), 1);
}
END_TEST

int main(void)
{
	return unit_run("client",
			(struct unit_test[]){
				UNIT(attach_hands_over_what_was_described),
				UNIT(settings_say_only_what_was_asked),
				UNIT_TABLE(a_refusal_is_an_errno_and_the_daemons_words, refusals),
				UNIT_TABLE(trouble_on_the_connection_never_hangs_a_call, troubles),
				UNIT_TABLE(a_socket_that_is_not_there_is_named, bad_paths),
				UNIT(the_environment_names_the_socket),
				UNIT(hot_plug_and_announcements_are_calls_of_their_own),
				UNIT(a_refused_hot_add_leaves_nothing_behind),
				UNIT(detach_passes_on_that_pages_are_absent),
				UNIT(a_freed_client_leaves_an_attached_guest_its_userfaultfd),
				{},
			});
}
