/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Much of what is allowed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "attacks.h"
#include "fuse.h"
#include "party.h"

#define N_CONNECTIONS 40
#define N_THREADS     4

static const char status_call[] = "{\"method\":\"io.ufd.manager.Status\"}";
static const char watch_call[] = "{\"method\":\"io.ufd.manager.WatchEvents\",\"more\":true}";
static const char describe_call[] = "{\"method\":\"org.varlink.service.GetInterfaceDescription\","
				    "\"parameters\":{\"interface\":\"io.ufd.guest\"}}";

/* ---- connections ---- */

static int connect_raw(const struct party *party)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", party->socket);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void flood_connections(struct party *party)
{
	party_begin(party);
	while (party_goes_on(party)) {
		int fds[N_CONNECTIONS];

		for (int i = 0; i < N_CONNECTIONS; i++)
			fds[i] = connect_raw(party);
		for (int i = 0; i < N_CONNECTIONS; i++)
			if (fds[i] >= 0)
				close(fds[i]);
	}
}

static void flood_half_messages(struct party *party)
{
	int fds[N_CONNECTIONS];
	size_t at = 0;

	party_begin(party);
	for (int i = 0; i < N_CONNECTIONS; i++)
		fds[i] = connect_raw(party);
	while (party_goes_on(party)) {
		/* a byte at a time, and never the last one */
		for (int i = 0; i < N_CONNECTIONS; i++)
			if (fds[i] >= 0 && send(fds[i], at ? " " : "{", 1, MSG_NOSIGNAL) < 0 &&
			    errno == EPIPE) {
				close(fds[i]);
				fds[i] = connect_raw(party);
			}
		at++;
	}
}

static void flood_calls(struct party *party)
{
	char calls[64 * sizeof(status_call)], replies[1 << 16];
	int fd;

	party_begin(party);
	for (int i = 0; i < 64; i++)
		memcpy(calls + i * sizeof(status_call), status_call, sizeof(status_call));
	fd = connect_raw(party);
	while (party_goes_on(party)) {
		(void)!send(fd, calls, sizeof(calls), MSG_NOSIGNAL);
		while (recv(fd, replies, sizeof(replies), 0) > 0)
			;
	}
}

/* @call again and again, and no reply is ever read. */
static void never_read(struct party *party, const char *call, size_t n_call)
{
	int fd = connect_raw(party);

	while (party_goes_on(party))
		for (int i = 0; i < 64; i++)
			if (send(fd, call, n_call, MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
				close(fd);
				fd = connect_raw(party);
			}
}

static void flood_unread_replies(struct party *party)
{
	party_begin(party);
	never_read(party, describe_call, sizeof(describe_call));
}

/* Streams that nobody reads, and the events to fill them. */
static void flood_unread_events(struct party *party)
{
	party_begin(party);
	for (int i = 0; i < 16; i++) {
		int fd = connect_raw(party);

		(void)!send(fd, watch_call, sizeof(watch_call), MSG_NOSIGNAL);
	}
	while (party_goes_on(party)) {
		party_attach(party, "eventful", true);
		(void)party_call(party, "io.ufd.guest.Detach",
				 json_pack("{s:s}", "name", "eventful"), NULL, 0);
		(void)madvise(party->bytes, PARTY_BYTES, MADV_REMOVE);
	}
}

/* ---- ancillary data ---- */

/* @n handles on a message, with a length that says @claimed. */
static void send_rights(int fd, const void *data, size_t n_data, int what, size_t n, size_t claimed)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = {};
	struct iovec part = { (void *)data, n_data };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(claimed);
	for (size_t i = 0; i < n; i++)
		memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &what, sizeof(int));
	message.msg_control = &control;
	message.msg_controllen = CMSG_SPACE(claimed);
	(void)!sendmsg(fd, &message, MSG_NOSIGNAL);
}

static void wrong_rights(struct party *party)
{
	party_begin(party);
	while (party_goes_on(party)) {
		int fd = connect_raw(party);
		int uffd = party->fds[FD_UFFD];

		/* the most that fit, on single bytes of one call; its own connection; half a number */
		send_rights(fd, "{", 1, uffd, 253, 253 * sizeof(int));
		send_rights(fd, " ", 1, uffd, 253, 253 * sizeof(int));
		send_rights(fd, " ", 1, fd, 1, sizeof(int));
		send_rights(fd, " ", 1, uffd, 1, sizeof(int) - 1);
		close(fd);
		fd = connect_raw(party);
		send_rights(fd, status_call, sizeof(status_call), uffd, 250, 250 * sizeof(int));
		send_rights(fd, status_call, sizeof(status_call), fd, 1, 0);
		close(fd);
	}
}

/* ---- methods ---- */

static void flood_attach(struct party *party)
{
	party_begin(party);
	while (party_goes_on(party)) {
		party_attach(party, "restless", true);
		party_check_page(party, party->bytes, 0);
		(void)party_call(party, "io.ufd.guest.Detach",
				 json_pack("{s:s}", "name", "restless"), NULL, 0);
		if (madvise(party->bytes, PARTY_BYTES, MADV_REMOVE))
			party_complain(party, "its own memory cannot be discarded");
	}
}

static void flood_regions(struct party *party)
{
	party_begin(party);
	(void)party_call(
		party, "io.ufd.guest.Attach",
		party_attach_call("growing", json_pack("[o]", party_region(party, 0, 8)), false),
		party->fds, N_FDS);
	while (party_goes_on(party)) {
		for (uint64_t i = 1; i < 64; i++)
			(void)party_call(party, "io.ufd.guest.AddRegions",
					 json_pack("{s:s, s:i, s:[o]}", "name", "growing", "uffd",
						   FD_UFFD, "regions",
						   party_region(party, i * 8, 8)),
					 party->fds, N_FDS);
		for (uint64_t i = 1; i < 64; i++)
			(void)party_call(
				party, "io.ufd.guest.RemoveRegion",
				json_pack("{s:s, s:I, s:i}", "name", "growing", "address",
					  (json_int_t)((uintptr_t)party->bytes + i * 8 * PAGE),
					  "length_bytes", 8 * PAGE),
				NULL, 0);
	}
}

static void flood_prefetch(struct party *party)
{
	party_begin(party);
	party_attach(party, "hungry", false);
	for (uint64_t i = 0; party_goes_on(party); i++)
		(void)party_call(party, "io.ufd.guest.Prefetch",
				 json_pack("{s:s, s:s, s:I, s:i}", "name", "hungry", "memory",
					   "ram", "offset_bytes",
					   (json_int_t)(i % PARTY_N_PAGES * PAGE), "length_bytes",
					   PAGE),
				 NULL, 0);
}

/* ---- memory ---- */

static void start_threads(struct party *party, void *(*run)(void *))
{
	pthread_t thread;

	for (int i = 0; i < N_THREADS; i++)
		if (pthread_create(&thread, NULL, run, party))
			_exit(2);
}

static void *touch_forever(void *userdata)
{
	struct party *party = userdata;

	for (;;)
		for (uint64_t i = 0; i < PARTY_N_PAGES; i++)
			party_check_page(party, party->bytes + i * PAGE, i);
	return NULL;
}

/* Each touch a fault, as fast as they come. */
static void flood_faults(struct party *party)
{
	party_begin(party);
	party_attach(party, "faulty", false);
	start_threads(party, touch_forever);
	while (party_goes_on(party))
		(void)madvise(party->bytes, PARTY_BYTES, MADV_DONTNEED);
}

static void flood_removes(struct party *party)
{
	party_begin(party);
	party_attach(party, "forgetful", true);
	start_threads(party, touch_forever);
	while (party_goes_on(party))
		for (uint64_t i = 0; i < PARTY_N_PAGES; i += 2)
			(void)madvise(party->bytes + i * PAGE, PAGE, MADV_REMOVE);
}

/* Through the file, past every fault: pages appear and go. */
static void flood_foreign_touches(struct party *party)
{
	static const char page[PAGE];

	party_begin(party);
	party_attach(party, "touchy", true);
	while (party_goes_on(party))
		for (uint64_t i = 0; i < PARTY_N_PAGES; i++) {
			(void)!pwrite(party->fds[FD_MEMORY], page, i % 2 ? 1 : PAGE,
				      (off_t)(i * PAGE));
			(void)fallocate(party->fds[FD_MEMORY],
					FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)(i * PAGE), PAGE);
			(void)*(volatile unsigned char *)(party->bytes + i * PAGE);
		}
}

/* ---- signals ---- */

static _Atomic pid_t stuck_thread;

/* A fault in kernel mode: the kernel repeats it for each signal. */
static void *write_absent_page(void *userdata)
{
	struct party *party = userdata;
	int pipe_fds[2];

	if (pipe2(pipe_fds, O_CLOEXEC))
		_exit(2);
	stuck_thread = (pid_t)syscall(SYS_gettid);
	(void)!write(pipe_fds[1], party->bytes + 8 * PAGE, PAGE);
	party_complain(party, "a page came whose bytes nobody gave");
}

static void on_signal(int signal)
{
	(void)signal;
}

static void storm_of_signals(struct party *party)
{
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t thread;
	int hung, r;

	r = fuse_open_hung(&hung, PARTY_BYTES, FUSE_NO_READS);
	if (r < 0)
		party_skip(party, "no FUSE here: %s", strerror(-r));
	party->keeps_root = true; /* others may not hand over such a source */
	party_begin(party);
	party->fds[FD_SOURCE] = hung;
	party_attach(party, "stuck", false);
	sigaction(SIGUSR1, &action, NULL);
	if (pthread_create(&thread, NULL, write_absent_page, party))
		_exit(2);
	while (!stuck_thread)
		usleep(1000);
	while (party_goes_on(party))
		(void)syscall(SYS_tgkill, getpid(), stuck_thread, SIGUSR1);
}

const struct attack attacks_by_flood[] = {
	{ "connections", flood_connections },
	{ "half messages", flood_half_messages },
	{ "calls without a pause", flood_calls },
	{ "replies that are never read", flood_unread_replies },
	{ "events that are never read", flood_unread_events },
	{ "wrong numbers of handles", wrong_rights },
	{ "attach and detach", flood_attach },
	{ "regions that come and go", flood_regions },
	{ "prefetches", flood_prefetch },
	{ "faults", flood_faults },
	{ "discards", flood_removes },
	{ "touches through the file", flood_foreign_touches },
	{ "signals to a stuck thread", storm_of_signals },
	{},
};
