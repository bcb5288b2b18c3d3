/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SnapshotSave of io.ufd.guest. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "attach/bring.h"
#include "attach/snapshot.h"
#include "base/clock.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "control/methods-guest.h"
#include "registry.h"

#define SAVE_TIMEOUT_NS	    (3600 * NSEC_PER_SEC)
#define GRADUATE_TIMEOUT_NS (30 * NSEC_PER_SEC)
#define LOOK_NS		    (2 * NSEC_PER_MSEC)

struct save {
	struct call *call;		     /* a reference: texts are borrowed from it */
	struct registration **registrations; /* owned; references to all that serve */
	size_t n_registrations;
	const char *qmp_path;
	const char *directory;
	struct snapshot_saved saved;
};

static void save_free(struct save *save)
{
	if (!save)
		return;
	for (size_t i = 0; i < save->n_registrations; i++)
		registration_unref(save->registrations[i]);
	free(save->registrations);
	call_unref(save->call);
	free(save);
}
DEFINE_CLEANUP(struct save, save_free)

static bool is_graduated(struct registration *registration)
{
	UFD_OPTS(ufd_guest_stats, stats);
	bool is_done = true;

	paging_lock(&registration->paging);
	if (registration->paging.guest)
		is_done = ufd_pager_guest_stats(registration->paging.guest, &stats) < 0 ||
			  stats.is_graduated;
	paging_unlock(&registration->paging);
	return is_done;
}

/* The file must hold every byte before it is copied: what is absent would be saved as zeros. */
static int complete(struct registration *registration, struct job *job, struct refusal *refusal)
{
	const struct timespec pause = { .tv_nsec = LOOK_NS };
	uint64_t deadline_ns;
	int r;

	r = paging_finish(&registration->paging, job_deadline_ns(job), job);
	if (r < 0)
		return refusal_set_errno(refusal, r, "guest `%s` cannot be completed: %s",
					 registration->paging.name, strerror(-r));
	deadline_ns = clock_now_ns() + GRADUATE_TIMEOUT_NS;
	while (!is_graduated(registration)) {
		if (clock_now_ns() >= deadline_ns)
			return refusal_set_errno(refusal, -ETIMEDOUT,
						 "guest `%s` is complete, but still registered",
						 registration->paging.name);
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int save_memories(struct save *save, struct bring_target *target,
			 const struct process_memories *memories, struct refusal *refusal)
{
	_cleanup_(freep) struct snapshot_input *inputs = calloc(memories->n_memories + 1,
								sizeof(*inputs));

	if (!inputs)
		return -ENOMEM;
	for (size_t i = 0; i < memories->n_memories; i++) {
		const struct process_memory *memory = &memories->memories[i];

		inputs[i] = (struct snapshot_input){
			.name = memory->name,
			.kind = memory->kind == BACKING_HUGETLB ? "hugetlb" : "shmem",
			.backing_fd = memory->fd,
			.length_bytes = memory->length_bytes,
			.page_bytes = memory->page_bytes,
		};
	}
	return snapshot_save(qmp_driver(target->qmp), inputs, memories->n_memories, save->directory,
			     &save->saved, refusal);
}

static int save_run(struct job *job, void *data, struct refusal *refusal)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	_cleanup_(bring_target_done) struct bring_target target = BRING_TARGET_NONE;
	struct save *save = data;
	int r;

	r = bring_target_by_qmp(&target, save->qmp_path, refusal);
	for (size_t i = 0; r == 0 && i < save->n_registrations; i++)
		if (paging_has_process(&save->registrations[i]->paging, target.pid))
			r = complete(save->registrations[i], job, refusal);
	if (r == 0)
		r = process_find_memories(target.pid, NULL, 0, &memories, refusal);
	if (r == 0)
		r = save_memories(save, &target, &memories, refusal);
	return r;
}

static void save_reply(void *data, struct call *call)
{
	const struct snapshot_saved *saved = &((struct save *)data)->saved;

	call_reply(call, json_pack("{s:I, s:I, s:I, s:I}", "length_bytes",
				   (json_int_t)saved->length_bytes, "populated_bytes",
				   (json_int_t)saved->populated_bytes, "state_bytes",
				   (json_int_t)saved->state_bytes, "paused_ns",
				   (json_int_t)saved->paused_ns));
}

static void save_done(void *data, bool is_kept)
{
	save_free(data);
}

int method_snapshot_save(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = save_run,
		.reply = save_reply,
		.done = save_done,
	};
	_cleanup_(save_freep) struct save *save = calloc(1, sizeof(*save));
	const char *name = json_string_value(json_object_get(call->parameters, "name"));
	struct registration *registration;
	int r;

	if (!save)
		return -ENOMEM;
	save->call = call_ref(call);
	save->directory = json_string_value(json_object_get(call->parameters, "directory"));
	save->qmp_path = json_string_value(json_object_get(call->parameters, "qmp"));
	if (name) {
		r = guest_of_call(control, call, &registration, refusal);
		if (r < 0)
			return r;
		if (!save->qmp_path)
			save->qmp_path = registration->qmp;
	}
	if (!save->qmp_path || !save->qmp_path[0])
		return refusal_set(refusal, "io.ufd.guest.DriverFailed", NULL,
				   "the guest was not attached by a QMP socket: name one (qmp)");
	save->n_registrations = registry_collect(control->registry, &save->registrations);
	return call_job_start(control, call, &ops, SAVE_TIMEOUT_NS, TAKE_PTR(save), refusal);
}
