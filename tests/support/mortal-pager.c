/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A pager that may be killed. */
#include "support/mortal-pager.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"

static struct fate *fate; /* of this process; NULL: it lives for ever */

/* What the pager says: handles first, as bytes with their fds, then that it serves. */
struct word {
	int result;
	bool is_serving;
	uint32_t n_handles;
	struct ufd_handle handles[UFD_MAX_HANDLES];
};

/* What it is told: Finish, plug In, plug Out, or some Work. One program: its addresses mean the same in both. */
struct order {
	char kind;
	mortal_work work;
	void *argument;
	uint64_t kill_after_ns;
};

/* ---- in the pager's process ---- */

void fate_point(void)
{
	uint64_t n;

	if (!fate)
		return;
	n = atomic_fetch_add(&fate->n_points, 1) + 1;
	if (!atomic_compare_exchange_strong(&fate->dies_at, &n, FATE_SEALED))
		return;
	atomic_store(&fate->has_died, 1);
	kill(getpid(), SIGKILL);
}

void fate_read(void)
{
	if (!fate || !atomic_load(&fate->dies_unread))
		return;
	atomic_store(&fate->has_died, 1);
	kill(getpid(), SIGKILL);
}

void fate_copied(void)
{
	if (!fate || !atomic_load(&fate->dies_copied))
		return;
	atomic_store(&fate->has_died, 1);
	kill(getpid(), SIGKILL);
}

static void say(int socket, const struct word *word, const int *fds, size_t n_fds)
{
	char control[CMSG_SPACE(sizeof(int) * (UFD_MAX_HANDLES + 1))] = {};
	struct iovec iov = { (void *)word, sizeof(*word) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds) {
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
	}
	if (sendmsg(socket, &message, MSG_NOSIGNAL) < 0)
		_exit(3);
}

/* The test keeps them from now on. */
static int keep(int socket, struct ufd_pager_guest *guest)
{
	int fds[UFD_MAX_HANDLES + 1] = { ufd_pager_guest_ledger(guest) };
	struct word word = {};
	size_t n = 0;
	int r;

	r = ufd_pager_guest_handles(guest, word.handles, UFD_MAX_HANDLES, &n);
	if (r < 0)
		return r;
	word.n_handles = (uint32_t)n;
	for (size_t i = 0; i < n; i++)
		fds[i + 1] = word.handles[i].fd;
	say(socket, &word, fds, n + 1);
	return 0;
}

/* All of the child's memory, or one of its halves. */
static int add(int socket, struct ufd_pager_guest *guest, const struct mortal_guest *of,
	       const char *name, uint64_t offset, uint64_t length)
{
	const struct paged_child *child = of->child;
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = name, .length = length,
		 .page_bytes = child->page_bytes, .backing = child->memfd, .kind = of->kind,
		 .source_offset = offset, .backing_offset = child->memfd >= 0 ? offset : 0);
	uint32_t id;
	int r;

	r = ufd_source_open(&memory.source, of->spec, of->source_fd, NULL);
	if (r == 0)
		r = ufd_pager_guest_add_memory(guest, &memory, &id);
	if (r == 0)
		r = keep(socket, guest);
	if (r == 0)
		r = ufd_pager_guest_add_mapping(guest, 0, id, child->address + offset, length, 0,
						NULL);
	ufd_source_unref(memory.source);
	return r;
}

static uint64_t first_bytes(const struct mortal_guest *of)
{
	return of->is_split ? of->child->length / 2 : of->child->length;
}

static uint32_t populated(const struct mortal_guest *of)
{
	if (of->populated)
		return of->populated - 1;
	return of->kind == CHILD_SHMEM || of->kind == CHILD_HUGETLB ? UFD_POPULATED_PUNCH
								    : UFD_POPULATED_KEEP;
}

static int build(struct ufd_pager *pager, int socket, const struct mortal_guest *of,
		 struct ufd_pager_guest **ret)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = of->no_background,
		 .window_bytes = of->window_bytes, .other_mappers = UFD_OTHERS_IGNORE,
		 .track = of->track, .populated = populated(of));
	struct ufd_pager_guest *guest;
	uint32_t mapper;
	int r;

	r = ufd_pager_guest_new(pager, &guest, "mortal", &opts);
	if (r == 0)
		r = ufd_pager_guest_add_mapper(guest, of->child->uffd, of->child->pidfd, -1,
					       &mapper);
	if (r == 0)
		r = add(socket, guest, of, "ram", 0, first_bytes(of));
	if (r == 0 && of->prepare)
		r = of->prepare(guest, of->argument);
	if (r == 0)
		r = ufd_pager_guest_start(guest);
	*ret = guest;
	return r;
}

static int obey(int socket, struct ufd_pager_guest *guest, const struct mortal_guest *of,
		const struct order *order)
{
	uint64_t at = first_bytes(of), length = of->child->length - at;

	if (order->kind == 'w')
		return order->work(guest, order->argument);
	if (order->kind == 'f')
		return ufd_pager_guest_finish(guest, 0);
	if (order->kind == 'i')
		return add(socket, guest, of, "plug", at, length);
	return ufd_pager_guest_remove_mapping(guest, 0, of->child->address + at, length);
}

static void print_report(void *userdata, const char *sentence)
{
	printf("# adoption: %s\n", sentence);
}

static int adopt(struct ufd_pager *pager, const struct kept *kept, struct ufd_pager_guest **ret)
{
	UFD_OPTS(ufd_pager_adopt_opts, opts, .handles = kept->handles, .n_handles = kept->n_handles,
		 .report = print_report);
	struct ufd_pager_guest *guest;
	int r, was_started = 0;

	r = ufd_pager_guest_adopt(pager, &guest, kept->ledger, &opts, &was_started);
	if (r < 0)
		return r;
	/* what was never served is begun anew by who asked for it */
	if (!was_started)
		ufd_pager_guest_free(guest);
	*ret = guest;
	return was_started ? ufd_pager_guest_start(guest) : -ENOENT;
}

static _Noreturn void pager_main(int socket, struct mortal *mortal, const struct mortal_guest *new)
{
	struct word word = { .is_serving = true };
	struct ufd_pager_guest *guest = NULL;
	struct ufd_pager *pager;
	struct order order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fate = mortal->fate;
	word.result = ufd_pager_new(&pager, NULL);
	if (word.result == 0)
		word.result = new ? build(pager, socket, new, &guest)
				  : adopt(pager, &mortal->kept, &guest);
	say(socket, &word, NULL, 0);
	while (read(socket, &order, sizeof(order)) == sizeof(order)) {
		word.result = obey(socket, guest, &mortal->guest, &order);
		say(socket, &word, NULL, 0);
	}
	_exit(0);
}

/* ---- in the test ---- */

void mortal_init(struct mortal *mortal)
{
	*mortal = (struct mortal){ .socket = -1, .kept.ledger = -1 };
	mortal->fate = mmap(NULL, sizeof(*mortal->fate), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mortal->fate == MAP_FAILED)
		abort();
}

static void forget(struct kept *kept)
{
	closep(&kept->ledger);
	for (size_t i = 0; i < kept->n_handles; i++)
		closep(&kept->handles[i].fd);
	*kept = (struct kept){ .ledger = -1 };
}

void mortal_done(struct mortal *mortal)
{
	mortal_kill(mortal);
	forget(&mortal->kept);
	munmap(mortal->fate, sizeof(*mortal->fate));
}

/* Return: false when the pager is dead. */
static bool listen_to(struct mortal *mortal, struct word *ret)
{
	char control[CMSG_SPACE(sizeof(int) * (UFD_MAX_HANDLES + 1))] = {};
	struct iovec iov = { ret, sizeof(*ret) };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header;
	int *fds;

	if (recvmsg(mortal->socket, &message, MSG_CMSG_CLOEXEC) != sizeof(*ret))
		return false;
	if (ret->is_serving)
		return true;
	header = CMSG_FIRSTHDR(&message);
	fds = (int *)CMSG_DATA(header);
	forget(&mortal->kept);
	mortal->kept.ledger = fds[0];
	mortal->kept.n_handles = ret->n_handles;
	memcpy(mortal->kept.handles, ret->handles, ret->n_handles * sizeof(ret->handles[0]));
	for (uint32_t i = 0; i < ret->n_handles; i++)
		mortal->kept.handles[i].fd = fds[i + 1];
	return true;
}

/* Until it has done what it was told, or is dead. */
static int await(struct mortal *mortal)
{
	struct word word = {};

	while (listen_to(mortal, &word))
		if (word.is_serving)
			return word.result;
	mortal_wait(mortal);
	return -ESRCH;
}

static int launch(struct mortal *mortal, const struct mortal_guest *guest)
{
	int sockets[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets))
		return -errno;
	mortal->pid = fork();
	if (mortal->pid == 0) {
		close(sockets[0]);
		pager_main(sockets[1], mortal, guest);
	}
	close(sockets[1]);
	mortal->socket = sockets[0];
	return await(mortal);
}

static int command(struct mortal *mortal, const struct order *order)
{
	struct pollfd wait = { .fd = mortal->socket, .events = POLLIN };
	struct timespec patience = { .tv_sec = (time_t)(order->kill_after_ns / NSEC_PER_SEC),
				     .tv_nsec = (long)(order->kill_after_ns % NSEC_PER_SEC) };

	/* one that has died meanwhile, too */
	if (!mortal->pid || send(mortal->socket, order, sizeof(*order), MSG_NOSIGNAL) < 0) {
		mortal_wait(mortal);
		return -ESRCH;
	}
	if (order->kill_after_ns != UINT64_MAX && ppoll(&wait, 1, &patience, NULL) == 0) {
		mortal_kill(mortal);
		return -ESRCH;
	}
	return await(mortal);
}

int mortal_plug(struct mortal *mortal, bool is_in)
{
	struct order order = { .kind = is_in ? 'i' : 'o', .kill_after_ns = UINT64_MAX };

	return command(mortal, &order);
}

int mortal_finish(struct mortal *mortal)
{
	struct order order = { .kind = 'f', .kill_after_ns = UINT64_MAX };

	return command(mortal, &order);
}

int mortal_do(struct mortal *mortal, mortal_work work, void *argument, uint64_t kill_after_ns)
{
	struct order order = { 'w', work, argument, kill_after_ns };

	return command(mortal, &order);
}

int mortal_start(struct mortal *mortal, const struct mortal_guest *guest)
{
	forget(&mortal->kept);
	mortal->guest = *guest;
	return launch(mortal, guest);
}

int mortal_adopt(struct mortal *mortal)
{
	return launch(mortal, NULL);
}

void mortal_wait(struct mortal *mortal)
{
	if (!mortal->pid)
		return;
	waitpid(mortal->pid, NULL, 0);
	closep(&mortal->socket);
	mortal->pid = 0;
	mortal->socket = -1;
}

void mortal_kill(struct mortal *mortal)
{
	if (mortal->pid)
		kill(mortal->pid, SIGKILL);
	mortal_wait(mortal);
}

bool mortal_is_alive(struct mortal *mortal)
{
	siginfo_t info = {};

	if (!mortal->pid)
		return false;
	if (waitid(P_PID, (id_t)mortal->pid, &info, WEXITED | WNOHANG | WNOWAIT))
		return false;
	return info.si_pid == 0;
}
