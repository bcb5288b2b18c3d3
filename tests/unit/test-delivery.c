/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages for a Cloud Hypervisor, taken up where somebody was killed: no answer twice, no page twice, none lost. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <ufd/pager.h>
#include <unistd.h>

#include "offload/delivery.h"
#include "offload/folder.h"
#include "support/unit.h"

#define N_PAGES	    8
#define BASE	    UINT64_C(0x100000)
#define FILE_OFFSET (2 * CH_PAGE_BYTES)

struct world {
	struct delivery *delivery;
	int memory; /* as Cloud Hypervisor has it */
	int client;
	pthread_t thread;
};

static void fill_page(uint8_t bytes[static CH_PAGE_BYTES], unsigned int page)
{
	memset(bytes, 0x10 + (int)page, CH_PAGE_BYTES);
}

static _Atomic int n_troubles, n_recoveries;

static void report(const struct delivery *delivery, int error)
{
	if (error)
		n_troubles++;
	else
		n_recoveries++;
}

static void world_make(struct world *world)
{
	struct folder folder = {
		.layout = { .mappings = { { 3, BASE, N_PAGES * CH_PAGE_BYTES, FILE_OFFSET } },
			    .n_mappings = 1 },
	};
	uint8_t bytes[CH_PAGE_BYTES];
	int pair[2];

	folder.memories[0] = memfd_create("source", MFD_CLOEXEC);
	for (unsigned int i = 0; i < N_PAGES; i++) {
		fill_page(bytes, i);
		ck_assert_int_eq(
			pwrite(folder.memories[0], bytes, sizeof(bytes), i * CH_PAGE_BYTES),
			sizeof(bytes));
	}
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	world->client = pair[0];
	ck_assert_int_eq(delivery_new(&world->delivery, &folder, pair[1]), 0);
	ck_assert_int_eq(delivery_add_memory(world->delivery, 0, &world->memory), 0);
}

static void *serve(void *userdata)
{
	struct world *world = userdata;

	delivery_serve(world->delivery, report);
	return NULL;
}

static void world_serve(struct world *world)
{
	ck_assert_int_eq(pthread_create(&world->thread, NULL, serve, world), 0);
}

static void make_request(unsigned int page, uint8_t bytes[static 2 * CH_HEAD_BYTES])
{
	const struct ch_request request = { CH_PAGE_FAULT, CH_HEAD_BYTES };
	const struct ch_range range = { BASE + page * CH_PAGE_BYTES, CH_PAGE_BYTES };

	ch_request_write(&request, bytes);
	ch_range_write(&range, bytes + CH_HEAD_BYTES);
}

/* One answer, and not a byte of another. */
static void expect_answer(const struct world *world)
{
	static const uint8_t ok[CH_HEAD_BYTES] = { 1 };
	uint8_t answer[CH_HEAD_BYTES];

	ck_assert_int_eq(recv(world->client, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
	ck_assert_mem_eq(answer, ok, sizeof(ok));
}

static void ask(const struct world *world, unsigned int page)
{
	uint8_t bytes[2 * CH_HEAD_BYTES];

	make_request(page, bytes);
	ck_assert_int_eq(send(world->client, bytes, sizeof(bytes), 0), sizeof(bytes));
}

static void expect_page(const struct world *world, unsigned int page, int byte)
{
	uint8_t bytes[CH_PAGE_BYTES], wanted[CH_PAGE_BYTES];

	memset(wanted, byte, sizeof(wanted));
	ck_assert_int_eq(
		pread(world->memory, bytes, sizeof(bytes), FILE_OFFSET + page * CH_PAGE_BYTES),
		sizeof(bytes));
	ck_assert_mem_eq(bytes, wanted, sizeof(bytes));
}

/* Everything was answered: the end of the connection is met, and no answer is left in it. */
static void world_end(struct world *world)
{
	char byte;

	shutdown(world->client, SHUT_WR);
	pthread_join(world->thread, NULL);
	delivery_free(world->delivery);
	ck_assert_int_eq(recv(world->client, &byte, 1, 0), 0);
	close(world->client);
	close(world->memory);
	ck_assert_int_eq(n_troubles, n_recoveries);
}

/* What lies where when somebody else begins to serve. */
enum { NOT_ASKED, ASKED_IN_PART, ASKED, ANSWERED_IN_PART, ANSWERED, TAKEN_OFF, SENT_IN_PART };

static const struct {
	const char *what;
	int where;
} deaths[] = {
	{ "before the request", NOT_ASKED },
	{ "with a part of it", ASKED_IN_PART },
	{ "with all of it", ASKED },
	{ "with a part of the answer", ANSWERED_IN_PART },
	{ "with all of the answer", ANSWERED },
	{ "when the request is taken off", TAKEN_OFF },
	{ "when a part of the answer is sent", SENT_IN_PART },
};

START_TEST(one_answer_whenever_it_was_killed)
{
	static const uint8_t answer[CH_HEAD_BYTES] = { 1 };
	uint8_t request[2 * CH_HEAD_BYTES], begun[4];
	struct delivery *delivery;
	int where = deaths[_i].where;
	struct world world;

	world_make(&world);
	delivery = world.delivery;
	make_request(5, request);
	if (where == ASKED_IN_PART)
		ck_assert_int_eq(write(delivery->request[1], request, 7), 7);
	else if (where >= ASKED && where <= ANSWERED)
		ck_assert_int_eq(write(delivery->request[1], request, sizeof(request)),
				 sizeof(request));
	if (where == ANSWERED_IN_PART)
		ck_assert_int_eq(write(delivery->answer[1], answer, 5), 5);
	else if (where == SENT_IN_PART)
		ck_assert_int_eq(write(delivery->answer[1], answer + 4, 12), 12);
	else if (where >= ANSWERED)
		ck_assert_int_eq(write(delivery->answer[1], answer, 16), 16);
	if (where == SENT_IN_PART) {
		ck_assert_int_eq(send(delivery->connection, answer, 4, 0), 4);
		ck_assert_int_eq(recv(world.client, begun, 4, MSG_PEEK), 4);
	}
	world_serve(&world);
	if (where == NOT_ASKED)
		ask(&world, 5);
	else if (where == ASKED_IN_PART)
		ck_assert_int_eq(send(world.client, request + 7, sizeof(request) - 7, 0),
				 (ssize_t)sizeof(request) - 7);
	expect_answer(&world);
	if (where < TAKEN_OFF)
		expect_page(&world, 5, 0x15);
	ask(&world, 2);
	expect_answer(&world);
	expect_page(&world, 2, 0x12);
	world_end(&world);
}
END_TEST

/* It was about to write four pages, came to the second one, and the guest has written that since. */
START_TEST(what_was_begun_is_finished_and_not_begun_anew)
{
	uint8_t written[CH_PAGE_BYTES];
	struct world world;

	world_make(&world);
	memset(written, 0xee, sizeof(written));
	ck_assert_int_eq(
		pwrite(world.memory, written, sizeof(written), FILE_OFFSET + 3 * CH_PAGE_BYTES),
		sizeof(written));
	world.delivery->journal->noted_index = 0;
	world.delivery->journal->noted_start = 2 * CH_PAGE_BYTES;
	world.delivery->journal->noted_end = 6 * CH_PAGE_BYTES;
	world_serve(&world);
	ask(&world, 3);
	expect_answer(&world);
	expect_page(&world, 3, 0xee);
	expect_page(&world, 2, 0x12);
	expect_page(&world, 5, 0x15);
	world_end(&world);
}
END_TEST

START_TEST(what_the_guest_gave_back_reads_zero)
{
	struct world world;

	world_make(&world);
	world_serve(&world);
	ask(&world, 0);
	expect_answer(&world);
	expect_page(&world, 0, 0x10);
	ck_assert_int_eq(fallocate(world.memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   FILE_OFFSET, CH_PAGE_BYTES),
			 0);
	ask(&world, 0);
	expect_answer(&world);
	expect_page(&world, 0, 0);
	world_end(&world);
}
END_TEST

/* A file that was cut: the guest waits, and gets its page when there is one. */
START_TEST(a_page_that_cannot_be_read_is_waited_for)
{
	uint8_t bytes[CH_PAGE_BYTES];
	struct pollfd client;
	struct world world;

	world_make(&world);
	client = (struct pollfd){ .fd = world.client, .events = POLLIN };
	ck_assert_int_eq(ftruncate(world.delivery->sources[0], 6 * CH_PAGE_BYTES), 0);
	world_serve(&world);
	ask(&world, 6);
	while (n_troubles == 0)
		sched_yield();
	ck_assert_int_eq(poll(&client, 1, 0), 0);
	fill_page(bytes, 6);
	ck_assert_int_eq(
		pwrite(world.delivery->sources[0], bytes, sizeof(bytes), 6 * CH_PAGE_BYTES),
		sizeof(bytes));
	expect_answer(&world);
	expect_page(&world, 6, 0x16);
	world_end(&world);
	ck_assert_int_eq(n_troubles, 1);
}
END_TEST

START_TEST(a_bundle_has_all_of_it)
{
	struct ufd_handle handles[DELIVERY_MAX_HANDLES];
	struct delivery *again = NULL;
	struct world world;
	size_t n;

	world_make(&world);
	n = delivery_handles(world.delivery, handles);
	ck_assert_int_eq(delivery_find_journal(handles, n), world.delivery->journal_fd);
	for (size_t i = 0; i < n; i++)
		handles[i].fd = dup(handles[i].fd);
	ck_assert_int_eq(delivery_adopt(&again, handles, n), 0);
	ck_assert_uint_eq(again->journal->n_pages, N_PAGES);
	delivery_free(world.delivery);
	world.delivery = again;
	world_serve(&world);
	ask(&world, 7);
	expect_answer(&world);
	expect_page(&world, 7, 0x17);
	world_end(&world);
}
END_TEST

static const char *const parts[] = {
	"its journal",		 "its connection",	  "a request's end", "an answer's end",
	"a request's other end", "an answer's other end", "its memory",	     "its source",
};

START_TEST(a_bundle_that_lacks_something_is_refused)
{
	struct ufd_handle handles[DELIVERY_MAX_HANDLES];
	struct delivery *again = NULL;
	struct world world;
	size_t n;

	world_make(&world);
	n = delivery_handles(world.delivery, handles);
	for (size_t i = 0; i < n; i++)
		handles[i].fd = i == (size_t)_i ? -EBADF : dup(handles[i].fd);
	ck_assert_msg(delivery_adopt(&again, handles, n) == -EBADMSG, "without %s", parts[_i]);
	for (size_t i = 0; i < n; i++)
		if (handles[i].fd >= 0)
			close(handles[i].fd);
	delivery_free(world.delivery);
	close(world.client);
	close(world.memory);
}
END_TEST

int main(void)
{
	return unit_run("delivery",
			(struct unit_test[]){
				UNIT_TABLE(one_answer_whenever_it_was_killed, deaths),
				UNIT(what_was_begun_is_finished_and_not_begun_anew),
				UNIT(what_the_guest_gave_back_reads_zero),
				UNIT(a_page_that_cannot_be_read_is_waited_for),
				UNIT(a_bundle_has_all_of_it),
				UNIT_TABLE(a_bundle_that_lacks_something_is_refused, parts),
				{},
			});
}
