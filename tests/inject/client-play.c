/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with a libufd client, which does what libufd(3) says it must. */
#include "inject/client-play.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "inject/rounds.h"
#include "kernel/pidfd.h"
#include "support/pattern.h"

#define PAGE	 PATTERN_BLOCK_BYTES
#define N_PAGES	 32
#define LENGTH	 (N_PAGES * PAGE)
#define N_RAMS	 3
#define N_TRIES	 6
#define AT_ONCE	 0 /* generation of the source's bytes */
#define ZERO	 UINT32_MAX
#define SOON	 (2 * NSEC_PER_SEC)
#define PATIENCE (20 * NSEC_PER_SEC)

/* ---- memory ---- */

static uint64_t seed_of(const struct play *play, const struct ram *ram)
{
	return 40 + (uint64_t)(ram - play->rams);
}

static void make_ram(struct play *play, unsigned int i, const char *name, bool is_anon)
{
	struct ram *ram = &play->rams[i];
	char block[PAGE];

	*ram = (struct ram){ .name = name, .is_anon = is_anon, .memfd = -EBADF, .wrong_page = -1 };
	if (!is_anon) {
		ram->memfd = memfd_create(name, MFD_CLOEXEC);
		if (ftruncate(ram->memfd, LENGTH) < 0)
			rounds_fail("no memory");
	}
	ram->bytes = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE,
			  is_anon ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, ram->memfd, 0);
	if (ram->bytes == MAP_FAILED)
		rounds_fail("no memory");
	for (unsigned int page = 0; page < N_PAGES; page++) {
		pattern_write(block, seed_of(play, ram), page, AT_ONCE);
		if (pwrite(play->image, block, PAGE, (off_t)(i * LENGTH + page * PAGE)) != PAGE)
			rounds_fail("no image");
	}
}

struct touch {
	struct play *play;
	struct ram *ram;
	unsigned int first, count;
	int discard; /* madvise() instead of reading; 0 is reading */
	_Atomic bool is_done;
};

static void *touch_main(void *userdata)
{
	struct touch *touch = userdata;
	struct ram *ram = touch->ram;

	if (touch->discard)
		madvise(ram->bytes + touch->first * PAGE, touch->count * PAGE, touch->discard);
	for (unsigned int page = touch->first;
	     !touch->discard && page < touch->first + touch->count; page++) {
		const char *at = ram->bytes + page * PAGE;
		uint32_t generation = ram->generations[page];

		if (generation == ZERO
			    ? !pattern_is_all_zero(at)
			    : !pattern_is_right(at, seed_of(touch->play, ram), page, generation))
			ram->wrong_page = (int)page;
	}
	touch->is_done = true;
	return NULL;
}

/* One turn of the VMM's loop. */
static void turn(struct play *play)
{
	struct pollfd wait = { .fd = ufd_client_fd(play->client), .events = POLLIN };
	int r = 0;

	if (play->twin && !pidfd_is_alive(play->ufdd.pidfd))
		rounds_fail("ufdd has ended: %#x", ufdd_stop(&play->ufdd, SIGKILL));

	if (poll(&wait, 1, 2) > 0)
		r = LOUD(ufd_client_dispatch(play->client));
	if (r < 0 && r != -ENOMEM)
		rounds_fail("dispatch: %s", strerrorname_np(-r));
}

/* A guest may stall; then the next ufdd, which has no failures, finds everything. */
static void rescue(struct play *play)
{
	rounds_say("stalled: to a next ufdd");
	play->twin = NULL;
	(void)ufdd_stop(&play->ufdd, SIGKILL);
	if (!ufdd_start(&play->ufdd, NULL))
		rounds_fail("ufdd does not start");
}

/* By a thread, which may wait as long as the daemon is away. */
static void touch(struct play *play, struct touch *what)
{
	uint64_t deadline_ns = clock_now_ns() + PATIENCE, soon_ns = clock_now_ns() + SOON;
	pthread_t thread;

	what->play = play;
	if (pthread_create(&thread, NULL, touch_main, what))
		rounds_fail("no thread");
	while (!what->is_done) {
		turn(play);
		if (play->twin && clock_now_ns() > soon_ns)
			rescue(play);
		if (clock_now_ns() > deadline_ns)
			rounds_fail("memory %s, %u pages from %u: nobody answers (%s)",
				    what->ram->name, what->count, what->first,
				    ufd_client_error(play->client));
	}
	pthread_join(thread, NULL);
	if (what->ram->wrong_page >= 0)
		rounds_fail("memory %s: page %d is wrong", what->ram->name, what->ram->wrong_page);
}

static void check(struct play *play, unsigned int ram, unsigned int first, unsigned int count)
{
	struct touch what = { .ram = &play->rams[ram], .first = first, .count = count };

	touch(play, &what);
}

/* ---- calls ---- */

static void wait_found(struct play *play)
{
	uint64_t deadline_ns = clock_now_ns() + PATIENCE, soon_ns = clock_now_ns() + SOON;

	while (ufd_client_state(play->client) == UFD_CLIENT_AWAY) {
		turn(play);
		if (play->twin && clock_now_ns() > soon_ns)
			rescue(play);
		if (clock_now_ns() > deadline_ns)
			rounds_fail("the daemon is not found again: %s",
				    ufd_client_error(play->client));
	}
}

static int said(struct play *play, const char *call, int r)
{
	if (r > 0 || (r < 0 && !ufd_client_error(play->client)[0]))
		rounds_fail("%s says %d, '%s'", call, r, ufd_client_error(play->client));
	if (r < 0)
		rounds_say("%s: %s (%s)", call, strerrorname_np(-r),
			   ufd_client_error(play->client));
	return r;
}

/* Again until it works; @done is how it says that it had worked the time before. */
#define STEADY(play, call, done)                                                        \
	do {                                                                            \
		int _r = said(play, #call, LOUD(call));                                 \
                                                                                        \
		for (int _i = 0; _r < 0 && _r != -(done); _i++) {                       \
			if (_i == N_TRIES)                                              \
				rounds_fail("nothing fails any more, and yet it does"); \
			wait_found(play);                                               \
			_r = said(play, #call, LOUD(call));                             \
		}                                                                       \
	} while (0)

static int add_memory(struct play *play, unsigned int i)
{
	struct ram *ram = &play->rams[i];
	char spec[64];
	UFD_OPTS(ufd_client_memory_opts, opts, .name = ram->name, .source = spec,
		 .address = ram->bytes, .length = LENGTH / 2, .backing = ram->memfd,
		 .source_fd = play->image);

	/* the source is read where the memory is: an image each */
	snprintf(spec, sizeof(spec), "file:,offset=%u", i * LENGTH);
	return ufd_client_add_memory(play->client, &opts);
}

static int add_region(struct play *play, unsigned int i)
{
	struct ram *ram = &play->rams[i];
	UFD_OPTS(ufd_client_region_opts, opts, .memory = ram->name,
		 .address = ram->bytes + LENGTH / 2, .length = LENGTH / 2, .offset = LENGTH / 2);

	return ufd_client_add_region(play->client, &opts);
}

static void discard(struct play *play, unsigned int i, unsigned int first, unsigned int count)
{
	struct ram *ram = &play->rams[i];
	struct touch what = { .ram = ram,
			      .first = first,
			      .count = count,
			      .discard = ram->is_anon ? MADV_DONTNEED : MADV_REMOVE };
	int r = -ENOTCONN;

	for (int tries = 0; tries < N_TRIES && r < 0 && r != -ECONNRESET && r != -ETIMEDOUT;
	     tries++) {
		wait_found(play);
		r = said(play, "note_discard",
			 LOUD(ufd_client_note_discard(play->client, ram->name, first * PAGE,
						      count * PAGE)));
	}
	if (r < 0 && r != -ECONNRESET && r != -ETIMEDOUT)
		rounds_fail("nothing fails any more, and yet it does");
	for (unsigned int page = first; page < first + count; page++)
		ram->generations[page] = ZERO;
	touch(play, &what);
}

/* By another way than the mapping. */
static void write_to_file(struct play *play, unsigned int i, unsigned int page)
{
	struct ram *ram = &play->rams[i];
	char block[PAGE];

	ram->generations[page] = 1;
	pattern_write(block, seed_of(play, ram), page, 1);
	if (pwrite(ram->memfd, block, PAGE, (off_t)page * PAGE) != PAGE)
		rounds_fail("no room");
}

static void make_client(struct play *play)
{
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .socket_path = play->ufdd.socket,
		 .consumer = play->twin ? NULL : "c", .timeout_ns = SOON,
		 .background = UFD_CLIENT_OFF, .window_bytes = UFD_CLIENT_NO_WINDOW,
		 .flags = geteuid() == 0 ? 0 : UFD_CLIENT_USER_MODE);

	for (int i = 0; i < N_TRIES && !play->client; i++) {
		const char *error = NULL;
		int r = LOUD(ufd_client_new(&play->client, &opts, &error));

		if (r < 0)
			rounds_say("ufd_client_new: %s", error);
		if (r > 0 || (r < 0 && (play->client || !error)))
			rounds_fail("ufd_client_new says %d", r);
	}
	if (!play->client)
		rounds_fail("no client, though nothing fails any more");
}

static void attach(struct play *play)
{
	int r = -1;

	for (int i = 0; i < N_TRIES && r < 0; i++) {
		r = said(play, "attach", LOUD(ufd_client_attach(play->client)));
		/* it may be attached all the same */
		if (r < 0)
			STEADY(play, ufd_client_detach(play->client, NULL), EINVAL);
	}
	if (r < 0)
		rounds_fail("cannot be attached, though nothing fails any more");
}

void play_detach(struct play *play)
{
	STEADY(play, ufd_client_detach(play->client, NULL), EINVAL);
}

/* ---- the play ---- */

void play_use(struct play *play)
{
	make_client(play);
	/* nobody takes it up, and it must not be in the way of what follows */
	STEADY(play, ufd_client_offer(play->client), 0);
	STEADY(play, add_memory(play, 0), EEXIST);
	STEADY(play, add_memory(play, 1), EEXIST);
	STEADY(play, add_region(play, 0), EEXIST);
	STEADY(play, add_region(play, 1), EEXIST);
	attach(play);
	check(play, 0, 14, 4);
	check(play, 1, 0, 4);
	discard(play, 0, 15, 4);
	discard(play, 1, 2, 3);
	write_to_file(play, 0, 0);
	STEADY(play, ufd_client_note_write(play->client, play->rams[0].name, 0, PAGE), 0);
	/* one that comes while it runs; not touched before it is there */
	for (int i = 0; said(play, "add", LOUD(add_memory(play, 2))) < 0; i++) {
		if (i == N_TRIES)
			rounds_fail("cannot be plugged in, though nothing fails any more");
		wait_found(play);
		STEADY(play,
		       ufd_client_remove_region(play->client, play->rams[2].bytes, LENGTH / 2),
		       ENOENT);
	}
	check(play, 2, 0, 2);
}

void play_go_on(struct play *play)
{
	check(play, 0, 12, 8);
	check(play, 1, 0, 8);
	wait_found(play);
	discard(play, 1, 8, 2);
	STEADY(play, ufd_client_remove_region(play->client, play->rams[2].bytes, LENGTH / 2),
	       ENOENT);
	check(play, 1, 0, N_PAGES);
}

void play_init(struct play *play)
{
	*play = (struct play){ .image = memfd_create("image", MFD_CLOEXEC) };
	ufdd_init(&play->ufdd);
	make_ram(play, 0, "shmem", false);
	make_ram(play, 1, "anon", true);
	make_ram(play, 2, "late", false);
}

void play_done(struct play *play)
{
	ufdd_done(&play->ufdd);
	for (unsigned int i = 0; i < 2; i++) {
		struct touch what = { play, &play->rams[i], 0, N_PAGES, 0, false };

		touch_main(&what);
		if (what.ram->wrong_page >= 0)
			rounds_fail("memory %s: page %d is wrong after the detach", what.ram->name,
				    what.ram->wrong_page);
	}
	for (unsigned int i = 0; i < N_RAMS; i++) {
		munmap(play->rams[i].bytes, LENGTH);
		closep(&play->rams[i].memfd);
	}
	close(play->image);
}
