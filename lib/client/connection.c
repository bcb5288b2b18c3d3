/* SPDX-License-Identifier: MIT */
/* The way to the daemon. */
#include "client/connection.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"

#define ACCEPT_PAUSE_NS (10 * NSEC_PER_MSEC)

int connection_init(struct connection *connection, const char *path, int inherited)
{
	*connection = (struct connection){ .inherited = -EBADF, .epoll = -EBADF };

	connection->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (connection->epoll < 0)
		return -errno;
	if (path) {
		connection->path = strdup(path);
		if (!connection->path)
			return -ENOMEM;
	}
	return inherited > 0 ? connection_set_inherited(connection, inherited) : 0;
}

void connection_done(struct connection *connection)
{
	connection_close(connection);
	closep(&connection->inherited);
	closep(&connection->epoll);
	free(connection->path);
}

int connection_set_inherited(struct connection *connection, int inherited)
{
	struct stat file;
	int fd;

	if (fstat(inherited, &file) < 0)
		return -errno;
	if (!S_ISSOCK(file.st_mode))
		return -ENOTSOCK;
	fd = fcntl(inherited, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return -errno;
	closep(&connection->inherited);
	connection->inherited = fd;
	return 0;
}

bool connection_has_way(const struct connection *connection)
{
	return connection->path || connection->inherited >= 0;
}

static int connect_path(int *ret_fd, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_(closep) int fd = -EBADF;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int connection_open(struct connection *connection)
{
	struct epoll_event event = { .events = EPOLLIN };
	_cleanup_(varlink_client_freep) struct varlink_client *varlink = NULL;
	_cleanup_(closep) int fd = TAKE_FD(connection->inherited);
	int r;

	if (connection->varlink)
		return 0;
	if (fd < 0 && !connection->path)
		return -ENOTCONN;
	if (fd < 0) {
		r = connect_path(&fd, connection->path);
		if (r < 0)
			return r;
	}
	r = varlink_client_adopt(&varlink, TAKE_FD(fd));
	if (r < 0)
		return r;
	if (epoll_ctl(connection->epoll, EPOLL_CTL_ADD, varlink_client_fd(varlink), &event) < 0)
		return -errno;
	connection->varlink = TAKE_PTR(varlink);
	return 0;
}

int connection_open_wait(struct connection *connection, uint64_t deadline_ns)
{
	const struct timespec pause = { .tv_nsec = ACCEPT_PAUSE_NS };
	int r;

	for (;;) {
		r = connection_open(connection);
		if (r != -EAGAIN)
			return r;
		if (deadline_ns && clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		/* Nothing tells when a Unix socket's queue has room again. */
		nanosleep(&pause, NULL);
	}
}

void connection_close(struct connection *connection)
{
	if (!connection->varlink)
		return;
	/* Somebody else may hold a duplicate of the socket: closing alone would leave it polled. */
	epoll_ctl(connection->epoll, EPOLL_CTL_DEL, varlink_client_fd(connection->varlink), NULL);
	connection->varlink = varlink_client_free(connection->varlink);
}

int connection_poll_also(struct connection *connection, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	return epoll_ctl(connection->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}
