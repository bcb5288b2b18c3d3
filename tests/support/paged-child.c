/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A child that plays the VMM. */
#include "support/paged-child.h"

#include <assert.h>
#include <errno.h>
#include <linux/mman.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"

enum order_kind {
	ORDER_CHECK,
	ORDER_CHURN,
	ORDER_ADVISE,
	ORDER_PEEK,
	ORDER_POKE,
	ORDER_MAP,
	ORDER_CALL
};

#define ARGUMENT_BYTES 128

struct order {
	enum order_kind kind;
	unsigned int n_threads;
	enum child_order order;
	bool with_writes;
	uint64_t first, count;
	uint64_t value;
	int advice;
	child_function function; /* the same program: its addresses mean the same */
	unsigned char argument[ARGUMENT_BYTES];
};

struct hello {
	int error;
	bool has_memfd;
	uint64_t address, page_bytes;
};

uint64_t child_word(uint64_t page, uint64_t index)
{
	uint64_t x = page * UINT64_C(0x9e3779b97f4a7c15) + index * UINT64_C(0xbf58476d1ce4e5b9) + 1;

	x ^= x >> 29;
	return x | 1;
}

void child_page(uint64_t page, uint64_t page_bytes, void *ret)
{
	uint64_t *words = ret;

	for (uint64_t i = 0; i < page_bytes / sizeof(words[0]); i++)
		words[i] = child_word(page, i);
}

/* ---- in the child ---- */

struct checker {
	pthread_t thread;
	const struct hello *memory;
	const struct order *order;
	uint64_t n_pages;
	unsigned int index;
	uint64_t n_wrong;
};

static bool is_page_right(const uint64_t *words, uint64_t page, uint64_t page_bytes)
{
	for (uint64_t i = 0; i < page_bytes / sizeof(words[0]); i++)
		if (__atomic_load_n(&words[i], __ATOMIC_RELAXED) != child_word(page, i))
			return false;
	return true;
}

/* Each thread takes every page, from a place and with a stride of its own: so they meet. */
static void *checker_main(void *userdata)
{
	struct checker *checker = userdata;
	uint64_t n = checker->n_pages, stride = 1, page = n * checker->index / 8 % n;

	if (checker->order->order == CHILD_RANDOM)
		stride = (UINT64_C(0x9e3779b1) + 2 * checker->index) | 1;
	while (n % stride == 0 && stride > 1)
		stride += 2;
	for (uint64_t i = 0; i < n; i++, page = (page + stride) % n) {
		uint64_t *words = (uint64_t *)(checker->memory->address +
					       page * checker->memory->page_bytes);

		if (checker->order->with_writes && i % 3 == 0)
			__atomic_store_n(words, child_word(page, 0), __ATOMIC_RELAXED);
		if (!is_page_right(words, page, checker->memory->page_bytes))
			checker->n_wrong++;
	}
	return NULL;
}

/* ---- churn ---- */

#define CHURN_WORDS	64 /* of each page that are looked at and written */
#define CHURN_SOURCE	0
#define CHURN_DISCARDED 1 /* and above: how often it was written */

static uint32_t *churn_writes; /* what each page holds; for the child's life */

static uint64_t churn_word(uint64_t page, uint64_t index)
{
	uint32_t writes = churn_writes[page];

	if (writes == CHURN_DISCARDED)
		return 0;
	return child_word(page, index) ^ (uint64_t)writes << 32;
}

/* The @i-th word that is looked at; the first and the last of the page are among them. */
static uint64_t churn_index(const struct hello *memory, uint64_t i)
{
	return i * (memory->page_bytes / sizeof(uint64_t) - 1) / (CHURN_WORDS - 1);
}

static volatile uint64_t *churn_page(const struct hello *memory, uint64_t page)
{
	return (volatile uint64_t *)(memory->address + page * memory->page_bytes);
}

static bool churn_is_right(const struct hello *memory, uint64_t page)
{
	for (uint64_t i = 0; i < CHURN_WORDS; i++) {
		uint64_t index = churn_index(memory, i);

		if (churn_page(memory, page)[index] != churn_word(page, index))
			return false;
	}
	return true;
}

static void churn_write(const struct hello *memory, uint64_t page)
{
	churn_writes[page] = churn_writes[page] < 2 ? 2 : churn_writes[page] + 1;
	for (uint64_t i = 0; i < CHURN_WORDS; i++) {
		uint64_t index = churn_index(memory, i);

		churn_page(memory, page)[index] = churn_word(page, index);
	}
}

static void churn_discard(const struct hello *memory, uint64_t page, uint64_t count, int advice)
{
	if (madvise((void *)(memory->address + page * memory->page_bytes),
		    count * memory->page_bytes, advice))
		abort();
	for (uint64_t i = 0; i < count; i++)
		churn_writes[page + i] = CHURN_DISCARDED;
}

static void *churn_main(void *userdata)
{
	struct checker *checker = userdata;
	const struct order *order = checker->order;
	uint64_t first = checker->n_pages * checker->index / order->n_threads;
	uint64_t count = checker->n_pages * (checker->index + 1) / order->n_threads - first;
	uint64_t random = order->value + checker->index;

	for (uint64_t i = 0; i < order->count; i++) {
		uint64_t page;

		random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		page = first + (random >> 33) % count;
		if (!churn_is_right(checker->memory, page))
			checker->n_wrong++;
		if ((random >> 20) % 8 < 2)
			churn_write(checker->memory, page);
		else if ((random >> 20) % 8 == 2 && order->advice && page + 2 < first + count)
			churn_discard(checker->memory, page, 1 + (random >> 24) % 2, order->advice);
	}
	return NULL;
}

static uint64_t child_run(const struct hello *memory, uint64_t length, const struct order *order)
{
	void *(*run)(void *) = order->kind == ORDER_CHURN ? churn_main : checker_main;
	struct checker checkers[16] = {};
	uint64_t n_wrong = 0;

	if (order->kind == ORDER_CHURN && !churn_writes)
		churn_writes = calloc(length / memory->page_bytes, sizeof(churn_writes[0]));
	if (order->kind == ORDER_CHURN && !churn_writes)
		abort();
	for (unsigned int i = 0; i < order->n_threads; i++) {
		checkers[i] = (struct checker){ .memory = memory,
						.order = order,
						.n_pages = length / memory->page_bytes,
						.index = i };
		if (pthread_create(&checkers[i].thread, NULL, run, &checkers[i]))
			abort();
	}
	for (unsigned int i = 0; i < order->n_threads; i++) {
		pthread_join(checkers[i].thread, NULL);
		n_wrong += checkers[i].n_wrong;
	}
	return n_wrong;
}

static int child_map(enum child_memory kind, uint64_t length, struct hello *ret, int *ret_memfd)
{
	int flags = kind == CHILD_SHMEM || kind == CHILD_HUGETLB ? MAP_SHARED : MAP_PRIVATE;
	bool is_huge = kind == CHILD_HUGETLB || kind == CHILD_ANON_HUGE;
	bool is_anon = kind == CHILD_ANON || kind == CHILD_ANON_HUGE;
	void *memory;
	int r;

	ret->page_bytes = is_huge ? 2 * MIB : 4096;
	*ret_memfd = -1;
	if (!is_anon) {
		r = backing_create(ret_memfd, "child", length, is_huge ? 2 * MIB : 0);
		if (r < 0)
			return r;
	}
	if (is_anon)
		flags |= MAP_ANONYMOUS;
	if (kind == CHILD_ANON_HUGE)
		flags |= MAP_HUGETLB | MAP_HUGE_2MB;
	/* where transparent huge pages can be, as VMMs do it */
	memory = mmap(NULL, length + 2 * MIB, PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -errno;
	memory = mmap((void *)align_up((uint64_t)memory, 2 * MIB), length, PROT_READ | PROT_WRITE,
		      flags | MAP_FIXED, *ret_memfd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	ret->address = (uint64_t)memory;
	return 0;
}

static void child_say_hello(int socket, struct hello *hello, int uffd, int memfd)
{
	int fds[2] = { uffd, memfd };
	int n_fds = hello->error ? 0 : memfd >= 0 ? 2 : 1;
	char control[CMSG_SPACE(sizeof(fds))] = {};
	struct iovec iov = { hello, sizeof(*hello) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	hello->has_memfd = memfd >= 0;
	if (n_fds) {
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
		memcpy(CMSG_DATA(header), fds, (size_t)n_fds * sizeof(int));
	}
	if (sendmsg(socket, &message, 0) < 0)
		_exit(1);
}

static void child_obey(int socket, const struct hello *memory, uint64_t length, int memfd)
{
	const struct paged_child self = {
		.pid = getpid(),
		.pidfd = -1,
		.uffd = -1,
		.memfd = memfd,
		.socket = -1,
		.address = memory->address,
		.length = length,
		.page_bytes = memory->page_bytes,
	};
	struct order order;

	while (read(socket, &order, sizeof(order)) == sizeof(order)) {
		volatile uint64_t *word = (uint64_t *)(memory->address +
						       order.first * memory->page_bytes);
		uint64_t answer = 0;

		switch (order.kind) {
		case ORDER_CHECK:
		case ORDER_CHURN:
			answer = child_run(memory, length, &order);
			break;
		case ORDER_ADVISE:
			if (madvise((void *)word, order.count * memory->page_bytes, order.advice))
				answer = (uint64_t)errno;
			break;
		case ORDER_PEEK:
			answer = *word;
			break;
		case ORDER_POKE:
			*word = order.value;
			break;
		case ORDER_MAP:
			answer = (uint64_t)mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED,
						memfd, 0);
			break;
		case ORDER_CALL:
			answer = order.function(&self, order.argument);
			break;
		}
		if (write(socket, &answer, sizeof(answer)) < 0)
			_exit(1);
	}
}

static _Noreturn void child_main(int socket, enum child_memory kind, uint64_t length,
				 bool is_wp_sync)
{
	const struct kernel_features *features = features_get();
	struct hello hello = {};
	int uffd = -1, memfd = -1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	hello.error = uffd_open(&uffd, features->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE,
				features_wanted(is_wp_sync));
	if (hello.error == 0)
		hello.error = child_map(kind, length, &hello, &memfd);
	child_say_hello(socket, &hello, uffd, memfd);
	child_obey(socket, &hello, length, memfd);
	_exit(0);
}

/* ---- in the test ---- */

int child_start(struct paged_child *ret, enum child_memory kind, uint64_t length)
{
	return child_start_tracked(ret, kind, length, false);
}

int child_start_tracked(struct paged_child *ret, enum child_memory kind, uint64_t length,
			bool is_wp_sync)
{
	int sockets[2], fds[2] = { -1, -1 };
	char control[CMSG_SPACE(sizeof(fds))] = {};
	struct hello hello = {};
	struct iovec iov = { &hello, sizeof(hello) };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets))
		return -errno;
	ret->pid = fork();
	if (ret->pid == 0) {
		close(sockets[0]);
		child_main(sockets[1], kind, length, is_wp_sync);
	}
	close(sockets[1]);
	ret->socket = sockets[0];
	if (recvmsg(ret->socket, &message, MSG_CMSG_CLOEXEC) != sizeof(hello))
		hello.error = -EPROTO;
	header = CMSG_FIRSTHDR(&message);
	if (hello.error == 0 && header)
		memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	ret->uffd = fds[0];
	ret->memfd = hello.has_memfd ? fds[1] : -1;
	ret->address = hello.address;
	ret->page_bytes = hello.page_bytes;
	ret->length = length;
	ret->pidfd = -1;
	if (hello.error == 0)
		hello.error = pidfd_open_pid(&ret->pidfd, ret->pid);
	if (hello.error)
		child_stop(ret);
	return hello.error;
}

static void child_order(const struct paged_child *child, const struct order *order)
{
	ssize_t n = write(child->socket, order, sizeof(*order));

	assert(n == sizeof(*order));
	(void)n;
}

uint64_t child_result(const struct paged_child *child)
{
	uint64_t answer;

	if (read(child->socket, &answer, sizeof(answer)) != sizeof(answer))
		return UINT64_MAX;
	return answer;
}

void child_begin(const struct paged_child *child, unsigned int n_threads, enum child_order order,
		 bool with_writes)
{
	struct order check = { .kind = ORDER_CHECK,
			       .n_threads = n_threads,
			       .order = order,
			       .with_writes = with_writes };

	child_order(child, &check);
}

void child_begin_churn(const struct paged_child *child, unsigned int n_threads, uint64_t n_steps,
		       uint64_t seed, int advice)
{
	struct order order = { .kind = ORDER_CHURN,
			       .n_threads = n_threads,
			       .count = n_steps,
			       .value = seed,
			       .advice = advice };

	child_order(child, &order);
}

void child_check(const struct paged_child *child, unsigned int n_threads, enum child_order order,
		 bool with_writes, uint64_t *ret_wrong)
{
	child_begin(child, n_threads, order, with_writes);
	*ret_wrong = child_result(child);
}

void child_begin_advise(const struct paged_child *child, uint64_t first_page, uint64_t n_pages,
			int advice)
{
	struct order order = {
		.kind = ORDER_ADVISE, .first = first_page, .count = n_pages, .advice = advice
	};

	child_order(child, &order);
}

void child_advise(const struct paged_child *child, uint64_t first_page, uint64_t n_pages,
		  int advice)
{
	child_begin_advise(child, first_page, n_pages, advice);
	if (child_result(child))
		abort();
}

uint64_t child_peek(const struct paged_child *child, uint64_t page)
{
	struct order order = { .kind = ORDER_PEEK, .first = page };

	child_order(child, &order);
	return child_result(child);
}

void child_begin_poke(const struct paged_child *child, uint64_t page, uint64_t word)
{
	struct order order = { .kind = ORDER_POKE, .first = page, .value = word };

	child_order(child, &order);
}

void child_poke(const struct paged_child *child, uint64_t page, uint64_t word)
{
	child_begin_poke(child, page, word);
	(void)child_result(child);
}

bool child_has_result(const struct paged_child *child, int timeout_ms)
{
	struct pollfd wait = { .fd = child->socket, .events = POLLIN };

	return poll(&wait, 1, timeout_ms) == 1;
}

uint64_t child_call(const struct paged_child *child, child_function function, const void *argument,
		    size_t n_bytes)
{
	struct order order = { .kind = ORDER_CALL, .function = function };

	assert(n_bytes <= sizeof(order.argument));
	if (n_bytes)
		memcpy(order.argument, argument, n_bytes);
	child_order(child, &order);
	return child_result(child);
}

uint64_t child_map_again(const struct paged_child *child)
{
	struct order order = { .kind = ORDER_MAP };
	uint64_t address;

	child_order(child, &order);
	address = child_result(child);
	if (address == (uint64_t)MAP_FAILED)
		abort();
	return address;
}

void child_stop(struct paged_child *child)
{
	kill(child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
	closep(&child->uffd);
	closep(&child->memfd);
	closep(&child->pidfd);
	closep(&child->socket);
}
