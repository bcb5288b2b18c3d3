/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every call below the engine fails once.
 *
 * A VMM is paged, discards, writes, gets memory plugged in and taken out, the engine leaves it to a
 * successor, which finishes. Whatever fails: a call says so by an error of its own before anything was
 * acknowledged, and is made again; or the guest has the right bytes; or it stalls, and a successor
 * whose calls do not fail finds everything in the ledger.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "inject/rounds.h"
#include "inject/vmm.h"
#include "kernel/features.h"
#include "support/hugepages.h"
#include "ufd/pager-dirty.h"
#include "ufd/pager.h"

#define SOON_NS	   (400 * NSEC_PER_MSEC) /* longer: it counts as stalled, and is handed over */
#define AT_LAST_NS (20 * NSEC_PER_SEC)
#define N_TRIES	   (BOARD_FAULTS + 1)
#define N_POOL	   32

struct play {
	struct vmm vmm;
	const struct board_plan *plan;
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	struct ufd_source *file, *backing;
	const char *folder; /* of its ledgers; NULL: memfds */
	uint32_t mapper;
	uint32_t ids[VMM_MEMORIES]; /* UINT32_MAX: not a memory of the guest now */
	int ledger;
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n_handles;
};

/* ---- what a call may answer ---- */

/* Its own errors are those of ufd/pager.h; what runs out, and what was injected, is passed up as it is. */
static bool is_named(const struct play *play, int error, const int *own)
{
	static const int common[] = { ENOMEM, EMFILE, ENOSPC, EAGAIN, 0 };

	for (const int *at = common; *at; at++)
		if (error == *at)
			return true;
	for (; own && *own; own++)
		if (error == *own)
			return true;
	for (unsigned int i = 0; i < play->plan->n_faults; i++)
		if (error == play->plan->faults[i].error)
			return true;
	return false;
}

/* Return: @r, if it is 0 or an error that the call may have. */
static int checked(const struct play *play, const char *call, int r, const int *own)
{
	if (r > 0 || (r < 0 && !is_named(play, -r, own)))
		rounds_fail("%s says %d (%s)", call, r, strerrorname_np(abs(r)));
	if (r < 0)
		rounds_say("%s: %s", call, strerrorname_np(-r));
	return r;
}

#define OWN(...)	      ((const int[]){ __VA_ARGS__, 0 })
#define CALL(play, call, ...) checked(play, #call, LOUD(call), OWN(__VA_ARGS__))

/* ---- building ---- */

static int add_memory(struct play *play, unsigned int i)
{
	static const uint32_t kinds[VMM_MEMORIES] = { UFD_MEMORY_ANON, UFD_MEMORY_SHMEM,
						      UFD_MEMORY_SHMEM, UFD_MEMORY_PRIVATE,
						      UFD_MEMORY_HUGETLB };
	const struct vmm_memory *memory = &play->vmm.memories[i];
	char name[] = { (char)('a' + i), '\0' };
	UFD_OPTS(ufd_pager_memory_opts, opts, .name = name, .length = memory->length,
		 .page_bytes = memory->page_bytes, .source_offset = i * VMM_STRIDE,
		 .source = i == VMM_MINOR ? play->backing : play->file, .backing = memory->memfd,
		 .kind = kinds[i]);
	int r;

	if (!memory->n_pages)
		return 0;
	if (i == VMM_MINOR)
		opts.source_offset = 0;
	if (play->ids[i] == UINT32_MAX) {
		r = CALL(play, ufd_pager_guest_add_memory(play->guest, &opts, &play->ids[i]),
			 EBADF);
		if (r < 0)
			return r;
	}
	return CALL(play,
		    ufd_pager_guest_add_mapping(play->guest, play->mapper, play->ids[i],
						memory->address, memory->length, 0, NULL),
		    EPERM, EBUSY, ESRCH, EACCES);
}

static int build_guest(struct play *play)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1);
	int r;

	r = CALL(play, ufd_pager_guest_new(play->pager, &play->guest, "guest", &opts), 0);
	if (r < 0)
		return r;
	play->ledger = fcntl(ufd_pager_guest_ledger(play->guest), F_DUPFD_CLOEXEC, 100);
	r = CALL(play,
		 ufd_pager_guest_add_mapper(play->guest, play->vmm.uffd, play->vmm.pidfd, -1,
					    &play->mapper),
		 EBADFD, ESRCH);
	for (unsigned int i = 0; i < VMM_MEMORIES && r == 0; i++)
		if (i != VMM_MINOR) /* comes later */
			r = add_memory(play, i);
	return r < 0 ? r : CALL(play, ufd_pager_guest_start(play->guest), EUSERS);
}

static void forget(struct play *play)
{
	for (size_t i = 0; i < play->n_handles; i++)
		close(play->handles[i].fd);
	play->n_handles = 0;
	closep(&play->ledger);
	play->ledger = -EBADF;
	play->guest = NULL;
	play->pager = ufd_pager_free(play->pager);
	play->file = ufd_source_unref(play->file);
	play->backing = ufd_source_unref(play->backing);
	for (unsigned int i = 0; i < VMM_MEMORIES; i++)
		play->ids[i] = UINT32_MAX;
}

static int never_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		      struct ufd_read *read)
{
	return -EIO;
}

/* A packed layer over its parent, and files of other formats. */
static int make_images(struct play *play)
{
	static const char *const kinds[] = {
		"image:%s/tests/compat/image-1/layer.ufdi",
		"firecracker:%s/tests/compat/firecracker-1/memory",
		"cloud-hypervisor:%s/tests/compat/cloud-hypervisor-1"
	};
	struct ufd_source *source;
	const char *error;
	char spec[4096];
	int r = 0;

	for (size_t i = 0; r == 0 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		snprintf(spec, sizeof(spec), kinds[i], getenv("SOURCE_ROOT"));
		r = CALL(play, ufd_source_open(&source, spec, -1, &error), 0);
		if (r == 0)
			ufd_source_unref(source);
	}
	return r;
}

/* Those that no memory here is filled from. */
static int make_other_sources(struct play *play)
{
	UFD_OPTS(ufd_source_ops, ops, .length = 4096, .read = never_read);
	struct ufd_source *zero, *callback;
	const char *error;
	int r;

	r = CALL(play, ufd_source_open(&zero, "zero", -1, &error), 0);
	if (r < 0)
		return r;
	ufd_source_unref(zero);
	r = CALL(play, ufd_source_new(&callback, &ops, NULL), 0);
	if (r == 0)
		ufd_source_unref(callback);
	return r == 0 ? make_images(play) : r;
}

static int make_engine(struct play *play)
{
	const char *error;
	int r;

	r = CALL(play, ufd_pager_new(&play->pager, NULL), ENOSYS);
	if (r == 0)
		r = CALL(play, ufd_source_open(&play->file, "file:", play->vmm.source, &error), 0);
	if (r == 0)
		r = CALL(play, ufd_source_open(&play->backing, "backing", -1, &error), 0);
	if (r == 0 && play->folder)
		r = CALL(play, ufd_pager_set_ledger_directory(play->pager, play->folder), 0);
	return r == 0 ? make_other_sources(play) : r;
}

/* Nothing is acknowledged before the start: it is taken back and done again. */
static void build(struct play *play)
{
	for (unsigned int i = 0; i < N_TRIES; i++) {
		if (make_engine(play) == 0 && build_guest(play) == 0)
			return;
		forget(play);
	}
	rounds_fail("cannot be built, though nothing fails any more");
}

/* ---- leaving, and adopting ---- */

/* Duplicates of all that a successor needs. */
static void keep_handles(struct play *play)
{
	size_t n;

	for (size_t i = 0; i < play->n_handles; i++)
		close(play->handles[i].fd);
	play->n_handles = 0;
	if (CALL(play, ufd_pager_guest_handles(play->guest, play->handles, UFD_MAX_HANDLES, &n),
		 0) < 0 &&
	    ufd_pager_guest_handles(play->guest, play->handles, UFD_MAX_HANDLES, &n) < 0)
		rounds_fail("it cannot say its handles");
	for (; play->n_handles < n; play->n_handles++) {
		struct ufd_handle *handle = &play->handles[play->n_handles];

		handle->fd = fcntl(handle->fd, F_DUPFD_CLOEXEC, 100);
	}
}

static void leave(struct play *play)
{
	keep_handles(play);
	play->guest = LOUD(ufd_pager_guest_leave(play->guest));
	play->pager = LOUD(ufd_pager_free(play->pager));
}

static void on_report(void *userdata, const char *sentence)
{
	rounds_say("report: %s", sentence);
}

static int adopt_once(struct play *play)
{
	UFD_OPTS(ufd_pager_adopt_opts, opts, .handles = play->handles, .n_handles = play->n_handles,
		 .report = on_report);
	int was_started = 0, r;

	r = CALL(play, ufd_pager_new(&play->pager, NULL), ENOSYS);
	if (r < 0)
		return r;
	r = CALL(
		play,
		ufd_pager_guest_adopt(play->pager, &play->guest, play->ledger, &opts, &was_started),
		EBADF, ESRCH, EACCES);
	if (r == 0 && !was_started)
		rounds_fail("it was started, and its ledger says no");
	if (r == 0)
		r = CALL(play, ufd_pager_guest_start(play->guest), EUSERS);
	return r;
}

static void adopt(struct play *play)
{
	for (unsigned int i = 0; i < N_TRIES; i++) {
		if (adopt_once(play) == 0)
			return;
		if (play->guest)
			play->guest = LOUD(ufd_pager_guest_leave(play->guest));
		play->pager = LOUD(ufd_pager_free(play->pager));
	}
	rounds_fail("cannot be adopted, though nothing fails any more");
}

/* ---- what it writes ---- */

static void track(struct play *play, const char *consumer)
{
	int r = -EAGAIN;

	for (unsigned int i = 0; r < 0 && i < N_TRIES; i++)
		r = CALL(play, ufd_pager_guest_dirty_start(play->guest, consumer), EOPNOTSUPP,
			 ESRCH);
	if (r < 0)
		rounds_fail("cannot be tracked, though nothing fails any more (%s)",
			    ufd_pager_guest_dirty_refusal(play->guest));
}

static void expect_written(struct play *play, const char *consumer, unsigned int memory,
			   uint64_t page)
{
	uint64_t word = 0;

	if (LOUD(ufd_pager_guest_dirty_bitmap(play->guest, consumer, play->ids[memory], page, &word,
					      1)) < 0 ||
	    !(word & 1))
		rounds_fail("page %llu of memory %u was written, and is not told",
			    (unsigned long long)page, memory);
}

/* However often it fails, it loses nothing. */
static void read_written(struct play *play, const char *consumer)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	int r = -EAGAIN;

	for (unsigned int i = 0; r < 0 && i < N_TRIES; i++)
		r = CALL(play,
			 ufd_pager_guest_dirty_read(play->guest, consumer, UFD_DIRTY_LAST, &epoch),
			 ESRCH, EIO, EOPNOTSUPP);
	if (r < 0)
		rounds_fail("what was written cannot be read, though nothing fails any more");
	expect_written(play, consumer, VMM_SHMEM, 30);
	expect_written(play, consumer, VMM_ANON, 21);
}

static void untrack(struct play *play, const char *consumer)
{
	UFD_OPTS(ufd_consumer_info, info);

	(void)LOUD(ufd_pager_consumer_info(play->guest, 0, &info));
	if (CALL(play, ufd_pager_guest_dirty_stop(play->guest, consumer), 0) < 0)
		rounds_fail("cannot be stopped");
}

static bool write_tracked(struct play *play, unsigned char value)
{
	return vmm_order(&play->vmm, VMM_WRITE, VMM_SHMEM, 30, 1, value, SOON_NS) &&
	       vmm_order(&play->vmm, VMM_WRITE, VMM_ANON, 21, 1, value, SOON_NS);
}

/* ---- what happens to the guest; false: it has stalled ---- */

static bool serve(struct play *play)
{
	struct vmm *vmm = &play->vmm;

	return vmm_order(vmm, VMM_CHECK, VMM_SHMEM, 30, 2, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_CHECK, VMM_ANON, 0, 4, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_CHECK, VMM_PRIVATE, 40, 2, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_WRITE, VMM_SHMEM, 0, 3, 1, SOON_NS) &&
	       vmm_order(vmm, VMM_WRITE, VMM_ANON, 20, 2, 2, SOON_NS) &&
	       vmm_order(vmm, VMM_DISCARD, VMM_ANON, 2, 2, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_DISCARD, VMM_ANON, 36, 4, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_DISCARD, VMM_SHMEM, 2, 2, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_CHECK, VMM_ANON, 0, 6, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_CHECK, VMM_SHMEM, 0, 6, 0, SOON_NS) &&
	       vmm_order(vmm, VMM_CHECK, VMM_HUGETLB, 0, 1, 0, SOON_NS);
}

/* A hole, announced as it must be: not punched unless it was noted. */
static void punch(struct play *play, uint64_t first, uint64_t count)
{
	struct vmm_memory *memory = &play->vmm.memories[VMM_SHMEM];
	int r = CALL(play,
		     ufd_pager_guest_note_discard(play->guest, play->ids[VMM_SHMEM], first * 4096,
						  count * 4096),
		     EBUSY);

	if (r < 0 && CALL(play,
			  ufd_pager_guest_note_discard(play->guest, play->ids[VMM_SHMEM],
						       first * 4096, count * 4096),
			  EBUSY) < 0)
		return;
	for (uint64_t page = first; page < first + count; page++)
		memory->expected[page] = VMM_ZERO;
	if (fallocate(memory->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)first * 4096, (off_t)count * 4096) < 0)
		rounds_fail("no hole");
}

static bool plug(struct play *play)
{
	for (unsigned int i = 0; add_memory(play, VMM_MINOR) < 0; i++)
		if (i == N_TRIES)
			rounds_fail("cannot be plugged in, though nothing fails any more");
	punch(play, 10, 4);
	(void)CALL(play,
		   ufd_pager_guest_prefetch(play->guest, play->ids[VMM_SHMEM], 16 * 4096, 8 * 4096),
		   EBUSY);
	return vmm_order(&play->vmm, VMM_CHECK, VMM_MINOR, 0, 20, 0, SOON_NS) &&
	       vmm_order(&play->vmm, VMM_WRITE, VMM_MINOR, 20, 2, 4, SOON_NS) &&
	       vmm_order(&play->vmm, VMM_DISCARD, VMM_MINOR, 4, 2, 0, SOON_NS) &&
	       vmm_order(&play->vmm, VMM_CHECK, VMM_MINOR, 0, 8, 0, SOON_NS) &&
	       vmm_order(&play->vmm, VMM_CHECK, VMM_SHMEM, 8, 16, 0, SOON_NS);
}

/* A successor without mishaps makes everything good. */
static void rescue(struct play *play)
{
	rounds_say("stalled: to a successor");
	leave(play);
	board_disarm();
	adopt(play);
	if (!vmm_wait(&play->vmm, AT_LAST_NS))
		rounds_fail("what the guest waits for does not come from the successor either");
}

/* Twice, and once across a change of engines. */
static void play_tracked(struct play *play)
{
	if (!write_tracked(play, 5))
		rescue(play);
	read_written(play, "first");
	track(play, "second");
	if (!write_tracked(play, 6))
		rescue(play);
	leave(play);
	adopt(play);
	read_written(play, "first");
	read_written(play, "second");
	untrack(play, "first");
	untrack(play, "second");
}

static void finish(struct play *play)
{
	int r = CALL(play, ufd_pager_guest_finish(play->guest, SOON_NS), ETIMEDOUT, ESRCH);

	if (r < 0) {
		rescue(play);
		r = ufd_pager_guest_finish(play->guest, AT_LAST_NS);
	}
	if (r < 0)
		rounds_fail("finish: %s", strerrorname_np(-r));
}

static void wait_graduated(struct play *play)
{
	UFD_OPTS(ufd_guest_stats, stats);

	/* It unregisters on its own; if it cannot, freeing it does. */
	for (unsigned int i = 0; i < 20 && !stats.is_graduated; i++) {
		struct pollfd wait = { .fd = ufd_pager_fd(play->pager), .events = POLLIN };

		(void)LOUD(ufd_pager_guest_stats(play->guest, &stats));
		if (!stats.is_graduated)
			(void)poll(&wait, 1, 20);
		(void)LOUD(ufd_pager_dispatch(play->pager));
	}
}

static void play_all(struct board *board, const struct board_plan *plan, const char *folder)
{
	struct play play = { .plan = plan, .ledger = -EBADF, .folder = folder };
	struct ufd_source *nothing;
	const char *sentence;

	vmm_start(&play.vmm, hugepages_are_reserved());
	/* a private mapping is tracked only if nobody writes into its file */
	(void)fcntl(play.vmm.memories[VMM_PRIVATE].memfd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
	for (unsigned int i = 0; i < VMM_MEMORIES; i++)
		play.ids[i] = UINT32_MAX;
	/* a thread's first sentence takes memory, which the thread keeps */
	if (ufd_source_open(&nothing, "no such kind", -1, &sentence) != -EINVAL)
		rounds_fail("a source of no kind is opened");
	board_arm(board, plan);
	build(&play);
	if (!serve(&play))
		rescue(&play);
	track(&play, "first");
	if (!plug(&play))
		rescue(&play);
	play_tracked(&play);
	if (!vmm_wait(&play.vmm, SOON_NS) ||
	    !vmm_order(&play.vmm, VMM_DISCARD, VMM_ANON, 8, 2, 0, SOON_NS) ||
	    !vmm_order(&play.vmm, VMM_CHECK, VMM_ANON, 0, 24, 0, SOON_NS) ||
	    !vmm_order(&play.vmm, VMM_CHECK, VMM_SHMEM, 0, 40, 0, SOON_NS))
		rescue(&play);
	finish(&play);
	wait_graduated(&play);
	vmm_check_all(&play.vmm, AT_LAST_NS);
	play.guest = LOUD(ufd_pager_guest_free(play.guest));
	board_quiet(false);
	forget(&play);
	board_quiet(true);
	board_disarm();
	vmm_check_all(&play.vmm, AT_LAST_NS);
	vmm_stop(&play.vmm);
}

static void play_memfds(struct board *board, int board_fd, const struct board_plan *plan)
{
	play_all(board, plan, NULL);
}

static void play_files(struct board *board, int board_fd, const struct board_plan *plan)
{
	char folder[] = "/dev/shm/ufd-inject.XXXXXX", ledger[64];

	if (!mkdtemp(folder))
		rounds_fail("no folder");
	play_all(board, plan, folder);
	snprintf(ledger, sizeof(ledger), "%s/guest.ledger", folder);
	(void)unlink(ledger);
	(void)rmdir(folder);
}

static const char *const unless[] = {
	/* once a process, before a run begins */
	"probe", "uffd_open", "uffd_handshake", "backing_create", "of_thread", "sentence_make",
	/* of pages that others touch, of policy poison, of block devices: system tests and the model */
	"backing_find_data", "backing_write", "uffd_poison", "source_identify",
	/* of sources that nobody can make again, and memories that are gone */
	"source_new_gone", "memory_new_forgotten",
	/* of images that are written, or named by ufdctl */
	"image_encoder_new", "image_spec_pass",
	/* of files on file systems that hang */
	"closing_close",
	/* of pages that are saved before they are written: system tests */
	"before_write_new", "proc_memory_open", "proc_memory_peek", "backing_read", NULL
};

int main(int argc, char **argv)
{
	struct scenario scenarios[] = { { "engine", play_memfds },
					{ "engine with ledgers in a folder", play_files },
					{} };

	hugepages_reserve(N_POOL);
	if (!features_get()->may_syscall && !features_get()->may_device)
		scenarios[0].skip_reason = scenarios[1].skip_reason =
			"no userfaultfd for faults of the kernel";
	return rounds_run(scenarios, NULL, unless, argc, argv);
}
