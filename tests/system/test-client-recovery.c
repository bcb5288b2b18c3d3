/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon dies while it pages, and starts again: no byte is lost, and none comes back. */
#include <sys/syscall.h>

#include "kernel/proc-maps.h"
#include "kernel/uffd.h"
#include "test-client.h"
#include "wire/varlink-client.h"

START_TEST(a_daemon_killed_while_it_pages_costs_no_byte)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	struct vcpus vcpus;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	start_vcpus(&vcpus, &ram);
	for (int round = 0; round < 3; round++) {
		uint64_t before = vcpus.n_compared;

		loop_until(&scene, are_at_work, &vcpus);
		kill_ufdd(&scene);
		scene.heard[0] = '\0';
		start_ufdd(&scene);
		loop_until(&scene, is_back, &scene);
		ck_assert_str_eq(scene.heard, "LA");
		ck_assert_uint_ge(vcpus.n_compared, before);
	}
	join_vcpus(&scene, &vcpus);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	expect_all(&ram);
}
END_TEST

/* What Show says of the guest's copies of its userfaultfd. */
static bool is_duplicate_shown(const struct scene *scene)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	json_t *name = json_pack("{s:s}", "name", "g");

	ck_assert_int_eq(varlink_client_connect(&client, scene->socket), 0);
	ck_assert_int_eq(
		varlink_client_call(client, "io.ufd.guest.Show", name, NULL, 0, 0, &answer), 0);
	json_decref(name);
	ck_assert_msg(!answer.error, "%s", answer.error);
	return json_is_true(
		json_object_get(json_object_get(answer.parameters, "guest"), "duplicate"));
}

START_TEST(a_daemon_that_keeps_its_guests_is_found_again)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	struct vcpus vcpus;

	scene_init_state(&scene, true);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	ck_assert(is_duplicate_shown(&scene));
	start_vcpus(&vcpus, &ram);
	for (int round = 0; round < 3; round++) {
		loop_until(&scene, are_at_work, &vcpus);
		kill_ufdd(&scene);
		scene.heard[0] = '\0';
		start_ufdd(&scene);
		loop_until(&scene, is_back, &scene);
		ck_assert_str_eq(scene.heard, "LR");
		ck_assert(is_duplicate_shown(&scene));
	}
	join_vcpus(&scene, &vcpus);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

#define N_REGIONS 1000

/* A connection that takes few bytes at a time. */
static int connect_narrowly(const struct scene *scene)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), least = 1;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", scene->socket);
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* A client without a path. */
static void be_handed_a_connection(struct scene *scene)
{
	int fd = connect_narrowly(scene);
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .connection = fd, .on_event = on_event,
		 .userdata = scene, .background = UFD_CLIENT_OFF,
		 .flags = geteuid() == 0 ? 0 : UFD_CLIENT_USER_MODE);

	ufd_client_free(scene->client);
	ck_assert_int_eq(ufd_client_new(&scene->client, &opts, NULL), 0);
	close(fd);
}

static bool is_stranded(void *argument)
{
	return strchr(((struct scene *)argument)->heard, 'S') != NULL;
}

START_TEST(a_hand_over_bigger_than_the_sockets_buffer_arrives)
{
	_cleanup_(ram_done) struct ram ram = map_ram(ANON);
	_cleanup_(scene_done) struct scene scene;
	int fd;

	scene_init(&scene);
	be_handed_a_connection(&scene);
	UFD_OPTS(ufd_client_memory_opts, first, .source = "file:", .source_fd = scene.image,
		 .name = "a-name-that-is-long-so-that-many-regions-make-a-big-message",
		 .address = ram.bytes, .length = BLOCK);
	EXPECT_OK(&scene, ufd_client_add_memory(scene.client, &first));
	for (uint64_t i = 1; i < N_REGIONS; i++) {
		UFD_OPTS(ufd_client_region_opts, next, .memory = first.name, .length = BLOCK,
			 .address = ram.bytes + i * BLOCK, .offset = i * BLOCK);
		EXPECT_OK(&scene, ufd_client_add_region(scene.client, &next));
	}
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	kill_ufdd(&scene);
	loop_until(&scene, is_stranded, &scene);
	start_ufdd(&scene);
	fd = connect_narrowly(&scene);
	EXPECT_OK(&scene, ufd_client_reconnect(scene.client, fd));
	close(fd);
	loop_until(&scene, is_back, &scene);
	for (uint64_t i = 0; i < N_REGIONS; i++)
		expect_block(&ram, i, 0);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

START_TEST(what_was_discarded_or_written_outlives_the_daemon)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	uint64_t page = ram.page_bytes, n = page / BLOCK;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	expect_block(&ram, n, 0);
	discard(&scene, &ram, page, 3 * page);		 /* one was fetched, two were not */
	pattern_write(ram.bytes + 2 * page, SEED, 0, 1); /* one is in use again */
	pattern_write(ram.bytes + 5 * page, SEED, 5 * n, 1);

	kill_ufdd(&scene);
	ck_assert_int_eq(ufd_client_note_discard(scene.client, "ram", 6 * page, page), -ECONNRESET);
	ck_assert_int_eq(ufd_client_note_discard(scene.client, "ram", 7 * page, page), -ENOTCONN);
	start_ufdd(&scene);
	loop_until(&scene, is_back, &scene);

	expect_zero(&ram, page, page);
	ck_assert(pattern_is_right(ram.bytes + 2 * page, SEED, 0, 1));
	expect_zero(&ram, 3 * page, page);
	expect_block(&ram, 5 * n, 1);
	expect_zero(&ram, 6 * page, page);
	expect_block(&ram, 7 * n, 0);
	expect_block(&ram, 4 * n, 0);
	expect_block(&ram, 0, 0);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

/* A thread that is asleep in the kernel: /proc says in which call. */
static bool is_in_madvise(void *argument)
{
	char path[64], text[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", *(atomic_int *)argument);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	return strtol(text, NULL, 10) == SYS_madvise && text[0] != 'r';
}

struct giver {
	struct ram *ram;
	atomic_int tid;
	atomic_bool is_done;
};

static void *run_giver(void *argument)
{
	struct giver *giver = argument;

	giver->tid = (int)syscall(SYS_gettid);
	madvise(giver->ram->bytes + 2 * giver->ram->page_bytes, giver->ram->page_bytes,
		MADV_DONTNEED);
	giver->is_done = true;
	return NULL;
}

static bool has_given(void *argument)
{
	return ((struct giver *)argument)->is_done;
}

static const struct {
	const char *what;
	bool has_state;
} successors[] = { { "one that forgets", false }, { "one that keeps", true } };

START_TEST(a_discard_that_waits_for_a_dead_daemon_is_done_by_the_next)
{
	_cleanup_(ram_done) struct ram ram = map_ram(ANON);
	struct giver giver = { .ram = &ram };
	_cleanup_(scene_done) struct scene scene;
	uint64_t page = ram.page_bytes, killed_ns;
	pthread_t thread;

	scene_init_state(&scene, successors[_i].has_state);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	discard(&scene, &ram, page, page); /* so that there is something to give zero pages */
	killed_ns = clock_now_ns();
	kill_ufdd(&scene);
	ck_assert_int_eq(pthread_create(&thread, NULL, run_giver, &giver), 0);
	loop_until(&scene, is_in_madvise, &giver.tid);
	ck_assert(!giver.is_done);
	start_ufdd(&scene);
	loop_until(&scene, has_given, &giver);
	pthread_join(thread, NULL);
	printf("# %s: madvise() returned %llu us after the SIGKILL\n", successors[_i].what,
	       (unsigned long long)((clock_now_ns() - killed_ns) / NSEC_PER_USEC));
	loop_until(&scene, is_back, &scene);
	expect_zero(&ram, page, 2 * page);
	expect_block(&ram, 3 * page / BLOCK, 0);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

START_TEST(without_remove_events_a_discard_waits_for_nobody)
{
	_cleanup_(ram_done) struct ram ram = map_ram(ANON);
	_cleanup_(scene_done) struct scene scene;
	uint64_t page = ram.page_bytes;

	scene_init_flags(&scene, UFD_CLIENT_NO_REMOVE_EVENTS);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	expect_block(&ram, page / BLOCK, 0);
	discard(&scene, &ram, page, 2 * page);
	expect_zero(&ram, page, 2 * page);
	EXPECT_OK(&scene, ufd_client_note_discard(scene.client, "ram", 4 * page, page));
	kill_ufdd(&scene);
	/* With the events this thread would wait for the daemon that it is to find again. */
	ck_assert_int_eq(madvise(ram.bytes + 4 * page, page, MADV_DONTNEED), 0);
	start_ufdd(&scene);
	loop_until(&scene, is_back, &scene);
	expect_zero(&ram, page, 2 * page);
	expect_zero(&ram, 4 * page, page);
	expect_block(&ram, 3 * page / BLOCK, 0);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

static bool has_been_refused(void *argument)
{
	return strchr(((struct scene *)argument)->heard, 'X') != NULL;
}

static void *run_reader(void *argument)
{
	const struct ram *ram = argument;

	return (void *)(uintptr_t)pattern_is_right(ram->bytes + 5 * BLOCK, SEED, 5, 0);
}

/* A part of it is registered by then; to unregister that would show zeros to whoever waits there. */
START_TEST(a_hand_over_that_is_refused_half_way_lets_go_of_nothing)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	_cleanup_(closep) int other = -EBADF;
	void *spare, *is_right = NULL;
	pthread_t reader;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	spare = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	UFD_OPTS(ufd_client_memory_opts, opts, .name = "spare", .source = "zero", .address = spare,
		 .length = LENGTH);
	EXPECT_OK(&scene, ufd_client_add_memory(scene.client, &opts));
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	kill_ufdd(&scene);
	ck_assert_int_eq(pthread_create(&reader, NULL, run_reader, &ram), 0);

	/* Somebody else's by now. */
	ck_assert_ptr_eq(mmap(spare, LENGTH, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 spare);
	ck_assert_int_eq(uffd_open(&other, UFFD_WAY_USER_MODE, 0), 0);
	ck_assert_int_eq(uffd_register(other, (struct hva_range){ { (uintptr_t)spare }, LENGTH },
				       UFFD_MODE_MISSING, NULL),
			 0);
	start_ufdd(&scene);
	loop_until(&scene, has_been_refused, &scene);

	close(TAKE_FD(other));
	loop_until(&scene, is_back, &scene);
	pthread_join(reader, &is_right);
	ck_assert_ptr_nonnull(is_right);
	expect_all(&ram);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	munmap(spare, LENGTH);
}
END_TEST

static bool is_unregistered(void *argument)
{
	const struct ram *ram = argument;
	struct proc_map_flags flags;

	ck_assert_int_eq(proc_map_flags(getpid(), (struct hva){ (uintptr_t)ram->bytes }, &flags),
			 0);
	return !flags.is_uffd_missing && !flags.is_uffd_minor;
}

START_TEST(a_complete_memory_outlives_the_daemon_with_its_holes)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	uint64_t page = ram.page_bytes;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	expect_all(&ram); /* touched to the end: the daemon lets go of it */
	loop_until(&scene, is_unregistered, &ram);
	kill_ufdd(&scene);
	if (ram.kind != ANON) /* nobody was told, and nobody needs to be */
		ck_assert_int_eq(fallocate(ram.backing, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					   0, (off_t)page),
				 0);
	start_ufdd(&scene);
	loop_until(&scene, is_back, &scene);
	if (ram.kind != ANON)
		expect_zero(&ram, 0, page);
	for (uint64_t i = page / BLOCK; i < ram_n_blocks(&ram); i++)
		expect_block(&ram, i, 0);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

int main(void)
{
	hugepages_reserve(N_POOL);
	return unit_run(
		"client-recovery",
		(struct unit_test[]){
			UNIT_TABLE(a_daemon_killed_while_it_pages_costs_no_byte, kinds),
			UNIT_TABLE(a_daemon_that_keeps_its_guests_is_found_again, kinds),
			UNIT(a_hand_over_bigger_than_the_sockets_buffer_arrives),
			UNIT_TABLE(what_was_discarded_or_written_outlives_the_daemon, kinds),
			UNIT(without_remove_events_a_discard_waits_for_nobody),
			UNIT_TABLE(a_discard_that_waits_for_a_dead_daemon_is_done_by_the_next,
				   successors),
			UNIT_TABLE(a_complete_memory_outlives_the_daemon_with_its_holes, kinds),
			UNIT_TABLE(a_hand_over_that_is_refused_half_way_lets_go_of_nothing, kinds),
			{},
		});
}
