/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy before write: an image of one moment, made while a thread writes on. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "fault/before-write.h"
#include "image/image-reader.h"
#include "image/image-writer.h"
#include "pager/hold.h"
#include "pager/view.h"
#include "snapshot/copy.h"
#include "snapshot/view.h"
#include "support/paged-child.h"
#include "support/unit.h"
#include "ufd/pager-dirty.h"

#define LENGTH	   (16 * MIB)
#define PAGE	   4096
#define N_PAGES	   (LENGTH / PAGE)
#define ENOUGH	   2000 /* writes before the moment, and while pages are copied */
#define RING_BYTES MIB

/* Of the test and its child. */
struct shared {
	_Atomic bool must_stop;
	_Atomic uint64_t n_writes;
};
static struct shared *shared;

/* In the child: words all over the memory, until it is told to stop. */
static uint64_t write_on(const struct paged_child *self, const void *argument)
{
	uint64_t x = UINT64_C(88172645463325252);

	while (!atomic_load(&shared->must_stop)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		*(volatile uint64_t *)(self->address + x % N_PAGES * PAGE + 8) = x;
		atomic_fetch_add(&shared->n_writes, 1);
	}
	return 0;
}

static void *call_writer(void *child)
{
	(void)child_call(child, write_on, "", 1);
	return NULL;
}

static void await_writes(uint64_t n)
{
	for (int i = 0; i < 20000 && atomic_load(&shared->n_writes) < n; i++)
		usleep(1000);
	ck_assert_uint_ge(atomic_load(&shared->n_writes), n);
}

struct fixture {
	struct paged_child child;
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	struct ufd_source *source;
	pthread_t writer;

	struct before_write *hook;
	struct image_writer *image;
	uint32_t image_memory;
	uint64_t n_from_ring;
};

static int source_file(void)
{
	static unsigned char page[PAGE];
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	for (uint64_t i = 0; i < N_PAGES; i++) {
		child_page(i, PAGE, page);
		ck_assert_int_eq(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	return fd;
}

static void start(struct fixture *fixture, enum child_memory kind, bool is_complete)
{
	_cleanup_(closep) int file = source_file();
	UFD_OPTS(ufd_pager_opts, opts);
	UFD_OPTS(ufd_pager_guest_opts, guest_opts, .track = UFD_TRACK_WP, .no_background = 1);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = LENGTH, .kind = kind);
	uint32_t mapper, number;
	int r = child_start_tracked(&fixture->child, kind, LENGTH, true);

	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(ufd_source_open(&fixture->source, "file:", file, NULL), 0);
	memory.source = fixture->source;
	memory.backing = fixture->child.memfd;
	ck_assert_int_eq(ufd_pager_new(&fixture->pager, &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_new(fixture->pager, &fixture->guest, "guest", &guest_opts),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(fixture->guest, fixture->child.uffd,
						    fixture->child.pidfd, -1, &mapper),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_memory(fixture->guest, &memory, &number), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(fixture->guest, mapper, number,
						     fixture->child.address, LENGTH, 0, NULL),
			 0);
	ck_assert_int_eq(ufd_pager_guest_start(fixture->guest), 0);
	if (is_complete)
		ck_assert_int_eq(ufd_pager_guest_finish(fixture->guest, 0), 0);
	r = ufd_pager_guest_dirty_start(fixture->guest, "copy");
	if (r == -EOPNOTSUPP)
		unit_skip("%s", ufd_pager_guest_dirty_refusal(fixture->guest));
	ck_assert_int_eq(r, 0);
	atomic_store(&shared->must_stop, false); /* the test before left it so */
	atomic_store(&shared->n_writes, 0);
	ck_assert_int_eq(pthread_create(&fixture->writer, NULL, call_writer, &fixture->child), 0);
	await_writes(ENOUGH);
}

static void done(struct fixture *fixture)
{
	image_writer_free(fixture->image);
	before_write_free(fixture->hook);
	ufd_pager_free(fixture->pager);
	ufd_source_unref(fixture->source);
	child_stop(&fixture->child);
}

static bool on_claim(void *userdata, uint32_t number, uint64_t page, bool is_zero)
{
	return before_write_claim(((struct fixture *)userdata)->hook, number, page);
}

/* Between pieces; and the first time, until the guest has met protected pages. */
static int on_piece(void *userdata)
{
	struct fixture *fixture = userdata;
	struct saved_page page;

	if (!fixture->n_from_ring)
		await_writes(atomic_load(&shared->n_writes) + 8);
	while (before_write_take(fixture->hook, &page)) {
		ck_assert_int_eq(image_writer_pages(fixture->image, fixture->image_memory,
						    page.page, page.bytes, 1),
				 0);
		before_write_release(fixture->hook);
		fixture->n_from_ring++;
	}
	return 0;
}

/* What the child's memory holds while it stands still. */
static void look(struct guest_views *views, void *ret)
{
	_cleanup_(view_reader_freep) struct view_reader *reader = NULL;

	ck_assert_int_eq(view_reader_new(&reader), 0);
	ck_assert_int_eq(
		view_read(reader, &views->memories[0], (struct page_range){ 0, N_PAGES }, ret), 0);
}

/* The moment: nothing runs, every page is protected, and the hook is set. */
static void hold(struct fixture *fixture, struct guest_views *views, void *moment)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);

	ck_assert_int_eq(kill(fixture->child.pid, SIGSTOP), 0);
	ck_assert_int_eq(waitpid(fixture->child.pid, NULL, WUNTRACED), fixture->child.pid);
	ck_assert_int_eq(ufd_pager_guest_dirty_read(fixture->guest, "copy", UFD_DIRTY_LAST, &epoch),
			 0);
	ck_assert_int_eq(pager_before_write_new(fixture->guest, RING_BYTES, &fixture->hook), 0);
	ck_assert_int_eq(pager_before_write_set(fixture->guest, fixture->hook), 0);
	ck_assert_int_eq(pager_view(fixture->guest, views), 0);
	look(views, moment);
	ck_assert_int_eq(kill(fixture->child.pid, SIGCONT), 0);
}

static uint64_t count_wrong(const char *path, const char *moment)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = NULL;
	static char page[PAGE];
	const char *error = "";
	uint64_t n = 0;

	ck_assert_msg(!image_open(&image, path, -1, NULL, &error), "%s", error);
	ck_assert_int_eq(image_cursor_new(&cursor, image), 0);
	for (uint64_t i = 0; i < N_PAGES; i++) {
		ck_assert_msg(!image_read_pages(cursor, 0, i, 1, page, &error), "%s", error);
		n += memcmp(page, moment + i * PAGE, PAGE) != 0;
	}
	return n;
}

static const struct {
	const char *what;
	enum child_memory kind;
	bool is_complete;
} rows[] = {
	{ "shmem", CHILD_SHMEM, true },
	{ "shmem, still being filled", CHILD_SHMEM, false },
	{ "anonymous", CHILD_ANON, true },
	{ "anonymous, still being filled", CHILD_ANON, false },
};

START_TEST(the_image_shows_the_moment_though_the_guest_writes_on)
{
	_cleanup_(guest_views_done) struct guest_views views = {};
	_cleanup_(copy_freep) struct copy *copy = NULL;
	const struct image_writer_opts opts = { .codec = IMAGE_LZ4 };
	struct copy_opts copy_opts = { .claim = on_claim, .between = on_piece };
	struct copy_target target = { .is_new = true };
	char path[] = "/tmp/ufd-before-XXXXXX";
	_cleanup_(closep) int file = mkstemp(path);
	struct before_write_stats stats;
	struct fixture fixture = {};
	char *moment = malloc(LENGTH);

	start(&fixture, rows[_i].kind, rows[_i].is_complete);
	ck_assert_int_eq(image_writer_new(&fixture.image, file, &opts), 0);
	ck_assert_int_eq(image_writer_add_memory(fixture.image, "ram", LENGTH, PAGE, IMAGE_SHMEM,
						 &fixture.image_memory),
			 0);
	copy_opts.writer = fixture.image;
	copy_opts.userdata = &fixture;
	ck_assert_int_eq(copy_new(&copy, &copy_opts), 0);

	hold(&fixture, &views, moment);
	target.view = &views.memories[0];
	ck_assert_msg(!copy_pages(copy, &target, (struct page_range){ 0, N_PAGES }), "%s",
		      copy_error(copy));
	ck_assert_int_eq(pager_before_write_set(fixture.guest, NULL), 0);
	ck_assert_int_eq(on_piece(&fixture), 0);
	atomic_store(&shared->must_stop, true);
	pthread_join(fixture.writer, NULL);

	before_write_stats(fixture.hook, &stats);
	ck_assert_int_eq(stats.error, 0);
	ck_assert_uint_eq(stats.n_lost, 0);
	ck_assert_uint_eq(stats.n_copied, fixture.n_from_ring);
	ck_assert_uint_gt(fixture.n_from_ring, 0);
	ck_assert_int_eq(image_writer_commit(fixture.image, NULL), 0);
	ck_assert_uint_eq(count_wrong(path, moment), 0);
	unlink(path);
	free(moment);
	done(&fixture);
}
END_TEST

int main(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	return unit_run(
		"before-write",
		(struct unit_test[]){
			UNIT_TABLE(the_image_shows_the_moment_though_the_guest_writes_on, rows),
			{},
		});
}
