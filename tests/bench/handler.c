/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handler process: takes orders over a socket, and answers each when it is ready to serve, and
 * again when it has stopped.
 */
#include "handler.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "handler-loops.h"
#include "image.h"
#include "machine.h"
#include "ram.h"

#define N_PING_PONG 4096

struct handler {
	pid_t pid;
	int socket;
	int ping, pong; /* our ends */
	int uffd;	/* of the memory that is attached */
};

/* What the handler answers. */
struct answer {
	uint64_t value_ns;
};

/* ---- in the handler ---- */

static void on_stop(int signal)
{
	handler_must_stop = 1;
}

static bool receive_order(int socket, struct order *ret, int *ret_uffd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec piece = { ret, sizeof(*ret) };
	struct msghdr message = { .msg_iov = &piece,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header;
	ssize_t n;

	do
		n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(*ret))
		return false;
	header = CMSG_FIRSTHDR(&message);
	*ret_uffd = -EBADF;
	if (header)
		memcpy(ret_uffd, CMSG_DATA(header), sizeof(int));
	return true;
}

static void send_answer(int socket, uint64_t value_ns)
{
	struct answer answer = { value_ns };

	if (send(socket, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
		exit(1);
}

static void *own_memory(uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (at == MAP_FAILED)
		die("handler: no memory");
	/* The first touch is not the kernel's to spare: the zero page is no memory. */
	memset(at, 1, bytes);
	return at;
}

static _Noreturn void serve(int socket, struct handler_memory *memory, const struct image *image)
{
	struct sigaction action = {
		.sa_handler = on_stop
	}; /* without SA_RESTART: it ends poll() */
	struct order order;
	int uffd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGUSR1, &action, NULL);
	memory->image = mmap(NULL, image->length_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE,
			     image->fd, 0);
	if (memory->image == MAP_FAILED)
		die("handler: cannot map the saved memory");
	memory->image_fd = image->fd;
	memory->buffer = own_memory(HANDLER_BUFFER_BYTES);
	memory->from = own_memory(HANDLER_MEMCPY_BYTES);
	memory->to = own_memory(HANDLER_MEMCPY_BYTES);

	while (receive_order(socket, &order, &uffd)) {
		machine_pin(order.cpu);
		handler_must_stop = 0;
		send_answer(socket, 0);
		send_answer(socket, handler_run(memory, &order, uffd));
		if (uffd >= 0)
			close(uffd);
	}
	exit(0);
}

/* ---- in the VMM ---- */

struct handler *handler_new(const struct image *image)
{
	struct handler *handler = calloc(1, sizeof(*handler));
	struct handler_memory memory = {};
	int sockets[2], ping[2], pong[2];

	if (!handler || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0 ||
	    pipe2(ping, O_CLOEXEC) < 0 || pipe2(pong, O_CLOEXEC) < 0)
		die("cannot make a handler");
	memory.ping = ping[0];
	memory.pong = pong[1];
	handler->pid = fork();
	if (handler->pid < 0)
		die("cannot fork the handler");
	if (handler->pid == 0) {
		close(sockets[0]);
		serve(sockets[1], &memory, image);
	}
	close(sockets[1]);
	close(ping[0]);
	close(pong[1]);
	handler->socket = sockets[0];
	handler->ping = ping[1];
	handler->pong = pong[0];
	handler->uffd = -EBADF;
	machine_own(handler->pid);
	return handler;
}

pid_t handler_pid(const struct handler *handler)
{
	return handler->pid;
}

static void send_order(struct handler *handler, const struct order *order, int uffd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec piece = { (void *)order, sizeof(*order) };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };

	if (uffd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.header), &uffd, sizeof(int));
	}
	if (sendmsg(handler->socket, &message, MSG_NOSIGNAL) != sizeof(*order))
		die("the handler is gone");
}

static uint64_t receive_answer(struct handler *handler)
{
	struct answer answer;

	if (recv(handler->socket, &answer, sizeof(answer), 0) != sizeof(answer))
		die("the handler is gone");
	return answer.value_ns;
}

static int open_uffd(const struct ram *ram, bool is_minor)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register registration = {
		.range = { (uintptr_t)ram->at, ram->length_bytes },
		.mode = is_minor ? UFFDIO_REGISTER_MODE_MINOR : UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (is_minor)
		api.features = ram->kind == RAM_HUGETLB ? UFFD_FEATURE_MINOR_HUGETLBFS
							: UFFD_FEATURE_MINOR_SHMEM;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 ||
	    ioctl(fd, UFFDIO_REGISTER, &registration) < 0)
		die("no userfaultfd for the handler");
	return fd;
}

void handler_attach(struct handler *handler, enum handler_loop loop, const struct ram *ram, int cpu)
{
	struct order order = { .loop = loop,
			       .cpu = cpu,
			       .address = (uintptr_t)ram->at,
			       .length_bytes = ram->length_bytes,
			       .page_bytes = ram->page_bytes };

	handler->uffd = open_uffd(ram, loop == LOOP_RAW_CONTINUE);
	send_order(handler, &order, handler->uffd);
	(void)receive_answer(handler);
}

void handler_detach(struct handler *handler)
{
	struct pollfd answered = { .fd = handler->socket, .events = POLLIN };

	/* A signal that comes between the loop's look at its flag and its poll() is lost. */
	do
		kill(handler->pid, SIGUSR1);
	while (poll(&answered, 1, 1) == 0);
	(void)receive_answer(handler);
	close(handler->uffd);
	handler->uffd = -EBADF;
}

static int compare_ns(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

double handler_ping_pong_ns(struct handler *handler, unsigned int n, int cpu)
{
	static uint64_t samples[N_PING_PONG];
	struct order order = { .loop = LOOP_PING_PONG, .cpu = cpu, .n = n };
	char byte = 0;

	if (n > N_PING_PONG)
		die("too many round trips");
	send_order(handler, &order, -EBADF);
	(void)receive_answer(handler);
	for (unsigned int i = 0; i < n; i++) {
		uint64_t start_ns = clock_now_ns();

		if (write(handler->ping, &byte, 1) != 1 || read(handler->pong, &byte, 1) != 1)
			die("the handler is gone");
		samples[i] = clock_now_ns() - start_ns;
	}
	(void)receive_answer(handler);
	qsort(samples, n, sizeof(samples[0]), compare_ns);
	return (double)samples[n / 2];
}

double handler_memcpy_ns(struct handler *handler, int cpu)
{
	struct order order = { .loop = LOOP_MEMCPY, .cpu = cpu };

	send_order(handler, &order, -EBADF);
	(void)receive_answer(handler);
	return (double)receive_answer(handler);
}
