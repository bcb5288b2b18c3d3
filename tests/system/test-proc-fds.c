/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Open files that may write behind the page tables, found in a process: this one. */
#include "kernel/proc-fds.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "support/unit.h"

#define LENGTH 65536

static struct hva_range range_of(const void *bytes)
{
	return (struct hva_range){ { (uintptr_t)bytes }, LENGTH };
}

static char *memory_new(void)
{
	char *bytes = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			   0);

	ck_assert_ptr_ne(bytes, MAP_FAILED);
	return bytes;
}

static struct proc_hazards look(const struct hva_range *range)
{
	struct proc_hazards hazards = {};

	ck_assert_int_eq(proc_fds_look(getpid(), range, range ? 1 : 0, &hazards), 0);
	return hazards;
}

static void needs_ring(struct io_uring *ring)
{
	int r = io_uring_queue_init(4, ring, 0);

	if (r < 0)
		unit_skip("no io_uring here");
}

START_TEST(a_process_without_such_files_has_none)
{
	struct proc_hazards hazards = look(NULL);

	ck_assert_uint_eq(hazards.kinds, 0);
	ck_assert_int_eq(hazards.fd, -1);
}
END_TEST

START_TEST(a_file_open_with_o_direct_is_found)
{
	char path[] = "direct-XXXXXX";
	_cleanup_(closep) int direct = -EBADF;
	struct proc_hazards hazards;

	close(mkstemp(path));
	direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	unlink(path);
	if (direct < 0)
		unit_skip("no O_DIRECT on this file system");
	hazards = look(NULL);
	ck_assert_uint_eq(hazards.kinds, PROC_HAZARD_DIRECT_IO);
	ck_assert_int_eq(hazards.fd, direct);
	ck_assert_ptr_nonnull(strstr(hazards.target, "/direct-"));
}
END_TEST

START_TEST(an_io_uring_is_brief_until_it_has_buffers_of_the_memory)
{
	char *guest = memory_new(), *own = memory_new();
	struct hva_range range = range_of(guest);
	struct iovec buffer = { own, LENGTH };
	struct io_uring ring;

	needs_ring(&ring);
	ck_assert_uint_eq(look(&range).kinds, PROC_HAZARD_IO_URING);
	ck_assert_int_eq(io_uring_register_buffers(&ring, &buffer, 1), 0);
	ck_assert_uint_eq(look(&range).kinds, PROC_HAZARD_IO_URING);
	ck_assert_int_eq(io_uring_unregister_buffers(&ring), 0);

	buffer.iov_base = guest + LENGTH / 2;
	buffer.iov_len = 4096;
	ck_assert_int_eq(io_uring_register_buffers(&ring, &buffer, 1), 0);
	ck_assert_uint_eq(look(&range).kinds, PROC_HAZARD_FIXED_BUFFER);
	io_uring_queue_exit(&ring);
}
END_TEST

START_TEST(a_process_that_is_gone_is_told)
{
	struct proc_hazards hazards;

	ck_assert_int_eq(proc_fds_look(0x3fffffff, NULL, 0, &hazards), -ESRCH);
}
END_TEST

int main(void)
{
	return unit_run("proc-fds",
			(struct unit_test[]){
				UNIT(a_process_without_such_files_has_none),
				UNIT(a_file_open_with_o_direct_is_found),
				UNIT(an_io_uring_is_brief_until_it_has_buffers_of_the_memory),
				UNIT(a_process_that_is_gone_is_told),
				{},
			});
}
