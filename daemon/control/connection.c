/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections. */
#include "control/connection.h"

#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <poll.h>
#include <sys/queue.h>
#include <sys/time.h>

#include "base/units.h"
#include "control/call.h"
#include "control/control.h"
#include "control/method.h"
#include "control/server.h"
#include "log.h"
#include "registry.h"
#include "wire/frame.h"
#include "wire/varlink.h"

#define DRAIN_SECONDS 5
#define FRAME_SECONDS 5 /* for one message, from its first byte to its last */
#define MAX_WAITING   4 /* fds for a client that does not read */

/* An fd goes with the first byte of its message, and none of the next message goes with it. */
struct waiting_fd {
	STAILQ_ENTRY(waiting_fd) waiting_link;
	uint64_t start, end; /* of the message, counted from the first byte we ever said */
	int fd;		     /* owned */
};

struct connection {
	unsigned int n_refs;
	struct server *server; /* NULL once dropped */
	struct credentials credentials;
	int fd;			   /* owned */
	struct event *read_event;  /* owned */
	struct event *gone_event;  /* owned; while working */
	struct event *write_event; /* owned; while bytes wait */
	struct event *amid_timer;  /* owned; while a message has begun and not ended */
	struct evbuffer *backlog;  /* owned */
	uint64_t n_sent;	   /* bytes, ever: where the backlog begins */
	STAILQ_HEAD(, waiting_fd) waiting_list;
	unsigned int n_waiting;
	struct frame_reader reader;
	struct call *call; /* a reference; the one at work */
	bool is_draining;
	bool is_processing;
};

static void on_readable(evutil_socket_t fd, short what, void *userdata);
static void on_gone(evutil_socket_t fd, short what, void *userdata);
static void on_writable(evutil_socket_t fd, short what, void *userdata);
static void on_amid(evutil_socket_t fd, short what, void *userdata);

int connection_new(struct connection **ret, struct server *server, int given,
		   const struct credentials *credentials)
{
	_cleanup_(connection_unrefp) struct connection *connection = NULL;
	_cleanup_(closep) int fd = given;
	struct event_base *base = server_base(server);

	connection = calloc(1, sizeof(*connection));
	if (!connection)
		return -ENOMEM;
	connection->n_refs = 1;
	connection->credentials = *credentials;
	connection->fd = TAKE_FD(fd);
	STAILQ_INIT(&connection->waiting_list);
	connection->backlog = evbuffer_new();
	connection->read_event = event_new(base, connection->fd, EV_READ | EV_PERSIST, on_readable,
					   connection);
	connection->gone_event = event_new(base, connection->fd, EV_CLOSED | EV_PERSIST, on_gone,
					   connection);
	connection->write_event = event_new(base, connection->fd, EV_WRITE | EV_PERSIST,
					    on_writable, connection);
	connection->amid_timer = evtimer_new(base, on_amid, connection);
	if (!connection->amid_timer || !connection->backlog || !connection->read_event ||
	    !connection->gone_event || !connection->write_event ||
	    event_add(connection->read_event, NULL) < 0)
		return -ENOMEM;
	connection->server = server;
	*ret = TAKE_PTR(connection);
	return 0;
}

struct connection *connection_ref(struct connection *connection)
{
	connection->n_refs++;
	return connection;
}

static void free_event(struct event **event)
{
	if (*event)
		event_free(*event);
	*event = NULL;
}

/* The first that waits has been sent, or never will be. */
static void connection_drop_fd(struct connection *connection)
{
	struct waiting_fd *waiting = STAILQ_FIRST(&connection->waiting_list);

	STAILQ_REMOVE_HEAD(&connection->waiting_list, waiting_link);
	connection->n_waiting--;
	closep(&waiting->fd);
	free(waiting);
}

/* Everything that ties us to the fd; what is left is memory. */
static void connection_close(struct connection *connection)
{
	free_event(&connection->read_event);
	free_event(&connection->gone_event);
	free_event(&connection->write_event);
	free_event(&connection->amid_timer);
	while (!STAILQ_EMPTY(&connection->waiting_list))
		connection_drop_fd(connection);
	frame_reader_done(&connection->reader);
	closep(&connection->fd);
	connection->fd = -EBADF;
	connection->server = NULL;
}

struct connection *connection_unref(struct connection *connection)
{
	if (!connection || --connection->n_refs)
		return NULL;
	connection_close(connection);
	if (connection->backlog)
		evbuffer_free(connection->backlog);
	free(connection);
	return NULL;
}

void connection_drop(struct connection *connection)
{
	_cleanup_(call_unrefp) struct call *call = TAKE_PTR(connection->call);
	struct server *server = connection->server;

	if (!server)
		return;
	offers_forget(&registry_engine(server_control(server)->registry)->offers, connection);
	connection_close(connection);
	if (call && call->on_gone) {
		void (*gone)(struct call *, void *) = TAKE_PTR(call->on_gone);

		gone(call, call->userdata);
	}
	server_remove(server, connection); /* the server's reference goes */
}

int connection_socket(const struct connection *connection)
{
	return connection->fd;
}

const struct credentials *connection_credentials(const struct connection *connection)
{
	return &connection->credentials;
}

static bool connection_is_open(const struct connection *connection)
{
	return connection->server && !connection->is_draining;
}

/* As much of the backlog as the socket takes. Return: 0, or -errno when the client is gone. */
static int connection_flush(struct connection *connection)
{
	while (evbuffer_get_length(connection->backlog)) {
		size_t n_piece = evbuffer_get_contiguous_space(connection->backlog);
		struct waiting_fd *waiting = STAILQ_FIRST(&connection->waiting_list);
		bool has_fd = waiting && waiting->start == connection->n_sent;
		size_t n_sent;
		int r;

		if (waiting)
			n_piece = min_u64(n_piece, (has_fd ? waiting->end : waiting->start) -
							   connection->n_sent);
		r = frame_send(connection->fd,
			       evbuffer_pullup(connection->backlog, (ssize_t)n_piece), n_piece,
			       has_fd ? &waiting->fd : NULL, has_fd, &n_sent);
		if (r < 0)
			return r;
		if (r == FRAME_NONE)
			break;
		if (has_fd)
			connection_drop_fd(connection);
		connection->n_sent += n_sent;
		evbuffer_drain(connection->backlog, n_sent);
	}
	return 0;
}

static void on_writable(evutil_socket_t fd, short what, void *userdata)
{
	struct connection *connection = userdata;

	if ((what & EV_TIMEOUT) || connection_flush(connection) < 0) {
		connection_drop(connection);
		return;
	}
	if (evbuffer_get_length(connection->backlog))
		return;
	if (connection->is_draining)
		connection_drop(connection);
	else
		event_del(connection->write_event);
}

/* Return: 0 with the message and its fd in the backlog, -EMSGSIZE, -ENOBUFS, -ENOMEM. */
static int connection_queue(struct connection *connection, const json_t *message, int *fd)
{
	uint64_t start = connection->n_sent + evbuffer_get_length(connection->backlog);
	_cleanup_(freep) char *bytes = NULL;
	struct waiting_fd *waiting;
	size_t n_bytes;
	int r;

	r = frame_encode(message, &bytes, &n_bytes);
	if (r < 0)
		return r;
	if (evbuffer_add(connection->backlog, bytes, n_bytes) < 0)
		return -ENOMEM;
	if (*fd < 0)
		return 0;
	if (connection->n_waiting == MAX_WAITING)
		return -ENOBUFS;
	waiting = calloc(1, sizeof(*waiting));
	if (!waiting)
		return -ENOMEM;
	connection->n_waiting++;
	*waiting =
		(struct waiting_fd){ .start = start, .end = start + n_bytes, .fd = TAKE_FD(*fd) };
	STAILQ_INSERT_TAIL(&connection->waiting_list, waiting, waiting_link);
	return 0;
}

void connection_send(struct connection *connection, const json_t *message, int given)
{
	_cleanup_(closep) int fd = given;
	bool was_empty;
	int r;

	if (!connection_is_open(connection))
		return;
	was_empty = evbuffer_get_length(connection->backlog) == 0;
	r = connection_queue(connection, message, &fd);
	if (r == 0 && was_empty)
		r = connection_flush(connection);
	if (r == 0 &&
	    evbuffer_get_length(connection->backlog) > server_backlog_bytes(connection->server)) {
		log_info(LOG_FIELDS(),
			 "pid %d has not read its replies for too long and loses its connection",
			 connection->credentials.pid);
		r = -ENOBUFS;
	}
	if (r < 0)
		connection_drop(connection);
	else if (evbuffer_get_length(connection->backlog))
		event_add(connection->write_event, NULL);
}

/* Nothing more is read; what is said already is still written, for a while. */
static void connection_drain(struct connection *connection)
{
	const struct timeval patience = { .tv_sec = DRAIN_SECONDS };

	connection->is_draining = true;
	event_del(connection->read_event);
	event_del(connection->amid_timer);
	if (evbuffer_get_length(connection->backlog))
		event_add(connection->write_event, &patience);
	else
		connection_drop(connection);
}

/* Say what was wrong with the stream, then close: nobody knows where the next message starts. */
static void connection_fail(struct connection *connection, const char *what)
{
	json_t *message;

	log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(), "pid %d sent %s", connection->credentials.pid,
		  what);
	message = varlink_error_new("io.ufd.manager.BadMessage",
				    json_pack("{s:s}", "message", what));
	if (message)
		connection_send(connection, message, -EBADF);
	json_decref(message);
	if (connection->server)
		connection_drain(connection);
}

/*
 * A message must end: what came with it is held meanwhile, and that can be the client's own end of
 * this socket, which then nobody could ever close.
 */
static void on_amid(evutil_socket_t fd, short what, void *userdata)
{
	connection_fail(userdata, "a message that did not end in time");
}

static void connection_watch_time(struct connection *connection)
{
	const struct timeval patience = { .tv_sec = FRAME_SECONDS };

	if (!frame_reader_is_amid(&connection->reader))
		event_del(connection->amid_timer);
	else if (!evtimer_pending(connection->amid_timer, NULL))
		evtimer_add(connection->amid_timer, &patience);
}

/* Is the other side closed as a whole, or only for writing (it still reads what we say)? */
static bool is_hung_up(int fd)
{
	struct pollfd entry = { .fd = fd };

	return poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR));
}

static void on_gone(evutil_socket_t fd, short what, void *userdata)
{
	struct connection *connection = userdata;

	if (is_hung_up(fd))
		connection_drop(connection);
	else
		event_del(connection->gone_event); /* the next write will tell */
}

/* Reading ends while a call is at work: replies come in the order of the calls. */
static void connection_begin_call(struct connection *connection, struct frame *frame)
{
	_cleanup_(call_unrefp) struct call *call = NULL;

	if (call_new(&call, connection, frame) < 0) {
		connection_drop(connection);
		return;
	}
	if (varlink_call_parse(call->frame.message, &call->request) != 0) {
		connection_fail(connection, "an object that is no call");
		return;
	}
	connection->call = call_ref(call);
	method_dispatch(server_control(connection->server), call);
}

/* Whole frames that lie in the buffer. Return: true if more may be read. */
static bool connection_take_frames(struct connection *connection)
{
	while (connection_is_open(connection) && !connection->call) {
		_cleanup_(frame_done) struct frame frame = {};
		int r;

		r = frame_reader_next(&connection->reader, &frame);
		if (r == FRAME_NONE)
			return true;
		if (r == 0)
			connection_begin_call(connection, &frame);
		else
			connection_fail(connection, frame_outcome_text(r));
	}
	return false;
}

/* Until the socket is empty, a call is at work, or the connection ends. */
static void connection_process(struct connection *connection)
{
	_cleanup_(connection_unrefp) struct connection *kept
		__attribute__((unused)) = connection_ref(connection);
	int r = 0;

	connection->is_processing = true;
	while (connection_take_frames(connection)) {
		r = frame_reader_receive(&connection->reader, connection->fd);
		if (r == 0)
			continue;
		if (r == FRAME_TOO_MANY_FDS)
			connection_fail(connection, frame_outcome_text(r));
		else if (r == FRAME_END)
			connection_drain(connection);
		else if (r < 0)
			connection_drop(connection);
		break;
	}
	connection->is_processing = false;
	if (!connection_is_open(connection))
		return;
	if (connection->call) {
		event_del(connection->amid_timer);
		event_del(connection->read_event);
		event_add(connection->gone_event, NULL);
	} else {
		connection_watch_time(connection);
	}
}

static void on_readable(evutil_socket_t fd, short what, void *userdata)
{
	connection_process(userdata);
}

void connection_call_done(struct connection *connection, struct call *call)
{
	if (connection->call != call)
		return;
	connection->call = call_unref(call);
	if (connection->is_processing || !connection_is_open(connection))
		return;
	event_del(connection->gone_event);
	event_add(connection->read_event, NULL);
	/* the next call may lie in the buffer; but first whoever replied puts its things away */
	event_active(connection->read_event, EV_READ, 0);
}
