/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Event streams. */
#include "control/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "control/call.h"

struct watcher {
	LIST_ENTRY(watcher) watcher_link;
	struct call *call; /* a reference */
};

struct watch {
	LIST_HEAD(, watcher) watcher_list;
};

int watch_new(struct watch **ret)
{
	struct watch *watch = calloc(1, sizeof(*watch));

	if (!watch)
		return -ENOMEM;
	LIST_INIT(&watch->watcher_list);
	*ret = watch;
	return 0;
}

static void watcher_free(struct watcher *watcher)
{
	LIST_REMOVE(watcher, watcher_link);
	call_unref(watcher->call);
	free(watcher);
}

struct watch *watch_free(struct watch *watch)
{
	struct watcher *watcher;

	if (!watch)
		return NULL;
	while ((watcher = LIST_FIRST(&watch->watcher_list)))
		watcher_free(watcher);
	free(watch);
	return NULL;
}

static void on_gone(struct call *call, void *userdata)
{
	watcher_free(userdata);
}

int watch_add(struct watch *watch, struct call *call)
{
	struct watcher *watcher = calloc(1, sizeof(*watcher));

	if (!watcher)
		return -ENOMEM;
	watcher->call = call_ref(call);
	LIST_INSERT_HEAD(&watch->watcher_list, watcher, watcher_link);
	call_set_gone(call, on_gone, watcher);
	call_notify(call, json_object());
	return 0;
}

void watch_tell(struct watch *watch, json_t *event)
{
	struct watcher *watcher, *next;

	/* telling may drop the one that is told (it reads too slowly), but no other */
	for (watcher = LIST_FIRST(&watch->watcher_list); watcher; watcher = next) {
		next = LIST_NEXT(watcher, watcher_link);
		call_notify(watcher->call, json_pack("{s:O}", "event", event));
	}
	json_decref(event);
}
