/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Handles of every type in the place of every other. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "attacks.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "party.h"

#define MAX_ODD 40

struct odd_fds {
	struct odd_fd {
		const char *what;
		int fd;
	} fds[MAX_ODD];
	size_t n;
};

static void odd_add(struct odd_fds *odd, const char *what, int fd)
{
	if (fd >= 0 && odd->n < MAX_ODD)
		odd->fds[odd->n++] = (struct odd_fd){ what, fd };
}

static int raw_uffd(int flags, uint64_t features, bool with_api)
{
	int fd = (int)syscall(SYS_userfaultfd, flags | O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (fd >= 0 && with_api)
		(void)ioctl(fd, UFFDIO_API, &api);
	return fd;
}

static int sealed_memfd(void)
{
	int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	(void)!ftruncate(fd, (off_t)PARTY_BYTES);
	(void)fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	return fd;
}

static int childs_uffd(void)
{
	int pair[2], fd = -1;
	pid_t child, pidfd;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	child = fork();
	if (child == 0) {
		int own = raw_uffd(O_NONBLOCK, 0, true);

		(void)!write(pair[1], &own, sizeof(own));
		pause();
		_exit(0);
	}
	if (read(pair[0], &fd, sizeof(fd)) == sizeof(fd) && pidfd_open_pid(&pidfd, child) == 0) {
		if (pidfd_get_fd(pidfd, fd, &fd) < 0)
			fd = -1;
		close(pidfd);
	}
	close(pair[0]);
	close(pair[1]);
	return fd;
}

/* Root still: some of these are not for everybody, but may have been given away. */
static void odd_open(struct odd_fds *odd, const struct party *party)
{
	int pair[2] = { -1, -1 };
	sigset_t signals;

	sigemptyset(&signals);
	odd_add(odd, "a userfaultfd that blocks", raw_uffd(0, 0, true));
	odd_add(odd, "a userfaultfd before its handshake", raw_uffd(O_NONBLOCK, 0, false));
	odd_add(odd, "a userfaultfd with fork events",
		raw_uffd(O_NONBLOCK, UFFD_FEATURE_EVENT_FORK, true));
	odd_add(odd, "a userfaultfd with SIGBUS", raw_uffd(O_NONBLOCK, UFFD_FEATURE_SIGBUS, true));
	odd_add(odd, "a child's userfaultfd", childs_uffd());
	odd_add(odd, "the bystander's userfaultfd", party->bystander_uffd);
	odd_add(odd, "the bystander's process", party->bystander_pidfd);
	odd_add(odd, "the device of userfaultfds", open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
	odd_add(odd, "/dev/zero", open("/dev/zero", O_RDWR | O_CLOEXEC));
	odd_add(odd, "/dev/urandom", open("/dev/urandom", O_RDONLY | O_CLOEXEC));
	odd_add(odd, "a terminal", open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
	odd_add(odd, "a directory", open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	odd_add(odd, "a path only", open("/dev/null", O_PATH | O_CLOEXEC));
	odd_add(odd, "an empty file", open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	odd_add(odd, "its own memory", open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	odd_add(odd, "a file of /proc", open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
	odd_add(odd, "an epoll", epoll_create1(EPOLL_CLOEXEC));
	odd_add(odd, "an eventfd", eventfd(0, EFD_CLOEXEC));
	odd_add(odd, "a timer", timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	odd_add(odd, "signals", signalfd(-1, &signals, SFD_CLOEXEC));
	odd_add(odd, "an inotify", inotify_init1(IN_CLOEXEC));
	odd_add(odd, "a sealed memfd", sealed_memfd());
	odd_add(odd, "an empty memfd", memfd_create("empty", MFD_CLOEXEC));
	odd_add(odd, "an io_uring", (int)syscall(SYS_io_uring_setup, 4, (char[256]){}));
	if (pipe2(pair, O_CLOEXEC) == 0) {
		odd_add(odd, "a pipe to read", pair[0]);
		odd_add(odd, "a pipe to write", pair[1]);
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0)
		odd_add(odd, "a socket", pair[0]);
	odd_add(odd, "an Internet socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

/* Every odd handle in this place of an otherwise good call, again and again. */
static void put_in_place(struct party *party, int place, const char *may_pass)
{
	struct odd_fds odd = {};
	int good;

	odd_open(&odd, party);
	party_begin(party);
	good = party->fds[place];
	while (party_goes_on(party))
		for (size_t i = 0; i < odd.n; i++) {
			json_t *call = party_attach_call(
				"odd", json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)),
				false);

			if (may_pass && strcmp(odd.fds[i].what, may_pass) == 0) {
				json_decref(call);
				continue;
			}
			party->fds[place] = odd.fds[i].fd;
			party_expect_refusal(party, odd.fds[i].what, "io.ufd.guest.Attach", call,
					     party->fds, N_FDS);
			party->fds[place] = good;
		}
}

static void odd_uffd(struct party *party)
{
	put_in_place(party, FD_UFFD, NULL);
}

static void odd_backing(struct party *party)
{
	put_in_place(party, FD_MEMORY, NULL);
}

/* A sealed memfd is a good source: nobody can cut it. */
static void odd_source(struct party *party)
{
	put_in_place(party, FD_SOURCE, "a sealed memfd");
}

static void odd_pagemap(struct party *party)
{
	put_in_place(party, FD_PAGEMAP, NULL);
}

/* Numbers of handles that did not come, and handles that nothing names. */
static void odd_numbers(struct party *party)
{
	static const int numbers[] = { -1, N_FDS, 253, 1 << 30 };
	int fds[64];

	party_begin(party);
	for (int i = 0; i < 64; i++)
		fds[i] = party->fds[i % N_FDS];
	while (party_goes_on(party)) {
		for (int i = 0; i < 4; i++) {
			json_t *region = party_region(party, 0, PARTY_N_PAGES);

			json_object_set_new(region, "backing_fd", json_integer(numbers[i]));
			party_expect_refusal(
				party, "a handle that did not come", "io.ufd.guest.Attach",
				party_attach_call("odd", json_pack("[o]", region), false),
				party->fds, N_FDS);
		}
		party_expect_refusal(party, "no handle at all", "io.ufd.guest.Attach",
				     party_attach_call("odd",
						       json_pack("[o]", party_region(party, 0, 8)),
						       false),
				     NULL, 0);
		(void)party_call(party, "io.ufd.manager.Status", json_object(), fds, 64);
	}
}

/* Another process's page tables would tell about another's memory: they are not believed for shared memory. */
static void anothers_pagemap(struct party *party)
{
	party_begin(party);
	party->fds[FD_PAGEMAP] = party->bystander_pagemap;
	while (party_goes_on(party)) {
		json_t *region = party_region(party, 0, PARTY_N_PAGES);
		void *anonymous = mmap(NULL, PARTY_BYTES, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		json_object_del(region, "backing_fd");
		json_object_set_new(region, "address",
				    json_integer((json_int_t)(uintptr_t)anonymous));
		(void)party_call(party, "io.ufd.guest.Attach",
				 party_attach_call("odd", json_pack("[o]", region), true),
				 party->fds, N_FDS);
		for (uint64_t i = 0; i < 64; i++)
			party_check_page(party, (char *)anonymous + i * PAGE, i);
		(void)party_call(party, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "odd"),
				 NULL, 0);
		munmap(anonymous, PARTY_BYTES);
	}
}

const struct attack attacks_with_fds[] = {
	{ "a handle of every type as the userfaultfd", odd_uffd },
	{ "a handle of every type as the memory", odd_backing },
	{ "a handle of every type as the source", odd_source },
	{ "a handle of every type as the page tables", odd_pagemap },
	{ "handles that did not come", odd_numbers },
	{ "another process's page tables", anothers_pagemap },
	{},
};
