/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bystander. */
#include "bystander.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "party.h"
#include "support/pattern.h"
#include "support/unit.h"

#define GAP_NS	 100000
#define ROUND_NS (30 * NSEC_PER_SEC)

struct order {
	uint64_t n_pages; /* 0: compare all */
};

struct hello {
	int error;
	uint64_t address;
};

/* ---- in its process ---- */

static int compare_ns(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static struct bystander_round touch(const unsigned char *bytes, uint64_t first, uint64_t n_pages)
{
	struct bystander_round round = {};
	uint64_t times_ns[SCENE_N_PAGES];

	for (uint64_t i = 0; i < n_pages; i++) {
		const volatile unsigned char *page = bytes + (first + i) * PAGE;
		uint64_t began_ns = clock_now_ns();

		(void)*page;
		times_ns[i] = clock_now_ns() - began_ns;
		round.n_wrong += !pattern_is_right((const void *)page, BYSTANDER_SEED, first + i,
						   0);
		nanosleep(&(struct timespec){ .tv_nsec = GAP_NS }, NULL);
	}
	qsort(times_ns, n_pages, sizeof(times_ns[0]), compare_ns);
	round.p99_ns = times_ns[n_pages * 99 / 100];
	return round;
}

static struct bystander_round compare(const unsigned char *bytes)
{
	struct bystander_round round = {};

	for (uint64_t i = 0; i < SCENE_N_PAGES; i++)
		round.n_wrong += !pattern_is_right(bytes + i * PAGE, BYSTANDER_SEED, i, 0);
	return round;
}

static int attach(const char *socket, int cpu, const int *fds, const unsigned char *bytes)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	json_t *call = json_pack(
		"{s:s, s:i, s:i, s:[{s:s, s:I, s:I, s:i, s:s, s:i}], s:{s:b, s:i, s:i}}", "name",
		BYSTANDER, "uffd", FD_UFFD, "pagemap", FD_PAGEMAP, "regions", "memory", "ram",
		"address", (json_int_t)(uintptr_t)bytes, "length_bytes",
		(json_int_t)(SCENE_N_PAGES * PAGE), "backing_fd", FD_MEMORY, "source",
		"file:", "source_fd", FD_SOURCE, "settings", "background", 0, "window_bytes", 0,
		"cpu", cpu);
	int r = varlink_client_connect(&client, socket);

	if (r == 0)
		r = varlink_client_call(client, "io.ufd.guest.Attach", call, fds, N_FDS,
					clock_now_ns() + ROUND_NS, &answer);
	json_decref(call);
	return r < 0 ? r : answer.error ? -EPERM : 0;
}

static void serve(int socket, const unsigned char *bytes)
{
	uint64_t next = 0;
	struct order order;

	while (read(socket, &order, sizeof(order)) == sizeof(order)) {
		struct bystander_round round;

		if (order.n_pages) {
			round = touch(bytes, next, order.n_pages);
			next += order.n_pages;
		} else {
			round = compare(bytes);
		}
		if (write(socket, &round, sizeof(round)) < 0)
			_exit(1);
	}
}

static void send_hello(int socket, const struct hello *hello, int uffd, int pagemap)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = {};
	struct iovec part = { (void *)hello, sizeof(*hello) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(&control.header), (int[]){ uffd, pagemap }, 2 * sizeof(int));
	message.msg_control = &control;
	message.msg_controllen = sizeof(control);
	(void)!sendmsg(socket, &message, 0);
}

static _Noreturn void live(int socket, const char *path, int image, int cpu)
{
	struct hello hello = {};
	int fds[N_FDS] = { [FD_SOURCE] = image };
	unsigned char *bytes;
	cpu_set_t cpus;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	(void)sched_setaffinity(0, sizeof(cpus), &cpus);
	hello.error = uffd_open(&fds[FD_UFFD], UFFD_WAY_SYSCALL, features_wanted(false));
	if (hello.error == 0)
		hello.error = backing_create(&fds[FD_MEMORY], BYSTANDER, SCENE_N_PAGES * PAGE, 0);
	fds[FD_PAGEMAP] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bytes = mmap(NULL, SCENE_N_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[FD_MEMORY],
		     0);
	if (hello.error == 0)
		hello.error = attach(path, cpu, fds, bytes);
	hello.address = (uint64_t)(uintptr_t)bytes;
	send_hello(socket, &hello, fds[FD_UFFD], fds[FD_PAGEMAP]);
	serve(socket, bytes);
	_exit(0);
}

/* ---- in the test ---- */

void bystander_start(struct bystander *bystander, const char *socket, int image, int cpu)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = {};
	struct hello hello = {};
	struct iovec part = { &hello, sizeof(hello) };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int pair[2], fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	bystander->pid = fork();
	ck_assert_int_ge(bystander->pid, 0);
	if (bystander->pid == 0) {
		close(pair[0]);
		live(pair[1], socket, image, cpu);
	}
	close(pair[1]);
	bystander->socket = pair[0];
	ck_assert_int_eq(recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC), (ssize_t)sizeof(hello));
	ck_assert_int_eq(hello.error, 0);
	memcpy(fds, CMSG_DATA(&control.header), sizeof(fds));
	bystander->uffd = fds[0];
	bystander->pagemap = fds[1];
	bystander->address = hello.address;
	ck_assert_int_eq(pidfd_open_pid(&bystander->pidfd, bystander->pid), 0);
}

void bystander_begin(const struct bystander *bystander, uint64_t n_pages)
{
	struct order order = { n_pages };

	ck_assert_int_eq(write(bystander->socket, &order, sizeof(order)), (ssize_t)sizeof(order));
}

struct bystander_round bystander_end(const struct bystander *bystander)
{
	struct pollfd wait = { .fd = bystander->socket, .events = POLLIN };
	struct bystander_round round;

	ck_assert_msg(poll(&wait, 1, (int)(ROUND_NS / NSEC_PER_MSEC)) == 1,
		      "the bystander is not served any more");
	ck_assert_int_eq(read(bystander->socket, &round, sizeof(round)), (ssize_t)sizeof(round));
	return round;
}

struct bystander_round bystander_touch(const struct bystander *bystander, uint64_t n_pages)
{
	bystander_begin(bystander, n_pages);
	return bystander_end(bystander);
}

uint64_t bystander_compare(const struct bystander *bystander)
{
	bystander_begin(bystander, 0);
	return bystander_end(bystander).n_wrong;
}

void bystander_stop(struct bystander *bystander)
{
	kill(bystander->pid, SIGKILL);
	waitpid(bystander->pid, NULL, 0);
	closep(&bystander->socket);
	closep(&bystander->uffd);
	closep(&bystander->pidfd);
	closep(&bystander->pagemap);
}
