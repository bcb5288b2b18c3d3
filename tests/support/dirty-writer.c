/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest that writes pages at random and keeps account of them. */
#include "support/dirty-writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
#include "base/units.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "support/dirty-kvm.h"

/* <linux/mman.h> of Linux 6.1; older C libraries lack it */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* ---- which pages ---- */

/* Where a page stands in the order in which they come into use. */
static uint64_t scatter(uint64_t page)
{
	uint64_t x = (page + 1) * UINT64_C(0x9e3779b97f4a7c15);

	x ^= x >> 31;
	return x * UINT64_C(0xbf58476d1ce4e5b9) >> 33;
}

bool writer_is_used(const struct writer_board *board, uint64_t page)
{
	return page < atomic_load(&board->n_open) &&
	       scatter(page) % 100 < atomic_load(&board->percent);
}

enum foreign writer_foreign(const struct writer *writer, uint64_t page)
{
	uint64_t place = (scatter(page) / 128) % 16;

	if (writer->opts.is_kvm || writer->opts.is_sealed || writer->child.memfd < 0)
		return FOREIGN_NONE;
	if (place == 0 && writer->opts.kind == CHILD_SHMEM)
		return FOREIGN_WRITE;
	if (place == 1)
		return FOREIGN_PUNCH;
	return place == 2 ? FOREIGN_SECRET : FOREIGN_NONE;
}

/* ---- a thread of the guest ---- */

struct scribe {
	struct writer *writer;
	unsigned int index;
	uint64_t random;
	struct dirty_vcpu *vcpu; /* writes in place of the thread; NULL: none */
};

static uint64_t draw(struct scribe *scribe)
{
	scribe->random = scribe->random * UINT64_C(6364136223846793005) +
			 UINT64_C(1442695040888963407);
	return scribe->random >> 32;
}

static volatile uint64_t *words_of(const struct writer *writer, uint64_t page)
{
	return (volatile uint64_t *)(writer->child.address + page * writer->child.page_bytes);
}

static uint64_t *account_of(const struct writer *writer, uint64_t page)
{
	return (uint64_t *)(writer->account + page * writer->child.page_bytes);
}

static void note_wrong(struct writer *writer, uint64_t page)
{
	atomic_store(&writer->board->wrong_page, page);
	atomic_fetch_add(&writer->board->n_wrong, 1);
}

/* To read a page does not undo what was done with it. */
static void touch(const struct writer *writer, uint64_t page, enum touched how)
{
	if (how != TOUCHED_READ || atomic_load(&writer->touched[page]) == TOUCHED_NEVER)
		atomic_store(&writer->touched[page], how);
}

static void look(struct scribe *scribe, uint64_t page)
{
	const struct writer *writer = scribe->writer;
	uint64_t n_words = writer->child.page_bytes / sizeof(uint64_t);

	for (unsigned int i = 0; i < 4; i++) {
		uint64_t index = draw(scribe) % n_words;

		if (words_of(writer, page)[index] != account_of(writer, page)[index]) {
			note_wrong(scribe->writer, page);
			return;
		}
	}
}

static void put(struct scribe *scribe, uint64_t page, uint64_t index)
{
	uint64_t value = draw(scribe) | 1;

	words_of(scribe->writer, page)[index] = value;
	account_of(scribe->writer, page)[index] = value;
}

static void discard(struct scribe *scribe, uint64_t page)
{
	const struct writer *writer = scribe->writer;
	uint64_t page_bytes = writer->child.page_bytes;

	bool is_shared = writer->opts.kind == CHILD_SHMEM || writer->opts.kind == CHILD_HUGETLB;
	bool is_kept = is_shared && writer->opts.advice == MADV_DONTNEED;

	/* of an absent page the engine cannot tell that from a discard */
	if (is_kept && !atomic_load(&writer->accessed[page]))
		return;
	touch(writer, page, TOUCHED_DISCARDED);
	if (madvise((void *)words_of(writer, page), page_bytes, writer->opts.advice))
		abort();
	if (!is_kept)
		memset(account_of(writer, page), 0, page_bytes);
}

static void step(struct scribe *scribe, uint64_t page)
{
	const struct writer *writer = scribe->writer;
	uint64_t n_words = writer->child.page_bytes / sizeof(uint64_t);
	uint64_t kind = draw(scribe) % 32;

	if (kind < 8)
		look(scribe, page);
	if (kind == 8 && writer->opts.advice) {
		discard(scribe, page);
	} else if (kind > 3) {
		uint64_t stride = n_words > 512 ? 64
						: 1; /* of a huge page some of each 512 bytes */
		bool is_whole = kind == 9;
		uint64_t n = is_whole ? n_words / stride : 1 + draw(scribe) % 3;

		touch(writer, page, TOUCHED_WRITTEN);
		for (uint64_t i = 0; i < n; i++)
			put(scribe, page, is_whole ? i * stride : draw(scribe) % n_words);
	}
	atomic_fetch_add(&writer->board->n_written, 1);
}

/* One of the pages in use that is this thread's, or the test's (to be read). False if luck fails. */
static bool choose(struct scribe *scribe, uint64_t *ret_page)
{
	const struct writer *writer = scribe->writer;
	unsigned int n_threads = writer->opts.n_threads;

	for (unsigned int tries = 0; tries < 256; tries++) {
		uint64_t page = draw(scribe) % writer->opts.n_pages;

		if (!writer_is_used(writer->board, page))
			continue;
		if (page % n_threads != scribe->index &&
		    writer_foreign(writer, page) == FOREIGN_NONE)
			continue;
		*ret_page = page;
		return true;
	}
	return false;
}

static void write_by_hand(struct scribe *scribe)
{
	const struct writer *writer = scribe->writer;

	for (unsigned int i = 0; i < GRANT_PAGES; i++) {
		uint64_t page;

		if (!choose(scribe, &page))
			return;
		touch(writer, page, TOUCHED_READ);
		if (writer_foreign(writer, page) == FOREIGN_NONE)
			step(scribe, page);
		else
			(void)words_of(writer, page)[0];
		atomic_store(&writer->accessed[page], 1);
	}
}

static void write_by_guest(struct scribe *scribe)
{
	struct dirty_store stores[GRANT_PAGES];
	const struct writer *writer = scribe->writer;
	unsigned int n = 0;
	uint64_t page;

	for (; n < GRANT_PAGES && choose(scribe, &page); n++) {
		uint64_t index = draw(scribe) % (writer->child.page_bytes / sizeof(uint64_t));
		uint64_t value = draw(scribe) | 1;

		touch(writer, page, TOUCHED_WRITTEN);
		stores[n] = (struct dirty_store){ KVM_MEMORY_AT + page * writer->child.page_bytes +
							  index * sizeof(uint64_t),
						  value };
		account_of(writer, page)[index] = value;
	}
	dirty_vcpu_run(scribe->vcpu, stores, n);
	atomic_fetch_add(&writer->board->n_written, n);
}

static void *scribe_main(void *userdata)
{
	struct scribe *scribe = userdata;
	struct writer_board *board = scribe->writer->board;

	for (;;) {
		while (sem_wait(&board->grants))
			;
		if (scribe->vcpu)
			write_by_guest(scribe);
		else
			write_by_hand(scribe);
		sem_post(&board->done);
	}
	return NULL;
}

/* ---- the guest ---- */

struct writer_order {
	bool is_forget; /* else: compare everything */
	uint64_t first, count;
};

struct writer_hello {
	int error;
	uint64_t address;
};

static uint64_t compare(struct writer *writer)
{
	uint64_t n_wrong = 0, page_bytes = writer->child.page_bytes;

	for (uint64_t page = 0; page < atomic_load(&writer->board->n_open); page++)
		if (memcmp((const void *)words_of(writer, page), account_of(writer, page),
			   page_bytes)) {
			atomic_store(&writer->board->wrong_page, page);
			n_wrong++;
		}
	return n_wrong;
}

static void forget(struct writer *writer, uint64_t first, uint64_t count)
{
	uint64_t length = count * writer->child.page_bytes;

	if (madvise((void *)words_of(writer, first), length, MADV_DONTNEED))
		abort();
}

static int map(struct writer *writer)
{
	const struct writer_opts *opts = &writer->opts;
	bool is_private = opts->kind == CHILD_PRIVATE || opts->kind == CHILD_ANON;
	uint64_t length = writer->child.length;
	int flags = (is_private ? MAP_PRIVATE : MAP_SHARED) | MAP_FIXED;
	char *space, *memory;

	/* aligned for huge pages */
	space = mmap(NULL, length + 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (space == MAP_FAILED)
		return -errno;
	memory = (char *)align_up((uintptr_t)space, 2 * MIB);
	if (opts->kind == CHILD_ANON)
		flags |= MAP_ANONYMOUS;
	if (mmap(memory, length, PROT_READ | PROT_WRITE, flags, writer->child.memfd, 0) ==
	    MAP_FAILED)
		return -errno;
	writer->child.address = (uintptr_t)memory;
	if (!opts->is_populated) {
		if (opts->kind == CHILD_ANON)
			madvise(memory, length, MADV_NOHUGEPAGE);
		return 0;
	}
	madvise(memory, length, MADV_HUGEPAGE);
	memcpy(memory, writer->account, length);
	if (opts->kind != CHILD_HUGETLB)
		madvise(memory, length, MADV_COLLAPSE);
	return 0;
}

static void say_hello(int socket, struct writer_hello *hello, int uffd)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iov = { hello, sizeof(*hello) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (hello->error == 0) {
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &uffd, sizeof(int));
	}
	if (sendmsg(socket, &message, MSG_NOSIGNAL) < 0)
		_exit(1);
}

static int start_threads(struct writer *writer)
{
	static struct scribe scribes[8];
	struct dirty_vm *vm = NULL;
	pthread_t thread;
	int r;

	if (writer->opts.is_kvm) {
		r = dirty_vm_new(&vm, (void *)writer->child.address, writer->child.length);
		if (r < 0)
			return r;
	}
	for (unsigned int i = 0; i < writer->opts.n_threads; i++) {
		scribes[i] = (struct scribe){ .writer = writer,
					      .index = i,
					      .random = writer->opts.seed * 8 + i };
		if (vm) {
			r = dirty_vcpu_new(&scribes[i].vcpu, vm, i);
			if (r < 0)
				return r;
		}
		if (pthread_create(&thread, NULL, scribe_main, &scribes[i]))
			return -EAGAIN;
	}
	return 0;
}

static _Noreturn void writer_main(int socket, struct writer *writer)
{
	const struct kernel_features *features = features_get();
	struct writer_hello hello = {};
	struct writer_order order;
	int uffd = -1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	hello.error = uffd_open(&uffd, features->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE,
				features_wanted(writer->opts.is_sync));
	if (hello.error == 0)
		hello.error = map(writer);
	if (hello.error == 0)
		hello.error = start_threads(writer);
	hello.address = writer->child.address;
	say_hello(socket, &hello, uffd);
	while (read(socket, &order, sizeof(order)) == sizeof(order)) {
		uint64_t answer = 0;

		if (order.is_forget)
			forget(writer, order.first, order.count);
		else
			answer = compare(writer);
		if (send(socket, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
			_exit(1);
	}
	_exit(0);
}

/* ---- in the test ---- */

static void *share(uint64_t length)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		abort();
	return memory;
}

/* What huge pages it has, by its own account. */
static uint64_t count_huge(const struct paged_child *child)
{
	char path[64], line[256];
	uint64_t total = 0, kib;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", child->pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "AnonHugePages: %lu", &kib) == 1 ||
		    sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1)
			total += kib * KIB;
	if (file)
		fclose(file);
	return total;
}

static int receive(struct writer *writer)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct writer_hello hello = {};
	struct iovec iov = { &hello, sizeof(hello) };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header;

	if (recvmsg(writer->child.socket, &message, MSG_CMSG_CLOEXEC) != sizeof(hello))
		return -EPROTO;
	header = CMSG_FIRSTHDR(&message);
	if (hello.error || !header)
		return hello.error ? hello.error : -EPROTO;
	memcpy(&writer->child.uffd, CMSG_DATA(header), sizeof(int));
	writer->child.address = hello.address;
	return pidfd_open_pid(&writer->child.pidfd, writer->child.pid);
}

static int make_file(struct writer *writer)
{
	enum child_memory kind = writer->opts.kind;
	int r;

	if (kind == CHILD_ANON)
		return 0;
	r = backing_create(&writer->child.memfd, "writer", writer->child.length,
			   kind == CHILD_HUGETLB ? 2 * MIB : 0);
	if (r == 0 && writer->opts.is_sealed &&
	    fcntl(writer->child.memfd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK))
		r = -errno;
	return r;
}

int writer_start(struct writer *writer, const struct writer_opts *opts)
{
	struct paged_child *child = &writer->child;
	int sockets[2], r;

	*writer = (struct writer){ .opts = *opts };
	*child = (struct paged_child){ .pidfd = -1, .uffd = -1, .memfd = -1, .socket = -1 };
	child->page_bytes = opts->kind == CHILD_HUGETLB ? 2 * MIB : 4096;
	child->length = opts->n_pages * child->page_bytes;
	writer->board = share(sizeof(*writer->board));
	writer->account = share(child->length);
	writer->touched = share(opts->n_pages);
	writer->accessed = share(opts->n_pages);
	for (uint64_t page = 0; page < opts->n_pages; page++)
		child_page(page, child->page_bytes, writer->account + page * child->page_bytes);
	sem_init(&writer->board->grants, 1, 0);
	sem_init(&writer->board->done, 1, 0);
	atomic_store(&writer->board->n_open, opts->n_pages);

	r = make_file(writer);
	if (r == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets))
		r = -errno;
	if (r < 0) {
		writer_stop(writer);
		return r;
	}
	child->pid = fork();
	if (child->pid == 0) {
		close(sockets[0]);
		writer_main(sockets[1], writer);
	}
	close(sockets[1]);
	child->socket = sockets[0];
	r = receive(writer);
	if (r < 0)
		writer_stop(writer);
	else
		writer->huge_bytes = count_huge(child);
	return r;
}

void writer_stop(struct writer *writer)
{
	if (writer->child.pid)
		kill(writer->child.pid, SIGKILL);
	if (writer->child.pid)
		waitpid(writer->child.pid, NULL, 0);
	closep(&writer->child.uffd);
	closep(&writer->child.memfd);
	closep(&writer->child.pidfd);
	closep(&writer->child.socket);
	munmap(writer->account, writer->child.length);
	munmap((void *)writer->touched, writer->opts.n_pages);
	munmap((void *)writer->accessed, writer->opts.n_pages);
	munmap(writer->board, sizeof(*writer->board));
}

void writer_grant(struct writer *writer)
{
	sem_post(&writer->board->grants);
}

bool writer_take_done(struct writer *writer, uint64_t wait_ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	wait_ns += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(wait_ns / NSEC_PER_SEC);
	until.tv_nsec = (long)(wait_ns % NSEC_PER_SEC);
	return sem_clockwait(&writer->board->done, CLOCK_MONOTONIC, &until) == 0;
}

static void order(struct writer *writer, const struct writer_order *order)
{
	if (send(writer->child.socket, order, sizeof(*order), MSG_NOSIGNAL) < 0)
		abort();
}

void writer_begin_check(struct writer *writer)
{
	struct writer_order check = {};

	order(writer, &check);
}

void writer_forget(struct writer *writer, uint64_t first, uint64_t count)
{
	struct writer_order orders = { .is_forget = true, .first = first, .count = count };

	order(writer, &orders);
	if (child_result(&writer->child))
		abort();
	memset((void *)(writer->touched + first), 0, count);
	memset((void *)(writer->accessed + first), 0, count);
}
