/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Restore of io.ufd.guest: a snapshot's memory, page by page, under a QEMU that waits for it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "attach/arrival.h"
#include "attach/bring.h"
#include "attach/owner.h"
#include "control/arrive.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/method.h"
#include "control/methods-guest.h"
#include "control/progress.h"
#include "registry.h"
#include "snapshots/base.h"
#include "snapshots/restore.h"

struct restore {
	struct control *control;
	struct call *call;		   /* a reference: texts are borrowed from it */
	struct registration *registration; /* a reference */
	struct arrival_rights rights;
	struct bring_target target;
	struct snapshot_manifest manifest;
	struct process_memories memories;
	char **specs;			       /* owned; by the manifest's memories */
	const struct process_memory **matched; /* owned; borrowed from @memories, likewise */
	const char *directory;
	const char *qmp_path;
	const char *consumer; /* NULL: nothing is tracked */
	char *warning;	      /* owned; NULL: none */
	bool is_clone;
	bool is_paused;
	uint64_t started_ns;
	uint64_t running_ns; /* 0: left paused */
	uid_t owner;
};

static void restore_free(struct restore *restore)
{
	if (!restore)
		return;
	for (size_t i = 0; restore->specs && i < restore->manifest.n_memories; i++)
		free(restore->specs[i]);
	free(restore->specs);
	free(restore->matched);
	free(restore->warning);
	snapshot_manifest_done(&restore->manifest);
	process_memories_done(&restore->memories);
	bring_target_done(&restore->target);
	registration_unref(restore->registration);
	call_unref(restore->call);
	free(restore);
}
DEFINE_CLEANUP(struct restore, restore_free)

static bool is_same(const struct process_memory *there, const struct snapshot_memory *wanted)
{
	return there->length_bytes == wanted->length_bytes &&
	       there->page_bytes == wanted->page_bytes;
}

/*
 * Which of QEMU's memories is this one? The one of its name, if it has its length; else the only
 * one of its length: memfds of QEMU all have the same name.
 */
static int match_memory(struct restore *restore, const struct snapshot_memory *wanted,
			const struct process_memory **ret, struct refusal *refusal)
{
	const struct process_memory *found = NULL;
	size_t n = 0;

	for (size_t i = 0; i < restore->memories.n_memories; i++) {
		const struct process_memory *there = &restore->memories.memories[i];

		if (!is_same(there, wanted))
			continue;
		found = there;
		n++;
		if (strcmp(there->name, wanted->name) == 0) {
			n = 1;
			break;
		}
	}
	if (n == 1) {
		*ret = found;
		return 0;
	}
	return refusal_set(refusal, "io.ufd.guest.BadSnapshot",
			   json_pack("{s:s}", "directory", restore->directory),
			   "memory `%s` of %llu bytes (pages of %llu): process %d has %zu shared "
			   "memories like it, and one is needed%s",
			   wanted->name, (unsigned long long)wanted->length_bytes,
			   (unsigned long long)wanted->page_bytes, restore->target.pid, n,
			   n ? "; give them files with names" : "");
}

static int plan_restore(struct restore *restore, struct plan *plan, struct refusal *refusal)
{
	size_t n = restore->manifest.n_memories;
	int r;

	restore->specs = calloc(n + 1, sizeof(*restore->specs));
	restore->matched = calloc(n + 1, sizeof(*restore->matched));
	if (!restore->specs || !restore->matched)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct snapshot_memory *wanted = &restore->manifest.memories[i];
		const struct process_memory *there = NULL;

		r = match_memory(restore, wanted, &there, refusal);
		if (r < 0)
			return r;
		for (size_t j = 0; j < plan->n_memories; j++)
			if (plan->memories[j].backing == there->fd)
				return refusal_set(
					refusal, "io.ufd.guest.BadSnapshot",
					json_pack("{s:s}", "directory", restore->directory),
					"two memories of the snapshot match `%s`", there->name);
		restore->matched[i] = there;
		restore->specs[i] = snapshot_source(restore->directory, &restore->manifest, wanted);
		r = restore->specs[i] ? bring_plan_add(plan, there, restore->specs[i], -EBADF)
				      : -ENOMEM;
		if (r < 0)
			return r;
	}
	return plan_check(plan, refusal);
}

/* What it is restored from. */
static int restore_look(struct restore *restore, struct refusal *refusal)
{
	const char *directory = restore->directory;
	int r = snapshot_read_manifest(directory, &restore->manifest, refusal);

	if (r == 0 && restore->manifest.is_memory_only)
		r = snapshot_refuse(
			refusal, directory,
			"%s holds memory only, no devices: attach with its " SNAPSHOT_IMAGE
			" as the source",
			directory);
	if (r == 0)
		r = snapshot_check_image(directory, &restore->manifest, refusal);
	if (r == 0 && !restore->is_clone)
		r = snapshot_warn_of_twin(directory, &restore->manifest, &restore->warning);
	return r;
}

static int restore_begin(struct restore *restore, struct refusal *refusal)
{
	_cleanup_(plan_done) struct plan plan = {};
	int r;

	r = restore_look(restore, refusal);
	if (r == 0)
		r = bring_target_by_qmp(&restore->target, restore->qmp_path, refusal);
	if (r == 0)
		r = owner_check(restore->target.pid, &restore->rights, refusal);
	if (r == 0)
		r = owner_of_process(restore->target.pid, &restore->owner);
	restore->registration->owner = restore->owner;
	restore->registration->pid = restore->target.pid;
	if (r == 0)
		r = process_find_memories(restore->target.pid, NULL, 0, &restore->memories,
					  refusal);
	if (r == 0)
		r = plan_restore(restore, &plan, refusal);
	restore->registration->paging.consumer = restore->consumer;
	if (r == 0)
		r = bring(&restore->registration->paging, &restore->target, &plan, &restore->rights,
			  refusal);
	restore->registration->paging.consumer = NULL;
	return r;
}

/* The name of each memory in images, under which the snapshots that follow look for it. */
static void keep_names(struct restore *restore)
{
	struct paging *paging = &restore->registration->paging;

	paging_lock(paging);
	for (size_t i = 0; paging->guest && i < restore->manifest.n_memories; i++) {
		const struct snapshot_memory *wanted = &restore->manifest.memories[i];
		const struct process_memory *there = restore->matched[i];
		struct record_name record = { .device = there->device, .inode = there->inode };
		const struct paging_memory *memory = NULL;

		for (size_t j = 0; j < paging->n_memories; j++)
			if (strcmp(paging->memories[j].source, restore->specs[i]) == 0)
				memory = &paging->memories[j];
		snprintf(record.name, sizeof(record.name), "%s", wanted->name);
		/* without it an incremental copies the memory whole */
		if (memory)
			(void)record_put_name(paging->guest, memory->number, &record);
	}
	paging_unlock(paging);
}

/* Snapshots of it may count from the one that it came from. */
static int restore_base(struct restore *restore, struct refusal *refusal)
{
	int r;

	if (!restore->consumer || restore->manifest.version < 2)
		return 0;
	keep_names(restore);
	r = base_restored(restore->registration, restore->consumer, restore->manifest.digest);
	if (r < 0)
		return refusal_set_errno(refusal, r, "consumer `%s` is not kept: %s",
					 restore->consumer, strerror(-r));
	return 0;
}

/*
 * A VMM whose devices did not load has half a state: nothing but its end helps. Its memory goes
 * back to it with zeros where bytes are absent, and it never ran.
 */
static int restore_run(struct job *job, void *data, struct refusal *refusal)
{
	struct restore *restore = data;
	int r;

	r = restore_begin(restore, refusal);
	if (r < 0)
		return r;
	r = restore_base(restore, refusal);
	if (r == 0)
		r = snapshot_load_and_run(qmp_driver(restore->target.qmp), restore->directory,
					  restore->is_paused, &restore->running_ns, refusal);
	if (r < 0)
		paging_take_down(&restore->registration->paging);
	else
		snapshot_mark_restored(restore->directory, &restore->manifest);
	return r;
}

static void restore_reply(void *data, struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct restore *restore = data;
	struct registration *registration = restore->registration;
	json_t *fixed = json_pack("{s:s}", "guest", registration->paging.name);

	registration_commit(registration, restore->target.pid, restore->target.pidfd,
			    restore->owner);
	if (restore->warning)
		json_object_set_new(fixed, "warnings", json_pack("[s]", restore->warning));
	if (restore->running_ns)
		json_object_set_new(
			fixed, "running_ns",
			json_integer((json_int_t)(restore->running_ns - restore->started_ns)));
	if (progress_start(restore->control, call, registration,
			   (struct progress_range){ .memory = UINT32_MAX }, fixed) < 0) {
		refusal_set_errno(&refusal, -ENOMEM, "no memory");
		call_refuse(call, &refusal);
	}
}

static void restore_done(void *data, bool is_kept)
{
	struct restore *restore = data;

	if (is_kept)
		registration_arrived(restore->registration);
	else
		registration_abandon(restore->registration);
	restore_free(restore);
}

static int restore_register(struct restore *restore, struct refusal *refusal)
{
	struct call *call = restore->call;
	const char *name = json_string_value(json_object_get(call->parameters, "name"));
	const char *slash = strrchr(restore->directory, '/');
	struct settings settings;
	int r;

	r = arrive_settings(restore->control, call, &settings);
	if (r != 0)
		return r;
	if (!name)
		name = slash && slash[1] ? slash + 1 : restore->directory;
	r = arrive_register(restore->control, call, name, &settings, &restore->registration,
			    refusal);
	if (r != 0)
		return r;
	restore->registration->paging.front_end = FRONT_END_PROCESS;
	snprintf(restore->registration->qmp, sizeof(restore->registration->qmp), "%s",
		 restore->qmp_path);
	return 0;
}

int method_restore(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = restore_run,
		.reply = restore_reply,
		.done = restore_done,
	};
	_cleanup_(restore_freep) struct restore *restore = calloc(1, sizeof(*restore));
	int r;

	if (!restore)
		return -ENOMEM;
	restore->control = control;
	restore->started_ns = clock_now_ns();
	restore->call = call_ref(call);
	restore->target = (struct bring_target)BRING_TARGET_NONE;
	restore->directory = json_string_value(json_object_get(call->parameters, "directory"));
	restore->qmp_path = json_string_value(json_object_get(call->parameters, "qmp"));
	restore->is_paused = json_is_true(json_object_get(call->parameters, "paused"));
	restore->is_clone = json_is_true(json_object_get(call->parameters, "clone"));
	restore->consumer = json_string_value(json_object_get(call->parameters, "consumer"));
	restore->rights = (struct arrival_rights){
		.caller = call->peer.uid,
		.is_admin = credentials_are_admin(&call->peer, control->own_uid),
	};
	r = restore_register(restore, refusal);
	if (r != 0)
		return r < 0 ? r : 0;
	return call_job_start(control, call, &ops, ARRIVE_TIMEOUT_NS, TAKE_PTR(restore), refusal);
}
