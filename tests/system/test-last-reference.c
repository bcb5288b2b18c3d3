/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever ends ufdd, no page reads zero in place of its bytes.
 *
 * When the last handle of a userfaultfd is closed, or its ranges are unregistered, absent pages read
 * zero. Here a guest of this process stays with absent pages while its ufdd ends in every way there
 * is; then a page is touched that was absent all the time, and a next ufdd must bring it. Once with a
 * duplicate of the userfaultfd in this process, and once with none but those of ufdd and of the
 * service manager's store.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/uffd.h"
#include "support/manager.h"
#include "test-rpc.h"

#define PAGE	4096
#define N_PAGES UINT64_C(2048)
#define LENGTH	(N_PAGES * PAGE)

enum { FD_UFFD, FD_MEMORY, FD_SOURCE, FD_PAGEMAP, N_FDS };

struct scene {
	struct manager manager;
	struct varlink_client *client;
	int fds[N_FDS];
	volatile unsigned char *bytes;
	bool has_duplicate;
	pthread_t reader;
	uint64_t read_page;
};

/* ---- the guest ---- */

static unsigned char byte_of(uint64_t page)
{
	return (unsigned char)(page % 255 + 1);
}

static int make_image(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	unsigned char page[PAGE];

	for (uint64_t i = 0; i < N_PAGES; i++) {
		memset(page, byte_of(i), PAGE);
		ck_assert_int_eq(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	return fd;
}

static void make_guest(struct scene *scene)
{
	void *bytes;

	if (!features_get()->may_syscall)
		unit_skip("userfaultfd(2) is not permitted here");
	ck_assert_int_eq(uffd_open(&scene->fds[FD_UFFD], UFFD_WAY_SYSCALL, features_wanted(false)),
			 0);
	ck_assert_int_eq(backing_create(&scene->fds[FD_MEMORY], "ram", LENGTH, 0), 0);
	scene->fds[FD_SOURCE] = make_image();
	scene->fds[FD_PAGEMAP] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bytes = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, scene->fds[FD_MEMORY], 0);
	ck_assert_ptr_ne(bytes, MAP_FAILED);
	scene->bytes = bytes;
}

static json_t *attach_call(const struct scene *scene, const char *populated)
{
	return json_pack("{s:s, s:i, s:i, s:[{s:s, s:I, s:I, s:i, s:s, s:i}], s:{s:b, s:s}}",
			 "name", "g", "uffd", FD_UFFD, "pagemap", FD_PAGEMAP, "regions", "memory",
			 "ram", "address", (json_int_t)(uintptr_t)scene->bytes, "length_bytes",
			 (json_int_t)LENGTH, "backing_fd", FD_MEMORY, "source",
			 "file:", "source_fd", FD_SOURCE, "settings", "background", 0, "populated",
			 populated);
}

static void send_call(struct scene *scene, const char *method, json_t *parameters, bool has_fds)
{
	ck_assert_int_eq(varlink_client_send(scene->client, method, parameters, scene->fds,
					     has_fds ? N_FDS : 0, 0, 0),
			 0);
	json_decref(parameters);
}

static json_t *ask(struct scene *scene, const char *method, json_t *parameters)
{
	return service_ask(scene->client, method, parameters, NULL, 0);
}

static void expect_page(const struct scene *scene, uint64_t page)
{
	ck_assert_msg(scene->bytes[page * PAGE] == byte_of(page), "page %llu is %u",
		      (unsigned long long)page, scene->bytes[page * PAGE]);
}

static void *reader_main(void *userdata)
{
	const struct scene *scene = userdata;

	return (void *)(uintptr_t)scene->bytes[scene->read_page * PAGE];
}

/* A page that nobody has touched; it may take until there is a ufdd again. */
static void begin_reading(struct scene *scene, uint64_t page)
{
	scene->read_page = page;
	ck_assert_int_eq(pthread_create(&scene->reader, NULL, reader_main, scene), 0);
}

static void end_reading(struct scene *scene)
{
	void *byte = NULL;

	pthread_join(scene->reader, &byte);
	ck_assert_msg((uintptr_t)byte == byte_of(scene->read_page), "page %llu was %u",
		      (unsigned long long)scene->read_page, (unsigned int)(uintptr_t)byte);
}

/* ---- ufdd ---- */

static void begin_ufdd(struct scene *scene)
{
	manager_start(&scene->manager);
	ck_assert_int_eq(varlink_client_connect(&scene->client, scene->manager.socket), 0);
}

static void end_ufdd(struct scene *scene, int signal)
{
	scene->client = varlink_client_free(scene->client);
	if (signal)
		kill(scene->manager.pid, signal);
	ck_assert_int_eq(waitpid(scene->manager.pid, NULL, 0), scene->manager.pid);
	scene->manager.pid = 0;
}

/* One that must not come up: somebody waits meanwhile, and goes on waiting. */
static void fail_to_start(struct scene *scene, const char *option, bool has_no_socket)
{
	int status = 0;

	end_ufdd(scene, SIGKILL);
	begin_reading(scene, 77);
	setenv("UFD_SOCKET", "/proc/nowhere/socket", 1);
	scene->manager.option = option;
	scene->manager.has_no_socket = has_no_socket;
	manager_start_only(&scene->manager);
	ck_assert_int_eq(waitpid(scene->manager.pid, &status, 0), scene->manager.pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %#x", status);
	unsetenv("UFD_SOCKET");
	scene->manager.option = NULL;
	scene->manager.has_no_socket = false;
	scene->manager.pid = 0;
}

/* ---- the ways to end; each leaves no ufdd ---- */

static void by_sigterm(struct scene *scene)
{
	end_ufdd(scene, SIGTERM);
}

static void by_sigint(struct scene *scene)
{
	end_ufdd(scene, SIGINT);
}

static void by_sigkill(struct scene *scene)
{
	end_ufdd(scene, SIGKILL);
}

/* What the watchdog does. */
static void by_sigabrt(struct scene *scene)
{
	end_ufdd(scene, SIGABRT);
}

static void while_detaching(struct scene *scene)
{
	send_call(scene, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "g"), false);
	end_ufdd(scene, SIGTERM);
}

static void after_a_drain(struct scene *scene)
{
	json_decref(ask(scene, "io.ufd.manager.Drain", json_object()));
	end_ufdd(scene, SIGTERM);
}

static void while_draining_killed(struct scene *scene)
{
	json_decref(ask(scene, "io.ufd.manager.Drain", json_object()));
	end_ufdd(scene, SIGKILL);
}

static void by_an_upgrade_that_fails(struct scene *scene)
{
	service_expect(scene->client, "upgrade", "io.ufd.manager.Upgrade",
		       json_pack("{s:s}", "binary", "/bin/false"), NULL, 0,
		       "io.ufd.manager.UpgradeRefused", NULL);
	expect_page(scene, 900);
	end_ufdd(scene, SIGTERM);
}

static void by_a_start_that_fails(struct scene *scene)
{
	fail_to_start(scene, NULL, true);
}

static void by_a_start_with_a_bad_option(struct scene *scene)
{
	fail_to_start(scene, "--log-level=loud", false);
}

static void by_a_reload(struct scene *scene)
{
	kill(scene->manager.pid, SIGHUP);
	expect_page(scene, 901);
	end_ufdd(scene, SIGTERM);
}

static const struct {
	const char *what;
	void (*end)(struct scene *scene);
	bool has_reader; /* begun by it */
} ways[] = {
	{ "SIGTERM", by_sigterm, false },
	{ "SIGINT", by_sigint, false },
	{ "SIGKILL", by_sigkill, false },
	{ "SIGABRT", by_sigabrt, false },
	{ "SIGTERM while it detaches", while_detaching, false },
	{ "SIGTERM after a drain", after_a_drain, false },
	{ "SIGKILL while it drains", while_draining_killed, false },
	{ "an upgrade that fails", by_an_upgrade_that_fails, false },
	{ "a start that fails", by_a_start_that_fails, true },
	{ "a start with a bad option", by_a_start_with_a_bad_option, true },
	{ "a reload", by_a_reload, false },
};

/* ---- tests ---- */

static bool is_duplicate_shown(struct scene *scene)
{
	json_t *answer = ask(scene, "io.ufd.guest.Show", json_pack("{s:s}", "name", "g"));
	bool is_duplicate = json_is_true(
		json_object_get(json_object_get(answer, "guest"), "duplicate"));

	json_decref(answer);
	return is_duplicate;
}

static void scene_begin(struct scene *scene, bool has_duplicate)
{
	*scene = (struct scene){ .manager.store_max = "64", .has_duplicate = has_duplicate };
	make_guest(scene);
	manager_init(&scene->manager);
	begin_ufdd(scene);
}

/* Without a duplicate here by the time that ufdd looks, if there is to be none. */
static void attach(struct scene *scene)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	kill(scene->manager.pid, SIGSTOP);
	send_call(scene, "io.ufd.guest.Attach", attach_call(scene, "refuse"), true);
	if (!scene->has_duplicate)
		close(TAKE_FD(scene->fds[FD_UFFD]));
	kill(scene->manager.pid, SIGCONT);
	ck_assert_int_eq(varlink_client_next(scene->client, SOON, &answer), 0);
	ck_assert_msg(!answer.error, "%s", answer.error);
}

static void scene_end(struct scene *scene)
{
	varlink_client_free(scene->client);
	manager_done(&scene->manager);
	munmap((void *)scene->bytes, LENGTH);
	for (int i = 0; i < N_FDS; i++)
		closep(&scene->fds[i]);
}

static void end_in_this_way(int way, bool has_duplicate)
{
	struct scene scene;

	scene_begin(&scene, has_duplicate);
	attach(&scene);
	ck_assert_int_eq(is_duplicate_shown(&scene), has_duplicate);
	expect_page(&scene, 1);
	ways[way].end(&scene);
	if (!ways[way].has_reader)
		begin_reading(&scene, 500);
	begin_ufdd(&scene);
	end_reading(&scene);
	for (uint64_t page = 0; page < N_PAGES; page++)
		expect_page(&scene, page);
	scene_end(&scene);
}

START_TEST(who_has_a_duplicate_waits_for_the_next_ufdd)
{
	end_in_this_way(_i, true);
}
END_TEST

START_TEST(who_has_none_waits_too_or_was_filled_before)
{
	end_in_this_way(_i, false);
}
END_TEST

/* A guest that runs already, and is handed over anew; ufdd ends at some moment of that. */
START_TEST(sigterm_while_it_attaches_lets_go_of_nobody)
{
	struct scene scene;
	json_t *answer;

	scene_begin(&scene, true);
	attach(&scene);
	expect_page(&scene, 1);
	/* one that forgets: as if the store had been lost */
	end_ufdd(&scene, SIGKILL);
	manager_forget(&scene.manager, "l0");
	manager_forget(&scene.manager, "b0");
	begin_ufdd(&scene);
	begin_reading(&scene, 300);
	send_call(&scene, "io.ufd.guest.Attach", attach_call(&scene, "keep"), true);
	usleep((useconds_t)_i * 300); /* a different moment in each row, whichever it is */
	end_ufdd(&scene, SIGTERM);

	begin_ufdd(&scene);
	answer = ask(&scene, "io.ufd.guest.List", json_object());
	if (json_array_size(json_object_get(answer, "guests")) == 0)
		json_decref(service_ask(scene.client, "io.ufd.guest.Attach",
					attach_call(&scene, "keep"), scene.fds, N_FDS));
	json_decref(answer);
	end_reading(&scene);
	for (uint64_t page = 0; page < N_PAGES; page++)
		expect_page(&scene, page);
	scene_end(&scene);
}
END_TEST

/* Neither filled nor left: its source fails, and the service manager's handle is the last one. */
START_TEST(who_can_not_be_filled_in_time_waits)
{
	struct timespec soon;
	struct scene scene;
	char option[128];
	FILE *config;

	scene = (struct scene){ .manager.store_max = "64" };
	make_guest(&scene);
	manager_init(&scene.manager);
	snprintf(option, sizeof(option), "--config=%s/conf", scene.manager.folder);
	config = fopen(option + strlen("--config="), "we");
	fputs("[daemon]\nstop-timeout-s = 1\n", config);
	fclose(config);
	scene.manager.option = option;
	begin_ufdd(&scene);
	attach(&scene);
	expect_page(&scene, 1);
	ck_assert_int_eq(ftruncate(scene.fds[FD_SOURCE], PAGE), 0);
	end_ufdd(&scene, SIGTERM);

	begin_reading(&scene, 500);
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_nsec += 200000000;
	soon.tv_sec += soon.tv_nsec / 1000000000;
	soon.tv_nsec %= 1000000000;
	ck_assert_int_eq(pthread_timedjoin_np(scene.reader, NULL, &soon), ETIMEDOUT);
	manager_forget(&scene.manager, "l0");
	manager_forget(&scene.manager, "b0");
	pthread_join(scene.reader, NULL); /* the last handle is closed */
	scene_end(&scene);
}
END_TEST

int main(void)
{
	static const int moments[8];

	return unit_run("last-reference",
			(struct unit_test[]){
				UNIT_TABLE(who_has_a_duplicate_waits_for_the_next_ufdd, ways),
				UNIT_TABLE(who_has_none_waits_too_or_was_filled_before, ways),
				UNIT_TABLE(sigterm_while_it_attaches_lets_go_of_nobody, moments),
				UNIT(who_can_not_be_filled_in_time_waits),
				{},
			});
}
