/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that is handed over as Firecracker does it. */
#include "handed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "handler-loops.h"
#include "machine.h"

#define PATIENCE_NS (10 * NSEC_PER_SEC)

/* A JSON array of one region, as Firecracker 1.12 and later write it. */
#define BODY                                                                            \
	"[{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":0,\"page_size\":%llu," \
	"\"page_size_kib\":%llu}]"

union fd_message {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int))];
};

static struct sockaddr_un socket_address(const struct bench *bench)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s/handoff.socket",
			      bench->folder);

	if (length >= (int)sizeof(address.sun_path))
		die("%s is too long a path for a socket", bench->folder);
	return address;
}

/* ---- the plain handler: one page a fault ---- */

static int receive_guest(int connection, struct order *ret)
{
	union fd_message control = {};
	char body[4096] = "";
	struct iovec piece = { body, sizeof(body) - 1 };
	struct msghdr message = { .msg_iov = &piece,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	unsigned long long address, length, page;
	int uffd;

	if (recvmsg(connection, &message, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&message) ||
	    sscanf(body, BODY, &address, &length, &page, &page) != 4)
		die("plain handler: nobody hands memory over");
	memcpy(&uffd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(uffd));
	*ret = (struct order){
		.loop = LOOP_PLAIN, .address = address, .length_bytes = length, .page_bytes = page
	};
	return uffd;
}

/* The file is mapped, every page of it, before anybody can connect: it is no straw man. */
static _Noreturn void serve_plainly(const struct bench *bench)
{
	struct sockaddr_un address = socket_address(bench);
	const struct image *image = &bench->image;
	struct handler_memory memory = {
		.image = mmap(NULL, image->length_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE,
			      image->fd, 0),
	};
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), connection, uffd;
	struct order order;

	if (memory.image == MAP_FAILED ||
	    bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 1) < 0)
		die("plain handler: cannot listen");
	connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	uffd = receive_guest(connection, &order);
	handler_run(&memory, &order, uffd);
	_exit(0);
}

/* ---- the one that counts ---- */

static _Noreturn void become_firecracker(const struct bench *bench, const struct arm *arm)
{
	struct sockaddr_un address = socket_address(bench);
	char log[4096], file[64];
	int fd;

	snprintf(log, sizeof(log), "%s/ufdd-firecracker.log", bench->folder);
	/* it has no name; an own open of it, as of any other */
	snprintf(file, sizeof(file), "/proc/%d/fd/%d", (int)getppid(), bench->image.fd);
	fd = open(log, O_CREAT | O_WRONLY | O_TRUNC, 0600);
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0)
		die("cannot write %s", log);
	if (arm->has_background)
		execl(bench->firecracker, bench->firecracker, address.sun_path, file, NULL);
	else
		execl(bench->firecracker, bench->firecracker, "--no-background", address.sun_path,
		      file, NULL);
	die("cannot run %s", bench->firecracker);
}

/* ---- the VM ---- */

static int open_uffd(const struct ram *ram)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	struct uffdio_register registration = {
		.range = { (uintptr_t)ram->at, ram->length_bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 ||
	    ioctl(fd, UFFDIO_REGISTER, &registration) < 0)
		die("VM: no userfaultfd");
	return fd;
}

static int make_body(const struct ram *ram, char *body, size_t n_body)
{
	return snprintf(body, n_body, BODY, (unsigned long long)(uintptr_t)ram->at,
			(unsigned long long)ram->length_bytes, (unsigned long long)ram->page_bytes,
			(unsigned long long)ram->page_bytes);
}

/* Return: when the connection that worked was asked for. The connection stays, as a VMM's does. */
static uint64_t hand_over(const struct bench *bench, const struct ram *ram, int uffd)
{
	struct sockaddr_un address = socket_address(bench);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t deadline_ns = clock_now_ns() + PATIENCE_NS, at_ns;
	union fd_message control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	char body[256];
	struct iovec piece = { body, (size_t)make_body(ram, body, sizeof(body)) };
	struct msghdr message = { .msg_iov = &piece,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.header), &uffd, sizeof(uffd));
	do {
		at_ns = clock_now_ns();
		if (at_ns > deadline_ns)
			die("VM: nobody listens at %s", address.sun_path);
	} while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && !usleep(500));
	if (sendmsg(fd, &message, MSG_NOSIGNAL) != (ssize_t)piece.iov_len)
		die("VM: cannot hand memory over");
	return at_ns;
}

/* The first touch is not among those of a walk: it waits until the server has begun. */
static _Noreturn void run_vm(struct bench *bench, const struct arm *arm, double *ret)
{
	uint64_t asked_ns;
	struct ram ram;
	int uffd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ram_new(&ram, arm->kind, arm->length_bytes);
	uffd = open_uffd(&ram);
	asked_ns = hand_over(bench, &ram, uffd);
	(void)*(const volatile uint64_t *)(ram.at + bench->order[0] * ram.page_bytes);
	if (arm->result == RESULT_FIRST)
		*ret = (double)(clock_now_ns() - asked_ns);
	else
		*ret = arm_measure(bench, arm, &ram);
	arm_verify(bench, arm, &ram);
	_exit(0);
}

/* ---- both ---- */

static pid_t start_server(const struct bench *bench, const struct arm *arm, int cpu)
{
	pid_t pid = fork();

	if (pid < 0)
		die("cannot fork");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	machine_pin(cpu);
	if (arm->server == SERVER_FIRECRACKER)
		become_firecracker(bench, arm);
	serve_plainly(bench);
}

/* ufdd-firecracker ends by itself, and well, when its VM has; the plain one is told to. */
static void stop_server(const struct bench *bench, const struct arm *arm, pid_t pid)
{
	int status;

	if (arm->server == SERVER_PLAIN)
		kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid ||
	    (arm->server == SERVER_FIRECRACKER && (!WIFEXITED(status) || WEXITSTATUS(status))))
		die("%s did not end well; see %s/ufdd-firecracker.log", bench->firecracker,
		    bench->folder);
}

double handed_run(struct bench *bench, const struct arm *arm, int cpu)
{
	double *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sockaddr_un address = socket_address(bench);
	pid_t server, vm;
	double value;
	int status;

	if (result == MAP_FAILED)
		die("no memory");
	(void)unlink(address.sun_path);
	bench_make_order(bench, arm, arm->length_bytes / ram_page_bytes(arm->kind));
	server = start_server(bench, arm, cpu);
	vm = fork();
	if (vm < 0)
		die("cannot fork");
	if (vm == 0)
		run_vm(bench, arm, result);
	if (waitpid(vm, &status, 0) != vm || !WIFEXITED(status) || WEXITSTATUS(status)) {
		kill(server, SIGKILL);
		die("the VM of %s did not end well", arm->name);
	}
	stop_server(bench, arm, server);
	value = *result;
	munmap(result, sizeof(*result));
	return value;
}
