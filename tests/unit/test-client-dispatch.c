/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a client finds its daemon again, and what it hands over then. */
#include <errno.h>
#include <stdio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "test-client.h"

#define PAGE	 ((uint64_t)sysconf(_SC_PAGESIZE))
#define PATIENCE NSEC_PER_SEC	     /* the client's; the other end answers at once */
#define HANG	 (20 * NSEC_PER_SEC) /* ours */

/* A guest that is attached, its daemon, and where the next daemon will listen. */
struct scene {
	struct ufd_client *client;
	int server;
	int listener;
	int uffd; /* the daemon's */
	char *ram;
	struct sockaddr_un address;
	struct frame_reader reader;
	char heard[64]; /* a letter an event */
};

static void on_event(struct ufd_client *client, uint32_t event, void *userdata)
{
	struct scene *scene = userdata;

	strncat(scene->heard, &"-LRAXS"[event], 1);
}

static void listen_again(struct scene *scene)
{
	unlink(scene->address.sun_path);
	scene->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(
		bind(scene->listener, (struct sockaddr *)&scene->address, sizeof(scene->address)),
		0);
	ck_assert_int_eq(listen(scene->listener, 8), 0);
}

/* The daemon dies: nobody listens, nobody reads the userfaultfd. */
static void die(struct scene *scene)
{
	closep(&scene->server);
	closep(&scene->listener);
	closep(&scene->uffd);
	scene->server = scene->listener = scene->uffd = -EBADF;
	frame_reader_done(&scene->reader);
	scene->reader = (struct frame_reader){};
}

static void scene_done(struct scene *scene)
{
	die(scene);
	unlink(scene->address.sun_path);
	ufd_client_free(scene->client);
}

/* Takes the uffd out of an Attach and registers the ram, as a daemon does. */
static void hear_attach(struct scene *scene, struct frame *frame, bool is_registering)
{
	struct hva_range ram = { { (uintptr_t)scene->ram }, 16 * PAGE };

	server_hears(scene->server, &scene->reader, "io.ufd.guest.Attach", frame);
	scene->uffd = TAKE_FD(frame->fds[json_integer_value(parameter(frame, "uffd"))]);
	if (is_registering)
		ck_assert_int_eq(uffd_register(scene->uffd, ram, UFFD_MODE_MISSING, NULL), 0);
}

static void attach(struct scene *scene, bool has_path)
{
	_cleanup_(frame_done) struct frame frame = {};

	*scene = (struct scene){ .listener = -EBADF, .uffd = -EBADF };
	scene->address.sun_family = AF_UNIX;
	snprintf(scene->address.sun_path, sizeof(scene->address.sun_path),
		 "/tmp/ufd-test-dispatch.%d", getpid());
	scene->client = client_with_server(&scene->server, PATIENCE, on_event, scene,
					   has_path ? scene->address.sun_path : NULL);
	scene->ram = add_ram(scene->client, 16 * PAGE);
	server_says(scene->server, ATTACHED(4711));
	ck_assert_msg(ufd_client_attach(scene->client) == 0, "%s", ufd_client_error(scene->client));
	hear_attach(scene, &frame, true);
}

/* What the client still owes a daemon, so that it may be freed without keeping its uffd. */
static void let_go(struct scene *scene)
{
	server_says(scene->server, DONE);
	ck_assert_int_eq(ufd_client_detach(scene->client, NULL), 0);
}

/* Dispatch as a VMM does, until @event was told. */
static void dispatch_until(struct scene *scene, char event)
{
	uint64_t deadline_ns = clock_now_ns() + HANG;

	while (!strchr(scene->heard, event)) {
		struct pollfd entry = { .fd = ufd_client_fd(scene->client), .events = POLLIN };

		ck_assert_msg(poll(&entry, 1, HANG / NSEC_PER_MSEC) == 1,
			      "the client sleeps for ever; told '%s'", scene->heard);
		ck_assert_int_eq(ufd_client_dispatch(scene->client), 0);
		ck_assert_msg(clock_now_ns() < deadline_ns, "told '%s' only: %s", scene->heard,
			      ufd_client_error(scene->client));
	}
}

/* Dispatch until the new daemon has a message to read. */
static void dispatch_until_asked(struct scene *scene, int *socket)
{
	uint64_t deadline_ns = clock_now_ns() + HANG;

	for (;;) {
		struct pollfd entries[] = { { .fd = *socket, .events = POLLIN },
					    { .fd = ufd_client_fd(scene->client),
					      .events = POLLIN } };

		ck_assert_int_gt(poll(entries, 2, HANG / NSEC_PER_MSEC), 0);
		if (entries[0].revents)
			return;
		ck_assert_int_eq(ufd_client_dispatch(scene->client), 0);
		ck_assert_uint_lt(clock_now_ns(), deadline_ns);
	}
}

/* A new daemon accepts the client and hears its question. */
static void accept_again(struct scene *scene)
{
	_cleanup_(frame_done) struct frame frame = {};

	dispatch_until_asked(scene, &scene->listener);
	scene->server = accept(scene->listener, NULL, NULL);
	ck_assert_int_ge(scene->server, 0);
	dispatch_until_asked(scene, &scene->server);
	server_hears(scene->server, &scene->reader, "io.ufd.guest.Show", &frame);
}

/* ---- tests ----------------------------------------------------------------------------------- */

START_TEST(a_daemon_that_dies_is_reported_and_the_guest_is_away)
{
	_cleanup_(scene_done) struct scene scene;

	attach(&scene, true);
	ck_assert_int_eq(ufd_client_dispatch(scene.client), 0);
	ck_assert_str_eq(scene.heard, "");
	die(&scene);
	dispatch_until(&scene, 'L');
	ck_assert_uint_eq(ufd_client_state(scene.client), UFD_CLIENT_AWAY);
	ck_assert_int_eq(ufd_client_note_discard(scene.client, "ram", 0, PAGE), -ENOTCONN);
	ck_assert_int_eq(ufd_client_note_write(scene.client, "ram", 0, PAGE), -ENOTCONN);
	ck_assert_int_eq(ufd_client_remove_region(scene.client, scene.ram, 16 * PAGE), -ENOTCONN);
	ck_assert_int_eq(ufd_client_detach(scene.client, NULL), -ENOTCONN);
	ck_assert_int_eq(ufd_client_attach(scene.client), -EALREADY);
	ck_assert_ptr_nonnull(strstr(ufd_client_error(scene.client), "attached already"));

	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'R');
	ck_assert_str_eq(scene.heard, "LR");
	let_go(&scene);
}
END_TEST

START_TEST(nonsense_while_nothing_was_asked_counts_as_the_end)
{
	_cleanup_(scene_done) struct scene scene;

	attach(&scene, true);
	listen_again(&scene);
	server_says(scene.server, DONE);
	dispatch_until(&scene, 'L');
	closep(&scene.server);
	accept_again(&scene);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'R');
	let_go(&scene);
}
END_TEST

START_TEST(a_call_that_finds_the_daemon_dead_is_told_by_the_next_dispatch)
{
	_cleanup_(scene_done) struct scene scene;

	attach(&scene, true);
	die(&scene);
	ck_assert_int_eq(ufd_client_note_write(scene.client, "ram", 0, PAGE), -ECONNRESET);
	ck_assert_uint_eq(ufd_client_state(scene.client), UFD_CLIENT_AWAY);
	ck_assert_str_eq(scene.heard, "");
	dispatch_until(&scene, 'L');
	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'R');
	let_go(&scene);
}
END_TEST

START_TEST(a_daemon_without_memory_of_the_guest_gets_it_anew_with_its_pages_kept)
{
	_cleanup_(frame_done) struct frame frame = {};
	_cleanup_(scene_done) struct scene scene;
	json_t *region;

	attach(&scene, true);
	die(&scene);
	dispatch_until(&scene, 'L');
	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, NO_SUCH_GUEST);
	dispatch_until_asked(&scene, &scene.server);
	hear_attach(&scene, &frame, true);
	ck_assert_str_eq(
		json_string_value(json_object_get(parameter(&frame, "settings"), "populated")),
		"keep");
	region = json_array_get(parameter(&frame, "regions"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(region, "source")), "zero");
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'A');
	ck_assert_str_eq(scene.heard, "LA");
	ck_assert_uint_eq(ufd_client_state(scene.client), UFD_CLIENT_ATTACHED);
	let_go(&scene);
}
END_TEST

/* A memory whose source is not zero, so that the two can be told apart. */
static char *add_rom(struct scene *scene)
{
	char *rom = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	UFD_OPTS(ufd_client_memory_opts, opts, .name = "rom", .source = "file:/dev/null",
		 .address = rom, .length = 4 * PAGE);
	server_says(scene->server, DONE);
	ck_assert_int_eq(ufd_client_add_memory(scene->client, &opts), 0);
	return rom;
}

START_TEST(a_memory_that_was_unregistered_is_complete_and_needs_no_source)
{
	_cleanup_(frame_done) struct frame add = {}, frame = {};
	_cleanup_(scene_done) struct scene scene;
	bool is_complete = _i;
	const char *source;
	char *rom;

	attach(&scene, true);
	rom = add_rom(&scene);
	server_hears(scene.server, &scene.reader, "io.ufd.guest.AddRegions", &add);
	if (!is_complete)
		ck_assert_int_eq(uffd_register(scene.uffd,
					       (struct hva_range){ { (uintptr_t)rom }, 4 * PAGE },
					       UFFD_MODE_MISSING, NULL),
				 0);
	die(&scene);
	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, NO_SUCH_GUEST);
	dispatch_until_asked(&scene, &scene.server);
	hear_attach(&scene, &frame, true);
	source = json_string_value(
		json_object_get(json_array_get(parameter(&frame, "regions"), 1), "source"));
	ck_assert_str_eq(source, is_complete ? "zero" : "file:/dev/null");
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'A');
	let_go(&scene);
}
END_TEST

static bool is_used(const void *page)
{
	_cleanup_(closep) int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct hva first;
	bool is_used;

	ck_assert_int_eq(pagemap_first_used(pagemap,
					    (struct hva_range){ { (uintptr_t)page }, PAGE },
					    &is_used, &first),
			 0);
	return is_used;
}

START_TEST(discarded_pages_are_zero_before_a_new_daemon_can_fetch_them)
{
	_cleanup_(frame_done) struct frame note = {}, frame = {};
	_cleanup_(scene_done) struct scene scene;
	_cleanup_(freep) char *stamp = malloc(PAGE);
	struct hva_range ram = { .length_bytes = 16 * PAGE };
	uint64_t done;

	attach(&scene, true);
	ram.start.v = (uintptr_t)scene.ram;
	memset(stamp, 'w', PAGE);
	server_says(scene.server, DONE);
	ck_assert_int_eq(ufd_client_note_discard(scene.client, "ram", 2 * PAGE, 6 * PAGE), 0);
	server_hears(scene.server, &scene.reader, "io.ufd.guest.NoteDiscard", &note);
	/* The guest has written one of them since. */
	ck_assert_int_eq(uffd_copy(scene.uffd, (struct hva){ (uintptr_t)scene.ram + 4 * PAGE },
				   stamp, PAGE, 0, &done),
			 0);
	/* A write-protect marker stands where no page is, and is no page. */
	ck_assert_int_eq(uffd_register(scene.uffd, ram, UFFD_MODE_MISSING | UFFD_MODE_WP, NULL), 0);
	ram = (struct hva_range){ hva_add(ram.start, 6 * PAGE), PAGE };
	ck_assert_int_eq(uffd_write_protect(scene.uffd, ram, true), 0);
	ck_assert(!is_used(scene.ram + 6 * PAGE));
	die(&scene);
	/* This one goes out, but is never answered. */
	ck_assert_int_eq(ufd_client_note_discard(scene.client, "ram", 12 * PAGE, PAGE),
			 -ECONNRESET);
	ck_assert(!is_used(scene.ram + 2 * PAGE));

	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, NO_SUCH_GUEST);
	dispatch_until_asked(&scene, &scene.server);
	for (int page = 0; page < 16; page++) {
		bool is_discarded = (page >= 2 && page < 8) || page == 12;

		ck_assert_msg(is_used(scene.ram + page * PAGE) == is_discarded, "page %d", page);
		if (is_discarded)
			ck_assert_int_eq(scene.ram[page * PAGE], page == 4 ? 'w' : 0);
	}
	hear_attach(&scene, &frame, true);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'A');
	let_go(&scene);
}
END_TEST

/* The daemon had unregistered it, and died before it could say so. */
START_TEST(a_mapping_that_was_removed_unheard_stays_out_and_its_memory_is_not_complete)
{
	_cleanup_(frame_done) struct frame frame = {};
	_cleanup_(scene_done) struct scene scene;
	json_t *regions, *region;
	char *disk;

	attach(&scene, true);
	disk = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "disk", .source = "file:/disk",
		 .address = disk, .length = 4 * PAGE);
	UFD_OPTS(ufd_client_region_opts, second, .memory = "disk", .address = disk + 4 * PAGE,
		 .length = 4 * PAGE, .offset = 4 * PAGE);
	server_says(scene.server, DONE);
	ck_assert_int_eq(ufd_client_add_memory(scene.client, &memory), 0);
	server_says(scene.server, DONE);
	ck_assert_int_eq(ufd_client_add_region(scene.client, &second), 0);
	ck_assert_int_eq(
		uffd_register(scene.uffd,
			      (struct hva_range){ { (uintptr_t)disk + 4 * PAGE }, 4 * PAGE },
			      UFFD_MODE_MISSING, NULL),
		0);
	die(&scene);
	ck_assert_int_eq(ufd_client_remove_region(scene.client, disk, 4 * PAGE), -ECONNRESET);

	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, NO_SUCH_GUEST);
	dispatch_until_asked(&scene, &scene.server);
	hear_attach(&scene, &frame, false);
	regions = parameter(&frame, "regions");
	ck_assert_uint_eq(json_array_size(regions), 2); /* the ram's is the first */
	region = json_array_get(regions, 1);
	ck_assert_int_eq(json_integer_value(json_object_get(region, "address")),
			 (json_int_t)(uintptr_t)(disk + 4 * PAGE));
	ck_assert_str_eq(json_string_value(json_object_get(region, "source")), "file:/disk");
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'A');
	ck_assert_int_eq(ufd_client_remove_region(scene.client, disk, 4 * PAGE), 0);
	let_go(&scene);
}
END_TEST

START_TEST(a_guest_of_the_same_name_that_is_not_ours_is_refused)
{
	_cleanup_(scene_done) struct scene scene;

	attach(&scene, true);
	die(&scene);
	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, ATTACHED(1));
	dispatch_until(&scene, 'X');
	ck_assert_str_eq(scene.heard, "LX");
	ck_assert_ptr_nonnull(strstr(ufd_client_error(scene.client), "another process's"));
	ck_assert_uint_eq(ufd_client_state(scene.client), UFD_CLIENT_AWAY);

	/* It is asked for again and again, but told once only. */
	closep(&scene.server);
	accept_again(&scene);
	server_says(scene.server, ATTACHED(1));
	dispatch_until_asked(&scene, &scene.listener);
	closep(&scene.server);
	accept_again(&scene);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'R');
	ck_assert_str_eq(scene.heard, "LXR");
	let_go(&scene);
}
END_TEST

START_TEST(a_daemon_that_accepts_and_says_nothing_is_left_after_the_timeout)
{
	_cleanup_(closep) int silent = -EBADF; /* the connection stays open */
	_cleanup_(scene_done) struct scene scene;
	uint64_t before_ns;

	attach(&scene, true);
	die(&scene);
	listen_again(&scene);
	accept_again(&scene);
	before_ns = clock_now_ns();
	silent = TAKE_FD(scene.server);
	accept_again(&scene);
	ck_assert_uint_ge(clock_now_ns() - before_ns, PATIENCE);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'R');
	let_go(&scene);
}
END_TEST

START_TEST(a_refused_hand_over_is_told_in_the_daemons_words)
{
	_cleanup_(frame_done) struct frame frame = {}, again = {};
	_cleanup_(scene_done) struct scene scene;

	attach(&scene, true);
	die(&scene);
	listen_again(&scene);
	accept_again(&scene);
	server_says(scene.server, NO_SUCH_GUEST);
	dispatch_until_asked(&scene, &scene.server);
	hear_attach(&scene, &frame, false);
	server_says(
		scene.server,
		"{\"error\":\"io.ufd.manager.LimitReached\",\"parameters\":{\"message\":\"full\"}}");
	dispatch_until(&scene, 'X');
	ck_assert_ptr_nonnull(strstr(ufd_client_error(scene.client), "full"));

	closep(&scene.server);
	closep(&scene.uffd);
	accept_again(&scene);
	server_says(scene.server, NO_SUCH_GUEST);
	dispatch_until_asked(&scene, &scene.server);
	hear_attach(&scene, &again, false);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'A');
	ck_assert_str_eq(scene.heard, "LXA");
	let_go(&scene);
}
END_TEST

START_TEST(without_a_path_the_client_is_stranded_until_a_socket_is_passed_in)
{
	_cleanup_(frame_done) struct frame frame = {};
	_cleanup_(scene_done) struct scene scene;
	int sockets[2];

	attach(&scene, false);
	ck_assert_int_eq(ufd_client_reconnect(scene.client, scene.server), -EALREADY);
	die(&scene);
	dispatch_until(&scene, 'S');
	ck_assert_str_eq(scene.heard, "LS");
	ck_assert_int_eq(ufd_client_reconnect(scene.client, 1), -ENOTSOCK);
	ck_assert_int_eq(ufd_client_reconnect(scene.client, 999), -ENOTSOCK);

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	ck_assert_int_eq(ufd_client_reconnect(scene.client, sockets[1]), 0);
	close(sockets[1]);
	scene.server = sockets[0];
	dispatch_until_asked(&scene, &scene.server);
	server_hears(scene.server, &scene.reader, "io.ufd.guest.Show", &frame);
	server_says(scene.server, ATTACHED(4711));
	dispatch_until(&scene, 'R');
	let_go(&scene);
}
END_TEST

START_TEST(a_connection_that_its_giver_keeps_open_is_left_alone_once_lost)
{
	_cleanup_(closep) int giver = -EBADF;
	_cleanup_(scene_done) struct scene scene;
	struct pollfd entry = { .events = POLLIN };
	int sockets[2];

	attach(&scene, false);
	for (int round = 0; round < 2; round++) {
		_cleanup_(frame_done) struct frame frame = {};

		die(&scene);
		scene.heard[0] = '\0';
		dispatch_until(&scene, 'S');
		entry.fd = ufd_client_fd(scene.client);
		ck_assert_int_eq(ufd_client_dispatch(scene.client), 0);
		ck_assert_msg(poll(&entry, 1, 0) == 0, "the VMM's loop would spin");

		closep(&giver);
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
		scene.server = sockets[0];
		giver = sockets[1];
		ck_assert_int_eq(ufd_client_reconnect(scene.client, giver), 0);
		dispatch_until_asked(&scene, &scene.server);
		server_hears(scene.server, &scene.reader, "io.ufd.guest.Show", &frame);
		server_says(scene.server, ATTACHED(4711));
		dispatch_until(&scene, 'R');
	}
	let_go(&scene);
}
END_TEST

int main(void)
{
	static const int both[2];

	return unit_run(
		"client-dispatch",
		(struct unit_test[]){
			UNIT(a_daemon_that_dies_is_reported_and_the_guest_is_away),
			UNIT(nonsense_while_nothing_was_asked_counts_as_the_end),
			UNIT(a_call_that_finds_the_daemon_dead_is_told_by_the_next_dispatch),
			UNIT(a_daemon_without_memory_of_the_guest_gets_it_anew_with_its_pages_kept),
			UNIT_TABLE(a_memory_that_was_unregistered_is_complete_and_needs_no_source,
				   both),
			UNIT(discarded_pages_are_zero_before_a_new_daemon_can_fetch_them),
			UNIT(a_mapping_that_was_removed_unheard_stays_out_and_its_memory_is_not_complete),
			UNIT(a_guest_of_the_same_name_that_is_not_ours_is_refused),
			UNIT(a_daemon_that_accepts_and_says_nothing_is_left_after_the_timeout),
			UNIT(a_refused_hand_over_is_told_in_the_daemons_words),
			UNIT(without_a_path_the_client_is_stranded_until_a_socket_is_passed_in),
			UNIT(a_connection_that_its_giver_keeps_open_is_left_alone_once_lost),
			{},
		});
}
