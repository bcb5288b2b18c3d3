/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Consumers and their copies.
 *
 * A consumer asks for the pages since the epoch that it has; if it gets no answer (the reply was lost,
 * the pager died) it asks the same again, as its contract says.
 */
#include "support/dirty-copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"

#define MAX_PAGES 4096
#define MAX_BATCH 64

void verify_fail(struct verify *verify, const char *what, int error)
{
	if (!verify->verdict->failure[0])
		snprintf(verify->verdict->failure, sizeof(verify->verdict->failure),
			 "round %llu: %s: %s", (unsigned long long)verify->verdict->n_rounds, what,
			 strerror(error));
}

/* ---- in the pager's process ---- */

static int work_start(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;
	int r = ufd_pager_guest_dirty_start(guest, question->copy->name);

	if (r < 0 && r != -EEXIST)
		printf("# refused: %s\n", ufd_pager_guest_dirty_refusal(guest));
	return r;
}

static int work_start_all(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;
	int r = 0;

	for (unsigned int i = 0; r == 0 && i < N_COPIES; i++)
		if (question->copy[i].is_started)
			r = ufd_pager_guest_dirty_start(guest, question->copy[i].name);
	return r;
}

static int work_stop(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;

	return ufd_pager_guest_dirty_stop(guest, question->copy->name);
}

static int work_read(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;

	question->answer = (struct ufd_dirty_epoch){ .size = sizeof(question->answer) };
	return ufd_pager_guest_dirty_read(guest, question->copy->name, question->acknowledge,
					  &question->answer);
}

static int work_note(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;
	uint64_t page_bytes = question->writer->child.page_bytes;
	uint64_t at = question->page * page_bytes;
	UFD_OPTS(ufd_mapping_info, mapping);

	for (uint32_t i = 0; ufd_pager_mapping_info(guest, i, &mapping) == 0; i++) {
		uint64_t start = mapping.address - question->writer->child.address;

		if (at < start || at >= start + mapping.length)
			continue;
		return question->is_write ? ufd_pager_guest_note_write(guest, mapping.memory,
								       at - start, page_bytes)
					  : ufd_pager_guest_note_discard(guest, mapping.memory,
									 at - start, page_bytes);
	}
	return -ENOENT;
}

static int work_count(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;
	UFD_OPTS(ufd_mapping_info, mapping);

	for (question->n_mappings = 0;
	     ufd_pager_mapping_info(guest, (uint32_t)question->n_mappings, &mapping) == 0;
	     question->n_mappings++)
		;
	return 0;
}

static void note_absent(struct ufd_pager_guest *guest, struct question *question, uint32_t memory,
			uint64_t page)
{
	uint64_t page_bytes = question->writer->child.page_bytes, absent_bytes = 0;

	if (ufd_pager_guest_absent(guest, memory, page * page_bytes, page_bytes, &absent_bytes) ==
	    0)
		question->n_absent += absent_bytes > 0;
}

/* Pages whose bytes are to be fetched in one call. */
struct batch {
	struct question *question;
	int n;
	struct iovec to[MAX_BATCH], from[MAX_BATCH];
};

static void copy_batch(struct batch *batch)
{
	const struct question *question = batch->question;
	ssize_t wanted = (ssize_t)(batch->n * question->writer->child.page_bytes);
	ssize_t n;

	if (batch->n == 0)
		return;
	errno = 0;
	n = process_vm_readv(question->writer->child.pid, batch->to, (unsigned long)batch->n,
			     batch->from, (unsigned long)batch->n, 0);
	if (n != wanted)
		batch->question->file_error = errno ? errno : EIO;
	batch->n = 0;
}

static void copy_page(struct batch *batch, uint64_t page)
{
	struct question *question = batch->question;
	const struct paged_child *child = &question->writer->child;
	uint64_t at = page * child->page_bytes;
	void *to = question->copy->bytes + at;

	if (question->is_from_file) {
		if (pread(child->memfd, to, child->page_bytes, (off_t)at) !=
		    (ssize_t)child->page_bytes)
			question->file_error = errno ? errno : EIO;
		return;
	}
	batch->to[batch->n] = (struct iovec){ to, child->page_bytes };
	batch->from[batch->n++] = (struct iovec){ (void *)(child->address + at),
						  child->page_bytes };
	if (batch->n == MAX_BATCH)
		copy_batch(batch);
}

/* What is dirty of one memory, which the guest sees at @first page. */
static int take_memory(struct ufd_pager_guest *guest, struct question *question, uint32_t memory,
		       uint64_t first, uint64_t n_pages)
{
	uint64_t n_words = (n_pages + 63) / 64;
	struct batch batch = { .question = question };
	uint64_t found[MAX_PAGES / 64];
	int r;

	if (n_pages > MAX_PAGES)
		return -E2BIG;
	memset(found, 0, n_words * sizeof(found[0]));
	r = ufd_pager_guest_dirty_bitmap(guest, question->copy->name, memory, 0, found, n_words);
	if (r < 0)
		return r;
	for (uint64_t page = 0; page < n_pages; page++) {
		uint64_t place = first + page;

		if (!(found[page / 64] >> page % 64 & 1))
			continue;
		question->copy->words[place / 64] |= UINT64_C(1) << place % 64;
		if (!atomic_load(&question->writer->touched[place]))
			note_absent(guest, question, memory, page);
		copy_page(&batch, place);
	}
	copy_batch(&batch);
	return 0;
}

/* The epoch that was read last: its pages, and their bytes. */
static int work_take(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;
	const struct paged_child *child = &question->writer->child;
	UFD_OPTS(ufd_mapping_info, mapping);
	int r = 0;

	memset(question->copy->words, 0, (child->length / child->page_bytes + 63) / 64 * 8);
	question->file_error = 0;
	question->n_absent = 0;
	for (uint32_t i = 0; r == 0 && ufd_pager_mapping_info(guest, i, &mapping) == 0; i++)
		r = take_memory(guest, question, mapping.memory,
				(mapping.address - child->address) / child->page_bytes,
				mapping.length / child->page_bytes);
	return r;
}

/* ---- in the test ---- */

void verify_revive(struct verify *verify)
{
	struct fate *fate = verify->mortal.fate;
	int r;

	while (!mortal_is_alive(&verify->mortal)) {
		mortal_wait(&verify->mortal);
		verify->verdict->n_kills++;
		/* its successor may die on its way */
		atomic_store(&fate->dies_at, 0);
		if (verify->verdict->n_kills % 4 == 0)
			atomic_store(&fate->dies_at,
				     atomic_load(&fate->n_points) + 1 + verify->random % 97);
		r = mortal_adopt(&verify->mortal);
		if (r == 0)
			atomic_store(&fate->dies_at, 0);
		if (r < 0 && r != -ESRCH) {
			verify_fail(verify, "adoption", -r);
			return;
		}
	}
}

/* Until it is answered: whoever is asked may die over it. */
static int ask(struct verify *verify, mortal_work work)
{
	for (;;) {
		uint64_t kill_after_ns = verify->kill_after_ns;
		int r;

		verify->kill_after_ns = UINT64_MAX;
		r = mortal_do(&verify->mortal, work, verify->question, kill_after_ns);
		if (r != -ESRCH || mortal_is_alive(&verify->mortal))
			return r;
		verify_revive(verify);
		if (verify->verdict->failure[0])
			return r;
	}
}

static int read_epoch(struct verify *verify, struct copy *copy)
{
	int r;

	verify->question->copy = copy;
	verify->question->acknowledge = copy->epoch;
	r = ask(verify, work_read);
	if (r < 0) {
		verify_fail(verify, "read", -r);
		return r;
	}
	verify->verdict->n_epochs++;
	verify->verdict->n_strange += verify->question->answer.n_strange_writes;
	return 0;
}

/* Pages of the epoch. Those that nobody ever touched are not to be among them. */
static uint64_t judge(struct verify *verify, const struct copy *copy)
{
	const struct writer *writer = &verify->writer;
	const struct ufd_dirty_epoch *epoch = &verify->question->answer;
	uint64_t n = 0, n_untouched = 0, n_certain = 0;
	uint64_t n_uncertain = epoch->uncertain_bytes / writer->child.page_bytes;

	for (uint64_t page = 0; page < writer->opts.n_pages; page++) {
		if (!(copy->words[page / 64] >> page % 64 & 1))
			continue;
		n++;
		n_untouched += !atomic_load(&writer->touched[page]);
		/* a page may be filled between the word of its discard and the discard */
		n_certain += atomic_load(&writer->touched[page]) != TOUCHED_DISCARDED;
	}
	if (n * writer->child.page_bytes != epoch->dirty_bytes)
		verify_fail(verify, "the sum of an epoch is not its pages", EBADMSG);
	verify->verdict->n_pages_reported += n;
	verify->verdict->n_uncertain += n_uncertain;
	verify->verdict->n_absent += verify->question->n_absent;
	/* those that nobody touched exist where they come by themselves, and may be reported with all others */
	if (!verify->row->has_background && !verify->row->is_populated)
		verify->verdict->n_absent += n_untouched;
	if (epoch->n_strange_writes)
		return 0;
	return n_certain > n_uncertain ? n_certain - n_uncertain : 0;
}

static uint64_t take_epoch(struct verify *verify, struct copy *copy)
{
	int r;

	verify->question->copy = copy;
	r = ask(verify, work_take);
	if (r < 0 || verify->question->file_error) {
		verify_fail(verify, "copying", r < 0 ? -r : verify->question->file_error);
		return 0;
	}
	copy->epoch = verify->question->answer.epoch;
	return judge(verify, copy);
}

uint64_t verify_take(struct verify *verify, struct copy *copy)
{
	if (read_epoch(verify, copy) < 0)
		return 0;
	return take_epoch(verify, copy);
}

void verify_read_some(struct verify *verify, uint64_t consumer)
{
	struct copy *copy = &verify->copies[consumer];

	if (read_epoch(verify, copy) < 0)
		return;
	if (verify->random >> 40 & 7)
		take_epoch(verify, copy);
	else
		verify->verdict->n_lost_replies++;
	verify->random = verify->random * UINT64_C(6364136223846793005) + 1;
}

void verify_start(struct verify *verify, struct copy *copy)
{
	int r;

	verify->question->copy = copy;
	r = ask(verify, work_start);
	/* it had started when its pager died */
	if (r < 0 && r != -EEXIST)
		verify_fail(verify, "start", -r);
	copy->epoch = 0;
	copy->is_started = true;
	memcpy(copy->bytes, verify->writer.account, verify->writer.child.length);
}

void verify_stop(struct verify *verify, struct copy *copy)
{
	int r;

	verify->question->copy = copy;
	r = ask(verify, work_stop);
	if (r < 0 && r != -ENOENT)
		verify_fail(verify, "stop", -r);
	copy->is_started = false;
}

void verify_note(struct verify *verify, bool is_write, uint64_t page)
{
	int r;

	verify->question->page = page;
	verify->question->is_write = is_write;
	r = ask(verify, work_note);
	if (r < 0)
		verify_fail(verify, is_write ? "note_write" : "note_discard", -r);
}

void verify_plug(struct verify *verify, bool is_in)
{
	uint64_t wanted = is_in ? 2 : 1;
	int r;

	do {
		verify_revive(verify);
		r = mortal_plug(&verify->mortal, is_in);
		if (r == -ESRCH)
			verify_revive(verify);
		if (verify->verdict->failure[0] || ask(verify, work_count) < 0)
			return;
	} while (r == -ESRCH && verify->question->n_mappings != wanted);
	if (r < 0 && r != -ESRCH)
		verify_fail(verify, is_in ? "plugging in" : "plugging out", -r);
}

/* ---- */

static void *share(uint64_t length)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		abort();
	return memory;
}

static int make_source(const struct writer *writer)
{
	uint64_t length = writer->child.length;
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 || pwrite(fd, writer->account, length, 0) != (ssize_t)length)
		abort();
	return fd;
}

static void make_copies(struct verify *verify)
{
	uint64_t length = verify->writer.child.length;

	verify->n_consumers = verify->row->kind == CHILD_HUGETLB ? 2 : N_COPIES;
	verify->question = share(sizeof(*verify->question));
	verify->copies = share(N_COPIES * sizeof(verify->copies[0]));
	for (unsigned int i = 0; i < verify->n_consumers; i++) {
		struct copy *copy = &verify->copies[i];

		snprintf(copy->name, sizeof(copy->name), "copy-%u", i);
		copy->bytes = share(length);
		copy->words = share(verify->writer.opts.n_pages / 8 + 64);
		copy->is_started = !verify->row->is_late;
		memcpy(copy->bytes, verify->writer.account, length);
	}
	verify->question->writer = &verify->writer;
	verify->question->copy = verify->copies;
	verify->question->is_from_file = verify->row->is_from_file;
}

void verify_begin(struct verify *verify)
{
	const struct verify_row *row = verify->row;
	struct mortal_guest guest = { .child = &verify->writer.child,
				      .kind = row->kind,
				      .spec = "file:",
				      .no_background = !row->has_background,
				      .window_bytes = row->has_background ? 0 : UFD_NO_WINDOW,
				      .is_split = row->is_split,
				      .track = row->track,
				      .populated = row->is_populated ? 1 + UFD_POPULATED_KEEP : 0 };
	int r;

	verify->source = make_source(&verify->writer);
	make_copies(verify);
	if (row->is_split)
		atomic_store(&verify->writer.board->n_open, verify->writer.opts.n_pages / 2);
	mortal_init(&verify->mortal);
	guest.source_fd = verify->source;
	if (!row->is_late) {
		guest.prepare = work_start_all;
		guest.argument = verify->question;
		verify->is_tracked = true;
	}
	r = mortal_start(&verify->mortal, &guest);
	if (r < 0)
		verify_fail(verify, "building the guest", -r);
}

void verify_end(struct verify *verify)
{
	uint64_t length = verify->writer.child.length;

	mortal_done(&verify->mortal);
	closep(&verify->source);
	for (unsigned int i = 0; i < verify->n_consumers; i++) {
		munmap(verify->copies[i].bytes, length);
		munmap(verify->copies[i].words, verify->writer.opts.n_pages / 8 + 64);
	}
	munmap(verify->copies, N_COPIES * sizeof(verify->copies[0]));
	munmap(verify->question, sizeof(*verify->question));
	writer_stop(&verify->writer);
}
