/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest on disk. */
#include "snapshots/save.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/bring.h"
#include "base/clock.h"
#include "base/units.h"
#include "dirty/tracking.h"
#include "image/image-reader.h"
#include "job.h"
#include "kernel/thread.h"
#include "refusal.h"
#include "registry.h"
#include "snapshots/record.h"
#include "snapshots/saving.h"

static const char *const kinds[] = {
	[BACKING_ANON] = "anon",
	[BACKING_SHMEM] = "shmem",
	[BACKING_HUGETLB] = "hugetlb",
	[BACKING_PRIVATE] = "private",
};

static const enum image_kind image_kinds[] = {
	[BACKING_ANON] = IMAGE_ANON,
	[BACKING_SHMEM] = IMAGE_SHMEM,
	[BACKING_HUGETLB] = IMAGE_HUGETLB,
	[BACKING_PRIVATE] = IMAGE_PRIVATE,
};

const char *snapshot_phase_name(enum snapshot_phase phase)
{
	static const char *const names[] = {
		[SNAPSHOT_STARTING] = "starting",
		[SNAPSHOT_COPYING] = "copying",
		[SNAPSHOT_FINISHING] = "finishing",
	};

	return names[phase];
}

void snapshot_saved_done(struct snapshot_saved *saved)
{
	json_decref(saved->warnings);
	*saved = (struct snapshot_saved){};
}

static void saving_done(struct saving *saving)
{
	snapshot_inputs_done(&saving->inputs);
	image_writer_free(saving->writer);
	snapshot_files_done(&saving->files);
	snapshot_manifest_done(&saving->manifest);
	snapshot_manifest_done(&saving->parent);
	json_decref(saving->machine);
	json_decref(saving->warnings);
}

static void set_phase(const struct saving *saving, enum snapshot_phase phase)
{
	atomic_store_explicit(&saving->request->progress->phase, phase, memory_order_relaxed);
}

/* ---- before anything is asked of the guest ---- */

static int read_parent(struct saving *saving)
{
	const struct snapshot_request *request = saving->request;
	int r;

	if (!request->parent)
		return 0;
	r = snapshot_read_manifest(request->parent, &saving->parent, saving->refusal);
	if (r < 0)
		return r;
	if (saving->parent.version < 2)
		return snapshot_refuse(
			saving->refusal, request->parent,
			"%s is of an earlier release, and has no incremental ones: take "
			"a full one",
			request->parent);
	if (!request->guest)
		return snapshot_refuse(
			saving->refusal, request->parent,
			"an incremental snapshot is of a guest that ufdd pages: name "
			"it, or take a full one");
	return 0;
}

/*
 * Which process, and what it says of itself. The monitor has one client at a time: it is let go
 * again.
 */
static int look_at_vmm(struct saving *saving, pid_t *ret_pid)
{
	_cleanup_(bring_target_done) struct bring_target target = BRING_TARGET_NONE;
	const struct snapshot_request *request = saving->request;
	struct driver *driver;
	int r;

	r = bring_target_by_qmp(&target, request->qmp, saving->refusal);
	if (r < 0)
		return r;
	driver = qmp_driver(target.qmp);
	if (request->guest && !paging_has_process(&request->guest->paging, target.pid))
		return refusal_set(saving->refusal, "io.ufd.guest.DriverFailed", NULL,
				   "the monitor %s is of process %d, which is none of guest `%s`",
				   request->qmp, target.pid, request->guest->paging.name);
	r = driver->ops->describe(driver, &saving->machine, saving->refusal);
	if (r == 0 && request->guest)
		r = saving_note(saving, NULL, driver);
	*ret_pid = target.pid;
	return r;
}

static int find_inputs(struct saving *saving)
{
	const struct snapshot_request *request = saving->request;
	pid_t pid = 0;
	int r;

	if (!request->qmp)
		return snapshot_inputs_of_guest(&saving->inputs, request->guest, saving->refusal);
	r = look_at_vmm(saving, &pid);
	if (r < 0)
		return r;
	return snapshot_inputs_of_process(&saving->inputs, pid, request->guest,
					  request->registrations, request->n_registrations,
					  saving->refusal);
}

static int open_base(struct saving *saving)
{
	const struct snapshot_request *request = saving->request;
	const struct base_opts opts = {
		.consumer = request->consumer,
		.qmp = request->qmp,
		.parent_path = request->parent,
		.parent = request->parent ? &saving->parent : NULL,
		.is_needed = request->is_live || request->consumer,
	};

	if (!request->guest || request->is_untracked)
		return 0;
	return base_open(&saving->base, request->guest, &opts, saving->warnings, saving->refusal);
}

/* ---- the image ---- */

/*
 * As seen from the new directory: beside it if they lie in one folder, so that both can move
 * together.
 */
static char *parent_hint(const char *directory, const char *parent)
{
	_cleanup_(freep) char *child_path = realpath(directory, NULL);
	_cleanup_(freep) char *parent_path = realpath(parent, NULL);
	const char *child_name, *parent_name;
	size_t n_folder;
	char *hint;

	if (!child_path || !parent_path)
		return NULL;
	child_name = strrchr(child_path, '/');
	parent_name = strrchr(parent_path, '/');
	n_folder = parent_name - parent_path;
	if ((size_t)(child_name - child_path) == n_folder &&
	    memcmp(child_path, parent_path, n_folder) == 0)
		return asprintf(&hint, "..%s/" SNAPSHOT_IMAGE, parent_name) < 0 ? NULL : hint;
	return asprintf(&hint, "%s/" SNAPSHOT_IMAGE, parent_path) < 0 ? NULL : hint;
}

/* Was this memory in a snapshot before, or is it one that came later and has its name? */
static bool was_saved(const struct saving *saving, const struct memory_view *view)
{
	struct paging *paging = &saving->request->guest->paging;
	struct record_name record;
	int r = -ESRCH;

	paging_lock(paging);
	if (paging->guest)
		r = record_get_name(paging->guest, view->number, &record);
	paging_unlock(paging);
	return r == 0 && record.device == view->device && record.inode == view->inode &&
	       strcmp(record.name, view->name) == 0;
}

static int add_memories(struct saving *saving)
{
	uint64_t total_bytes = 0;

	for (size_t i = 0; i < saving->inputs.n_inputs; i++) {
		struct snapshot_input *input = &saving->inputs.inputs[i];
		const struct memory_view *view = &input->view;
		const struct snapshot_memory *before = snapshot_manifest_find(&saving->parent,
									      view->name);
		int r;

		/*
		 * what is not dirty is in the parent, if that is the same memory: its name is the
		 * guest's for life
		 */
		input->is_layered = saving->base.registration && saving->request->parent &&
				    before && input->is_guests && was_saved(saving, view) &&
				    before->length_bytes == view->length_bytes &&
				    before->page_bytes == view->page_bytes;
		total_bytes += input->is_layered ? 0 : view->length_bytes;
		r = image_writer_add_memory(saving->writer, view->name, view->length_bytes,
					    view->page_bytes, image_kinds[view->kind],
					    &input->image_memory);
		if (r == 0)
			r = snapshot_manifest_add(&saving->manifest, view->name, kinds[view->kind],
						  view->length_bytes, view->page_bytes);
		if (r < 0)
			return refusal_set_errno(saving->refusal, r,
						 "memory `%s` is not written: %s", view->name,
						 strerror(-r));
	}
	atomic_store_explicit(&saving->request->progress->total_bytes, total_bytes,
			      memory_order_relaxed);
	return 0;
}

static int begin_image(struct saving *saving)
{
	const struct snapshot_request *request = saving->request;
	struct snapshot_manifest *manifest = &saving->manifest;
	struct image_parent parent = {};
	struct image_writer_opts opts = { .codec = request->codec, .level = request->level };
	int r;

	if (request->parent) {
		manifest->has_parent = true;
		memcpy(manifest->parent, saving->parent.digest, sizeof(manifest->parent));
		manifest->parent_path = parent_hint(request->directory, request->parent);
		if (!manifest->parent_path)
			return refusal_set_errno(saving->refusal, -ENOMEM, "no path to the parent");
		memcpy(parent.digest, saving->parent.digest, sizeof(parent.digest));
		parent.hint = manifest->parent_path;
		opts.parent = &parent;
	}
	r = image_writer_new(&saving->writer, saving->files.image, &opts);
	if (r < 0)
		return refusal_set_errno(saving->refusal, r, "no image: %s", strerror(-r));
	return add_memories(saving);
}

/* ---- afterwards ---- */

static int check_guest(struct saving *saving)
{
	struct registration *guest = saving->request->guest;

	if (!guest || snapshot_inputs_are_current(&saving->inputs, guest))
		return 0;
	return refusal_set_errno(saving->refusal, -EAGAIN,
				 "guest `%s` got or lost memory, or ended, while it was saved",
				 guest->paging.name);
}

static int publish(struct saving *saving)
{
	struct snapshot_manifest *manifest = &saving->manifest;
	_cleanup_(freep) char *text = NULL;
	struct image_writer_stats stats;
	json_t *machine = TAKE_PTR(saving->machine);
	int r;

	set_phase(saving, SNAPSHOT_FINISHING);
	r = image_writer_commit(saving->writer, manifest->digest);
	if (r < 0) {
		json_decref(machine);
		return snapshot_refuse(saving->refusal, saving->files.path,
				       "%s/%s cannot be written: %s", saving->files.path,
				       SNAPSHOT_IMAGE, strerror(-r));
	}
	image_writer_get_stats(saving->writer, &stats);
	manifest->image_bytes = stats.file_bytes;
	manifest->populated_bytes = min_u64(stats.data_bytes, manifest->memory_bytes);
	if (saving->base.registration) {
		manifest->consumer = strdup(saving->base.record.consumer);
		manifest->epoch = saving->base.record.expected;
		memcpy(manifest->tracking, saving->base.record.tracking,
		       sizeof(manifest->tracking));
	}
	text = snapshot_manifest_text(manifest, machine);
	if (!text)
		return refusal_set_errno(saving->refusal, -ENOMEM, "manifest not written");
	if (saving->base.registration)
		base_begin_commit(&saving->base);
	return snapshot_files_publish(&saving->files, text, saving->refusal);
}

/* How its writes are noticed. */
static bool is_wp(struct registration *guest)
{
	const char *kind;

	paging_lock(&guest->paging);
	kind = guest->paging.guest ? tracking_kind(guest) : "";
	paging_unlock(&guest->paging);
	return strcmp(kind, "wp") == 0;
}

static int write_files(struct saving *saving)
{
	const struct snapshot_request *request = saving->request;
	int r;

	saving->manifest.created_ns = clock_wall_now_ns();
	saving->manifest.is_memory_only = !request->qmp;
	r = begin_image(saving);
	if (r < 0)
		return r;
	set_phase(saving, SNAPSHOT_COPYING);
	if (!request->is_live)
		r = saving_paused(saving);
	else if (is_wp(request->guest))
		r = saving_before_write(saving);
	else
		r = saving_by_rounds(saving);
	if (r == 0)
		r = check_guest(saving);
	if (r == 0)
		r = publish(saving);
	return r;
}

static int check_request(const struct snapshot_request *request, struct refusal *refusal)
{
	if (request->is_live && !request->qmp)
		return refusal_set(refusal, "io.ufd.guest.DriverFailed", NULL,
				   "a live snapshot pauses the guest at its end: that needs a "
				   "monitor (qmp)");
	if (request->is_live && !request->guest)
		return refusal_set(refusal, "io.ufd.guest.DriverFailed", NULL,
				   "a live snapshot is of a guest that ufdd pages: attach it, and "
				   "name it");
	if (request->is_live && request->is_untracked)
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "untracked"),
				   "a live snapshot needs to know what is written meanwhile");
	return 0;
}

static void forget_note(struct saving *saving)
{
	struct registration *guest = saving->request->guest;

	if (!saving->has_record)
		return;
	paging_lock(&guest->paging);
	if (guest->paging.guest)
		record_drop_saving(guest->paging.guest);
	paging_unlock(&guest->paging);
}

static void fill_saved(const struct saving *saving, struct snapshot_saved *saved)
{
	const struct snapshot_manifest *manifest = &saving->manifest;

	*saved = (struct snapshot_saved){
		.length_bytes = manifest->memory_bytes,
		.populated_bytes = manifest->populated_bytes,
		.state_bytes = manifest->state_bytes,
		.paused_ns = manifest->paused_ns,
		.file_bytes = manifest->image_bytes,
		.way = manifest->way,
		.n_rounds = manifest->n_rounds,
		.epoch = manifest->epoch,
		.warnings = json_incref(saving->warnings),
	};
	memcpy(saved->digest, manifest->digest, sizeof(saved->digest));
	if (manifest->consumer)
		snprintf(saved->consumer, sizeof(saved->consumer), "%s", manifest->consumer);
}

static int save(const struct snapshot_request *request, struct snapshot_saved *ret_saved,
		struct refusal *refusal)
{
	_cleanup_(saving_done) struct saving saving = {
		.request = request,
		.refusal = refusal,
		.files = SNAPSHOT_FILES_NONE,
		.warnings = json_array(),
	};
	bool is_open = false;
	int r;

	r = saving.warnings ? check_request(request, refusal) : -ENOMEM;
	if (r == 0)
		r = read_parent(&saving);
	if (r == 0)
		r = snapshot_files_open(&saving.files, request->directory, request->qmp, refusal);
	is_open = r == 0;
	if (r == 0)
		r = open_base(&saving);
	if (r == 0)
		r = find_inputs(&saving);
	if (r == 0)
		r = write_files(&saving);
	if (r == 0 && saving.base.registration) {
		snapshot_inputs_keep_names(&saving.inputs, request->guest);
		base_commit(&saving.base, saving.manifest.digest);
	}
	forget_note(&saving);
	if (r < 0) {
		base_abandon(&saving.base);
		if (is_open)
			snapshot_files_discard(&saving.files);
		return r;
	}
	fill_saved(&saving, ret_saved);
	return 0;
}

/*
 * Two at once would read the consumer of the rounds by turns, and each would get half of what was
 * written. The later one waits, for as long as its call may take.
 */
static int lock_guest(const struct snapshot_request *request, struct refusal *refusal)
{
	struct registration *guest = request->guest;
	struct timespec until;
	bool is_ours = false;

	while (!is_ours) {
		if (request->job && job_is_cancelled(request->job))
			return refusal_set_errno(refusal, -EINTR,
						 "guest `%s` was being saved by somebody else, and "
						 "the wait for that was given up",
						 guest->paging.name);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
		is_ours = pthread_mutex_timedlock(&guest->save_lock, &until) == 0;
	}
	return 0;
}

int snapshot_save(const struct snapshot_request *request, struct snapshot_saved *ret_saved,
		  struct refusal *refusal)
{
	int r;

	(void)thread_set_nice(THREAD_BULK_NICE);
	if (!request->guest)
		return save(request, ret_saved, refusal);
	r = lock_guest(request, refusal);
	if (r < 0)
		return r;
	r = save(request, ret_saved, refusal);
	pthread_mutex_unlock(&request->guest->save_lock);
	return r;
}
