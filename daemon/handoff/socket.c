/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sockets as files. */
#include "handoff/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "refusal.h"

#define BACKLOG 128

static int refuse(struct refusal *refusal, const char *path, int error, const char *what)
{
	return refusal_set(refusal, "io.ufd.handoff.BadPath", json_pack("{s:s}", "path", path),
			   "%s: %s%s%s", path, what, error ? ": " : "",
			   error ? strerror(error) : "");
}

static void set_address(struct sockaddr_un *address, const char *path)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(address->sun_path, sizeof(address->sun_path), "%s", path);
}

/* What lies there is replaced only if nobody would miss it. */
static int make_way(const char *path, struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	struct sockaddr_un address;
	struct stat info;

	if (lstat(path, &info) < 0)
		return errno == ENOENT
			       ? 0
			       : refuse(refusal, path, errno, "no socket can be made there");
	if (!S_ISSOCK(info.st_mode))
		return refuse(refusal, path, 0, "something that is no socket lies there");
	set_address(&address, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return refusal_set_errno(refusal, -errno, "%s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN)
		return refusal_set(refusal, "io.ufd.handoff.Exists",
				   json_pack("{s:s}", "path", path), "somebody else listens at %s",
				   path);
	if (errno != ECONNREFUSED || unlink(path) < 0)
		return refuse(refusal, path, errno, "what lies there cannot be replaced");
	return 0;
}

/* By an fd of the file itself, for who may write to the folder may put another one in its place. */
static int dress(const struct handoff_wish *wish, dev_t *ret_device, ino_t *ret_inode)
{
	_cleanup_(closep) int fd = open(wish->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat info;
	char link[64];

	if (fd < 0 || fstat(fd, &info) < 0)
		return -errno;
	if (!S_ISSOCK(info.st_mode))
		return -ENOTSOCK;
	if (wish->socket_uid != (uid_t)-1 || wish->socket_gid != (gid_t)-1)
		if (fchownat(fd, "", wish->socket_uid, wish->socket_gid, AT_EMPTY_PATH) < 0)
			return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (chmod(link, wish->mode) < 0)
		return -errno;
	*ret_device = info.st_dev;
	*ret_inode = info.st_ino;
	return 0;
}

int socket_make(const struct handoff_wish *wish, int *ret_fd, dev_t *ret_device, ino_t *ret_inode,
		struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	struct sockaddr_un address;
	int r;

	r = make_way(wish->path, refusal);
	if (r < 0)
		return r;
	set_address(&address, wish->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return refusal_set_errno(refusal, -errno, "%s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return refuse(refusal, wish->path, errno, "no socket can be made there");
	/* until it listens nobody is let in */
	r = dress(wish, ret_device, ret_inode);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlink(wish->path);
		return refuse(refusal, wish->path, -r,
			      "the socket cannot be given its owner and mode");
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

void socket_identify(const char *path, dev_t *ret_device, ino_t *ret_inode)
{
	struct stat info;
	bool is = lstat(path, &info) == 0 && S_ISSOCK(info.st_mode);

	*ret_device = is ? info.st_dev : 0;
	*ret_inode = is ? info.st_ino : 0;
}

void socket_unlink(const char *path, dev_t device, ino_t inode)
{
	struct stat info;

	if (inode && lstat(path, &info) == 0 && info.st_dev == device && info.st_ino == inode)
		(void)unlink(path);
}

bool socket_path(int fd, char ret[static SOCKET_PATH_BYTES])
{
	struct sockaddr_un address = {};
	socklen_t n_address = sizeof(address), n = sizeof(int);
	int type = 0, is_listening = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0 || type != SOCK_STREAM ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &n) < 0 || !is_listening ||
	    getsockname(fd, (struct sockaddr *)&address, &n_address) < 0 ||
	    address.sun_family != AF_UNIX || address.sun_path[0] != '/')
		return false;
	snprintf(ret, SOCKET_PATH_BYTES, "%.*s", SOCKET_PATH_BYTES - 1, address.sun_path);
	return true;
}
