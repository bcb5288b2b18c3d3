/* SPDX-License-Identifier: MIT */
/* A restore tool in a hundred lines: it pages another process's memory itself, without a daemon. */

/*
 *	cc -o tool tool.c $(pkg-config --cflags --libs libufd-pager)
 *	./tool
 *
 * The other process is a forked child: it maps a memfd, makes a userfaultfd and then reads every
 * byte. The bytes come from a callback of ours, which computes them; the child checks each.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ufd/pager.h>
#include <unistd.h>

#define LENGTH (16 << 20)

/* What the child tells us of itself, and when it may go on. */
struct hello {
	int uffd;
	void *address;
};

/* The byte at @offset of the memory; the second half of each 64 KiB is zero. */
static unsigned char byte_at(uint64_t offset)
{
	return offset & 0x8000 ? 0 : (unsigned char)(offset >> 12 ^ offset);
}

static int read_bytes(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		      struct ufd_read *read)
{
	unsigned char *bytes = buffer, any = 0;

	(void)userdata, (void)read; /* the latter finishes a read that takes time */
	for (uint64_t i = 0; i < length; i++)
		any |= bytes[i] = byte_at(offset + i);
	return any ? UFD_SOURCE_DATA : UFD_SOURCE_ZERO;
}

static void on_event(struct ufd_pager_guest *guest, const struct ufd_event *event, void *userdata)
{
	(void)guest, (void)userdata;
	if (event->kind == UFD_EVENT_COMPLETED)
		puts("every page is there");
}

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "tool: %s: %s\n", what, strerror(-result));
	exit(1);
}

static int run_child(int memfd, int to_parent, int from_parent)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct hello hello;
	char go;

	hello.address = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	hello.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (hello.uffd < 0 || ioctl(hello.uffd, UFFDIO_API, &api) < 0)
		return 2;
	if (write(to_parent, &hello, sizeof(hello)) != sizeof(hello) ||
	    read(from_parent, &go, 1) != 1)
		return 2;

	for (uint64_t i = 0; i < LENGTH; i++)
		if (((volatile unsigned char *)hello.address)[i] != byte_at(i))
			return 1;
	return 0;
}

int main(void)
{
	UFD_OPTS(ufd_pager_opts, pager_opts, .on_event = on_event);
	UFD_OPTS(ufd_source_ops, ops, .length = LENGTH, .read = read_bytes);
	int to_child[2], to_parent[2], uffd, pidfd, status,
		memfd = memfd_create("ram", MFD_CLOEXEC);
	struct ufd_pager_guest *guest;
	struct ufd_source *source;
	struct ufd_pager *pager;
	uint32_t mapper, memory;
	struct hello hello;
	pid_t child;

	if (ftruncate(memfd, LENGTH) < 0 || pipe(to_child) < 0 || pipe(to_parent) < 0)
		return 1;
	child = fork();
	if (child == 0)
		_exit(run_child(memfd, to_parent[1], to_child[0]));
	close(to_parent[1]); /* a child that ends early is then seen */
	if (read(to_parent[0], &hello, sizeof(hello)) != sizeof(hello))
		check(-1, "the child has no userfaultfd");
	pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	uffd = (int)syscall(SYS_pidfd_getfd, pidfd, hello.uffd, 0);

	check(ufd_pager_new(&pager, &pager_opts), "engine");
	check(ufd_source_new(&source, &ops, NULL), "source");
	check(ufd_pager_guest_new(pager, &guest, "child", NULL), "guest");
	check(ufd_pager_guest_add_mapper(guest, uffd, pidfd, -1, &mapper), "process");
	UFD_OPTS(ufd_pager_memory_opts, memory_opts, .name = "ram", .length = LENGTH,
		 .source = source, .backing = memfd, .kind = UFD_MEMORY_SHMEM);
	check(ufd_pager_guest_add_memory(guest, &memory_opts, &memory), "memory");
	check(ufd_pager_guest_add_mapping(guest, mapper, memory, (uintptr_t)hello.address, LENGTH,
					  0, NULL),
	      "mapping");
	check(ufd_pager_guest_start(guest), "start");
	if (write(to_child[1], "g", 1) != 1)
		return 1;

	struct pollfd watched[] = { { .fd = pidfd, .events = POLLIN },
				    { .fd = ufd_pager_fd(pager), .events = POLLIN } };
	while (!watched[0].revents && poll(watched, 2, -1) >= 0)
		if (watched[1].revents)
			ufd_pager_dispatch(pager);
	waitpid(child, &status, 0);
	ufd_pager_free(pager);
	ufd_source_unref(source);
	printf("child read %d bytes, %s\n", LENGTH, status == 0 ? "all as computed" : "WRONG");
	return status != 0;
}
