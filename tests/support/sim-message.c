/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the simulator says on the socket, and what it should not. */
#include <errno.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "support/sim-vm.h"

#define MAX_BODY	  8192
#define FIRST_PIECE_BYTES 5
#define PIECE_BYTES	  7
#define MAX_FDS		  3
#define WITH_KIB	  7  /* the first version that names a page size, in bytes called KiB */
#define WITH_PAGE_SIZE	  12 /* the first that names it twice, and keeps its socket */

void sim_connect(struct sim *sim)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(sim->options.socket) >= sizeof(address.sun_path))
		sim_fail(SIM_FAILED, sim->options.socket, ENAMETOOLONG);
	strcpy(address.sun_path, sim->options.socket);
	sim->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sim->socket < 0 ||
	    connect(sim->socket, (struct sockaddr *)&address, sizeof(address)) < 0)
		sim_fail(SIM_FAILED, sim->options.socket, errno);
}

/* One sendmsg(), and the descriptors beside its first byte. */
static void send_piece(const struct sim *sim, const char *bytes, size_t n_bytes, const int *fds,
		       size_t n_fds)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control = {};
	struct iovec piece = { (void *)bytes, n_bytes };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };

	if (n_fds) {
		message.msg_control = control.room;
		message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
						   .cmsg_type = SCM_RIGHTS,
						   .cmsg_len = CMSG_LEN(n_fds * sizeof(int)) };
		memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
	}
	if (sendmsg(sim->socket, &message, MSG_NOSIGNAL) != (ssize_t)n_bytes)
		sim_fail(errno == EPIPE || errno == ECONNRESET ? SIM_REFUSED : SIM_FAILED,
			 "sendmsg", errno);
}

/* Until the other side has read everything, so that what follows is a piece of its own. */
static void wait_until_read(const struct sim *sim)
{
	struct timespec moment = { .tv_nsec = 200000 };
	int n_queued = 1;

	while (ioctl(sim->socket, SIOCOUTQ, &n_queued) == 0 && n_queued > 0)
		nanosleep(&moment, NULL);
}

/* ---- the body ---- */

static size_t append(char *body, size_t at, const char *text)
{
	size_t n = strlen(text);

	if (at + n >= MAX_BODY)
		sim_fail(SIM_FAILED, "the body is too long", ENOSPC);
	memcpy(body + at, text, n + 1);
	return at + n;
}

static size_t append_number(char *body, size_t at, const char *key, uint64_t value)
{
	char text[96];

	snprintf(text, sizeof(text), "%s\"%s\":%llu", body[at - 1] == '{' ? "" : ",", key,
		 (unsigned long long)value);
	return append(body, at, text);
}

static size_t append_region(const struct sim *sim, const struct sim_region *region, char *body,
			    size_t at)
{
	const struct sim_options *options = &sim->options;

	at = append(body, at, at > 1 ? ",{" : "{");
	if (options->has_extra_keys)
		at = append(body, at,
			    "\"future\":{\"a]}\":[\"\\\"}]\\\\\",-1.5e3,null,true,{}]},"
			    "\"note\":\"\xc3\xa9\"");
	at = append_number(body, at, "base_host_virt_addr", (uintptr_t)region->address);
	at = append_number(body, at, "size", region->length_bytes);
	at = append_number(body, at, "offset", region->offset_bytes);
	if (options->has_page_size && options->minor >= WITH_PAGE_SIZE)
		at = append_number(body, at, "page_size", options->page_bytes);
	if (options->has_page_size && options->minor >= WITH_KIB)
		at = append_number(body, at, "page_size_kib", options->page_bytes);
	if (options->sin == SIM_SECRET_FREEDOM) {
		at = append_number(body, at, "gpa_start", region->offset_bytes);
		at = append(body, at, ",\"is_guest_memfd\":true");
	}
	return append(body, at, "}");
}

static size_t make_body(const struct sim *sim, char body[MAX_BODY])
{
	size_t at = append(body, 0, "[");

	for (unsigned int i = 0; i < sim->options.n_regions; i++)
		at = append_region(sim, &sim->regions[i], body, at);
	return append(body, at, "]");
}

/* ---- ways to say it ---- */

static void send_in_pieces(const struct sim *sim, const char *body, size_t n_bytes, const int *fds,
			   size_t n_fds)
{
	send_piece(sim, body, FIRST_PIECE_BYTES, fds, n_fds);
	for (size_t at = FIRST_PIECE_BYTES; at < n_bytes; at += PIECE_BYTES) {
		wait_until_read(sim);
		send_piece(sim, body + at, n_bytes - at < PIECE_BYTES ? n_bytes - at : PIECE_BYTES,
			   NULL, 0);
	}
}

/* The first of the frames that were proposed for uffd_block: a head, a version, no region. */
static void send_binary(const struct sim *sim)
{
	static const char frame[] = "DFFU\0\0\1\0\1\0\0\0\0\0\0\0\4\0\0\0\1\0\0\0";

	send_piece(sim, frame, sizeof(frame) - 1, &sim->uffd, 1);
}

/* A userfaultfd of the same addresses in another process. */
static int foreign_uffd(struct sim *sim)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {};
	char byte;
	struct iovec piece = { &byte, 1 };
	struct msghdr message = { .msg_iov = &piece,
				  .msg_iovlen = 1,
				  .msg_control = control.room,
				  .msg_controllen = sizeof(control.room) };
	int pair[2], fd;
	pid_t parent = getpid();

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		sim_fail(SIM_FAILED, "socketpair", errno);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(SIM_FAILED);
		sim_uffd_make(sim);
		close(sim->socket);
		sim->socket = pair[1];
		send_piece(sim, "u", 1, &sim->uffd, 1);
		for (;;)
			pause();
	}
	if (recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&message))
		sim_fail(SIM_FAILED, "a userfaultfd of another process", errno);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static void send_sinful(struct sim *sim, const char *body, size_t n_bytes)
{
	int fds[MAX_FDS] = { sim->uffd, -1, -1 };

	switch (sim->options.sin) {
	case SIM_SILENT:
		break;
	case SIM_HALF:
		send_piece(sim, body, n_bytes / 2, &sim->uffd, 1);
		break;
	case SIM_NO_FD:
		send_piece(sim, body, n_bytes, NULL, 0);
		break;
	case SIM_GARBAGE:
		send_piece(sim, "GET / HTTP/1.1\r\n\r\n", 18, NULL, 0);
		break;
	case SIM_SECRET_FREEDOM:
		fds[1] = memfd_create("guest_memfd", MFD_CLOEXEC);
		fds[2] = memfd_create("bitmap", MFD_CLOEXEC);
		send_piece(sim, body, n_bytes, fds, 3);
		send_piece(sim, "no_exitless_apf", 15, NULL, 0);
		break;
	case SIM_UFFD_BLOCK:
		send_binary(sim);
		break;
	case SIM_FOREIGN_UFFD:
		fds[0] = foreign_uffd(sim);
		send_piece(sim, body, n_bytes, fds, 1);
		break;
	default:
		send_piece(sim, body, n_bytes, &sim->uffd, 1);
	}
}

void sim_hand_over(struct sim *sim)
{
	char body[MAX_BODY];
	size_t n_bytes = make_body(sim, body);
	int fds[MAX_FDS] = { sim->uffd, sim->memfd };
	size_t n_fds = sim->memfd >= 0 ? 2 : 1;

	if (sim->options.is_empty_first) {
		sim_connect(sim);
		close(sim->socket);
	}
	sim_connect(sim);
	if (sim->options.sin) {
		send_sinful(sim, body, n_bytes);
		sim_wait_for_end(sim);
	}
	if (sim->options.is_split)
		send_in_pieces(sim, body, n_bytes, fds, n_fds);
	else
		send_piece(sim, body, n_bytes, fds, n_fds);
	if (sim->options.is_early_close) {
		close(sim->socket);
		sim->socket = -1;
	}
}

_Noreturn void sim_wait_for_end(struct sim *sim)
{
	char bytes[64];
	ssize_t n;

	do
		n = recv(sim->socket, bytes, sizeof(bytes), 0);
	while (n > 0 || (n < 0 && errno == EINTR));
	printf("{\"refused\":true}\n");
	exit(SIM_REFUSED);
}
