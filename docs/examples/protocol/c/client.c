/* SPDX-License-Identifier: MIT */
/* A guest handed to ufdd by ufd-protocol(7) alone: no library. */

/*
 *	cc -o client client.c -pthread && ./client NAME SAVED-MEMORY
 *
 * Each byte of a memfd is compared with the file that it comes from: half of them at once, the rest
 * after a line of input. Kill ufdd meanwhile, and start it again: the guest waits, and goes on.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096

static const char *name;
static unsigned char *ram;
static size_t length;
static int saved, backing, uffd;

static int reach(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	const char *path = getenv("UFD_SOCKET") ?: "/run/ufd/io.ufd.manager";
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	(void)!connect(fd, (struct sockaddr *)&at, sizeof(at));
	return fd; /* what is not connected sends nothing */
}

/* A message, its NUL, and three fds or none. Return: was the reply no error? */
static int call(int fd, const char *text, const int *fds)
{
	char control[CMSG_SPACE(3 * sizeof(int))] = { 0 }, reply[8192];
	struct iovec piece = { (void *)text, strlen(text) + 1 };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };
	size_t n = 0;

	if (fds) {
		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(3 * sizeof(int));
		memcpy(CMSG_DATA(head), fds, 3 * sizeof(int));
	}
	if (sendmsg(fd, &message, MSG_NOSIGNAL) < 0)
		return 0;
	do {
		ssize_t got = recv(fd, reply + n, sizeof(reply) - n, 0);
		if (got <= 0)
			return 0;
		n += got;
	} while (reply[n - 1]);
	if (!strstr(reply, "\"error\":")) /* a key: in a string its quotes have a backslash */
		return 1;
	fprintf(stderr, "ufdd refuses: %s\n", reply);
	return 0;
}

static int attach(int fd, const char *populated)
{
	char text[1024];

	snprintf(text, sizeof(text),
		 "{\"method\":\"io.ufd.guest.Attach\",\"parameters\":{\"name\":\"%s\",\"uffd\":0,"
		 "\"regions\":[{\"memory\":\"ram\",\"address\":%ju,\"length_bytes\":%zu,"
		 "\"backing_fd\":1,\"source\":\"file:\",\"source_fd\":2}],"
		 "\"settings\":{\"populated\":\"%s\",\"background\":false}}}",
		 name, (uintmax_t)(uintptr_t)ram, length, populated);
	return call(fd, text, (int[]){ uffd, backing, saved });
}

/* Touches no paged memory. Nothing comes unasked: recv() returns at the end of the connection. */
static void *watch(void *connection)
{
	int fd = *(int *)connection;
	char byte;

	while (recv(fd, &byte, 1, 0) <= 0) {
		fprintf(stderr, "ufdd is gone\n");
		do {
			close(fd);
			usleep(100000);
			fd = reach();
		} while (!attach(fd, "keep"));
		fprintf(stderr, "ufdd is back\n");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { UFFD_API, 0xb109, 0 }, less = { UFFD_API, 0x1109, 0 };
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = reach();
	unsigned char page[PAGE];
	struct stat file;
	pthread_t thread;

	if (argc != 3 || (saved = open(argv[2], O_RDONLY | O_CLOEXEC)) < 0)
		err(1, "usage: client NAME SAVED-MEMORY");
	name = argv[1];
	fstat(saved, &file);
	length = file.st_size / PAGE * PAGE;
	backing = memfd_create("ram", MFD_CLOEXEC);
	if (ftruncate(backing, length) < 0)
		err(1, "memory");
	ram = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, backing, 0);
	uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (ram == MAP_FAILED ||
	    (ioctl(uffd, UFFDIO_API, &api) < 0 && ioctl(uffd, UFFDIO_API, &less) < 0))
		err(1, "/dev/userfaultfd");
	if (!attach(fd, "refuse") || pthread_create(&thread, NULL, watch, &fd))
		err(1, "ufdd");

	for (size_t at = 0; at < length; at += PAGE) {
		if (at == length / PAGE / 2 * PAGE) {
			fputs("half is as saved; a line goes on\n", stderr);
			while (getchar() >= ' ')
				;
		}
		if (pread(saved, page, PAGE, at) != PAGE || memcmp(ram + at, page, PAGE))
			err(1, "a wrong page");
	}

	snprintf((char *)page, PAGE,
		 "{\"method\":\"io.ufd.guest.Detach\",\"parameters\":{\"name\":\"%s\"}}", name);
	if (!call(reach(), (char *)page, NULL))
		err(1, "detach");
	printf("%zu bytes are as saved\n", length);
	return 0;
}
