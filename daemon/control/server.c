/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Listening and admission. */
#include "control/server.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "config.h"
#include "control/connection.h"
#include "control/control.h"
#include "control/credentials.h"
#include "log.h"
#include "upgrade/upgrade.h"
#include "wire/frame.h"
#include "wire/varlink.h"

#define MAX_LISTENERS 4
#define BACKLOG	      64

static_assert(SERVER_MAX_FDS == MAX_LISTENERS + 1, "each listener, and the lock");

struct client {
	LIST_ENTRY(client) client_link;
	struct connection *connection; /* a reference */
};

struct listener {
	struct event *event; /* owned */
	int fd;		     /* owned */
};

struct server {
	struct control *control;
	struct event_base *base;
	struct listener listeners[MAX_LISTENERS];
	size_t n_listeners;
	LIST_HEAD(, client) client_list;
	size_t n_clients;
	int lock;	/* owned; -EBADF without a path of ours */
	char path[108]; /* unlinked at the end; "" if none */
};

int server_new(struct server **ret, struct control *control, struct event_base *base)
{
	struct server *server = calloc(1, sizeof(*server));

	if (!server)
		return -ENOMEM;
	server->control = control;
	server->base = base;
	server->lock = -EBADF;
	LIST_INIT(&server->client_list);
	*ret = server;
	return 0;
}

struct server *server_free(struct server *server)
{
	struct client *client;

	if (!server)
		return NULL;
	while ((client = LIST_FIRST(&server->client_list)))
		connection_drop(client->connection);
	for (size_t i = 0; i < server->n_listeners; i++) {
		event_free(server->listeners[i].event);
		closep(&server->listeners[i].fd);
	}
	if (server->path[0])
		unlink(server->path);
	closep(&server->lock);
	free(server);
	return NULL;
}

static size_t count_of_user(const struct server *server, uid_t uid)
{
	struct client *client;
	size_t n = 0;

	LIST_FOREACH(client, &server->client_list, client_link)
	n += connection_credentials(client->connection)->uid == uid;
	return n;
}

/* Turned away with one best-effort sentence; the socket is new, so it takes it. */
static void turn_away(int fd, const char *limit)
{
	_cleanup_(freep) char *bytes = NULL;
	size_t n_bytes, n_sent;
	json_t *message;

	message = varlink_error_new(
		"io.ufd.manager.LimitReached",
		json_pack("{s:s, s:s}", "limit", limit, "message", "too many connections"));
	if (message && frame_encode(message, &bytes, &n_bytes) == 0)
		frame_send(fd, bytes, n_bytes, NULL, 0, &n_sent);
	json_decref(message);
	log_warning(LOG_FIELDS(), "a connection is turned away: limit %s", limit);
}

/* Return: 0 or -errno; @fd is consumed. */
static int server_admit(struct server *server, int given)
{
	const struct config *config = server->control->config;
	struct credentials credentials;
	_cleanup_(closep) int fd = given;
	const int on = 1;
	struct client *client;
	int r;

	r = credentials_of_socket(fd, &credentials);
	if (r < 0)
		return r;
	if (server->n_clients >= config->n_connections) {
		turn_away(fd, "connections");
		return 0;
	}
	if (count_of_user(server, credentials.uid) >= config->n_connections_per_user) {
		turn_away(fd, "connections-per-user");
		return 0;
	}
	/* so that each message says who wrote it, which for an inherited socket is not who
	 * connected */
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return -errno;
	client = calloc(1, sizeof(*client));
	if (!client)
		return -ENOMEM;
	r = connection_new(&client->connection, server, TAKE_FD(fd), &credentials);
	if (r < 0) {
		free(client);
		return r;
	}
	LIST_INSERT_HEAD(&server->client_list, client, client_link);
	server->n_clients++;
	return 0;
}

static void on_accept(evutil_socket_t listener, short what, void *userdata)
{
	struct server *server = userdata;
	int fd, r;

	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
			log_error(LOG_FIELDS(.error = -errno), "a connection cannot be accepted");
		return;
	}
	r = server_admit(server, fd);
	if (r < 0)
		log_error(LOG_FIELDS(.error = r), "a connection cannot be set up");
}

int server_listen(struct server *server, int given)
{
	_cleanup_(closep) int fd = given;
	struct listener *listener = &server->listeners[server->n_listeners];
	const int on = 1;
	int flags;

	if (server->n_listeners == MAX_LISTENERS)
		return -ENOSPC;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return -errno;
	listener->event = event_new(server->base, fd, EV_READ | EV_PERSIST, on_accept, server);
	if (!listener->event || event_add(listener->event, NULL) < 0) {
		if (listener->event)
			event_free(listener->event);
		listener->event = NULL;
		return -ENOMEM;
	}
	listener->fd = TAKE_FD(fd);
	server->n_listeners++;
	return 0;
}

static int take_lock(const char *path, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	char name[128];

	snprintf(name, sizeof(name), "%s.lock", path);
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int server_listen_path(struct server *server, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_(closep) int fd = -EBADF;
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	r = take_lock(path, &server->lock);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	strcpy(server->path, path);
	if (chmod(path, 0660) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	return server_listen(server, TAKE_FD(fd));
}

void server_pause(struct server *server, bool is_paused)
{
	for (size_t i = 0; i < server->n_listeners; i++) {
		if (is_paused)
			event_del(server->listeners[i].event);
		else
			event_add(server->listeners[i].event, NULL);
	}
}

size_t server_fds(const struct server *server, struct upgrade_fd *ret)
{
	size_t n = 0;

	for (size_t i = 0; i < server->n_listeners; i++)
		ret[n++] = (struct upgrade_fd){ "varlink", server->listeners[i].fd };
	if (server->lock >= 0)
		ret[n++] = (struct upgrade_fd){ "own-lock", server->lock };
	return n;
}

void server_keep_lock(struct server *server, int fd)
{
	struct sockaddr_un address = {};
	socklen_t n_address = sizeof(address);

	closep(&server->lock);
	server->lock = fd;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (server->n_listeners &&
	    getsockname(server->listeners[0].fd, (struct sockaddr *)&address, &n_address) == 0)
		snprintf(server->path, sizeof(server->path), "%.*s", (int)sizeof(address.sun_path),
			 address.sun_path);
}

size_t server_n_connections(const struct server *server)
{
	return server->n_clients;
}

struct event_base *server_base(const struct server *server)
{
	return server->base;
}

struct control *server_control(const struct server *server)
{
	return server->control;
}

size_t server_backlog_bytes(const struct server *server)
{
	return server->control->config->backlog_bytes;
}

void server_remove(struct server *server, struct connection *connection)
{
	struct client *client;

	LIST_FOREACH(client, &server->client_list, client_link)
	if (client->connection == connection) {
		LIST_REMOVE(client, client_link);
		server->n_clients--;
		connection_unref(client->connection);
		free(client);
		return;
	}
}
