/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The smallest FUSE server: one file, in the root of its own file system. */
#include "fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/pidfd.h"
#include "party.h"

#define FILE_NODE 2

static void answer(int device, uint64_t unique, int error, const void *data, size_t n)
{
	struct fuse_out_header header = { .len = (uint32_t)(sizeof(header) + n),
					  .error = error,
					  .unique = unique };
	struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)data, n } };

	(void)!writev(device, parts, n ? 2 : 1);
}

static struct fuse_attr attributes(uint64_t node, uint64_t length_bytes)
{
	return (struct fuse_attr){
		.ino = node,
		.size = node == FILE_NODE ? length_bytes : 0,
		.blocks = length_bytes / 512,
		.mode = node == FILE_NODE ? S_IFREG | 0666 : S_IFDIR | 0777,
		.nlink = 1,
		.blksize = 4096,
	};
}

/* Return: false once nothing is answered any more. */
static bool serve_one(int device, const struct fuse_in_header *request, uint64_t length_bytes,
		      bool answers_others)
{
	switch (request->opcode) {
	case FUSE_INIT: {
		struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION,
					     .minor = 31,
					     .max_readahead = 4096,
					     .max_write = 4096 };

		answer(device, request->unique, 0, &out, sizeof(out));
		return true;
	}
	case FUSE_LOOKUP: {
		struct fuse_entry_out out = { .nodeid = FILE_NODE,
					      .attr = attributes(FILE_NODE, length_bytes) };

		answer(device, request->unique, 0, &out, sizeof(out));
		return true;
	}
	case FUSE_GETATTR: {
		struct fuse_attr_out out = { .attr = attributes(request->nodeid, length_bytes) };

		answer(device, request->unique, 0, &out, sizeof(out));
		return true;
	}
	case FUSE_OPEN: {
		struct fuse_open_out out = {};

		answer(device, request->unique, 0, &out, sizeof(out));
		return answers_others;
	}
	case FUSE_READ:
		return true;
	default:
		answer(device, request->unique, -ENOSYS, NULL, 0);
		return true;
	}
}

static _Noreturn void serve(int device, uint64_t length_bytes, bool answers_others)
{
	static char buffer[1 << 17];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(60); /* should its parent hang over it: then that cannot end it */
	while (read(device, buffer, sizeof(buffer)) > 0)
		if (!serve_one(device, (const struct fuse_in_header *)(const void *)buffer,
			       length_bytes, answers_others))
			break;
	for (;;)
		pause();
}

/* As user nobody, whose file system it is: no other user is let in. */
static int open_as_user(const char *path, int device)
{
	int pair[2], fd = -1, pidfd;
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -errno;
	child = fork();
	if (child == 0) {
		/* who holds both cannot end: the device is let go after the files are */
		close(device);
		party_drop_rights();
		fd = open(path, O_RDWR | O_CLOEXEC);
		fd = fd < 0 ? -errno : fd;
		(void)!write(pair[1], &fd, sizeof(fd));
		/* closing it, too, would wait for ever */
		for (;;)
			pause();
	}
	if (read(pair[0], &fd, sizeof(fd)) != sizeof(fd) || pidfd_open_pid(&pidfd, child) < 0)
		fd = -ESRCH;
	if (fd >= 0) {
		if (pidfd_get_fd(pidfd, fd, &fd) < 0)
			fd = -EPERM;
		close(pidfd);
	}
	close(pair[0]);
	close(pair[1]);
	return fd;
}

int fuse_open_hung(int *ret_fd, uint64_t length_bytes, enum fuse_way way)
{
	_cleanup_(closep) int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	char options[128], folder[] = "/tmp/ufd-hung-XXXXXX", path[64];
	int fd, user = way == FUSE_NO_READS ? 0 : NOBODY;

	if (device < 0)
		return -errno;
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%d,group_id=%d%s", device,
		 user, user, way == FUSE_NO_READS ? ",allow_other" : "");
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	if (!mkdtemp(folder))
		return -errno;
	(void)chmod(folder, 0755);
	if (mount("fuse", folder, "fuse", MS_NOSUID | MS_NODEV, options)) {
		fd = -errno;
		rmdir(folder);
		return fd;
	}
	if (fork() == 0)
		serve(device, length_bytes, way == FUSE_NO_READS);
	snprintf(path, sizeof(path), "%s/file", folder);
	if (way == FUSE_NO_READS) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		fd = fd < 0 ? -errno : fd;
	} else {
		fd = open_as_user(path, device);
	}
	umount2(folder, MNT_DETACH);
	rmdir(folder);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}
