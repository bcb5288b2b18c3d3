/* SPDX-License-Identifier: MIT */
/* Processes by fd. */
#include "kernel/pidfd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/procfs.h"
#include "kernel/uapi.h"

int pidfd_open_pid(int *ret_fd, pid_t pid)
{
	int fd = pidfd_open(pid, 0);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

int pidfd_get_pid(int pidfd, pid_t *ret_pid)
{
	char path[48], text[1024];
	const char *line;
	int pid, r;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	r = procfs_read(path, text, sizeof(text), NULL);
	if (r < 0)
		return r == -ENOENT ? -EBADF : r;

	line = strstr(text, "\nPid:");
	if (!line || sscanf(line, " Pid: %d", &pid) != 1)
		return -EBADFD;
	if (pid <= 0) /* -1: reaped; 0: not visible from our pid namespace */
		return -ESRCH;
	*ret_pid = pid;
	return 0;
}

int pidfd_start_ticks(pid_t pid, uint64_t *ret_ticks)
{
	char path[48], text[1024];
	unsigned long long ticks;
	const char *at;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	r = procfs_read(path, text, sizeof(text), NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;

	/* the name may hold anything; behind its last bracket come the state and 18 numbers */
	at = strrchr(text, ')');
	if (!at || sscanf(at,
			  ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
			  "%*d %*d %*d %llu",
			  &ticks) != 1)
		return -EBADMSG;
	*ret_ticks = ticks;
	return 0;
}

bool pidfd_is_alive(int pidfd)
{
	struct pollfd end = { .fd = pidfd, .events = POLLIN };

	return poll(&end, 1, 0) == 0;
}

int pidfd_get_fd(int pidfd, int remote_fd, int *ret_fd)
{
	int fd = pidfd_getfd(pidfd, remote_fd, 0);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

int pidfd_kill(int pidfd, int signal)
{
	return pidfd_send_signal(pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

int pidfd_of_peer(int socket, int *ret_fd, pid_t *ret_pid, uid_t *ret_uid, gid_t *ret_gid)
{
	_cleanup_(closep) int fd = -EBADF;
	struct ucred peer;
	socklen_t n_peer = sizeof(peer), n_fd = sizeof(fd);
	int r;

	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &n_peer) < 0)
		return -errno;
	if (peer.pid <= 0)
		return -ESRCH;
	if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &n_fd) < 0) {
		fd = -EBADF;
		if (errno != ENOPROTOOPT) /* EINVAL, ESRCH: the peer was reaped */
			return errno == EINVAL ? -ESRCH : -errno;
		r = pidfd_open_pid(&fd, peer.pid);
		if (r < 0)
			return r;
	}
	*ret_fd = TAKE_FD(fd);
	*ret_pid = peer.pid;
	*ret_uid = peer.uid;
	*ret_gid = peer.gid;
	return 0;
}
