/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* userfaultfd against the real kernel: opening, handshake, registration, reading. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "kernel/features.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/target.h"
#include "support/unit.h"

enum { N_MAPPINGS = 200000 };

enum { ALL_MODES = UFFD_MODE_MISSING | UFFD_MODE_WP | UFFD_MODE_MINOR };

static bool is_way_open(enum uffd_way way)
{
	if (way == UFFD_WAY_SYSCALL)
		return features_get()->may_syscall;
	return way == UFFD_WAY_USER_MODE || features_get()->may_device;
}

static const enum uffd_way ways[] = { UFFD_WAY_SYSCALL, UFFD_WAY_DEVICE, UFFD_WAY_USER_MODE };

START_TEST(every_way_opens_a_pollable_uffd_that_tells_its_features)
{
	uint64_t features = features_get()->uffd & UFFD_FEATURE_THREAD_ID, found = 0;
	_cleanup_(closep) int fd = -EBADF;
	struct pollfd poll_fd;

	if (!is_way_open(ways[_i]))
		unit_skip("this way is closed to us");
	ck_assert_int_eq(uffd_open(&fd, ways[_i], features), 0);
	ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	ck_assert_int_eq(uffd_inspect(fd, &found), 0);
	ck_assert_uint_eq(found, features);
	poll_fd = (struct pollfd){ .fd = fd, .events = POLLIN };
	ck_assert_int_eq(poll(&poll_fd, 1, 0), 0);
}
END_TEST

START_TEST(unknown_features_are_refused_and_leave_ret_alone)
{
	int fd = 12345;

	ck_assert_int_eq(uffd_open(&fd, UFFD_WAY_USER_MODE, UINT64_C(1) << 62), -EINVAL);
	ck_assert_int_eq(fd, 12345);
}
END_TEST

START_TEST(inspection_tells_what_is_wrong_with_an_fd)
{
	int raw = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	_cleanup_(closep) int fd = raw, other = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uint64_t features = 99;

	ck_assert_int_ge(raw, 0);
	ck_assert_int_eq(uffd_inspect(other, &features), -EBADFD);
	ck_assert_int_eq(uffd_inspect(1000, &features), -EBADF);
	ck_assert_int_eq(uffd_inspect(fd, &features), -EPROTO);
	ck_assert_int_eq(uffd_handshake(fd, 0), 0);
	ck_assert_int_eq(uffd_inspect(fd, &features), -EWOULDBLOCK);
	ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	ck_assert_uint_eq(features, 99);
	ck_assert_int_eq(uffd_inspect(fd, &features), 0);
	ck_assert_uint_eq(features, 0);
	ck_assert_int_eq(uffd_handshake(fd, 0), -EINVAL);
}
END_TEST

#define BIT(n) (UINT64_C(1) << (n))

static const struct {
	const char *what;
	enum target_memory memory;
	unsigned int modes;
	int result;
	uint64_t ioctls; /* at least these */
} registrations[] = {
	{ "anon missing", TARGET_ANON, UFFD_MODE_MISSING, 0,
	  BIT(_UFFDIO_COPY) | BIT(_UFFDIO_ZEROPAGE) | BIT(_UFFDIO_WAKE) },
	{ "anon missing+wp", TARGET_ANON, UFFD_MODE_MISSING | UFFD_MODE_WP, 0,
	  BIT(_UFFDIO_COPY) | BIT(_UFFDIO_WRITEPROTECT) },
	{ "anon minor", TARGET_ANON, UFFD_MODE_MINOR, UFFD_REFUSED, 0 },
	{ "anon without a mode", TARGET_ANON, 0, UFFD_REFUSED, 0 },
	{ "shmem all", TARGET_SHMEM, ALL_MODES, 0,
	  BIT(_UFFDIO_COPY) | BIT(_UFFDIO_ZEROPAGE) | BIT(_UFFDIO_CONTINUE) |
		  BIT(_UFFDIO_WRITEPROTECT) },
	{ "private file all", TARGET_PRIVATE, ALL_MODES, 0,
	  BIT(_UFFDIO_COPY) | BIT(_UFFDIO_CONTINUE) | BIT(_UFFDIO_WRITEPROTECT) },
	{ "hugetlb all", TARGET_HUGETLB, ALL_MODES, 0,
	  BIT(_UFFDIO_COPY) | BIT(_UFFDIO_CONTINUE) | BIT(_UFFDIO_WRITEPROTECT) },
};

START_TEST(a_mapping_takes_the_modes_of_its_kind)
{
	_cleanup_(target_done) struct target target;
	uint64_t ioctls = 0;

	target_start(&target, registrations[_i].memory, 2, 0);
	ck_assert_msg(uffd_register(target.uffd, target.memory, registrations[_i].modes, &ioctls) ==
			      registrations[_i].result,
		      "%s", registrations[_i].what);
	ck_assert_uint_eq(ioctls & registrations[_i].ioctls, registrations[_i].ioctls);
}
END_TEST

START_TEST(what_another_uffd_owns_is_busy_and_stays_its_own)
{
	_cleanup_(closep) int first = -EBADF, second = -EBADF;
	struct hva_range range = { .length_bytes = 16384 };
	void *memory = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			    0);

	range.start.v = (uintptr_t)memory;
	ck_assert_int_eq(uffd_open(&first, UFFD_WAY_USER_MODE, 0), 0);
	ck_assert_int_eq(uffd_open(&second, UFFD_WAY_USER_MODE, 0), 0);
	ck_assert_int_eq(uffd_register(first, range, UFFD_MODE_MISSING, NULL), 0);
	ck_assert_int_eq(uffd_register(second, range, UFFD_MODE_MISSING, NULL), UFFD_BUSY);
	ck_assert_int_eq(uffd_unregister(first, range), 0);
	ck_assert_int_eq(uffd_register(second, range, UFFD_MODE_MISSING, NULL), 0);
}
END_TEST

START_TEST(a_shared_mapping_of_a_read_only_fd_is_refused)
{
	_cleanup_(closep) int uffd = -EBADF, file = -EBADF;
	_cleanup_(closep) int writable = memfd_create("file", MFD_CLOEXEC);
	struct hva_range range = { .length_bytes = 4096 };
	char path[64];

	ck_assert_int_eq(ftruncate(writable, 4096), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", writable);
	file = open(path, O_RDONLY | O_CLOEXEC);
	range.start.v = (uintptr_t)mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	ck_assert_int_eq(uffd_open(&uffd, UFFD_WAY_USER_MODE, 0), 0);
	ck_assert_int_eq(uffd_register(uffd, range, UFFD_MODE_MISSING, NULL), UFFD_REFUSED);
}
END_TEST

START_TEST(addresses_that_are_not_mapped_or_not_aligned_are_refused)
{
	_cleanup_(target_done) struct target target;
	struct hva_range odd;

	target_start(&target, TARGET_ANON, 3, 0);
	odd = (struct hva_range){ { target.memory.start.v + 1 }, target.page_bytes };
	ck_assert_int_eq(uffd_register(target.uffd, odd, UFFD_MODE_MISSING, NULL), UFFD_REFUSED);
	ck_assert_uint_eq(
		target_do(&target, target_unmap, target_page(&target, 1), target.page_bytes), 0);
	ck_assert_int_eq(
		uffd_register(target.uffd, target_pages(&target, 1, 1), UFFD_MODE_MISSING, NULL),
		UFFD_REFUSED);
	ck_assert_int_eq(uffd_unregister(target.uffd, target_pages(&target, 1, 1)), UFFD_UNMAPPED);
}
END_TEST

START_TEST(every_call_on_an_ended_process_says_gone_but_wake)
{
	_cleanup_(target_done) struct target target;
	static char page[4096];
	uint64_t done = 77;

	target_start(&target, TARGET_SHMEM, 1, 0);
	ck_assert_int_eq(uffd_register(target.uffd, target.memory, ALL_MODES, NULL), 0);
	target_kill(&target);

	ck_assert_int_eq(uffd_copy(target.uffd, target.memory.start, page, sizeof(page), 0, &done),
			 UFFD_GONE);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(uffd_zeropage(target.uffd, target.memory, 0, &done), UFFD_GONE);
	ck_assert_int_eq(uffd_continue(target.uffd, target.memory, 0, &done), UFFD_GONE);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target.memory, true), UFFD_GONE);
	ck_assert_int_eq(uffd_register(target.uffd, target.memory, ALL_MODES, NULL), UFFD_GONE);
	ck_assert_int_eq(uffd_unregister(target.uffd, target.memory), UFFD_GONE);
	if (features_get()->uffd & UFFD_FEATURE_POISON)
		ck_assert_int_eq(uffd_poison(target.uffd, target.memory, &done), UFFD_GONE);
	ck_assert_int_eq(uffd_wake(target.uffd, target.memory), 0);
}
END_TEST

/* Mappings side by side that cannot merge, until the process may have no more of them. */
static void *use_up_mappings(uint64_t n, uint64_t page_bytes)
{
	char *area = mmap(NULL, n * page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(area, MAP_FAILED);
	for (uint64_t i = 1; i < n; i += 2)
		if (mprotect(area + i * page_bytes, page_bytes, PROT_READ) < 0)
			return area;
	munmap(area, n * page_bytes);
	unit_skip("vm.max_map_count is above %llu", (unsigned long long)n);
}

START_TEST(a_process_with_too_many_mappings_is_not_gone)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	_cleanup_(closep) int uffd = -EBADF;
	struct hva_range middle = { .length_bytes = page_bytes };
	char *memory;
	void *area;
	int r;

#ifdef __SANITIZE_THREAD__
	unit_skip("ThreadSanitizer needs mappings of its own");
#endif
	memory = mmap(NULL, 5 * page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	ck_assert_ptr_ne(memory, MAP_FAILED);
	ck_assert_int_eq(uffd_open(&uffd, UFFD_WAY_USER_MODE, 0), 0);
	middle.start.v = (uintptr_t)memory + 2 * page_bytes;
	area = use_up_mappings(N_MAPPINGS, page_bytes);
	r = uffd_register(uffd, middle, UFFD_MODE_MISSING, NULL);
	munmap(area, N_MAPPINGS * page_bytes); /* a failing assertion needs memory */
	ck_assert_int_eq(r, -ENOMEM);
}
END_TEST

START_TEST(reading_takes_what_is_queued_and_the_counts_follow)
{
	_cleanup_(target_done) struct target target;
	struct uffd_msg messages[8];
	uint64_t unread = 9, unresolved = 9, seen = 0;
	unsigned int n = 9;

	target_start(&target, TARGET_ANON, 3, features_get()->uffd & UFFD_FEATURE_THREAD_ID);
	ck_assert_int_eq(uffd_register(target.uffd, target.memory, UFFD_MODE_MISSING, NULL), 0);
	ck_assert_int_eq(uffd_read(target.uffd, messages, 8, &n), 0);
	ck_assert_uint_eq(n, 0);

	for (uint64_t i = 0; i < 3; i++)
		target_ask(&target, target_load, target_page(&target, i), 0);
	target_await_faults(&target, 3);
	ck_assert_int_eq(uffd_pending(target.uffd, &unread, &unresolved), 0);
	ck_assert_uint_eq(unread, 3);
	ck_assert_uint_eq(unresolved, 3);

	ck_assert_int_eq(uffd_read(target.uffd, messages, 2, &n), 0);
	ck_assert_uint_eq(n, 2);
	ck_assert_int_eq(uffd_pending(target.uffd, &unread, &unresolved), 0);
	ck_assert_uint_eq(unread, 1);
	ck_assert_uint_eq(unresolved, 3);
	ck_assert_int_eq(uffd_read(target.uffd, messages + 2, 6, &n), 0);
	ck_assert_uint_eq(n, 1);
	for (int i = 0; i < 3; i++) {
		uint64_t page = (messages[i].arg.pagefault.address - target.memory.start.v) /
				target.page_bytes;

		ck_assert_int_eq(messages[i].event, UFFD_EVENT_PAGEFAULT);
		ck_assert_uint_eq(messages[i].arg.pagefault.flags, 0);
		ck_assert_uint_ne(messages[i].arg.pagefault.feat.ptid, 0);
		seen |= BIT(page);
	}
	ck_assert_uint_eq(seen, 7);
}
END_TEST

int main(void)
{
	hugepages_reserve(4);
	return unit_run(
		"uffd",
		(struct unit_test[]){
			UNIT_TABLE(every_way_opens_a_pollable_uffd_that_tells_its_features, ways),
			UNIT(unknown_features_are_refused_and_leave_ret_alone),
			UNIT(inspection_tells_what_is_wrong_with_an_fd),
			UNIT_TABLE(a_mapping_takes_the_modes_of_its_kind, registrations),
			UNIT(what_another_uffd_owns_is_busy_and_stays_its_own),
			UNIT(a_shared_mapping_of_a_read_only_fd_is_refused),
			UNIT(addresses_that_are_not_mapped_or_not_aligned_are_refused),
			UNIT(every_call_on_an_ended_process_says_gone_but_wake),
			UNIT(a_process_with_too_many_mappings_is_not_gone),
			UNIT(reading_takes_what_is_queued_and_the_counts_follow),
			{},
		});
}
