/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The course of a verification.
 *
 * A round grants the guest's threads pages to write, and does other things meanwhile; it ends when all
 * grants are done. A pager that was killed is adopted at once, before anything waits.
 */
#include "support/dirty-verify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/features.h"
#include "kernel/uapi.h"
#include "support/dirty-copy.h"

#define SMALL_PAGES 2048
#define HUGE_PAGES  8
#define PATIENCE_NS (30 * NSEC_PER_SEC)

static uint64_t draw(struct verify *verify)
{
	verify->random = verify->random * UINT64_C(6364136223846793005) +
			 UINT64_C(1442695040888963407);
	return verify->random >> 33;
}

static bool one_in(struct verify *verify, uint64_t n)
{
	return draw(verify) % n == 0;
}

static bool has_failed(const struct verify *verify)
{
	return !verdict_is_good(verify->verdict);
}

static uint64_t moment(struct verify *verify)
{
	return (UINT64_C(1000) << draw(verify) % 13) + draw(verify) % 10000;
}

/* ---- what happens meanwhile ---- */

/* The next call of the engine, or one soon after, may be its last. */
static void plan_death(struct verify *verify)
{
	struct fate *fate = verify->mortal.fate;

	if (one_in(verify, 3))
		verify->kill_after_ns = moment(verify);
	else
		atomic_store(&fate->dies_at, atomic_load(&fate->n_points) + 1 +
						     draw(verify) % (2 << draw(verify) % 8));
}

/* A used page that the guest has, to be changed behind its back. */
static bool find_foreign(struct verify *verify, enum foreign kind, uint64_t *ret_page)
{
	const struct writer *writer = &verify->writer;

	for (unsigned int tries = 0; tries < 64; tries++) {
		uint64_t page = draw(verify) % writer->opts.n_pages;

		if (writer_foreign(writer, page) != kind || !atomic_load(&writer->accessed[page]) ||
		    !writer_is_used(writer->board, page))
			continue;
		*ret_page = page;
		return true;
	}
	return false;
}

static void write_behind(struct verify *verify)
{
	const struct writer *writer = &verify->writer;
	uint64_t page_bytes = writer->child.page_bytes, page, at = draw(verify) % 4000, word;

	if (!find_foreign(verify, FOREIGN_WRITE, &page))
		return;
	word = draw(verify) | 1;
	atomic_store(&writer->touched[page], TOUCHED_BEHIND);
	memcpy(writer->account + page * page_bytes + at, &word, sizeof(word));
	if (pwrite(writer->child.memfd, &word, sizeof(word), (off_t)(page * page_bytes + at)) !=
	    sizeof(word))
		abort();
	if (one_in(verify, 4))
		verify_read_some(verify, draw(verify) % verify->n_consumers);
	verify_note(verify, true, page);
}

static void punch_behind(struct verify *verify, bool is_announced)
{
	const struct writer *writer = &verify->writer;
	uint64_t page_bytes = writer->child.page_bytes, page;

	if (!find_foreign(verify, is_announced ? FOREIGN_PUNCH : FOREIGN_SECRET, &page))
		return;
	atomic_store(&writer->touched[page], TOUCHED_BEHIND);
	memset(writer->account + page * page_bytes, 0, page_bytes);
	if (fallocate(writer->child.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(page * page_bytes), (off_t)page_bytes))
		abort();
	if (is_announced)
		verify_note(verify, false, page);
}

static void do_something(struct verify *verify)
{
	uint64_t consumer = draw(verify) % verify->n_consumers;

	/* each in a rhythm of its own */
	if (verify->is_tracked && one_in(verify, 2 + 3 * consumer))
		verify_read_some(verify, consumer);
	if (!verify->row->has_foreign || !verify->is_tracked)
		return;
	if (one_in(verify, 8))
		write_behind(verify);
	if (one_in(verify, 16))
		punch_behind(verify, true);
	if (one_in(verify, 16))
		punch_behind(verify, false);
}

static void come_to_rest(struct verify *verify, unsigned int n_grants)
{
	uint64_t until_ns = clock_now_ns() + PATIENCE_NS;

	while (n_grants && !has_failed(verify)) {
		if (writer_take_done(&verify->writer, 10 * NSEC_PER_MSEC)) {
			n_grants--;
			continue;
		}
		verify_revive(verify);
		if (clock_now_ns() > until_ns)
			verify_fail(verify, "the guest hangs", ETIMEDOUT);
	}
}

static void write_round(struct verify *verify)
{
	const struct verify_row *row = verify->row;
	unsigned int n_grants = 10 + (unsigned int)draw(verify) % 3;

	for (unsigned int i = 0; i < n_grants && !has_failed(verify); i++) {
		if (row->kill_each && one_in(verify, row->kill_each * n_grants))
			plan_death(verify);
		writer_grant(&verify->writer);
		do_something(verify);
		verify_revive(verify);
	}
	come_to_rest(verify, n_grants);
}

/* ---- while nobody writes ---- */

static uint64_t count_differences(const struct verify *verify, const unsigned char *copy)
{
	uint64_t page_bytes = verify->writer.child.page_bytes, n = 0;
	uint64_t n_open = atomic_load(&verify->writer.board->n_open);
	static const char *const ways[] = { "never touched", "read", "written", "discarded",
					    "changed behind its back" };

	if (memcmp(copy, verify->writer.account, n_open * page_bytes) == 0)
		return 0;
	for (uint64_t page = 0; page < n_open; page++)
		if (memcmp(copy + page * page_bytes, verify->writer.account + page * page_bytes,
			   page_bytes)) {
			if (!n++)
				printf("# page %llu differs, which was %s last\n",
				       (unsigned long long)page,
				       ways[atomic_load(&verify->writer.touched[page])]);
		}
	return n;
}

/* Everybody reads: the copies are the memory. Then there is nothing to be told. */
static void check(struct verify *verify)
{
	for (unsigned int i = 0; i < verify->n_consumers && !has_failed(verify); i++) {
		struct copy *copy = &verify->copies[i];
		uint64_t n;

		verify_take(verify, copy);
		n = count_differences(verify, copy->bytes);
		if (n && !has_failed(verify))
			printf("# consumer %s, epoch %llu, round %llu\n", copy->name,
			       (unsigned long long)copy->epoch,
			       (unsigned long long)verify->verdict->n_rounds);
		verify->verdict->n_lost += n;
	}
	for (unsigned int i = 0; i < verify->n_consumers && !has_failed(verify); i++) {
		uint64_t n_kills = verify->verdict->n_kills, n;

		n = verify_take(verify, &verify->copies[i]);
		/*
		 * What a successor cannot know it reports; so does the kernel when it splits a huge page, and
		 * who looks at a page first that was punched in secret.
		 */
		if (n_kills == verify->verdict->n_kills && !verify->row->is_populated &&
		    !verify->row->has_foreign)
			verify->verdict->n_noise += n;
	}
	verify->verdict->n_checks++;
}

/* The second half is gone, and it is a new memory when it comes. */
static void replug(struct verify *verify)
{
	struct writer *writer = &verify->writer;
	uint64_t half = writer->opts.n_pages / 2, page_bytes = writer->child.page_bytes;
	bool is_in = atomic_load(&writer->board->n_open) == half;

	if (!is_in) {
		atomic_store(&writer->board->n_open, half);
		verify_plug(verify, false);
		return;
	}
	if (writer->child.memfd < 0 || writer->opts.kind == CHILD_PRIVATE)
		writer_forget(writer, half, half);
	memset((void *)(writer->touched + half), 0, half);
	memset((void *)(writer->accessed + half), 0, half);
	for (uint64_t page = half; page < 2 * half; page++)
		child_page(page, page_bytes, writer->account + page * page_bytes);
	for (unsigned int i = 0; i < verify->n_consumers; i++)
		memcpy(verify->copies[i].bytes + half * page_bytes,
		       writer->account + half * page_bytes, half * page_bytes);
	verify_plug(verify, true);
	atomic_store(&writer->board->n_open, 2 * half);
}

static void start_all(struct verify *verify)
{
	for (unsigned int i = 0; i < verify->n_consumers; i++)
		verify_start(verify, &verify->copies[i]);
	verify->is_tracked = true;
}

static void rest(struct verify *verify)
{
	if (!verify->is_tracked && verify->verdict->n_rounds >= 10)
		start_all(verify);
	if (!verify->is_tracked)
		return;
	check(verify);
	if (one_in(verify, 16) && !has_failed(verify)) {
		struct copy *copy = &verify->copies[draw(verify) % verify->n_consumers];

		verify_stop(verify, copy);
		verify_start(verify, copy);
	}
	/* all at once: disarmed and armed anew */
	if (one_in(verify, 64) && !has_failed(verify)) {
		for (unsigned int i = 0; i < verify->n_consumers; i++)
			verify_stop(verify, &verify->copies[i]);
		start_all(verify);
	}
	if (verify->row->is_split && one_in(verify, 4) && !has_failed(verify))
		replug(verify);
}

/* All that was never touched comes from its source now; then the guest looks at every byte. */
static void finish(struct verify *verify)
{
	struct pollfd wait = { .fd = verify->writer.child.socket, .events = POLLIN };
	uint64_t until_ns = clock_now_ns() + PATIENCE_NS, n_wrong;

	atomic_store(&verify->mortal.fate->dies_at, 0);
	verify_revive(verify);
	if (!has_failed(verify))
		check(verify);
	if (has_failed(verify))
		return;
	writer_begin_check(&verify->writer);
	while (poll(&wait, 1, 10) == 0) {
		verify_revive(verify);
		if (clock_now_ns() > until_ns || has_failed(verify)) {
			verify_fail(verify, "the guest hangs at the end", ETIMEDOUT);
			return;
		}
	}
	n_wrong = child_result(&verify->writer.child);
	verify->verdict->n_wrong += n_wrong;
}

/* ---- */

static void run(struct verify *verify, uint64_t n_rounds)
{
	struct writer_board *board = verify->writer.board;
	uint32_t first = verify->row->kind == CHILD_HUGETLB ? 50 : 10;

	for (uint64_t i = 0; i < n_rounds && !has_failed(verify); i++) {
		/* more and more pages are in use, but never all of them */
		atomic_store(&board->percent, first + (uint32_t)((85 - first) * i / n_rounds));
		write_round(verify);
		verify->verdict->n_rounds++;
		if (one_in(verify, 4) && !has_failed(verify))
			rest(verify);
		if (atomic_load(&board->n_wrong)) {
			verify->verdict->n_wrong = atomic_load(&board->n_wrong);
			printf("# page %llu is not as its owner left it\n",
			       (unsigned long long)atomic_load(&board->wrong_page));
		}
	}
	if (!has_failed(verify))
		finish(verify);
}

static bool begin(struct verify *verify, uint64_t seed)
{
	const struct verify_row *row = verify->row;
	struct writer_opts opts = { .kind = row->kind,
				    .n_pages = row->kind == CHILD_HUGETLB ? HUGE_PAGES
									  : SMALL_PAGES,
				    .seed = seed,
				    .n_threads = row->n_threads,
				    .is_sync = row->track == UFD_TRACK_WP,
				    .is_populated = row->is_populated,
				    .is_kvm = row->is_kvm,
				    .is_sealed = row->is_sealed,
				    .advice = row->advice };
	int r;

	if (row->track == UFD_TRACK_SCAN && !(features_get()->uffd & UFFD_FEATURE_WP_ASYNC)) {
		verify->verdict->refusal = "needs WP_ASYNC (Linux 6.7)";
		return false;
	}
	r = writer_start(&verify->writer, &opts);
	if (r < 0) {
		snprintf(verify->refusal, sizeof(verify->refusal), "no such guest: %s",
			 strerror(-r));
		verify->verdict->refusal = verify->refusal;
		return false;
	}
	if (row->is_populated && row->kind != CHILD_HUGETLB && !verify->writer.huge_bytes) {
		writer_stop(&verify->writer);
		verify->verdict->refusal = "no transparent huge pages to be had";
		return false;
	}
	verify_begin(verify);
	return true;
}

void verify_run(const struct verify_row *row, uint64_t n_rounds, uint64_t seed,
		struct verdict *verdict)
{
	static struct verify verify; /* its refusal is the verdict's */

	*verdict = (struct verdict){};
	verify = (struct verify){
		.row = row, .verdict = verdict, .random = seed, .kill_after_ns = UINT64_MAX
	};
	if (!begin(&verify, seed))
		return;
	if (!has_failed(&verify))
		run(&verify, n_rounds);
	verify_end(&verify);
}

void verdict_print(const struct verify_row *row, const struct verdict *verdict)
{
	printf("# %s: %llu rounds, %llu epochs, %llu pages (%llu uncertain, %llu strange), "
	       "%llu checks, %llu kills, %llu lost replies; lost %llu, wrong %llu, absent %llu, "
	       "noise %llu%s%s\n",
	       row->what, (unsigned long long)verdict->n_rounds,
	       (unsigned long long)verdict->n_epochs, (unsigned long long)verdict->n_pages_reported,
	       (unsigned long long)verdict->n_uncertain, (unsigned long long)verdict->n_strange,
	       (unsigned long long)verdict->n_checks, (unsigned long long)verdict->n_kills,
	       (unsigned long long)verdict->n_lost_replies, (unsigned long long)verdict->n_lost,
	       (unsigned long long)verdict->n_wrong, (unsigned long long)verdict->n_absent,
	       (unsigned long long)verdict->n_noise, verdict->failure[0] ? "; " : "",
	       verdict->failure);
	fflush(stdout); /* a test that fails ends without */
}

uint64_t verify_n_rounds(void)
{
	if (getenv("UFD_TEST_LONG"))
		return 10000;
	return getenv("UFD_TEST_SHORT") ? 60 : 300;
}
