/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Listeners: made, kept, taken over, removed. */
#include "handoff/handoff.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/files.h"
#include "config.h"
#include "handoff/listener.h"
#include "handoff/socket.h"
#include "log-ids.h"
#include "log.h"
#include "store/sockets.h"
#include "store/store.h"
#include "upgrade/upgrade.h"

#define RETRY_US 100000 /* until a connection is accepted again, when there was no fd for it */

/* ---- one ---- */

struct listener *listener_ref(struct listener *listener)
{
	listener->n_refs++;
	return listener;
}

struct listener *listener_unref(struct listener *listener)
{
	if (!listener || --listener->n_refs)
		return NULL;
	if (listener->event)
		event_free(listener->event);
	if (listener->timer)
		event_free(listener->timer);
	closep(&listener->fd);
	wish_done(&listener->wish);
	free(listener);
	return NULL;
}

static int listener_new(struct handoffs *handoffs, const struct handoff_wish *wish,
			struct listener **ret)
{
	struct listener *listener = calloc(1, sizeof(*listener));

	if (!listener)
		return -ENOMEM;
	listener->fd = -EBADF;
	listener->n_refs = 1;
	listener->handoffs = handoffs;
	LIST_INIT(&listener->visitor_list);
	if (wish_copy(wish, &listener->wish) < 0) {
		listener_unref(listener);
		return -ENOMEM;
	}
	LIST_INSERT_HEAD(&handoffs->listener_list, listener, listener_link);
	handoffs->n_listeners++;
	*ret = listener;
	return 0;
}

static void drop_visitors(struct listener *listener)
{
	struct visitor *visitor, *next;

	for (visitor = LIST_FIRST(&listener->visitor_list); visitor; visitor = next) {
		next = LIST_NEXT(visitor, visitor_link);
		if (visitor->state == VISITOR_ARRIVING)
			continue;
		if (visitor->registration && !visitor->is_again)
			registration_abandon(visitor->registration);
		visitor_free(visitor);
	}
}

/* Nobody comes any more; who is arriving still does. The list's reference goes. */
static void listener_close(struct listener *listener)
{
	listener->is_gone = true;
	drop_visitors(listener);
	if (listener->event)
		event_free(listener->event);
	listener->event = NULL;
	closep(&listener->fd);
	listener->fd = -EBADF;
	LIST_REMOVE(listener, listener_link);
	listener->handoffs->n_listeners--;
	listener_unref(listener);
}

static void listener_forget(struct listener *listener)
{
	if (listener->is_kept)
		sockets_drop(store_sockets(listener->handoffs->needs.store), listener->number);
	listener->is_kept = false;
	socket_unlink(listener->wish.path, listener->device, listener->inode);
}

void listener_count(struct listener *listener)
{
	struct handoff_wish *wish = &listener->wish;

	wish->n_taken++;
	if (listener->is_gone)
		return;
	if (listener->is_kept)
		sockets_count(store_sockets(listener->handoffs->needs.store), listener->number,
			      wish->n_taken);
	if (!wish->n_most || wish->n_taken < wish->n_most)
		return;
	log_info(LOG_FIELDS(), "hand-off %s: the last of %llu guests has come, and it is removed",
		 wish->path, (unsigned long long)wish->n_most);
	listener_forget(listener);
	listener_close(listener);
}

/* ---- who comes ---- */

static void on_retry(evutil_socket_t fd, short what, void *userdata)
{
	listener_update(userdata);
}

static void on_accept(evutil_socket_t fd, short what, void *userdata)
{
	const struct timeval retry = { .tv_usec = RETRY_US };
	struct listener *listener = userdata;
	int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (connection >= 0) {
		listener_ref(listener);
		visitor_new(listener, connection);
		listener_update(listener);
		listener_unref(listener);
		return;
	}
	if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
		return;
	log_error(LOG_FIELDS(.error = -errno), "hand-off %s: a connection cannot be accepted",
		  listener->wish.path);
	event_del(listener->event);
	event_add(listener->timer, &retry);
}

void listener_update(struct listener *listener)
{
	const struct handoff_wish *wish = &listener->wish;

	if (!listener->event || listener->is_gone)
		return;
	if (!listener->handoffs->paused && listener->n_visitors < HANDOFF_MAX_VISITORS &&
	    (!wish->n_most || wish->n_taken + listener->n_visitors < wish->n_most))
		event_add(listener->event, NULL);
	else
		event_del(listener->event);
}

static int listener_start(struct listener *listener)
{
	struct event_base *base = listener->handoffs->needs.base;

	listener->event = event_new(base, listener->fd, EV_READ | EV_PERSIST, on_accept, listener);
	listener->timer = evtimer_new(base, on_retry, listener);
	if (!listener->event || !listener->timer)
		return -ENOMEM;
	listener_update(listener);
	return 0;
}

/* ---- making one ---- */

static int refuse_dialect(const char *dialect, const char *why, struct refusal *refusal)
{
	return refusal_set(refusal, "io.ufd.handoff.BadDialect",
			   json_pack("{s:s}", "dialect", dialect), "dialect `%s` %s", dialect, why);
}

static int set_dialect(struct listener *listener, struct refusal *refusal)
{
	const struct handoffs_needs *needs = &listener->handoffs->needs;
	const char *dialect = listener->wish.dialect;

	if (strcmp(dialect, "auto") == 0)
		return 0;
	for (size_t i = 0; needs->speakers && needs->speakers[i]; i++)
		if (strcmp(needs->speakers[i]->dialect, dialect) == 0) {
			listener->speaker = needs->speakers[i];
			return listener->speaker->check
				       ? listener->speaker->check(&listener->wish, refusal)
				       : 0;
		}
	listener->frontend = frontend_find(dialect);
	if (!listener->frontend)
		return refuse_dialect(dialect,
				      "is none: auto, firecracker, cloud-hypervisor or "
				      "cloud-hypervisor-uffd",
				      refusal);
	if (listener->frontend->is_experimental && !needs->config->may_experiment)
		return refuse_dialect(dialect,
				      "is experimental: [daemon] experimental-dialects in "
				      "ufdd.conf(5) allows it",
				      refusal);
	return 0;
}

/* A source that cannot be opened now is a mistake; one that vanishes later is told when a guest comes. */
static int check_source(const struct listener *listener, struct refusal *refusal)
{
	struct ufd_source *source = NULL;
	const char *why = NULL;
	int r;

	if (listener->speaker)
		return 0;
	r = ufd_source_open(&source, listener->wish.source, -1, &why);
	ufd_source_unref(source);
	if (r == 0)
		return 0;
	return refusal_set(refusal, "io.ufd.guest.BadSource",
			   json_pack("{s:s}", "source", listener->wish.source), "source `%s`: %s",
			   listener->wish.source, why ? why : strerror(-r));
}

static struct listener *find(const struct handoffs *handoffs, const char *path)
{
	struct listener *listener;

	LIST_FOREACH(listener, &handoffs->listener_list, listener_link)
	if (strcmp(listener->wish.path, path) == 0)
		return listener;
	return NULL;
}

static int check_room(const struct handoffs *handoffs, struct refusal *refusal)
{
	size_t n_fds, n_name_bytes;

	if (handoffs->n_listeners >= HANDOFF_MAX_LISTENERS)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "handoffs"),
				   "there are %d hand-offs, and there can be no more",
				   HANDOFF_MAX_LISTENERS);
	store_count(handoffs->needs.store, &n_fds, &n_name_bytes);
	if (store_is_systemd(handoffs->needs.store) &&
	    n_fds + 2 > store_most_fds(handoffs->needs.store))
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "fd-store"),
				   "the hand-off would not survive a restart: the service manager "
				   "keeps %zu file descriptors; raise FileDescriptorStoreMax= (and "
				   "UFD_FDSTORE_MAX) of the unit",
				   store_most_fds(handoffs->needs.store));
	return 0;
}

/* Made by who asks, with rights and in a place that we need not have. */
static int take_socket(struct listener *listener, int given, struct refusal *refusal)
{
	const char *wished = listener->wish.path;
	char path[SOCKET_PATH_BYTES];
	int r;

	if (!socket_path(given, path) || strcmp(path, wished) != 0)
		return refusal_set(refusal, "io.ufd.handoff.BadPath",
				   json_pack("{s:s}", "path", wished),
				   "the socket that was passed does not listen at %s", wished);
	r = fd_duplicate(&listener->fd, given);
	if (r < 0)
		return refusal_set_errno(refusal, r, "%s", strerror(-r));
	(void)fcntl(listener->fd, F_SETFL, O_NONBLOCK);
	return 0;
}

int handoff_begin(struct handoffs *handoffs, const struct handoff_wish *wish, int socket,
		  struct listener **ret, struct refusal *refusal)
{
	struct listener *listener;
	int r;

	if (find(handoffs, wish->path))
		return refusal_set(refusal, "io.ufd.handoff.Exists",
				   json_pack("{s:s}", "path", wish->path),
				   "there is a hand-off at %s already", wish->path);
	r = check_room(handoffs, refusal);
	if (r < 0)
		return r;
	r = listener_new(handoffs, wish, &listener);
	if (r < 0)
		return refusal_set_errno(refusal, r, "no memory");
	r = wish_check(&listener->wish, refusal);
	if (r == 0)
		r = set_dialect(listener, refusal);
	if (r == 0 && socket >= 0)
		r = take_socket(listener, socket, refusal);
	if (r < 0)
		listener_close(listener);
	else
		*ret = listener;
	return r;
}

/* Its socket, and what remains of it when we are not there. */
int handoff_open(struct listener *listener, struct refusal *refusal)
{
	struct handoff_wish *wish = &listener->wish;
	_cleanup_(freep) char *text = NULL;
	int r = check_source(listener, refusal);

	if (r == 0 && listener->fd >= 0)
		socket_identify(wish->path, &listener->device, &listener->inode);
	else if (r == 0)
		r = socket_make(wish, &listener->fd, &listener->device, &listener->inode, refusal);
	if (r < 0)
		return r;
	r = wish_print(wish, &text);
	if (r == 0)
		r = sockets_keep(store_sockets(listener->handoffs->needs.store), listener->fd, text,
				 wish->n_taken, &listener->number);
	if (r < 0)
		return refusal_set_errno(refusal, r, "hand-off %s cannot be kept: %s", wish->path,
					 r == -ETIMEDOUT ? "the service manager does not answer"
							 : strerror(-r));
	listener->is_kept = true;
	return 0;
}

int handoff_commit(struct listener *listener, struct refusal *refusal)
{
	int r = listener_start(listener);

	if (r < 0) {
		handoff_abandon(listener);
		return refusal_set_errno(refusal, r, "no memory");
	}
	log_info(LOG_FIELDS(), "hand-off %s: %s, source %s", listener->wish.path,
		 listener->wish.dialect, listener->wish.source);
	return 0;
}

void handoff_abandon(struct listener *listener)
{
	listener_forget(listener);
	listener_close(listener);
}

int handoff_remove(struct handoffs *handoffs, const char *path, struct refusal *refusal)
{
	struct listener *listener = find(handoffs, path);

	if (!listener || !listener->event)
		return refusal_set(refusal, "io.ufd.handoff.NoSuchHandoff",
				   json_pack("{s:s}", "path", path), "there is no hand-off at %s",
				   path);
	log_info(LOG_FIELDS(), "hand-off %s is removed", path);
	handoff_abandon(listener);
	return 0;
}

/* ---- those that are there already ---- */

static void report(const struct listener *listener, struct refusal *refusal)
{
	log_error(LOG_FIELDS(.message_id = LOG_ID_HANDOFF_LOST),
		  "hand-off %s is not there again: %s", listener->wish.path,
		  json_string_value(json_object_get(refusal->parameters, "message")));
}

static void adopt(struct handoffs *handoffs, struct stored_socket *stored)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct listener *listener;
	struct handoff_wish wish;
	int r;

	r = wish_parse(stored->text, strlen(stored->text), &wish);
	if (r == 0) {
		wish.n_taken = stored->count;
		r = listener_new(handoffs, &wish, &listener);
		wish_done(&wish);
	}
	if (r < 0) {
		log_error(LOG_FIELDS(.error = r, .message_id = LOG_ID_HANDOFF_LOST),
			  "a hand-off that was left cannot be read");
		return;
	}
	listener->number = stored->number;
	listener->is_kept = true;
	r = set_dialect(listener, &refusal);
	if (r == 0 && stored->fd >= 0) {
		listener->fd = TAKE_FD(stored->fd);
		socket_identify(listener->wish.path, &listener->device, &listener->inode);
	} else if (r == 0) {
		r = socket_make(&listener->wish, &listener->fd, &listener->device, &listener->inode,
				&refusal);
	}
	if (r == 0 && listener_start(listener) == 0)
		return;
	report(listener, &refusal);
	listener_close(listener);
}

void handoffs_adopt(struct handoffs *handoffs)
{
	struct stored_socket *stored = NULL;
	size_t n_stored = 0;
	int r = sockets_take(store_sockets(handoffs->needs.store), &stored, &n_stored);

	if (r < 0)
		log_error(LOG_FIELDS(.error = r, .message_id = LOG_ID_HANDOFF_LOST),
			  "the hand-offs that were left cannot be read");
	for (size_t i = 0; i < n_stored; i++)
		adopt(handoffs, &stored[i]);
	stored_sockets_free(stored, n_stored);
}

static int wish_of_unit(const struct handoffs *handoffs, const char *name, int fd,
			struct handoff_wish *ret)
{
	const struct config *config = handoffs->needs.config;
	char path[SOCKET_PATH_BYTES];

	if (!socket_path(fd, path))
		return -ENOTSOCK;
	for (size_t i = 0; i < config->n_handoffs; i++) {
		const struct config_handoff *given = &config->handoffs[i];
		struct handoff_wish wish = {
			.path = path,
			.dialect = (char *)given->dialect,
			.source = (char *)given->source,
			.name = given->guest_name[0] ? (char *)given->guest_name : NULL,
			.owner = (uid_t)given->owner,
			.settings = config->defaults,
		};

		if (strcmp(given->name, name) == 0)
			return wish_copy(&wish, ret);
	}
	return -ENOENT;
}

bool handoff_offer(struct handoffs *handoffs, const char *name, int given)
{
	const char *unit = name + strlen(HANDOFF_UNIT_PREFIX);
	_cleanup_(wish_done) struct handoff_wish wish = {};
	_cleanup_(refusal_done) struct refusal refusal = {};
	_cleanup_(closep) int fd = -EBADF;
	struct listener *listener;
	int r;

	if (strncmp(name, HANDOFF_UNIT_PREFIX, strlen(HANDOFF_UNIT_PREFIX)) != 0)
		return false;
	fd = given;
	r = wish_of_unit(handoffs, unit, fd, &wish);
	if (r < 0) {
		log_error(LOG_FIELDS(.error = r, .message_id = LOG_ID_HANDOFF_LOST),
			  "the socket %s is not served: ufdd.conf(5) wants a section [handoff %s] "
			  "with a source, for a listening Unix socket",
			  name, unit);
		return true;
	}
	r = handoff_begin(handoffs, &wish, fd, &listener, &refusal);
	if (r == 0) {
		listener->is_unit = true;
		snprintf(listener->unit, sizeof(listener->unit), "%s", name);
		r = handoff_commit(listener, &refusal);
	}
	if (r < 0)
		log_error(LOG_FIELDS(.message_id = LOG_ID_HANDOFF_LOST),
			  "the socket %s is not served: %s", name,
			  json_string_value(json_object_get(refusal.parameters, "message")));
	return true;
}

size_t handoffs_fds(const struct handoffs *handoffs, struct upgrade_fd *ret)
{
	const struct listener *listener;
	size_t n = 0;

	LIST_FOREACH(listener, &handoffs->listener_list, listener_link)
	if (listener->is_unit)
		ret[n++] = (struct upgrade_fd){ listener->unit, listener->fd };
	return n;
}

/* ---- all of them ---- */

int handoffs_new(struct handoffs **ret, const struct handoffs_needs *needs)
{
	struct handoffs *handoffs = calloc(1, sizeof(*handoffs));

	if (!handoffs)
		return -ENOMEM;
	handoffs->needs = *needs;
	LIST_INIT(&handoffs->listener_list);
	LIST_INIT(&handoffs->line_list);
	*ret = handoffs;
	return 0;
}

void handoffs_stop(struct handoffs *handoffs)
{
	struct listener *listener;

	if (!handoffs)
		return;
	handoffs->is_stopped = true;
	LIST_FOREACH(listener, &handoffs->listener_list, listener_link)
	{
		drop_visitors(listener);
		if (listener->event)
			event_del(listener->event);
		if (listener->timer)
			event_del(listener->timer);
	}
}

struct handoffs *handoffs_free(struct handoffs *handoffs)
{
	struct listener *listener;
	struct line *line;

	if (!handoffs)
		return NULL;
	while ((line = LIST_FIRST(&handoffs->line_list)))
		line_free(line);
	while ((listener = LIST_FIRST(&handoffs->listener_list))) {
		if (strcmp(store_word(handoffs->needs.store), "none") == 0)
			listener_forget(listener);
		listener_close(listener);
	}
	free(handoffs);
	return NULL;
}

void handoffs_pause(struct handoffs *handoffs, enum handoffs_pause why, bool is_paused)
{
	struct listener *listener;

	if (is_paused)
		handoffs->paused |= why;
	else
		handoffs->paused &= ~(unsigned int)why;
	LIST_FOREACH(listener, &handoffs->listener_list, listener_link)
	listener_update(listener);
}

bool handoffs_are_busy(const struct handoffs *handoffs)
{
	const struct listener *listener;

	LIST_FOREACH(listener, &handoffs->listener_list, listener_link)
	if (listener->n_visitors)
		return true;
	return false;
}

const struct handoff_wish *handoff_find(const struct handoffs *handoffs, const char *path)
{
	const struct listener *listener = find(handoffs, path);

	return listener ? &listener->wish : NULL;
}

json_t *handoff_json(const struct listener *listener)
{
	const struct handoff_counters *counters = &listener->counters;
	const struct handoff_wish *wish = &listener->wish;

	return json_pack(
		"{s:s, s:s, s:s, s:s, s:s*, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:s*}",
		"path", wish->path, "dialect", wish->dialect, "source", wish->source, "name",
		wish->name, "consumer", wish->consumer, "uid", (json_int_t)wish->owner, "count",
		(json_int_t)wish->n_most, "taken", (json_int_t)wish->n_taken, "unit",
		listener->is_unit, "waiting", (json_int_t)listener->n_visitors, "visitors",
		(json_int_t)counters->n_visitors, "guests", (json_int_t)counters->n_guests, "again",
		(json_int_t)counters->n_again, "served", (json_int_t)counters->n_served, "empty",
		(json_int_t)counters->n_empty, "refused", (json_int_t)counters->n_refused,
		"last_refusal", listener->last_refusal[0] ? listener->last_refusal : NULL);
}

json_t *handoffs_json(const struct handoffs *handoffs)
{
	const struct listener *listener;
	json_t *list = json_array();

	LIST_FOREACH(listener, &handoffs->listener_list, listener_link)
	if (listener->event)
		json_array_insert_new(list, 0, handoff_json(listener));
	return list;
}
