/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with memories of every kind. */
#include "inject/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "inject/rounds.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"

#define N_CHECKERS 2
#define N_HUGE	   2

struct vmm_shared {
	struct vmm_memory memories[VMM_MEMORIES];
	struct vmm_wrong wrong;
	int uffd; /* its number there, or -errno */
};

struct order {
	enum vmm_order_kind kind;
	unsigned int memory;
	uint64_t first, count;
	unsigned char value;
};

/* Of the byte in the source, or of what was written as @value. */
static uint64_t word_of(unsigned int memory, uint64_t page, uint64_t index, unsigned char value)
{
	uint64_t x = ((uint64_t)memory << 40 | (uint64_t)value << 32 | page) *
			     UINT64_C(0x9e3779b97f4a7c15) +
		     index * UINT64_C(0xbf58476d1ce4e5b9) + 1;

	return value == VMM_ZERO ? 0 : (x ^ x >> 29) | 1;
}

/* ---- in the process ---- */

struct checker {
	pthread_t thread;
	struct vmm_shared *shared;
	const struct order *order;
	unsigned int index;
	bool is_wrong;
};

static bool is_right(struct vmm_shared *shared, unsigned int id, uint64_t page)
{
	const struct vmm_memory *memory = &shared->memories[id];
	const volatile uint64_t *words = (uint64_t *)(memory->address + page * memory->page_bytes);

	for (uint64_t i = 0; i < memory->page_bytes / sizeof(*words); i++) {
		uint64_t got = words[i];

		if (got == word_of(id, page, i, memory->expected[page]))
			continue;
		shared->wrong = (struct vmm_wrong){ id, page, i, got };
		return false;
	}
	return true;
}

/* The one forward, the other backward. */
static void *checker_main(void *userdata)
{
	struct checker *checker = userdata;
	const struct order *order = checker->order;

	for (uint64_t i = 0; i < order->count && !checker->is_wrong; i++)
		checker->is_wrong = !is_right(checker->shared, order->memory,
					      order->first +
						      (checker->index ? order->count - 1 - i : i));
	return NULL;
}

static bool do_check(struct vmm_shared *shared, const struct order *order)
{
	struct checker checkers[N_CHECKERS];
	bool is_wrong = false;

	for (unsigned int i = 0; i < N_CHECKERS; i++) {
		checkers[i] = (struct checker){ .shared = shared, .order = order, .index = i };
		if (pthread_create(&checkers[i].thread, NULL, checker_main, &checkers[i]))
			_exit(EXIT_FAILURE);
	}
	for (unsigned int i = 0; i < N_CHECKERS; i++) {
		pthread_join(checkers[i].thread, NULL);
		is_wrong |= checkers[i].is_wrong;
	}
	return !is_wrong;
}

static void do_write(struct vmm_memory *memory, const struct order *order)
{
	for (uint64_t page = order->first; page < order->first + order->count; page++) {
		volatile uint64_t *words = (uint64_t *)(memory->address +
							page * memory->page_bytes);

		for (uint64_t i = 0; i < memory->page_bytes / sizeof(*words); i++)
			words[i] = word_of(order->memory, page, i, order->value);
		memory->expected[page] = order->value;
	}
}

static bool do_discard(struct vmm_memory *memory, const struct order *order)
{
	int advice = memory->kind == VMM_ANON ? MADV_DONTNEED : MADV_REMOVE;

	for (uint64_t page = order->first; page < order->first + order->count; page++)
		memory->expected[page] = VMM_ZERO;
	return madvise((void *)(memory->address + order->first * memory->page_bytes),
		       order->count * memory->page_bytes, advice) == 0;
}

static void obey(int socket, struct vmm_shared *shared)
{
	struct order order;

	while (read(socket, &order, sizeof(order)) == sizeof(order)) {
		struct vmm_memory *memory = &shared->memories[order.memory];
		bool is_good = true;

		if (order.kind == VMM_CHECK)
			is_good = do_check(shared, &order);
		else if (order.kind == VMM_WRITE)
			do_write(memory, &order);
		else
			is_good = do_discard(memory, &order);
		if (write(socket, &is_good, sizeof(is_good)) < 0)
			_exit(EXIT_FAILURE);
	}
}

static _Noreturn void vmm_main(int socket, struct vmm_shared *shared)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	shared->uffd = -EPERM;
	for (unsigned int way = UFFD_WAY_SYSCALL; way <= UFFD_WAY_DEVICE && shared->uffd < 0;
	     way++) {
		int uffd, r = uffd_open(&uffd, way, features_wanted(false));

		shared->uffd = r < 0 ? r : uffd;
	}
	for (unsigned int i = 0; i < VMM_MEMORIES; i++) {
		struct vmm_memory *memory = &shared->memories[i];
		int flags = i == VMM_ANON      ? MAP_PRIVATE | MAP_ANONYMOUS
			    : i == VMM_PRIVATE ? MAP_PRIVATE
					       : MAP_SHARED;
		void *at;

		if (!memory->n_pages)
			continue;
		at = mmap(NULL, memory->length, PROT_READ | PROT_WRITE, flags, memory->memfd, 0);
		if (at == MAP_FAILED && i == VMM_HUGETLB)
			memory->n_pages = 0; /* the pool is everybody's */
		else if (at == MAP_FAILED)
			_exit(EXIT_FAILURE);
		memory->address = (uint64_t)at;
	}
	if (write(socket, "", 1) == 1)
		obey(socket, shared);
	_exit(EXIT_SUCCESS);
}

/* ---- in the run ---- */

/* Its bytes in the source, and in its own file if they belong there. */
static void write_bytes(const struct vmm *vmm, unsigned int id)
{
	static uint64_t words[(2 << 20) / sizeof(uint64_t)];
	const struct vmm_memory *memory = &vmm->memories[id];

	for (uint64_t page = 0; page < memory->n_pages; page++) {
		off_t at = (off_t)(page * memory->page_bytes);

		for (uint64_t i = 0; i < memory->page_bytes / sizeof(words[0]); i++)
			words[i] = word_of(id, page, i, VMM_SOURCE);
		if (pwrite(vmm->source, words, memory->page_bytes, (off_t)(id * VMM_STRIDE) + at) <
		    0)
			rounds_fail("no room for the source");
		if (memory->kind == VMM_MINOR &&
		    pwrite(memory->memfd, words, memory->page_bytes, at) < 0)
			rounds_fail("no room for the memory");
	}
}

static void make_memory(struct vmm *vmm, unsigned int id, bool has_huge_pages)
{
	struct vmm_memory *memory = &vmm->memories[id];

	*memory = (struct vmm_memory){ .kind = id, .memfd = -1, .page_bytes = 4096 };
	if (id == VMM_HUGETLB && !has_huge_pages)
		return;
	memory->n_pages = VMM_PAGES;
	if (id == VMM_HUGETLB) {
		memory->page_bytes = 2 * MIB;
		memory->n_pages = N_HUGE;
	}
	memory->length = memory->n_pages * memory->page_bytes;
	if (id != VMM_ANON && backing_create(&memory->memfd, "memory", memory->length,
					     id == VMM_HUGETLB ? memory->page_bytes : 0) < 0)
		rounds_fail("no memfd");
	write_bytes(vmm, id);
}

void vmm_start(struct vmm *ret, bool has_huge_pages)
{
	int sockets[2];
	char byte;

	*ret = (struct vmm){ .uffd = -1 };
	ret->shared = mmap(NULL, sizeof(*ret->shared), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ret->source = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (ret->shared == MAP_FAILED || ret->source < 0 ||
	    ftruncate(ret->source, VMM_MEMORIES * VMM_STRIDE) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		rounds_fail("no memory for a VMM");
	ret->memories = ret->shared->memories;
	for (unsigned int i = 0; i < VMM_MEMORIES; i++)
		make_memory(ret, i, has_huge_pages);
	/* so that one half is at hand, and the other is read by io_uring */
	fsync(ret->source);
	posix_fadvise(ret->source, VMM_PAGES / 2 * 4096, 0, POSIX_FADV_DONTNEED);

	ret->pid = fork();
	if (ret->pid == 0)
		vmm_main(sockets[1], ret->shared);
	close(sockets[1]);
	ret->socket = sockets[0];
	if (pidfd_open_pid(&ret->pidfd, ret->pid) < 0 || read(ret->socket, &byte, 1) != 1 ||
	    ret->shared->uffd < 0 || pidfd_get_fd(ret->pidfd, ret->shared->uffd, &ret->uffd) < 0)
		rounds_fail("the VMM did not start: uffd %d", ret->shared->uffd);
}

void vmm_stop(struct vmm *vmm)
{
	kill(vmm->pid, SIGKILL);
	waitpid(vmm->pid, NULL, 0);
	closep(&vmm->pidfd);
	closep(&vmm->uffd);
	closep(&vmm->socket);
	closep(&vmm->source);
	for (unsigned int i = 0; i < VMM_MEMORIES; i++)
		closep(&vmm->memories[i].memfd);
	munmap(vmm->shared, sizeof(*vmm->shared));
}

bool vmm_wait(struct vmm *vmm, uint64_t patience_ns)
{
	struct pollfd answer = { .fd = vmm->socket, .events = POLLIN };
	const struct vmm_wrong *wrong = &vmm->shared->wrong;
	bool is_good = false;

	if (!vmm->is_owed)
		return true;
	if (poll(&answer, 1, (int)(patience_ns / NSEC_PER_MSEC)) == 0)
		return false;
	if (read(vmm->socket, &is_good, sizeof(is_good)) != sizeof(is_good))
		rounds_fail("the VMM has died");
	vmm->is_owed = false;
	if (!is_good)
		rounds_fail("wrong byte: memory %u, page %llu, word %llu is %#llx, should be %#llx",
			    wrong->memory, (unsigned long long)wrong->page,
			    (unsigned long long)wrong->word, (unsigned long long)wrong->got,
			    (unsigned long long)word_of(
				    wrong->memory, wrong->page, wrong->word,
				    vmm->memories[wrong->memory].expected[wrong->page]));
	return true;
}

bool vmm_order(struct vmm *vmm, enum vmm_order_kind kind, unsigned int memory, uint64_t first,
	       uint64_t count, unsigned char value, uint64_t patience_ns)
{
	struct order order = { kind, memory, first, count, value };

	if (!vmm->memories[memory].n_pages)
		return true;
	if (write(vmm->socket, &order, sizeof(order)) != sizeof(order))
		rounds_fail("the VMM takes no orders");
	vmm->is_owed = true;
	return vmm_wait(vmm, patience_ns);
}

void vmm_check_all(struct vmm *vmm, uint64_t patience_ns)
{
	if (!vmm_wait(vmm, patience_ns))
		rounds_fail("a page does not come");
	for (unsigned int i = 0; i < VMM_MEMORIES; i++)
		if (!vmm_order(vmm, VMM_CHECK, i, 0, vmm->memories[i].n_pages, 0, patience_ns))
			rounds_fail("a page of memory %u does not come", i);
}
