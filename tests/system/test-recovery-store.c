/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon is killed under a service manager that keeps its fds: every guest goes on with its bytes. */
#include <pthread.h>
#include <sys/mman.h>

#include "guest/ledger.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/uffd.h"
#include "support/manager.h"
#include "test-rpc.h"

#define PAGE	4096
#define N_PAGES UINT64_C(64)
#define LENGTH	(N_PAGES * PAGE)

enum { FD_UFFD, FD_MEMORY, FD_SOURCE, FD_PAGEMAP, N_FDS };

/* One guest whose memory is ours. */
struct guest {
	char name[16];
	int fds[N_FDS];
	const volatile unsigned char *bytes;
};

static int make_image(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	unsigned char page[PAGE];

	for (uint64_t i = 0; i < N_PAGES; i++) {
		memset(page, (int)i + 1, PAGE);
		ck_assert_int_eq(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	return fd;
}

static void guest_init(struct guest *guest, unsigned int number, int image)
{
	void *bytes;

	if (!features_get()->may_syscall)
		unit_skip("userfaultfd(2) is not permitted here");
	snprintf(guest->name, sizeof(guest->name), "g%u", number);
	ck_assert_int_eq(uffd_open(&guest->fds[FD_UFFD], UFFD_WAY_SYSCALL, features_wanted(false)),
			 0);
	ck_assert_int_eq(backing_create(&guest->fds[FD_MEMORY], "ram", LENGTH, 0), 0);
	guest->fds[FD_SOURCE] = fcntl(image, F_DUPFD_CLOEXEC, 3);
	guest->fds[FD_PAGEMAP] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bytes = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fds[FD_MEMORY], 0);
	ck_assert_ptr_ne(bytes, MAP_FAILED);
	guest->bytes = bytes;
}

static void guest_done(struct guest *guest)
{
	munmap((void *)guest->bytes, LENGTH);
	for (int i = 0; i < N_FDS; i++)
		closep(&guest->fds[i]);
}

static json_t *attach_call(const struct guest *guest)
{
	return json_pack("{s:s, s:i, s:i, s:[{s:s, s:I, s:I, s:i, s:s, s:i}], s:{s:b}}", "name",
			 guest->name, "uffd", FD_UFFD, "pagemap", FD_PAGEMAP, "regions", "memory",
			 "ram", "address", (json_int_t)(uintptr_t)guest->bytes, "length_bytes",
			 (json_int_t)LENGTH, "backing_fd", FD_MEMORY, "source",
			 "file:", "source_fd", FD_SOURCE, "settings", "background", 0);
}

static void expect_page(const struct guest *guest, uint64_t page)
{
	const volatile unsigned char *at = guest->bytes + page * PAGE;

	ck_assert_msg(at[0] == page + 1 && at[PAGE - 1] == page + 1, "page %llu of %s is %u",
		      (unsigned long long)page, guest->name, at[0]);
}

static struct varlink_client *connect_to(const struct manager *manager)
{
	struct varlink_client *client = NULL;

	ck_assert_int_eq(varlink_client_connect(&client, manager->socket), 0);
	return client;
}

static void attach(struct varlink_client *client, const struct guest *guest)
{
	json_decref(
		service_ask(client, "io.ufd.guest.Attach", attach_call(guest), guest->fds, N_FDS));
}

static json_int_t status_of(struct varlink_client *client, const char *name)
{
	json_t *status = service_ask(client, "io.ufd.manager.Status", json_object(), NULL, 0);
	json_int_t value = json_integer_value(json_object_get(status, name));

	json_decref(status);
	return value;
}

/* A manager, its ufdd, and @n guests attached. */
struct scene {
	struct manager manager;
	struct varlink_client *client;
	int image;
	struct guest guests[4];
	unsigned int n_guests;
};

static void scene_begin(struct scene *scene, unsigned int n_guests)
{
	scene->image = make_image();
	scene->n_guests = n_guests;
	for (unsigned int i = 0; i < n_guests; i++)
		guest_init(&scene->guests[i], i, scene->image);
	manager_init(&scene->manager);
	manager_start(&scene->manager);
	scene->client = connect_to(&scene->manager);
}

static void scene_restart(struct scene *scene)
{
	varlink_client_free(scene->client);
	manager_kill(&scene->manager);
	manager_start(&scene->manager);
	scene->client = connect_to(&scene->manager);
}

static void scene_end(struct scene *scene)
{
	varlink_client_free(scene->client);
	manager_done(&scene->manager);
	for (unsigned int i = 0; i < scene->n_guests; i++)
		guest_done(&scene->guests[i]);
	close(scene->image);
}

START_TEST(what_is_answered_is_stored)
{
	struct scene scene = { .manager.store_max = "64" };
	json_t *status;

	scene_begin(&scene, 2);
	ck_assert_uint_eq(scene.manager.n_fds, 0);
	attach(scene.client, &scene.guests[0]);
	ck_assert(manager_has(&scene.manager, "l0"));
	ck_assert(manager_has(&scene.manager, "b0"));
	attach(scene.client, &scene.guests[1]);
	pthread_mutex_lock(&scene.manager.lock);
	ck_assert_uint_eq(scene.manager.n_fds, 4);
	ck_assert_uint_eq(scene.manager.n_stored, 4);
	ck_assert_uint_eq(scene.manager.n_polled, 0);
	pthread_mutex_unlock(&scene.manager.lock);
	for (size_t i = 0; i < 4; i++)
		ck_assert_uint_le(strlen(scene.manager.fds[i].name), 5);
	status = service_ask(scene.client, "io.ufd.manager.Status", json_object(), NULL, 0);
	ck_assert_str_eq(json_string_value(json_object_get(status, "store")), "systemd");
	ck_assert_int_eq(json_integer_value(json_object_get(status, "stored_fds")), 4);
	json_decref(status);

	json_decref(service_ask(scene.client, "io.ufd.guest.Detach",
				json_pack("{s:s}", "name", "g0"), NULL, 0));
	manager_await_lack(&scene.manager, "l0");
	manager_await_lack(&scene.manager, "b0");
	ck_assert_int_eq(status_of(scene.client, "stored_fds"), 2);
	ck_assert(manager_has(&scene.manager, "l1"));
	scene_end(&scene);
}
END_TEST

START_TEST(a_killed_daemon_costs_no_byte)
{
	struct scene scene = { .manager.store_max = "64" };

	scene_begin(&scene, 3);
	for (unsigned int i = 0; i < 3; i++)
		attach(scene.client, &scene.guests[i]);
	for (uint64_t page = 0; page < N_PAGES; page++) {
		for (unsigned int i = 0; i < 3; i++)
			expect_page(&scene.guests[i], page);
		if (page % 8 != 3)
			continue;
		scene_restart(&scene);
		ck_assert_int_eq(status_of(scene.client, "adopted_guests"), 3);
		ck_assert_int_eq(status_of(scene.client, "stored_fds"), 6);
	}
	scene_end(&scene);
}
END_TEST

/* It is the same guest: who asks for it again gets it, and does not get it twice. */
START_TEST(a_client_that_asks_again_has_it)
{
	struct scene scene = { .manager.store_max = "64" };
	json_t *reply, *guest;

	scene_begin(&scene, 2);
	attach(scene.client, &scene.guests[0]);
	/* the first one is counted when the second is served; killed in between, it might not be yet */
	expect_page(&scene.guests[0], 5);
	expect_page(&scene.guests[0], 6);
	scene_restart(&scene);
	reply = service_ask(scene.client, "io.ufd.guest.Show", json_pack("{s:s}", "name", "g0"),
			    NULL, 0);
	guest = json_object_get(reply, "guest");
	ck_assert_int_eq(json_integer_value(json_object_get(guest, "pid")), getpid());
	ck_assert_int_eq(json_integer_value(json_object_get(guest, "uid")), getuid());
	ck_assert_str_eq(json_string_value(json_object_get(guest, "front_end")), "client");
	ck_assert(json_is_true(json_object_get(guest, "duplicate")));
	ck_assert_int_lt(json_integer_value(json_object_get(guest, "absent_bytes")), LENGTH);
	ck_assert(json_is_false(json_object_get(json_object_get(reply, "settings"), "background")));
	json_decref(reply);

	attach(scene.client, &scene.guests[0]);
	expect_page(&scene.guests[0], 40);

	/* another memory under this name is another guest */
	strcpy(scene.guests[1].name, "g0");
	service_expect(scene.client, "another uffd", "io.ufd.guest.Attach",
		       attach_call(&scene.guests[1]), scene.guests[1].fds, N_FDS,
		       "io.ufd.guest.GuestExists", NULL);
	expect_page(&scene.guests[0], 60);
	scene_end(&scene);
}
END_TEST

START_TEST(a_ledger_without_its_bundle_fetches_the_handles_again)
{
	struct scene scene = { .manager.store_max = "64" };
	char *log;

	scene_begin(&scene, 1);
	attach(scene.client, &scene.guests[0]);
	expect_page(&scene.guests[0], 1);
	manager_forget(&scene.manager, "b0");
	scene_restart(&scene);
	ck_assert_int_eq(status_of(scene.client, "adopted_guests"), 1);
	expect_page(&scene.guests[0], 50);
	log = manager_log(&scene.manager);
	ck_assert_msg(strstr(log, "stored guest 0: a ledger without its bundle"), "%s", log);
	free(log);
	ck_assert(manager_has(&scene.manager, "b0")); /* and the next one finds it */
	scene_restart(&scene);
	expect_page(&scene.guests[0], 20);
	scene_end(&scene);
}
END_TEST

START_TEST(a_bundle_without_its_ledger_is_reported_and_kept)
{
	struct scene scene = { .manager.store_max = "64" };
	char *log;

	scene_begin(&scene, 2);
	attach(scene.client, &scene.guests[0]);
	manager_forget(&scene.manager, "l0");
	scene_restart(&scene);
	ck_assert_int_eq(status_of(scene.client, "adopted_guests"), 0);
	log = manager_log(&scene.manager);
	ck_assert_msg(strstr(log, "stored guest 0: a bundle without its ledger"), "%s", log);
	free(log);
	ck_assert(manager_has(&scene.manager, "b0"));
	attach(scene.client, &scene.guests[1]); /* gets another number */
	ck_assert(manager_has(&scene.manager, "l1"));
	expect_page(&scene.guests[1], 7);
	scene_end(&scene);
}
END_TEST

START_TEST(the_guest_past_the_managers_limit_is_refused_and_harms_nobody)
{
	struct scene scene = { .manager.store_max = "4" };
	json_t *reply;

	scene_begin(&scene, 3);
	attach(scene.client, &scene.guests[0]);
	attach(scene.client, &scene.guests[1]);
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	service_call(scene.client, "io.ufd.guest.Attach", attach_call(&scene.guests[2]),
		     scene.guests[2].fds, N_FDS, &answer);
	ck_assert_str_eq(answer.error, "io.ufd.manager.LimitReached");
	ck_assert_str_eq(json_string_value(json_object_get(answer.parameters, "limit")),
			 "fd-store");
	scene_restart(&scene);
	expect_page(&scene.guests[0], 9);
	expect_page(&scene.guests[1], 9);
	reply = service_ask(scene.client, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "g0"),
			    NULL, 0);
	json_decref(reply);
	attach(scene.client, &scene.guests[2]);
	expect_page(&scene.guests[2], 9);
	scene_end(&scene);
}
END_TEST

START_TEST(the_guest_past_the_file_limit_is_refused_and_harms_nobody)
{
	struct scene scene = { .manager = { .store_max = "64", .n_files = 130 } };
	unsigned int n = 0;

	scene_begin(&scene, 4);
	for (; n < 4; n++) {
		_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

		service_call(scene.client, "io.ufd.guest.Attach", attach_call(&scene.guests[n]),
			     scene.guests[n].fds, N_FDS, &answer);
		if (!answer.error)
			continue;
		ck_assert_str_eq(answer.error, "io.ufd.manager.LimitReached");
		ck_assert_str_eq(json_string_value(json_object_get(answer.parameters, "limit")),
				 "nofile");
		break;
	}
	ck_assert_uint_ge(n, 1);
	ck_assert_uint_lt(n, 4);
	scene_restart(&scene);
	ck_assert_int_eq(status_of(scene.client, "adopted_guests"), n);
	for (unsigned int i = 0; i < n; i++)
		expect_page(&scene.guests[i], 33);
	scene_end(&scene);
}
END_TEST

START_TEST(a_manager_that_does_not_answer_gets_no_guest)
{
	struct scene scene = { .manager = { .store_max = "64", .is_deaf = true } };

	scene_begin(&scene, 1);
	service_expect(scene.client, "deaf", "io.ufd.guest.Attach", attach_call(&scene.guests[0]),
		       scene.guests[0].fds, N_FDS, "io.ufd.manager.SystemError", NULL);
	manager_await_lack(&scene.manager, "l0");
	manager_await_lack(&scene.manager, "b0");
	scene_end(&scene);
}
END_TEST

/* A manager that drops the store of a stopped service finds the ledgers in the directory. */
START_TEST(a_stopped_service_finds_its_guests_in_the_directory)
{
	struct scene scene = { .manager.store_max = "64" };
	char directory[96], parked[160];

	scene.image = -1;
	snprintf(directory, sizeof(directory), "/dev/shm/ufd-parked-%d", getpid());
	scene.manager.state_dir = directory;
	snprintf(parked, sizeof(parked), "%s/g0.ledger", directory);
	scene_begin(&scene, 1);
	attach(scene.client, &scene.guests[0]);
	expect_page(&scene.guests[0], 3);
	ck_assert_int_ne(access(parked, F_OK), 0);
	varlink_client_free(scene.client);
	ck_assert_int_eq(manager_stop(&scene.manager), 0);
	ck_assert_int_eq(access(parked, F_OK), 0);
	for (size_t turn = 0; turn < 2; turn++) {
		if (turn == 0) { /* first as systemd before 254, then as after */
			manager_forget(&scene.manager, "l0");
			manager_forget(&scene.manager, "b0");
		}
		manager_start(&scene.manager);
		scene.client = connect_to(&scene.manager);
		ck_assert_int_eq(status_of(scene.client, "adopted_guests"), 1);
		ck_assert_int_eq(status_of(scene.client, "stored_fds"), 2);
		expect_page(&scene.guests[0], 30 + turn);
		varlink_client_free(scene.client);
		ck_assert_int_eq(manager_stop(&scene.manager), 0);
	}
	manager_start(&scene.manager);
	scene.client = connect_to(&scene.manager);
	expect_page(&scene.guests[0], 63);
	json_decref(service_ask(scene.client, "io.ufd.guest.Detach",
				json_pack("{s:s}", "name", "g0"), NULL, 0));
	ck_assert_int_ne(access(parked, F_OK), 0);
	ck_assert_int_eq(rmdir(directory), 0);
	scene_end(&scene);
}
END_TEST

/* What a ledger asks of its readers, while the manager has it. Nothing if it has it not. */
static void ask_readers(struct manager *manager, const char *name, uint32_t layout)
{
	pthread_mutex_lock(&manager->lock);
	for (size_t i = 0; i < manager->n_fds; i++)
		if (strcmp(manager->fds[i].name, name) == 0)
			ck_assert_int_eq(ledger_fd_set_min_reader(manager->fds[i].fd, layout), 0);
	pthread_mutex_unlock(&manager->lock);
}

/*
 * A guest is left, its process hands it over anew, and then the cause of its being left is gone: what
 * was left knows nothing of the pages that were filled and written since.
 */
START_TEST(what_was_left_of_a_guest_that_came_anew_is_not_adopted)
{
	struct scene scene = { .manager.store_max = "64" };
	struct guest *guest = &scene.guests[0];
	volatile unsigned char *written;
	json_t *call;

	scene_begin(&scene, 1);
	written = (volatile unsigned char *)guest->bytes + 20 * PAGE;
	attach(scene.client, guest);
	expect_page(guest, 3);
	ask_readers(&scene.manager, "l0", ledger_layout + 1);
	scene_restart(&scene);
	ck_assert_int_eq(status_of(scene.client, "adopted_guests"), 0);
	call = attach_call(guest);
	json_object_set_new(json_object_get(call, "settings"), "populated", json_string("keep"));
	json_decref(service_ask(scene.client, "io.ufd.guest.Attach", call, guest->fds, N_FDS));
	expect_page(guest, 20);
	*written = 0xee;
	ask_readers(&scene.manager, "l0", ledger_layout);
	scene_restart(&scene);
	ck_assert_int_eq(status_of(scene.client, "adopted_guests"), 1);
	/* which fills all that is believed to be absent */
	json_decref(service_ask(scene.client, "io.ufd.guest.Detach",
				json_pack("{s:s}", "name", "g0"), NULL, 0));
	for (uint64_t page = 0; page < N_PAGES; page++)
		if (page != 20)
			expect_page(guest, page);
	ck_assert_uint_eq(*written, 0xee);
	ck_assert_int_eq(status_of(scene.client, "stored_fds"), 0);
	scene_end(&scene);
}
END_TEST

/* ---- how long ---- */

#define N_WAITERS 8
#define N_TURNS	  3

/* A thread that needs a page which nobody has yet. */
struct waiter {
	const struct guest *guest;
	uint64_t page;
	uint64_t served_ns;
	bool is_right;
	pthread_t thread;
};

static void *run_waiter(void *argument)
{
	struct waiter *waiter = argument;

	waiter->is_right = waiter->guest->bytes[waiter->page * PAGE] == waiter->page + 1;
	waiter->served_ns = clock_now_ns();
	return NULL;
}

static bool is_absent(const struct guest *guest, uint64_t page)
{
	off_t at = (off_t)(page * PAGE);

	return lseek(guest->fds[FD_MEMORY], at, SEEK_HOLE) == at;
}

/* Spread over all guests, so that whoever is adopted first has one of them. Other pages each turn. */
static void start_waiters(struct waiter *waiters, const struct guest *guests, unsigned int n_guests,
			  unsigned int turn)
{
	for (unsigned int i = 0; i < N_WAITERS; i++) {
		waiters[i] = (struct waiter){
			.guest = &guests[i * n_guests / N_WAITERS],
			.page = i * (N_TURNS + 2) + turn,
		};
		ck_assert(is_absent(waiters[i].guest, waiters[i].page));
		ck_assert_int_eq(pthread_create(&waiters[i].thread, NULL, run_waiter, &waiters[i]),
				 0);
	}
}

/* When the first of them was served. */
static uint64_t join_waiters(struct waiter *waiters)
{
	uint64_t first_ns = UINT64_MAX;

	for (unsigned int i = 0; i < N_WAITERS; i++) {
		pthread_join(waiters[i].thread, NULL);
		ck_assert(waiters[i].is_right);
		first_ns = min_u64(first_ns, waiters[i].served_ns);
	}
	return first_ns;
}

/* Until it is ready, which is after all guests are served. */
static uint64_t time_start(struct manager *manager)
{
	uint64_t start_ns = clock_now_ns();

	manager_start(manager);
	return clock_now_ns() - start_ns;
}

/*
 * How many times as long as a ufdd without guests takes to start, from the kill to the first served
 * fault, and from the start to ready. Never so many milliseconds: the machine may be slow or busy, and
 * we may be sanitized, but then a bare start takes as much longer. The best turn counts, compared
 * with the middle one of the bare starts between: other work delays some, what is wrong with us each.
 */
static const struct crowd {
	unsigned int n_guests;
	double most_first, most_ready;
} crowds[] = { { 1, 15, 15 }, { 150, 15, 100 } };

static int compare_times(const void *left, const void *right)
{
	const uint64_t *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

static void time_recovery(struct manager *manager, const struct guest *guests,
			  unsigned int n_guests, const struct crowd *crowd)
{
	uint64_t bare_ns[N_TURNS], first_ns = UINT64_MAX, ready_ns = UINT64_MAX, killed_ns;
	struct manager bare = { .store_max = "4096" };
	struct waiter waiters[N_WAITERS];
	double first, ready;

	manager_init(&bare);
	for (unsigned int turn = 0; turn < N_TURNS; turn++) {
		bare_ns[turn] = time_start(&bare);
		manager_kill(&bare);
		killed_ns = clock_now_ns();
		manager_kill(manager);
		start_waiters(waiters, guests, n_guests, turn);
		ready_ns = min_u64(ready_ns, time_start(manager));
		first_ns = min_u64(first_ns, join_waiters(waiters) - killed_ns);
	}
	manager_done(&bare);
	qsort(bare_ns, N_TURNS, sizeof(*bare_ns), compare_times);
	first = (double)first_ns / (double)bare_ns[N_TURNS / 2];
	ready = (double)ready_ns / (double)bare_ns[N_TURNS / 2];
	fprintf(stderr, "# %u guests: %.1f bare starts until the first fault, %.1f until ready\n",
		n_guests, first, ready);
	ck_assert_double_le(first, crowd->most_first);
	ck_assert_double_le(ready, crowd->most_ready);
}

/* No page but the one that is waited for: every turn needs absent ones. */
static void attach_without_window(struct varlink_client *client, const struct guest *guest)
{
	json_t *call = attach_call(guest);

	json_object_set_new(json_object_get(call, "settings"), "window_bytes", json_integer(0));
	json_decref(service_ask(client, "io.ufd.guest.Attach", call, guest->fds, N_FDS));
}

START_TEST(they_are_served_again_soon)
{
	struct manager manager = { .store_max = "4096" };
	bool is_short = getenv("UFD_TEST_SHORT");
	unsigned int n_guests = is_short ? (crowds[_i].n_guests + 3) / 4 : crowds[_i].n_guests;
	struct guest *guests = calloc(n_guests, sizeof(*guests));
	struct varlink_client *client;
	int image = make_image();

	manager_init(&manager);
	manager_start(&manager);
	client = connect_to(&manager);
	for (unsigned int i = 0; i < n_guests; i++) {
		guest_init(&guests[i], i, image);
		attach_without_window(client, &guests[i]);
	}
	varlink_client_free(client);
	ck_assert_uint_eq(manager_n_fds(&manager), 2 * n_guests);

	time_recovery(&manager, guests, n_guests, &crowds[_i]);
	for (unsigned int i = 0; i < n_guests; i++)
		expect_page(&guests[i], 63);
	client = connect_to(&manager);
	ck_assert_int_eq(status_of(client, "adopted_guests"), n_guests);
	varlink_client_free(client);
	manager_done(&manager);
	for (unsigned int i = 0; i < n_guests; i++)
		guest_done(&guests[i]);
	free(guests);
	close(image);
}
END_TEST

int main(void)
{
	return unit_run("recovery-store",
			(struct unit_test[]){
				UNIT(what_is_answered_is_stored),
				UNIT(a_killed_daemon_costs_no_byte),
				UNIT(a_client_that_asks_again_has_it),
				UNIT(a_ledger_without_its_bundle_fetches_the_handles_again),
				UNIT(a_bundle_without_its_ledger_is_reported_and_kept),
				UNIT(the_guest_past_the_managers_limit_is_refused_and_harms_nobody),
				UNIT(the_guest_past_the_file_limit_is_refused_and_harms_nobody),
				UNIT(a_manager_that_does_not_answer_gets_no_guest),
				UNIT(a_stopped_service_finds_its_guests_in_the_directory),
				UNIT(what_was_left_of_a_guest_that_came_anew_is_not_adopted),
				UNIT_TABLE(they_are_served_again_soon, crowds),
				{},
			});
}
