/* SPDX-License-Identifier: MIT */
/* A VMM in a hundred lines: its guest's memory is paged by a running ufdd. */

/*
 *	cc -o vmm vmm.c $(pkg-config --cflags --libs libufd) -pthread
 *	./vmm [SAVED-MEMORY]
 *
 * The guest is a thread that reads every byte of its memory and adds them up. The bytes are fetched
 * from the file as they are touched. Without a file, some are made up; the sum is checked in any
 * case. $UFD_SOCKET names the daemon's socket.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ufd/ufd.h>
#include <unistd.h>

struct guest {
	const unsigned char *ram;
	size_t length;
	uint64_t sum;
	int halted; /* eventfd */
};

static void *run_guest(void *argument)
{
	struct guest *guest = argument;

	for (size_t i = 0; i < guest->length; i++)
		guest->sum += guest->ram[i];
	eventfd_write(guest->halted, 1);
	return NULL;
}

static void on_event(struct ufd_client *client, uint32_t event, void *userdata)
{
	static const char *const words[] = { "", "is gone: the guest waits for bytes", "is back",
					     "is back, and was given the guest anew" };

	(void)userdata;
	if (event < sizeof(words) / sizeof(*words))
		fprintf(stderr, "vmm: ufdd %s\n", words[event]);
	else
		fprintf(stderr, "vmm: %s\n", ufd_client_error(client));
}

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "vmm: %s: %s\n", what, why);
	exit(1);
}

/* Saved memory: the file that was named, or 16 MiB of something. */
static int open_saved(const char *path, size_t *ret_length, uint64_t *ret_sum)
{
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : memfd_create("saved", MFD_CLOEXEC);
	unsigned char block[4096];
	struct stat file;

	for (int i = 0; !path && i < 4096; i++) {
		memset(block, i % 251, sizeof(block));
		if (write(fd, block, sizeof(block)) != sizeof(block))
			die("cannot make up a file", "write failed");
	}
	if (fd < 0 || fstat(fd, &file) < 0 || file.st_size < 4096)
		die(path, "cannot be read, or has less than a page");
	*ret_length = (size_t)file.st_size & ~(size_t)4095;
	for (size_t i = 0; i < *ret_length; i += sizeof(block)) {
		if (pread(fd, block, sizeof(block), (off_t)i) != sizeof(block))
			die(path, "cannot be read");
		for (size_t j = 0; j < sizeof(block); j++)
			*ret_sum += block[j];
	}
	return fd;
}

int main(int argc, char **argv)
{
	struct guest guest = { .halted = eventfd(0, EFD_CLOEXEC) };
	struct ufd_client *client;
	uint64_t expected = 0;
	const char *error;
	pthread_t thread;

	/* Guest memory: a memfd, mapped, empty. */
	int saved = open_saved(argc > 1 ? argv[1] : NULL, &guest.length, &expected);
	int backing = memfd_create("guest-ram", MFD_CLOEXEC);
	if (ftruncate(backing, (off_t)guest.length) < 0)
		die("guest-ram", "no memory");
	void *ram = mmap(NULL, guest.length, PROT_READ | PROT_WRITE, MAP_SHARED, backing, 0);
	guest.ram = ram;

	/* This guest has no KVM and passes no memory to system calls: user mode is enough for it.
	 */
	UFD_OPTS(ufd_client_opts, opts, .guest = "example", .on_event = on_event,
		 .flags = UFD_CLIENT_USER_MODE, .background = UFD_CLIENT_ON);
	if (ufd_client_new(&client, &opts, &error) < 0)
		die("no userfaultfd", error);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "ram",
		 .source = "file:", .source_fd = saved, .backing = backing, .address = ram,
		 .length = guest.length);
	if (ufd_client_add_memory(client, &memory) < 0 || ufd_client_attach(client) < 0)
		die("ufdd", ufd_client_error(client));

	/* From here on the memory may be touched. The VMM's loop watches over the daemon. */
	pthread_create(&thread, NULL, run_guest, &guest);
	struct pollfd watched[] = { { .fd = guest.halted, .events = POLLIN },
				    { .fd = ufd_client_fd(client), .events = POLLIN } };
	while (!watched[0].revents && poll(watched, 2, -1) >= 0)
		if (watched[1].revents)
			ufd_client_dispatch(client);
	pthread_join(thread, NULL);

	if (ufd_client_detach(client, NULL) < 0)
		die("ufdd", ufd_client_error(client));
	ufd_client_free(client);
	printf("guest read %zu bytes, sum %llu, %s\n", guest.length, (unsigned long long)guest.sum,
	       guest.sum == expected ? "as saved" : "WRONG");
	return guest.sum != expected;
}
