/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Progress streams. */
#include "control/progress.h"

#include <errno.h>
#include <event2/event.h>

#include "control/call.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "refusal.h"
#include "registry.h"

#define PERIOD_US 100000

struct progress {
	struct call *call;		   /* a reference */
	struct registration *registration; /* a reference */
	struct progress_range range;
	json_t *fixed;	     /* owned */
	struct event *timer; /* owned */
};

static void progress_free(struct progress *progress)
{
	if (!progress)
		return;
	if (progress->timer)
		event_free(progress->timer);
	json_decref(progress->fixed);
	registration_unref(progress->registration);
	call_unref(progress->call);
	free(progress);
}

/* Return: 0, -ESRCH if the guest is gone, -EAGAIN if it cannot be said without waiting. */
static int look(struct progress *progress, uint64_t *ret_absent, uint64_t *ret_total)
{
	struct registration *registration = progress->registration;
	UFD_OPTS(ufd_guest_stats, stats);
	int r;

	if (!registration->shown)
		return -ESRCH;
	if (progress->range.memory == UINT32_MAX) {
		r = ufd_pager_guest_stats(registration->shown, &stats);
		*ret_absent = stats.absent_bytes;
		*ret_total = stats.length_bytes;
		return r;
	}
	if (!paging_try_lock(&registration->paging))
		return -EAGAIN;
	r = ufd_pager_guest_absent(registration->shown, progress->range.memory,
				   progress->range.offset_bytes, progress->range.length_bytes,
				   ret_absent);
	paging_unlock(&registration->paging);
	*ret_total = progress->range.length_bytes;
	return r;
}

/* Return: true if it was the last reply. */
static bool progress_step(struct progress *progress)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct call *call = progress->call;
	uint64_t absent = 0, total = 0;
	json_t *reply;
	int r;

	r = look(progress, &absent, &total);
	if (r == -EAGAIN && call->request.is_more)
		return false;
	if (r == -EAGAIN)
		absent = total;
	else if (r < 0) {
		refuse_no_guest(progress->registration->paging.name, &refusal);
		call_refuse(call, &refusal);
		return true;
	}
	reply = json_copy(progress->fixed);
	json_object_set_new(reply, "done_bytes", json_integer((json_int_t)(total - absent)));
	json_object_set_new(reply, "total_bytes", json_integer((json_int_t)total));
	json_object_set_new(reply, "complete", json_boolean(r == 0 && absent == 0));
	if (call->request.is_more && absent) {
		call_notify(call, reply);
		return false;
	}
	call_reply(call, reply);
	return true;
}

static void on_timer(evutil_socket_t fd, short what, void *userdata)
{
	if (progress_step(userdata))
		progress_free(userdata);
}

static void on_gone(struct call *call, void *userdata)
{
	progress_free(userdata);
}

int progress_start(struct control *control, struct call *call, struct registration *registration,
		   struct progress_range range, json_t *fixed)
{
	const struct timeval period = { .tv_usec = PERIOD_US };
	struct progress *progress = calloc(1, sizeof(*progress));

	if (!progress) {
		json_decref(fixed);
		return -ENOMEM;
	}
	progress->call = call_ref(call);
	progress->registration = registration_ref(registration);
	progress->range = range;
	progress->fixed = fixed;
	progress->timer = event_new(control->base, -1, EV_PERSIST, on_timer, progress);
	if (!progress->timer || event_add(progress->timer, &period) < 0) {
		progress_free(progress);
		return -ENOMEM;
	}
	call_set_gone(call, on_gone, progress);
	if (progress_step(progress))
		progress_free(progress);
	return 0;
}
