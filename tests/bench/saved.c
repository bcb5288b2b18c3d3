/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory that is saved, while a thread writes to it or not. */
#include "saved.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ufd/pager-dirty.h>
#include <unistd.h>

#include "arm.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/units.h"
#include "engine.h"
#include "fault/before-write.h"
#include "image/image-writer.h"
#include "kernel/thread.h"
#include "machine.h"
#include "pager/hold.h"
#include "pager/view.h"
#include "saved-bytes.h"
#include "snapshot/copy.h"
#include "snapshot/rounds.h"
#include "snapshot/view.h"
#include "writer.h"

#define PIECE_BYTES	(1 * MIB)
#define RING_BYTES	(16 * MIB)
#define ROUNDS_CONSUMER "rounds"

/* What the guest is asked to bear, and what of that a machine's devices take. */
#define PAUSE_NS   (20 * NSEC_PER_MSEC)
#define DEVICES_NS (10 * NSEC_PER_MSEC)

/* Writes before the snapshot begins. */
#define N_BEFORE 500

/* Before pages are copied: the writer has its CPU by then. */
#define N_UNDER_WAY 20

struct saved {
	struct bench *bench;
	const struct arm *arm;
	int cpu;
	struct ram ram;
	int uffd;
	struct engine engine;
	struct writer *writer; /* NULL: nobody writes */
	uint64_t n_at_moment;  /* what it had written by then */

	int file; /* owned; the image */
	struct image_writer *image;
	uint32_t image_memory;
	struct guest_views views;
	struct copy *copy;
	_Atomic uint64_t copied_bytes;
	struct before_write *hook;
};

static int new_file(void)
{
	int file = memfd_create("bench-saved", MFD_CLOEXEC);

	if (file < 0)
		die("cannot make a memfd");
	return file;
}

/* ---- by plain calls ---- */

static double memcpy_ns(const struct saved *saved)
{
	uint64_t n_bytes = saved->ram.length_bytes, start_ns, time_ns;
	char *to = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (to == MAP_FAILED)
		die("no memory");
	start_ns = clock_now_ns();
	memcpy(to, saved->ram.at, n_bytes);
	time_ns = clock_now_ns() - start_ns;
	saved_bytes_check(&saved->ram, to, saved->arm->name);
	munmap(to, n_bytes);
	return (double)time_ns;
}

static void check_file(const struct saved *saved)
{
	void *at = mmap(NULL, saved->ram.length_bytes, PROT_READ, MAP_SHARED, saved->file, 0);

	if (at == MAP_FAILED)
		die("cannot map what was written");
	saved_bytes_check(&saved->ram, at, saved->arm->name);
	munmap(at, saved->ram.length_bytes);
}

static double pread_write_ns(const struct saved *saved)
{
	_cleanup_(freep) char *piece = malloc(PIECE_BYTES);
	uint64_t start_ns, time_ns;

	if (!piece)
		die("no memory");
	start_ns = clock_now_ns();
	for (uint64_t at = 0; at < saved->ram.length_bytes; at += PIECE_BYTES) {
		if (pread(saved->ram.backing, piece, PIECE_BYTES, (off_t)at) !=
		    (ssize_t)PIECE_BYTES)
			die("cannot read the memory");
		must(fd_write_all(saved->file, piece, PIECE_BYTES), "write a file");
	}
	time_ns = clock_now_ns() - start_ns;
	check_file(saved);
	return (double)time_ns;
}

/* ---- with the engine ---- */

static bool on_claim(void *userdata, uint32_t number, uint64_t page, bool is_zero)
{
	struct saved *saved = userdata;

	return !saved->hook || before_write_claim(saved->hook, number, page);
}

static int on_piece(void *userdata)
{
	struct saved *saved = userdata;
	struct saved_page page;

	while (saved->hook && before_write_take(saved->hook, &page)) {
		must(image_writer_pages(saved->image, saved->image_memory, page.page, page.bytes,
					1),
		     "write a page that was copied before it was written");
		before_write_release(saved->hook);
	}
	return 0;
}

static void begin_image(struct saved *saved)
{
	struct image_writer_opts opts = {};
	struct copy_opts copy_opts = { .done_bytes = &saved->copied_bytes, .userdata = saved };

	must(image_codec_parse(saved->arm->codec, &opts.codec, &opts.level), "know a codec");
	must(image_writer_new(&saved->image, saved->file, &opts), "begin an image");
	must(image_writer_add_memory(saved->image, "ram", saved->ram.length_bytes,
				     saved->ram.page_bytes, IMAGE_SHMEM, &saved->image_memory),
	     "declare a memory");
	must(pager_view(saved->engine.guest, &saved->views), "look at a guest");
	copy_opts.writer = saved->image;
	if (saved->arm->way == SAVE_BEFORE_WRITE) {
		copy_opts.claim = on_claim;
		copy_opts.between = on_piece;
	}
	must(copy_new(&saved->copy, &copy_opts), "copy");
}

static void commit_image(struct saved *saved)
{
	must(image_writer_commit(saved->image, NULL), "commit an image");
}

static void copy_all(struct saved *saved)
{
	const struct copy_target target = { .view = &saved->views.memories[0],
					    .image_memory = saved->image_memory,
					    .is_new = true };

	must(copy_pages(saved->copy, &target,
			(struct page_range){ 0, saved->ram.length_bytes / saved->ram.page_bytes }),
	     "copy a memory");
}

/* What was found at the last look. */
static void copy_found(struct saved *saved)
{
	uint64_t n_pages = saved->ram.length_bytes / saved->ram.page_bytes;
	size_t n_words = (n_pages + 63) / 64;
	_cleanup_(freep) uint64_t *words = calloc(n_words, sizeof(*words));
	const struct copy_target target = { .view = &saved->views.memories[0],
					    .image_memory = saved->image_memory };

	if (!words)
		die("no memory");
	must(ufd_pager_guest_dirty_bitmap(saved->engine.guest, ROUNDS_CONSUMER,
					  saved->views.memories[0].number, 0, words, n_words),
	     "get what is dirty");
	must(copy_marked(saved->copy, &target, (struct page_range){ 0, n_pages }, words),
	     "copy what was written");
}

static void pause_writer(struct saved *saved)
{
	if (saved->writer)
		saved->n_at_moment = writer_pause(saved->writer);
}

static void resume_writer(struct saved *saved)
{
	if (saved->writer)
		writer_resume(saved->writer);
}

static void read_base(const struct saved *saved)
{
	(void)engine_read(&saved->engine, ENGINE_CONSUMER, UFD_DIRTY_LAST, NULL);
}

/* Return: nanoseconds that the writer stood still; so do the other two. */
static uint64_t save_still(struct saved *saved)
{
	uint64_t start_ns = clock_now_ns();

	pause_writer(saved);
	read_base(saved);
	copy_all(saved);
	return clock_now_ns() - start_ns;
}

/* While the guest runs. Return: the number of the last look. */
static uint64_t run_rounds(struct saved *saved)
{
	struct rounds rounds = { .pause_ns = PAUSE_NS, .fixed_ns = DEVICES_NS };
	uint64_t start_ns = clock_now_ns(), before_bytes = 0, epoch;

	copy_all(saved);
	for (;;) {
		uint64_t left_bytes;

		rounds_copied(&rounds, saved->copied_bytes - before_bytes,
			      clock_now_ns() - start_ns);
		before_bytes = saved->copied_bytes;
		left_bytes = engine_read(&saved->engine, ROUNDS_CONSUMER, UFD_DIRTY_LAST, &epoch);
		if (rounds_judge(&rounds, left_bytes) != ROUNDS_AGAIN)
			return epoch;
		start_ns = clock_now_ns();
		copy_found(saved);
	}
}

/* What the last look found was not copied, and comes again. */
static uint64_t save_by_rounds(struct saved *saved)
{
	uint64_t epoch, start_ns;

	must(ufd_pager_guest_dirty_start(saved->engine.guest, ROUNDS_CONSUMER), "track");
	epoch = run_rounds(saved);
	start_ns = clock_now_ns();
	pause_writer(saved);
	(void)engine_read(&saved->engine, ROUNDS_CONSUMER, epoch - 1, NULL);
	read_base(saved);
	copy_found(saved);
	return clock_now_ns() - start_ns;
}

/* The moment: every page is protected, and the hook is set. */
static uint64_t hold(struct saved *saved)
{
	uint64_t start_ns = clock_now_ns();

	pause_writer(saved);
	read_base(saved);
	must(pager_before_write_new(saved->engine.guest, RING_BYTES, &saved->hook), "hold writes");
	must(pager_before_write_set(saved->engine.guest, saved->hook), "hold writes");
	resume_writer(saved);
	return clock_now_ns() - start_ns;
}

static void copy_held(struct saved *saved)
{
	struct before_write_stats stats;
	int nice = thread_set_nice(THREAD_BULK_NICE); /* as ufdd's does */

	copy_all(saved);
	(void)thread_set_nice(nice);
	must(pager_before_write_set(saved->engine.guest, NULL), "let writes go");
	(void)on_piece(saved);
	before_write_stats(saved->hook, &stats);
	must(-stats.error, "copy a page before it is written");
	if (stats.n_lost)
		die("%s: pages were lost", saved->arm->name);
}

/* ---- results ---- */

static struct writer_opts writer_opts(const struct saved *saved)
{
	return (struct writer_opts){
		.ram = &saved->ram,
		.order = saved->bench->order,
		.n_order = saved->arm->n_touches,
		.gap_ns = saved->arm->gap_ns,
		.cpu = saved->bench->cpus[0],
	};
}

/* What was written after the moment is taken back: the memory is what it was then. */
static uint64_t stop_writer(struct saved *saved)
{
	uint64_t n = writer_stop(saved->writer);

	for (uint64_t i = saved->n_at_moment; i < n; i++)
		writer_toggle(&saved->ram, saved->bench->order[i % saved->arm->n_touches]);
	saved->writer = NULL;
	return n;
}

static double save_ns(struct saved *saved)
{
	uint64_t start_ns = clock_now_ns();

	begin_image(saved);
	(void)save_still(saved);
	commit_image(saved);
	return (double)(clock_now_ns() - start_ns);
}

static double pause_ns(struct saved *saved)
{
	const struct writer_opts opts = writer_opts(saved);
	uint64_t time_ns;

	saved->writer = writer_start(&opts);
	(void)writer_await(saved->writer, N_BEFORE);
	begin_image(saved);
	switch (saved->arm->way) {
	case SAVE_ROUNDS:
		time_ns = save_by_rounds(saved);
		break;
	case SAVE_BEFORE_WRITE:
		time_ns = hold(saved);
		copy_held(saved);
		break;
	default:
		time_ns = save_still(saved);
		break;
	}
	(void)stop_writer(saved);
	commit_image(saved);
	return (double)time_ns;
}

/* Each page that it will write has been written, and is protected again. */
static double writes_p99_ns(struct saved *saved)
{
	struct writer_opts opts = writer_opts(saved);
	uint64_t n;

	for (uint64_t i = 0; i < saved->arm->n_touches; i++)
		writer_toggle(&saved->ram, saved->bench->order[i]);
	opts.latencies_ns = saved->bench->latencies_ns;
	opts.n_latencies = saved->arm->n_touches;
	if (saved->arm->way == SAVE_NOT) {
		read_base(saved);
		saved->writer = writer_start(&opts);
		(void)writer_await(saved->writer, opts.n_latencies);
		n = stop_writer(saved);
	} else {
		begin_image(saved);
		(void)hold(saved);
		saved->writer = writer_start(&opts);
		(void)writer_await(saved->writer, N_UNDER_WAY);
		copy_held(saved);
		n = stop_writer(saved);
		commit_image(saved);
	}
	return bench_percentile_ns(saved->bench->latencies_ns, n, 99);
}

static double run_engine(struct saved *saved)
{
	bool is_sync = saved->arm->is_sync;
	double result;

	saved->uffd = engine_new_uffd(is_sync);
	engine_start(&saved->engine, &saved->ram, saved->uffd, is_sync, saved->cpu);
	switch (saved->arm->result) {
	case RESULT_PAUSE:
		result = pause_ns(saved);
		break;
	case RESULT_WRITES_P99:
		result = writes_p99_ns(saved);
		break;
	default:
		result = save_ns(saved);
		break;
	}
	if (saved->image)
		saved_bytes_check_image(&saved->ram, saved->file, saved->arm->name);
	copy_free(saved->copy);
	guest_views_done(&saved->views);
	image_writer_free(saved->image);
	before_write_free(saved->hook);
	engine_stop(&saved->engine);
	closep(&saved->uffd);
	return result;
}

double saved_run(struct bench *bench, const struct arm *arm, int cpu)
{
	struct saved saved = { .bench = bench, .arm = arm, .cpu = cpu, .uffd = -EBADF };
	double result;

	ram_new(&saved.ram, RAM_SHMEM, arm->length_bytes);
	saved_bytes_fill(&saved.ram);
	bench_make_order(bench, arm, arm->length_bytes / saved.ram.page_bytes);
	saved.file = new_file();
	machine_pin(cpu);
	if (arm->way == SAVE_MEMCPY)
		result = memcpy_ns(&saved);
	else if (arm->way == SAVE_PREAD_WRITE)
		result = pread_write_ns(&saved);
	else
		result = run_engine(&saved);
	machine_pin(bench->cpus[0]);
	closep(&saved.file);
	ram_done(&saved.ram);
	return result;
}
