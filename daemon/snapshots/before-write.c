/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Live, on a wp context: the moment is a short pause at the beginning, and no page is written
 * before it is copied.
 */

/*
 * While the guest stands still its devices are saved and every page is protected (reading the
 * tracker does that). Then it runs, and a thread of ours copies page after page; the first write to
 * one that was not copied yet waits until the demand thread has put a copy of it into a ring, which
 * this thread empties between any two pieces. A layer needs the dirty pages alone: all others are
 * claimed beforehand.
 *
 * If we die the successor's tracker takes protection off as the guest writes: nothing has to be
 * undone.
 */
#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "fault/before-write.h"
#include "pager/hold.h"
#include "refusal.h"
#include "registry.h"
#include "snapshots/saving.h"

#define RING_BYTES (16 * MIB)

struct held {
	struct saving *saving;
	struct before_write *hook; /* owned */
	int error;		   /* of the image, while the ring was emptied */
	struct copy_opts plain;	   /* what a copy without claims does between two pieces */
};

/* With the engine's lock: the hook wakes a thread of the guest, which must not go meanwhile. */
static bool is_there(struct held *held)
{
	return held->saving->request->guest->paging.guest != NULL;
}

static const struct snapshot_input *find_input(const struct saving *saving, uint32_t number)
{
	for (size_t i = 0; i < saving->inputs.n_inputs; i++)
		if (saving->inputs.inputs[i].is_guests &&
		    saving->inputs.inputs[i].view.number == number)
			return &saving->inputs.inputs[i];
	return NULL;
}

static int write_page(struct held *held, const struct saved_page *page)
{
	const struct snapshot_input *input = find_input(held->saving, page->memory);

	if (!input)
		return 0;
	return image_writer_pages(held->saving->writer, input->image_memory,
				  input->view.states_first + page->page, page->bytes, 1);
}

/* What the demand thread has copied. Return: 0 or -errno. */
static int empty_ring(struct held *held)
{
	struct paging *paging = &held->saving->request->guest->paging;
	struct saved_page page;

	while (before_write_take(held->hook, &page)) {
		int r = write_page(held, &page);

		paging_lock(paging);
		if (r == 0 && !is_there(held))
			r = -ESRCH;
		if (r == 0)
			before_write_release(held->hook);
		paging_unlock(paging);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool claim_zero(struct held *held, uint32_t number, uint64_t page)
{
	const struct snapshot_input *input = find_input(held->saving, number);
	int r = input ? view_judge_zero(&input->view, page) : VIEW_ZERO_ALWAYS;

	bool counts;

	if (r == VIEW_ZERO_OR_HOLE)
		return before_write_claim_zero(held->hook, number, page);
	counts = before_write_claim(held->hook, number, page);
	if (counts && r != VIEW_ZERO_ALWAYS)
		before_write_found_hole(held->hook);
	return counts;
}

static bool on_claim(void *userdata, uint32_t number, uint64_t page, bool is_zero)
{
	struct held *held = userdata;

	return is_zero ? claim_zero(held, number, page)
		       : before_write_claim(held->hook, number, page);
}

static int on_piece(void *userdata)
{
	struct held *held = userdata;
	int r = held->plain.between(held->plain.userdata);

	if (r == 0)
		r = held->error = empty_ring(held);
	return r;
}

/* What a layer does not need is nobody's to wait for. */
static int claim_clean(struct held *held, const struct snapshot_input *input)
{
	_cleanup_(freep) uint64_t *words = NULL;
	int r = saving_get_marks(held->saving, held->saving->base.record.consumer, input, &words);

	for (uint64_t page = 0; r == 0 && page < input->view.states.n_pages; page++)
		if (!(words[page / 64] & UINT64_C(1) << page % 64))
			(void)before_write_claim(held->hook, input->view.number, page);
	return r;
}

/* Every page is protected by now. */
static int set(struct held *held)
{
	struct saving *saving = held->saving;
	struct paging *paging = &saving->request->guest->paging;
	int r = -ESRCH;

	paging_lock(paging);
	if (is_there(held))
		r = pager_before_write_new(paging->guest, RING_BYTES, &held->hook);
	paging_unlock(paging);
	for (size_t i = 0; r == 0 && i < saving->inputs.n_inputs; i++)
		if (saving->inputs.inputs[i].is_layered)
			r = claim_clean(held, &saving->inputs.inputs[i]);
	paging_lock(paging);
	if (r == 0)
		r = is_there(held) ? pager_before_write_set(paging->guest, held->hook) : -ESRCH;
	paging_unlock(paging);
	if (r < 0)
		return refusal_set_errno(saving->refusal, r,
					 "what guest `%s` writes cannot be held back: %s",
					 paging->name, strerror(-r));
	return 0;
}

static void unset(struct held *held)
{
	struct paging *paging = &held->saving->request->guest->paging;

	paging_lock(paging);
	if (is_there(held))
		(void)pager_before_write_set(paging->guest, NULL);
	paging_unlock(paging);
}

static int begin_still(void *userdata, struct still *still)
{
	struct held *held = userdata;
	struct saving *saving = held->saving;
	_cleanup_(copy_freep) struct copy *copy = NULL;
	int r = saving_new_copy(saving, &held->plain, &copy);

	if (r == 0)
		r = saving_save_devices(saving, still);
	if (r == 0)
		r = saving_read_base(saving);
	if (r == 0)
		r = saving_copy_unwatched(saving, copy);
	return r ? r : set(held);
}

/* Is each page there as it was? */
static int check(struct held *held)
{
	struct saving *saving = held->saving;
	const char *name = saving->request->guest->paging.name;
	struct before_write_stats stats;

	before_write_stats(held->hook, &stats);
	if (stats.error)
		return refusal_set_errno(saving->refusal, -stats.error,
					 "guest `%s` wrote a page that could not be copied: %s",
					 name, strerror(stats.error));
	if (stats.n_lost)
		return snapshot_refuse(saving->refusal, saving->files.path,
				       "guest `%s` discarded %llu pages (a balloon?) before they "
				       "were copied; try again, or without --live",
				       name, (unsigned long long)stats.n_lost);
	return 0;
}

static int refuse_ring(struct held *held, int r)
{
	return refusal_set_errno(held->saving->refusal, r, "the image cannot be written: %s",
				 strerror(-r));
}

static int copy_held(struct held *held)
{
	struct saving *saving = held->saving;
	struct copy_opts opts = held->plain;
	_cleanup_(copy_freep) struct copy *copy = NULL;
	int r;

	opts.claim = on_claim;
	opts.between = on_piece;
	opts.userdata = held;
	r = saving_new_copy(saving, &opts, &copy);
	if (r < 0)
		return r;
	r = saving_copy_watched(saving, copy);
	return r < 0 && held->error < 0 ? refuse_ring(held, held->error) : r;
}

int saving_before_write(struct saving *saving)
{
	struct held held = { .saving = saving, .plain = saving_copy_opts(saving) };
	int r;

	saving->manifest.way = SNAPSHOT_BEFORE_WRITE;
	r = saving_while_still(saving, begin_still, &held);
	if (r == 0)
		r = copy_held(&held);
	if (held.hook) {
		unset(&held); /* whose copies are all in the ring by then */
		if (r == 0) {
			r = empty_ring(&held);
			r = r < 0 ? refuse_ring(&held, r) : check(&held);
		}
		before_write_free(held.hook);
	}
	if (r == 0)
		saving_judge_pause(saving);
	return r;
}
