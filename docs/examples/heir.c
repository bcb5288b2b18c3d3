/* SPDX-License-Identifier: MIT */
/* A pager that is killed, and its heir that goes on with the guest. */

/*
 *	cc -o heir heir.c $(pkg-config --cflags --libs libufd-pager)
 *	./heir
 *
 * This process is the guest: it reads its memory, which a child pages from an image. Half-way it kills
 * the child. Meanwhile its reads wait, for it has the userfaultfd itself; then another child adopts the
 * guest from the ledger, a file in /dev/shm, and from the descriptors that both were born with.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ufd/pager.h>
#include <unistd.h>

#define LENGTH (16 << 20)

/* Made by the guest before its pagers are born. */
static int uffd, pidfd, memfd, image;
static volatile unsigned char *memory;
static char ledgers[] = "/dev/shm/heir-XXXXXX", ledger_path[64];

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "heir: %s: %s\n", what, strerror(-result));
	exit(1);
}

static unsigned char byte_at(size_t offset)
{
	return (unsigned char)(offset >> 12 ^ offset) | 1;
}

static void print_report(void *userdata, const char *sentence)
{
	(void)userdata;
	fprintf(stderr, "heir: %s\n", sentence);
}

static struct ufd_pager_guest *begin(struct ufd_pager *pager)
{
	UFD_OPTS(ufd_pager_memory_opts, ram, .name = "ram", .length = LENGTH, .backing = memfd,
		 .kind = UFD_MEMORY_SHMEM);
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1);
	struct ufd_pager_guest *guest;
	uint32_t mapper, id;

	check(ufd_pager_set_ledger_directory(pager, ledgers), ledgers);
	check(ufd_source_open(&ram.source, "file:", image, NULL), "source");
	check(ufd_pager_guest_new(pager, &guest, "guest", &opts), "new");
	check(ufd_pager_guest_add_mapper(guest, uffd, pidfd, -1, &mapper), "mapper");
	check(ufd_pager_guest_add_memory(guest, &ram, &id), "memory");
	check(ufd_pager_guest_add_mapping(guest, mapper, id, (uintptr_t)memory, LENGTH, 0, NULL),
	      "mapping");
	return guest;
}

static struct ufd_pager_guest *inherit(struct ufd_pager *pager)
{
	const struct ufd_handle handles[] = {
		{ .kind = UFD_HANDLE_UFFD, .fd = uffd },
		{ .kind = UFD_HANDLE_PIDFD, .fd = pidfd },
		{ .kind = UFD_HANDLE_BACKING, .fd = memfd },
		{ .kind = UFD_HANDLE_SOURCE, .fd = image },
	};
	UFD_OPTS(ufd_pager_adopt_opts, opts, .handles = handles, .n_handles = 4,
		 .report = print_report);
	int ledger = open(ledger_path, O_RDWR | O_CLOEXEC), was_started;
	struct ufd_pager_guest *guest;

	check(ufd_pager_guest_adopt(pager, &guest, ledger, &opts, &was_started), "adopt");
	return guest;
}

/* Returns in the guest, when the pager serves. */
static pid_t start_pager(int is_heir)
{
	struct ufd_pager *pager;
	int ready[2];
	pid_t pid;
	char byte;

	if (pipe(ready) < 0)
		exit(1);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		munmap((void *)memory, LENGTH); /* who maps it must be registered */
		check(ufd_pager_new(&pager, NULL), "engine");
		check(ufd_pager_guest_start(is_heir ? inherit(pager) : begin(pager)), "start");
		if (write(ready[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		exit(1);
	close(ready[0]);
	return pid;
}

static void end_pager(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static size_t n_wrong(size_t from, size_t to)
{
	size_t n = 0;

	for (size_t i = from; i < to; i++)
		n += memory[i] != byte_at(i);
	return n;
}

static void make_guest(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	unsigned char *bytes = malloc(LENGTH);

	for (size_t i = 0; i < LENGTH; i++)
		bytes[i] = byte_at(i);
	image = memfd_create("image", MFD_CLOEXEC);
	memfd = memfd_create("memory", MFD_CLOEXEC);
	if (write(image, bytes, LENGTH) != LENGTH || ftruncate(memfd, LENGTH) < 0)
		exit(1);
	free(bytes);
	memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 || !mkdtemp(ledgers))
		exit(2);
	snprintf(ledger_path, sizeof(ledger_path), "%s/guest.ledger", ledgers);
}

int main(void)
{
	size_t wrong;
	pid_t pager;

	make_guest();
	pager = start_pager(0);
	wrong = n_wrong(0, LENGTH / 2);
	end_pager(pager);
	pager = start_pager(1);
	wrong += n_wrong(LENGTH / 2, LENGTH);
	end_pager(pager);
	unlink(ledger_path);
	rmdir(ledgers);
	printf("guest read %d bytes, %zu of them wrong, and its pager was killed half-way\n",
	       LENGTH, wrong);
	return wrong != 0;
}
