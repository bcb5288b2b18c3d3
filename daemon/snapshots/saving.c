/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Steps of a save: standing still, devices, what was written, copies. */
#include "snapshots/saving.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "dirty/tracking.h"
#include "driver/qmp.h"
#include "job.h"
#include "kernel/thread.h"
#include "refusal.h"
#include "registry.h"

/* ---- standing still ---- */

/* It runs. After a failure nobody knows whether it has stopped: `cont` behind `stop` is right. */
static int stop_stranger(struct saving *saving, struct still *still, struct qmp *qmp)
{
	const struct snapshot_request *request = saving->request;
	struct driver *driver = qmp_driver(qmp);
	int r = stranger_note(&still->stranger, request->state_dir, qmp_pid(qmp), request->qmp,
			      driver, saving->refusal);

	if (r < 0)
		return r;
	still->since_ns = clock_now_ns();
	r = driver->ops->pause(driver, &still->was_running, saving->refusal);
	if (r < 0)
		still->was_running = true;
	else if (!still->was_running) /* somebody else was quicker, and will let it go on */
		stranger_forget(&still->stranger, request->state_dir);
	return r;
}

static int pause_stranger(struct saving *saving, struct still *still)
{
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	bool is_running = false, is_paused = false;
	struct driver *driver;
	int r = qmp_connect(&qmp, saving->request->qmp, 0, saving->refusal);

	if (r < 0)
		return r;
	driver = qmp_driver(qmp);
	r = driver->ops->look(driver, &is_running, &is_paused, saving->refusal);
	if (r == 0 && is_running)
		r = stop_stranger(saving, still, qmp);
	if (r < 0) {
		qmp = qmp_free(qmp);
		if (still->was_running)
			stranger_let_go(&still->stranger, saving->request->state_dir,
					saving->request->job);
		return r;
	}
	still->qmp = TAKE_PTR(qmp);
	still->driver = driver;
	return 0;
}

static int pause_guest(struct saving *saving, struct still *still)
{
	int r = pause_begin(&still->pause, saving->request->guest, saving->request->qmp,
			    saving->refusal);

	if (r < 0)
		return r;
	still->driver = qmp_driver(still->pause.qmp);
	still->was_running = still->pause.since_ns != 0;
	still->since_ns = still->was_running ? still->pause.since_ns : clock_now_ns();
	return 0;
}

static int still_begin(struct saving *saving, struct still *ret)
{
	struct registration *guest = saving->request->guest;
	struct still still = { .since_ns = clock_now_ns() };
	int r = 0;

	if (guest) {
		pthread_mutex_lock(&guest->dirty_lock);
		still.is_locked = true;
	}
	if (saving->request->qmp)
		r = guest ? pause_guest(saving, &still) : pause_stranger(saving, &still);
	if (r < 0) {
		if (guest)
			pthread_mutex_unlock(&guest->dirty_lock);
		return r;
	}
	saving->manifest.taken_ns = clock_wall_now_ns();
	*ret = still;
	return 0;
}

/* After a failure the guest goes on all the same, and the first refusal is the one to tell. */
static int resume_stranger(struct saving *saving, struct still *still, bool has_failed)
{
	_cleanup_(refusal_done) struct refusal ignored = {};
	const struct snapshot_request *request = saving->request;
	int r = 0;

	if (still->was_running) {
		r = still->driver->ops->resume(still->driver,
					       has_failed ? &ignored : saving->refusal);
		saving->manifest.paused_ns += clock_now_ns() - still->since_ns;
	}
	still->qmp = qmp_free(still->qmp); /* it has one client at a time */
	if (still->was_running && r < 0)
		stranger_let_go(&still->stranger, request->state_dir, request->job);
	else if (still->was_running)
		stranger_forget(&still->stranger, request->state_dir);
	return r;
}

static int still_end(struct saving *saving, struct still *still, bool has_failed)
{
	struct registration *guest = saving->request->guest;
	uint64_t paused_ns = 0;
	int r = 0;

	if (still->qmp) {
		r = resume_stranger(saving, still, has_failed);
	} else if (still->pause.qmp) {
		pause_end(&still->pause, &paused_ns, saving->warnings);
		saving->manifest.paused_ns += paused_ns;
	}
	if (still->is_locked)
		pthread_mutex_unlock(&guest->dirty_lock);
	*still = (struct still){};
	return r;
}

int saving_while_still(struct saving *saving, int (*work)(void *userdata, struct still *still),
		       void *userdata)
{
	struct still still;
	int r, resumed;

	r = still_begin(saving, &still);
	if (r < 0)
		return r;
	r = work(userdata, &still);
	resumed = still_end(saving, &still, r < 0);
	return r ? r : resumed;
}

int saving_save_devices(struct saving *saving, struct still *still)
{
	if (!still->driver)
		return 0;
	return still->driver->ops->save(still->driver, saving->files.state,
					&saving->manifest.state_bytes, saving->refusal);
}

int saving_note(struct saving *saving, const char *consumer, struct driver *driver)
{
	struct registration *guest = saving->request->guest;
	struct record_saving record = {};
	int r = -ESRCH;

	if (driver) {
		r = driver->ops->remember(driver, &record.driver_state, saving->refusal);
		if (r < 0)
			return r;
	}
	paging_lock(&guest->paging);
	if (guest->paging.guest) {
		uint32_t state = record.driver_state;

		(void)record_get_saving(guest->paging.guest, &record);
		if (driver) {
			record.driver_state = state;
			record.has_driver_state = true;
			snprintf(record.qmp, sizeof(record.qmp), "%s", saving->request->qmp);
		}
		if (consumer)
			snprintf(record.consumer, sizeof(record.consumer), "%s", consumer);
		r = record_put_saving(guest->paging.guest, &record);
	}
	paging_unlock(&guest->paging);
	if (r < 0)
		return refusal_set_errno(saving->refusal, r,
					 "guest `%s`: its ledger takes no record: %s",
					 guest->paging.name, strerror(-r));
	saving->has_record = true;
	return 0;
}

/* ---- copies ---- */

int saving_read_base(struct saving *saving)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	int r;

	if (!saving->base.registration)
		return 0;
	r = base_read(&saving->base, &epoch, saving->refusal);
	if (r < 0)
		return r;
	tracking_warn_strange(&epoch, saving->warnings);
	return 0;
}

/* With the engine's lock. */
static bool is_last_read_ours(const struct saving *saving, const char *consumer)
{
	UFD_OPTS(ufd_consumer_info, info);
	struct ufd_pager_guest *guest = saving->request->guest->paging.guest;

	if (strcmp(consumer, LIVE_CONSUMER))
		return base_is_current(&saving->base);
	for (uint32_t i = 0; ufd_pager_consumer_info(guest, i, &info) == 0; i++)
		if (strcmp(info.name, consumer) == 0)
			return info.epoch == saving->live_epoch;
	return false;
}

int saving_get_marks(struct saving *saving, const char *consumer,
		     const struct snapshot_input *input, uint64_t **ret_words)
{
	struct paging *paging = &saving->request->guest->paging;
	size_t n_words = (input->view.states.n_pages + 63) / 64;
	uint64_t *words = calloc(n_words + 1, sizeof(*words));
	int r = -ESRCH;

	if (!words)
		return -ENOMEM;
	paging_lock(paging);
	if (paging->guest)
		r = is_last_read_ours(saving, consumer)
			    ? ufd_pager_guest_dirty_bitmap(paging->guest, consumer,
							   input->view.number, 0, words, n_words)
			    : -ESTALE;
	paging_unlock(paging);
	if (r < 0) {
		free(words);
		return r;
	}
	*ret_words = words;
	return 0;
}

int saving_refuse_copy(struct saving *saving, const struct copy *copy, int r)
{
	if (r == -EINTR || !copy_error(copy)[0])
		return refusal_set_errno(saving->refusal, r, "the copy was given up: %s",
					 strerror(-r));
	return snapshot_refuse(saving->refusal, saving->files.path, "%s: %s", saving->files.path,
			       copy_error(copy));
}

static int copy_marks(struct saving *saving, struct copy *copy, const char *consumer,
		      const struct snapshot_input *input)
{
	const struct copy_target target = { .view = &input->view,
					    .image_memory = input->image_memory };
	const struct page_range pages = { input->view.states_first, input->view.states.n_pages };
	_cleanup_(freep) uint64_t *words = NULL;
	int r = saving_get_marks(saving, consumer, input, &words);

	if (r == -ESTALE)
		return refusal_set_errno(
			saving->refusal, r,
			"somebody else has read consumer `%s` of guest `%s` during "
			"the save: what was written is not known; try again",
			consumer, saving->request->guest->paging.name);
	if (r < 0)
		return refusal_set_errno(saving->refusal, r, "memory `%s`: %s", input->view.name,
					 strerror(-r));
	atomic_fetch_add_explicit(&saving->request->progress->total_bytes,
				  copy_count_marked(words, pages.count) * input->view.page_bytes,
				  memory_order_relaxed);
	r = copy_marked(copy, &target, pages, words);
	return r < 0 ? saving_refuse_copy(saving, copy, r) : 0;
}

int saving_copy_marked(struct saving *saving, struct copy *copy, const char *consumer)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < saving->inputs.n_inputs; i++)
		if (saving->inputs.inputs[i].is_guests)
			r = copy_marks(saving, copy, consumer, &saving->inputs.inputs[i]);
	return r;
}

static int copy_range(struct saving *saving, struct copy *copy, const struct snapshot_input *input,
		      uint64_t first, uint64_t end)
{
	const struct copy_target target = { .view = &input->view,
					    .image_memory = input->image_memory,
					    .is_new = !saving->request->parent };
	int r = copy_pages(copy, &target, (struct page_range){ first, end - first });

	return r < 0 ? saving_refuse_copy(saving, copy, r) : 0;
}

int saving_copy_watched(struct saving *saving, struct copy *copy)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < saving->inputs.n_inputs; i++) {
		const struct snapshot_input *input = &saving->inputs.inputs[i];
		uint64_t first = input->view.states_first;

		if (input->is_layered)
			r = copy_marks(saving, copy, saving->base.record.consumer, input);
		else if (input->is_guests)
			r = copy_range(saving, copy, input, first,
				       first + input->view.states.n_pages);
	}
	return r;
}

int saving_copy_unwatched(struct saving *saving, struct copy *copy)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < saving->inputs.n_inputs; i++) {
		const struct snapshot_input *input = &saving->inputs.inputs[i];
		uint64_t n_pages = memory_view_n_pages(&input->view);
		uint64_t first = input->is_guests ? input->view.states_first : n_pages;

		r = copy_range(saving, copy, input, 0, first);
		if (r == 0 && input->is_guests)
			r = copy_range(saving, copy, input, first + input->view.states.n_pages,
				       n_pages);
	}
	return r;
}

static int on_piece(void *userdata)
{
	const struct saving *saving = userdata;

	return saving->request->job && job_is_cancelled(saving->request->job) ? -EINTR : 0;
}

struct copy_opts saving_copy_opts(struct saving *saving)
{
	return (struct copy_opts){
		.writer = saving->writer,
		.done_bytes = &saving->request->progress->done_bytes,
		.between = on_piece,
		.userdata = saving,
	};
}

int saving_new_copy(struct saving *saving, const struct copy_opts *opts, struct copy **ret)
{
	int r = copy_new(ret, opts);

	return r < 0 ? refusal_set_errno(saving->refusal, r, "no copy: %s", strerror(-r)) : 0;
}

void saving_judge_pause(struct saving *saving)
{
	const struct snapshot_request *request = saving->request;

	if (saving->manifest.paused_ns <= request->max_pause_ns)
		return;
	json_array_append_new(
		saving->warnings,
		json_sprintf("the guest stood still for %llu ms, longer than the %llu ms that were "
			     "asked for",
			     (unsigned long long)(saving->manifest.paused_ns / NSEC_PER_MSEC),
			     (unsigned long long)(request->max_pause_ns / NSEC_PER_MSEC)));
}

/* ---- the plain way ---- */

/*
 * Between `stop` and the end of a save of its devices QEMU may still write to guest memory (rings are
 * drained), afterwards nothing does: what was written is read after it, and then copied.
 */
static int copy_still(void *userdata, struct still *still)
{
	const struct still_copy *plain = userdata;
	struct saving *saving = plain->saving;
	int r;

	/* it takes as long as the guest is large: other guests' faults are answered meanwhile */
	(void)thread_set_nice(THREAD_BULK_NICE);
	r = saving_save_devices(saving, still);
	if (r == 0)
		r = saving_read_base(saving);
	if (r == 0)
		r = saving_copy_unwatched(saving, plain->copy);
	if (r == 0)
		r = saving_copy_watched(saving, plain->copy);
	return r;
}

int saving_paused(struct saving *saving)
{
	const struct copy_opts opts = saving_copy_opts(saving);
	_cleanup_(copy_freep) struct copy *copy = NULL;
	struct still_copy plain = { .saving = saving };
	int r;

	saving->manifest.way = SNAPSHOT_PAUSED;
	r = saving_new_copy(saving, &opts, &copy);
	if (r < 0)
		return r;
	plain.copy = copy;
	return saving_while_still(saving, copy_still, &plain);
}
