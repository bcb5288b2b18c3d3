/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every way to change a page, or to look at it: seen by the tracker, merged by us, or no change. One
 * row a way; each runs on all backings that it exists on, with both trackers.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "system/test-dirty.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define TARGET	   3 /* the page that is looked at or written */
#define SKIPPED	   UINT64_C(0x5c1bbed)

#define ON_ANON	   (1u << CHILD_ANON)
#define ON_SHMEM   (1u << CHILD_SHMEM)
#define ON_HUGE	   (1u << CHILD_HUGETLB)
#define ON_PRIVATE (1u << CHILD_PRIVATE)
#define ON_SHARED  (ON_SHMEM | ON_HUGE)
#define ON_ALL	   (ON_ANON | ON_SHARED | ON_PRIVATE)

/* ---- the ways; run by the child. Return: 0, a positive errno, SKIPPED. ---- */

static char *target(const struct paged_child *self)
{
	return (char *)self->address + TARGET * self->page_bytes;
}

static uint64_t load(const struct paged_child *self, const void *argument)
{
	return *(volatile char *)target(self) ? 0 : EIO;
}

static uint64_t store(const struct paged_child *self, const void *argument)
{
	*(volatile char *)target(self) = 1;
	return 0;
}

static uint64_t read_into(const struct paged_child *self, const void *argument)
{
	int pipes[2];

	if (pipe(pipes) || write(pipes[1], "text", 4) != 4 || read(pipes[0], target(self), 4) != 4)
		return EIO;
	return 0;
}

static uint64_t write_from(const struct paged_child *self, const void *argument)
{
	int pipes[2];

	return pipe(pipes) || write(pipes[1], target(self), 4) != 4 ? EIO : 0;
}

static uint64_t vm_writev(const struct paged_child *self, const void *argument)
{
	struct iovec from = { "text", 4 }, to = { target(self), 4 };

	return process_vm_writev(getpid(), &from, 1, &to, 1, 0) == 4 ? 0 : (uint64_t)errno;
}

static uint64_t vm_readv(const struct paged_child *self, const void *argument)
{
	char buffer[4];
	struct iovec to = { buffer, 4 }, from = { target(self), 4 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 4 ? 0 : (uint64_t)errno;
}

static uint64_t proc_mem(const struct paged_child *self, const void *argument)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	return fd >= 0 && pwrite(fd, "text", 4, (off_t)target(self)) == 4 ? 0 : (uint64_t)errno;
}

static int direct_file(void)
{
	char path[] = "/var/tmp/ufd-dirty-XXXXXX";
	int plain = mkstemp(path), fd;
	char page[4096] = "text";

	if (plain < 0 || write(plain, page, sizeof(page)) != sizeof(page))
		return -1;
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	unlink(path);
	close(plain);
	return fd;
}

static uint64_t direct_read(const struct paged_child *self, const void *argument)
{
	int fd = direct_file();

	if (fd < 0)
		return SKIPPED;
	return pread(fd, target(self), 4096, 0) == 4096 ? 0 : (uint64_t)errno;
}

static uint64_t direct_write(const struct paged_child *self, const void *argument)
{
	int fd = direct_file();

	if (fd < 0)
		return SKIPPED;
	return pwrite(fd, target(self), 4096, 0) == 4096 ? 0 : (uint64_t)errno;
}

static struct io_uring ring; /* of the child */

static uint64_t ring_done(void)
{
	struct io_uring_cqe *cqe;
	uint64_t result = EIO;

	if (io_uring_submit_and_wait(&ring, 1) < 0 || io_uring_peek_cqe(&ring, &cqe))
		return EIO;
	if (cqe->res > 0)
		result = 0;
	io_uring_cqe_seen(&ring, cqe);
	return result;
}

static uint64_t ring_read(const struct paged_child *self, const void *argument)
{
	int pipes[2];

	if (io_uring_queue_init(4, &ring, 0) < 0)
		return SKIPPED;
	if (pipe(pipes) || write(pipes[1], "text", 4) != 4)
		return EIO;
	io_uring_prep_read(io_uring_get_sqe(&ring), pipes[0], target(self), 4, 0);
	return ring_done();
}

/* Before anything is protected: the kernel keeps its own way to the page. */
static uint64_t pin(const struct paged_child *self, const void *argument)
{
	struct iovec buffer = { target(self), self->page_bytes };

	if (io_uring_queue_init(4, &ring, 0) < 0)
		return SKIPPED;
	return io_uring_register_buffers(&ring, &buffer, 1) < 0 ? SKIPPED : 0;
}

static uint64_t write_pinned(const struct paged_child *self, const void *argument)
{
	int pipes[2];

	if (pipe(pipes) || write(pipes[1], "text", 4) != 4)
		return EIO;
	io_uring_prep_read_fixed(io_uring_get_sqe(&ring), pipes[0], target(self), 4, 0, 0);
	if (ring_done())
		return EIO;
	return memcmp(target(self), "text", 4) ? EIO : 0;
}

static uint64_t advise(const struct paged_child *self, int advice)
{
	return madvise(target(self), self->page_bytes, advice) ? (uint64_t)errno : 0;
}

static uint64_t populate_read(const struct paged_child *self, const void *argument)
{
	return advise(self, MADV_POPULATE_READ);
}

static uint64_t populate_write(const struct paged_child *self, const void *argument)
{
	return advise(self, MADV_POPULATE_WRITE);
}

static uint64_t dontneed(const struct paged_child *self, const void *argument)
{
	return advise(self, MADV_DONTNEED);
}

static uint64_t remove_page(const struct paged_child *self, const void *argument)
{
	return advise(self, MADV_REMOVE);
}

static uint64_t free_page(const struct paged_child *self, const void *argument)
{
	return advise(self, MADV_FREE);
}

/* Without swap nothing goes; where there is some, it comes back by the load. */
static uint64_t page_out(const struct paged_child *self, const void *argument)
{
	(void)advise(self, MADV_PAGEOUT);
	return load(self, argument);
}

static uint64_t protect(const struct paged_child *self, const void *argument)
{
	if (mprotect((void *)self->address, self->length, PROT_READ) ||
	    mprotect((void *)self->address, self->length, PROT_READ | PROT_WRITE))
		return (uint64_t)errno;
	return load(self, argument);
}

static uint64_t futex(const struct paged_child *self, const void *argument)
{
	return syscall(SYS_futex, target(self), FUTEX_WAKE, 1, NULL, NULL, 0) < 0 ? (uint64_t)errno
										  : 0;
}

static uint64_t punch(const struct paged_child *self, const void *argument)
{
	return fallocate(self->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(TARGET * self->page_bytes), (off_t)self->page_bytes)
		       ? (uint64_t)errno
		       : 0;
}

/* All from the target on. */
static uint64_t truncate_file(const struct paged_child *self, const void *argument)
{
	return ftruncate(self->memfd, (off_t)(TARGET * self->page_bytes)) ||
			       ftruncate(self->memfd, (off_t)self->length)
		       ? (uint64_t)errno
		       : 0;
}

static uint64_t write_file(const struct paged_child *self, const void *argument)
{
	return pwrite(self->memfd, "text", 4, (off_t)(TARGET * self->page_bytes)) == 4
		       ? 0
		       : (uint64_t)errno;
}

/* Something else where the second half was: the kernel does not track that any more. */
static uint64_t map_over(const struct paged_child *self, const void *argument)
{
	uint64_t half = self->length / 2;
	void *at = mmap((void *)(self->address + half), half, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_FIXED, self->memfd, (off_t)half);

	return at == MAP_FAILED ? (uint64_t)errno : 0;
}

/* ---- a guest of KVM ---- */

/* mov byte [0x1000], 0x24; hlt: in real mode, from address 0 of its memory. */
static const unsigned char guest_code[] = { 0xb0, 0x24, 0xa2, 0x00, 0x10, 0xf4 };

struct kvm_guest {
	int vcpu;
	struct kvm_run *run;
};
static struct kvm_guest kvm_guest; /* of the child */

static int kvm_vcpu(const struct paged_child *self, int kvm, char *code)
{
	struct kvm_userspace_memory_region memory = {
		.guest_phys_addr = 0x1000,
		.memory_size = self->page_bytes,
		.userspace_addr = (uintptr_t)target(self),
	};
	struct kvm_userspace_memory_region program = {
		.slot = 1,
		.memory_size = 4096,
		.userspace_addr = (uintptr_t)code,
	};
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &memory) < 0 ||
	    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &program) < 0)
		return -1;
	return ioctl(vm, KVM_CREATE_VCPU, 0);
}

/* A virtual machine whose page at 0x1000 is the target. */
static uint64_t kvm_begin(const struct paged_child *self, const void *argument)
{
	char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_regs registers = { .rflags = 2 };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct kvm_sregs segments;

	if (kvm < 0 || code == MAP_FAILED)
		return SKIPPED;
	memcpy(code, guest_code, sizeof(guest_code));
	kvm_guest.vcpu = kvm_vcpu(self, kvm, code);
	if (kvm_guest.vcpu < 0 || ioctl(kvm_guest.vcpu, KVM_GET_SREGS, &segments) < 0)
		return SKIPPED;
	segments.cs.base = segments.cs.selector = 0;
	segments.ds.base = segments.ds.selector = 0;
	kvm_guest.run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
			     PROT_READ | PROT_WRITE, MAP_SHARED, kvm_guest.vcpu, 0);
	if (kvm_guest.run == MAP_FAILED || ioctl(kvm_guest.vcpu, KVM_SET_SREGS, &segments) < 0 ||
	    ioctl(kvm_guest.vcpu, KVM_SET_REGS, &registers) < 0)
		return SKIPPED;
	return 0;
}

static uint64_t kvm_store(const struct paged_child *self, const void *argument)
{
	struct kvm_regs registers = { .rflags = 2 };

	if (ioctl(kvm_guest.vcpu, KVM_SET_REGS, &registers) < 0 ||
	    ioctl(kvm_guest.vcpu, KVM_RUN, 0) < 0)
		return (uint64_t)errno;
	if (kvm_guest.run->exit_reason != KVM_EXIT_HLT)
		return EPROTO;
	return *(volatile char *)target(self) == 0x24 ? 0 : EIO;
}

/* ---- the table ---- */

enum finding {
	SEEN,	      /* the page, and no other */
	UNCHANGED,    /* nothing: it holds what it held */
	SEEN_TO_END,  /* from the page on */
	SECOND_HALF,  /* what the kernel does not track any more, as a whole */
	PIECE,	      /* the same, in one piece with what it still tracks */
	WHOLE,	      /* nobody knows where: all that exists, and it is said */
	NOT_SEEN,     /* why block devices with pinned memory are paused: nothing shows it */
	REFUSED_HERE, /* the kernel does not do it to a protected page (EIO) */
};

static const struct way {
	const char *what;
	child_function act;
	child_function prepare; /* before tracking begins; may be NULL */
	unsigned int kinds;
	enum finding scan, wp;
} ways[] = {
	{ "load", load, NULL, ON_ALL, UNCHANGED, UNCHANGED },
	{ "write(2) out of it", write_from, NULL, ON_ALL, UNCHANGED, UNCHANGED },
	{ "process_vm_readv", vm_readv, NULL, ON_ALL, UNCHANGED, UNCHANGED },
	{ "O_DIRECT write out of it", direct_write, NULL, ON_ALL, UNCHANGED, UNCHANGED },
	{ "MADV_POPULATE_READ", populate_read, NULL, ON_ALL, UNCHANGED, UNCHANGED },
	{ "MADV_PAGEOUT and a load", page_out, NULL, ON_ALL, UNCHANGED, UNCHANGED },
	{ "mprotect there and back", protect, NULL, ON_ALL, UNCHANGED, UNCHANGED },
	{ "store", store, NULL, ON_ALL, SEEN, SEEN },
	{ "store of a KVM guest", kvm_store, kvm_begin, ON_ALL, SEEN, SEEN },
	{ "read(2) into it", read_into, NULL, ON_ALL, SEEN, SEEN },
	{ "process_vm_writev", vm_writev, NULL, ON_ALL, SEEN, SEEN },
	{ "/proc/self/mem", proc_mem, NULL, ON_ALL, SEEN, REFUSED_HERE },
	{ "O_DIRECT read into it", direct_read, NULL, ON_ALL, SEEN, SEEN },
	{ "io_uring read into it", ring_read, NULL, ON_ALL, SEEN, SEEN },
	{ "MADV_POPULATE_WRITE", populate_write, NULL, ON_ALL, SEEN, SEEN },
	{ "FUTEX_WAKE", futex, NULL, ON_SHARED, SEEN, SEEN },
	{ "MADV_DONTNEED", dontneed, NULL, ON_ALL, SEEN, SEEN },
	{ "MADV_FREE", free_page, NULL, ON_ANON, SEEN, SEEN },
	{ "MADV_REMOVE", remove_page, NULL, ON_SHARED, SEEN, SEEN },
	{ "PUNCH_HOLE", punch, NULL, ON_SHARED, SEEN, SEEN },
	{ "ftruncate there and back", truncate_file, NULL, ON_SHARED, SEEN_TO_END, SEEN_TO_END },
	{ "pwrite into the file", write_file, NULL, ON_SHMEM, WHOLE, WHOLE },
	/* its owner must say so: else scan notices it, by pieces of 2 MiB, and wp does not */
	{ "mapped anew", map_over, NULL, ON_HUGE, SECOND_HALF, NOT_SEEN },
	{ "mapped anew", map_over, NULL, ON_SHMEM, PIECE, NOT_SEEN },
	{ "pinned before, written by io_uring", write_pinned, pin, ON_ALL, NOT_SEEN, NOT_SEEN },
};
#define N_WAYS (sizeof(ways) / sizeof(ways[0]))

/* ---- what is expected ---- */

static void expect_pages(struct dirty_fixture *fixture, enum finding finding)
{
	uint64_t pages[DIRTY_PAGES];
	uint64_t first = 0;
	size_t n = 0;

	switch (finding) {
	case SEEN:
		pages[n++] = TARGET;
		break;
	case SEEN_TO_END:
		first = TARGET;
		break;
	case SECOND_HALF:
		first = DIRTY_PAGES / 2;
		break;
	case PIECE:
	case WHOLE:
		break;
	case UNCHANGED:
	case NOT_SEEN:
	case REFUSED_HERE:
		first = DIRTY_PAGES;
		break;
	}
	for (uint64_t page = first; finding != SEEN && page < DIRTY_PAGES; page++)
		pages[n++] = page;
	dirty_expect(fixture, "a", pages, n);
}

static void check_way(struct dirty_fixture *fixture, const struct way *way)
{
	enum finding finding = fixture->row->track == UFD_TRACK_SCAN ? way->scan : way->wp;
	uint64_t expected = finding == REFUSED_HERE ? EIO : 0;
	uint64_t result = 0;

	dirty_begin(fixture, fixture->row);
	dirty_finish(fixture);
	if (way->prepare)
		result = child_call(&fixture->child, way->prepare, NULL, 0);
	if (result == 0) {
		dirty_start(fixture, "a");
		result = child_call(&fixture->child, way->act, NULL, 0);
	}
	if (result == SKIPPED) {
		printf("# %s, %s: not to be had here\n", fixture->row->what, way->what);
		dirty_end(fixture);
		return;
	}
	ck_assert_msg(result == expected, "%s, %s: %s", fixture->row->what, way->what,
		      strerror((int)result));
	printf("# %s, %s\n", fixture->row->what, way->what);
	fflush(stdout);
	expect_pages(fixture, finding);
	if (finding == WHOLE)
		dirty_wait_event(fixture, UFD_EVENT_FOREIGN_WRITE);
	dirty_end(fixture);
}

START_TEST(each_way_to_write_a_page_is_known)
{
	const struct dirty_row *row = &dirty_rows[_i / N_WAYS];
	const struct way *way = &ways[_i % N_WAYS];
	struct dirty_fixture fixture = { .row = row };

	if (!(way->kinds >> row->kind & 1))
		return;
	check_way(&fixture, way);
}
END_TEST

/* ---- huge pages that the kernel makes by itself ---- */

#define THP_PAGES 1024

static uint64_t collapse(const struct paged_child *self, const void *argument)
{
	uint64_t first = align_up(self->address, 2 * MIB);

	(void)madvise((void *)self->address, self->length, MADV_HUGEPAGE);
	if (madvise((void *)first, 2 * MIB, MADV_COLLAPSE))
		return SKIPPED;
	return 0;
}

/* One byte is one page, whichever size the kernel maps: the first write splits what it protects. */
START_TEST(a_byte_in_a_transparent_huge_page_is_one_page)
{
	const struct dirty_row *row = &dirty_rows[_i];
	struct dirty_fixture fixture;
	uint64_t page;

	if (row->kind != CHILD_ANON && row->kind != CHILD_SHMEM)
		return;
	dirty_prepare(&fixture, row, THP_PAGES);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	dirty_finish(&fixture);
	if (child_call(&fixture.child, collapse, NULL, 0) == SKIPPED) {
		dirty_end(&fixture);
		unit_skip("no transparent huge pages here");
	}
	page = (align_up(fixture.child.address, 2 * MIB) - fixture.child.address) / 4096 + 5;
	dirty_start(&fixture, "a");
	for (uint64_t i = 0; i < 3; i++) {
		child_poke(&fixture.child, page + i, 1);
		dirty_expect(&fixture, "a", (uint64_t[]){ page + i }, 1);
	}
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	dirty_stop(&fixture, "a");
	dirty_start(&fixture, "a");
	child_poke(&fixture.child, page, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ page }, 1);
	dirty_end(&fixture);
}
END_TEST

/* ---- announced ---- */

START_TEST(a_write_that_is_announced_is_that_page)
{
	struct dirty_fixture fixture;

	if (dirty_rows[_i].kind != CHILD_SHMEM)
		return;
	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	ck_assert_uint_eq(child_call(&fixture.child, write_file, NULL, 0), 0);
	ck_assert_int_eq(
		ufd_pager_guest_note_write(fixture.guest, fixture.memory, TARGET * 4096, 4096), 0);
	dirty_expect(&fixture, "a", (uint64_t[]){ TARGET }, 1);
	ck_assert_uint_eq(child_call(&fixture.child, punch, NULL, 0), 0);
	ck_assert_int_eq(
		ufd_pager_guest_note_discard(fixture.guest, fixture.memory, TARGET * 4096, 4096),
		0);
	dirty_expect(&fixture, "a", (uint64_t[]){ TARGET }, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	ufd_pager_dispatch(fixture.pager);
	ck_assert_uint_eq(fixture.n_events[UFD_EVENT_FOREIGN_WRITE], 0);
	dirty_end(&fixture);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * DIRTY_PAGES);
	return unit_run(
		"dirty-rows",
		(struct unit_test[]){
			{ "each_way_to_write_a_page_is_known", each_way_to_write_a_page_is_known,
			  N_ROWS(dirty_rows) * (int)N_WAYS },
			UNIT_TABLE(a_byte_in_a_transparent_huge_page_is_one_page, dirty_rows),
			UNIT_TABLE(a_write_that_is_announced_is_that_page, dirty_rows),
			{},
		});
}
