/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Adoption: what was kept of a guest is whole, in part, changed, or another's. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/ledger.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "support/left-guest.h"
#include "support/unit.h"

static int map_all(struct left *left)
{
	return ufd_pager_guest_add_mapping(left->guest, left->mapper, left->memory,
					   left->child.address, left->child.length, 0, NULL);
}

/* Served, of which page 1 was touched, page 2 written and page 3 discarded; then left. */
static void leave_served(struct left *left, enum child_memory kind)
{
	left_init(left, kind, NULL);
	ck_assert_int_eq(map_all(left), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left->guest), 0);
	ck_assert_uint_eq(child_peek(&left->child, 1), child_word(1, 0));
	child_poke(&left->child, 2, child_word(2, 0));
	left_leave(left);
}

START_TEST(a_guest_goes_on_as_it_was)
{
	static const enum child_memory kinds[] = { CHILD_ANON, CHILD_SHMEM, CHILD_PRIVATE };
	UFD_OPTS(ufd_pager_guest_opts, opts, .deadline_ns = 77, .no_background = 1,
		 .window_bytes = 8192, .other_mappers = UFD_OTHERS_IGNORE,
		 .policy = UFD_POLICY_STALL, .spin_ns = 1000, .populated = UFD_POPULATED_KEEP);
	UFD_OPTS(ufd_mapping_info, mapping);
	UFD_OPTS(ufd_guest_stats, stats);
	struct ufd_pager_guest_opts adopted;
	struct left left;
	char text[16];
	size_t n = 0;
	int was_started = 0;

	left_init(&left, kinds[_i], &opts);
	ck_assert_int_eq(ufd_pager_guest_put_record(left.guest, UFD_OWN_TAG, 7, "mine", 5), 0);
	ck_assert_int_eq(ufd_pager_guest_put_record(left.guest, UFD_OWN_TAG + 15, 0, "gone", 5), 0);
	ck_assert_int_eq(ufd_pager_guest_drop_record(left.guest, UFD_OWN_TAG + 15, 0), 0);
	ck_assert_int_eq(map_all(&left), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	ck_assert_uint_eq(child_peek(&left.child, 1), child_word(1, 0));
	left_leave(&left);

	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	ck_assert_str_eq(left.reports, "");
	ck_assert_int_eq(was_started, 1);
	ck_assert_str_eq(ufd_pager_guest_name(left.guest), "left");
	ufd_pager_guest_get_opts(left.guest, &adopted);
	opts.size = adopted.size;
	ck_assert_mem_eq(&adopted, &opts, sizeof(opts));
	ck_assert_int_eq(
		ufd_pager_guest_get_record(left.guest, UFD_OWN_TAG, 7, text, sizeof(text), &n), 0);
	ck_assert_uint_eq(n, 5);
	ck_assert_str_eq(text, "mine");
	ck_assert_int_eq(ufd_pager_guest_get_record(left.guest, UFD_OWN_TAG + 15, 0, text, 1, &n),
			 -ENOENT);
	ck_assert_int_eq(ufd_pager_mapping_info(left.guest, 0, &mapping), 0);
	ck_assert_uint_eq(mapping.address, left.child.address);
	ck_assert_int_eq(mapping.pid, left.child.pid);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	ck_assert_int_eq(ufd_pager_guest_stats(left.guest, &stats), 0);
	/* the window of 8 KiB was filled, too, or only begun */
	ck_assert_uint_le(stats.absent_bytes, (LEFT_PAGES - 1) * 4096);
	ck_assert_uint_ge(stats.absent_bytes, (LEFT_PAGES - 2) * 4096);
	left_leave(&left);
	left_must_serve(&left);
	left_done(&left);
}
END_TEST

START_TEST(records_of_the_caller_have_tags_of_their_own)
{
	struct left left;
	char byte;
	size_t n;

	left_init(&left, CHILD_ANON, NULL);
	ck_assert_int_eq(ufd_pager_guest_put_record(left.guest, LEDGER_MEMORY, 0, "x", 1), -EINVAL);
	ck_assert_int_eq(ufd_pager_guest_put_record(left.guest, UFD_OWN_TAG + 16, 0, "x", 1),
			 -EINVAL);
	ck_assert_int_eq(ufd_pager_guest_drop_record(left.guest, LEDGER_GUEST, 0), -EINVAL);
	ck_assert_int_eq(ufd_pager_guest_get_record(left.guest, LEDGER_GUEST, 0, &byte, 1, &n),
			 -ENOENT);
	left_done(&left);
}
END_TEST

/* ---- handles that do not fit ---- */

static void lose_uffd(struct left *left)
{
	left_lose(left, UFD_HANDLE_UFFD, 0);
}

static void replace(struct ufd_handle *handle, int fd)
{
	ck_assert_int_ge(fd, 0);
	close(handle->fd);
	handle->fd = fd;
}

static void null_for_uffd(struct left *left)
{
	replace(left_handle(left, UFD_HANDLE_UFFD, 0), open("/dev/null", O_RDWR | O_CLOEXEC));
}

static void other_uffd(struct left *left)
{
	enum uffd_way way = features_get()->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE;
	int fd = -1;

	ck_assert_int_eq(uffd_open(&fd, way, 0), 0);
	replace(left_handle(left, UFD_HANDLE_UFFD, 0), fd);
}

static void blocking_uffd(struct left *left)
{
	int fd = left_handle(left, UFD_HANDLE_UFFD, 0)->fd;

	ck_assert_int_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
}

static void lose_pidfd(struct left *left)
{
	left_lose(left, UFD_HANDLE_PIDFD, 0);
}

static void null_for_pidfd(struct left *left)
{
	replace(left_handle(left, UFD_HANDLE_PIDFD, 0), open("/dev/null", O_RDWR | O_CLOEXEC));
}

static void own_pidfd(struct left *left)
{
	int fd = -1;

	ck_assert_int_eq(pidfd_open_pid(&fd, getpid()), 0);
	replace(left_handle(left, UFD_HANDLE_PIDFD, 0), fd);
}

static void lose_backing(struct left *left)
{
	left_lose(left, UFD_HANDLE_BACKING, 0);
}

static void null_for_backing(struct left *left)
{
	replace(left_handle(left, UFD_HANDLE_BACKING, 0), open("/dev/null", O_RDWR | O_CLOEXEC));
}

static void lose_source(struct left *left)
{
	left_lose(left, UFD_HANDLE_SOURCE, 0);
}

static void other_source(struct left *left)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	ck_assert_int_eq(ftruncate(fd, (off_t)left->child.length), 0);
	replace(left_handle(left, UFD_HANDLE_SOURCE, 0), fd);
}

static void write_source(struct left *left)
{
	ck_assert_int_eq(pwrite(left->source, "x", 1, 0), 1);
}

static void one_too_many(struct left *left)
{
	left->kept.handles[left->kept.n_handles++] = (struct ufd_handle){
		.kind = UFD_HANDLE_BACKING,
		.id = 9,
		.fd = open("/dev/null", O_RDWR | O_CLOEXEC),
	};
}

static void one_of_no_kind(struct left *left)
{
	one_too_many(left);
	left->kept.handles[left->kept.n_handles - 1].kind = 99;
}

static const struct {
	void (*change)(struct left *left);
	int result;
	const char *report;
} handles[] = {
	{ lose_uffd, -EBADF, "userfaultfd of process" },
	{ null_for_uffd, -EBADF, "is no userfaultfd" },
	{ other_uffd, -EBADF, "is another userfaultfd" },
	{ blocking_uffd, 0, "" },
	{ lose_pidfd, 0, "" },
	{ null_for_pidfd, 0, "is no pidfd" },
	{ own_pidfd, 0, "is that of another process" },
	{ lose_backing, -EBADF, "file of memory `ram` was not kept" },
	{ null_for_backing, -EBADF, "is another file" },
	{ lose_source, -EBADF, "source of memory `ram` was not kept" },
	{ other_source, -ESTALE, "is not what it was" },
	{ write_source, -ESTALE, "is not what it was" },
	{ one_too_many, 0, "no record speaks of it" },
	{ one_of_no_kind, 0, "a kind that this release does not know" },
};

START_TEST(a_handle_that_does_not_fit_is_reported_and_never_used)
{
	struct left left;
	int was_started = 0, r;

	leave_served(&left, CHILD_SHMEM);
	handles[_i].change(&left);
	r = left_adopt(&left, &was_started);
	ck_assert_msg(r == handles[_i].result, "row %d: %s: %s", _i, strerror(-r), left.reports);
	ck_assert_msg(strstr(left.reports, handles[_i].report), "row %d: %s", _i, left.reports);
	ck_assert(handles[_i].report[0] || !left.reports[0]);
	if (r == 0) {
		left.guest = ufd_pager_guest_leave(left.guest);
		left_must_serve(&left);
	} else {
		ck_assert_ptr_null(left.guest);
	}
	left_done(&left);
}
END_TEST

/* ---- handles that are found elsewhere ---- */

/* As an owner would: each piece of what is known must be right. */
static int find_all(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
		    int *ret_fd)
{
	struct left *left = userdata;
	UFD_OPTS(ufd_handle_info, info);
	struct stat stat;
	uint64_t ticks;

	ck_assert_int_eq(ufd_pager_handle_info(guest, kind, id, &info), 0);
	ck_assert_int_eq(pidfd_start_ticks(left->child.pid, &ticks), 0);
	ck_assert_int_eq(info.pid, left->child.pid);
	ck_assert_uint_eq(info.start_ticks, ticks);
	ck_assert_uint_eq(info.address, left->child.address);
	ck_assert_uint_eq(info.length, left->child.length);
	if (kind == UFD_HANDLE_UFFD)
		*ret_fd = fcntl(left->child.uffd, F_DUPFD_CLOEXEC, 3);
	if (kind == UFD_HANDLE_BACKING)
		*ret_fd = fcntl(left->child.memfd, F_DUPFD_CLOEXEC, 3);
	if (kind == UFD_HANDLE_SOURCE) {
		ck_assert_int_eq(strncmp(info.spec, "file:/tmp/left-", 15), 0);
		*ret_fd = open(info.spec + 5, O_RDONLY | O_CLOEXEC);
	}
	if (kind == UFD_HANDLE_SOURCE || kind == UFD_HANDLE_BACKING) {
		ck_assert_int_eq(fstat(*ret_fd, &stat), 0);
		ck_assert_uint_eq(info.inode, stat.st_ino);
		ck_assert_uint_eq(info.device, stat.st_dev);
	}
	return *ret_fd < 0 ? -ENOENT : 0;
}

static int find_rubbish(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
			int *ret_fd)
{
	*ret_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return 0;
}

static int find_nothing(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
			int *ret_fd)
{
	return -EPERM;
}

START_TEST(all_handles_may_be_found_elsewhere)
{
	struct left left;

	leave_served(&left, CHILD_SHMEM);
	while (left.kept.n_handles)
		left_lose(&left, left.kept.handles[0].kind, left.kept.handles[0].id);
	left.refetch = find_all;
	left_must_serve(&left);
	ck_assert_str_eq(left.reports, "");
	left_done(&left);
}
END_TEST

START_TEST(what_is_found_elsewhere_is_looked_at_as_closely)
{
	struct left left;
	int was_started;

	leave_served(&left, CHILD_SHMEM);
	left_lose(&left, UFD_HANDLE_UFFD, 0);
	left.refetch = find_rubbish;
	ck_assert_int_eq(left_adopt(&left, &was_started), -EBADF);
	ck_assert_ptr_nonnull(strstr(left.reports, "that was found is no userfaultfd"));
	left.refetch = find_nothing;
	ck_assert_int_eq(left_adopt(&left, &was_started), -EBADF);
	ck_assert_ptr_nonnull(strstr(left.reports, "was not found: Operation not permitted"));
	left_done(&left);
}
END_TEST

/* It ends while it is asked, and what it had mapped is gone already. */
static int find_dying(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
		      int *ret_fd)
{
	struct left *left = userdata;
	struct pollfd end = { .fd = left->child.pidfd, .events = POLLIN };

	ck_assert_int_eq(pidfd_kill(left->child.pidfd, SIGKILL), 0);
	ck_assert_int_eq(poll(&end, 1, 20000), 1);
	return -ENOENT;
}

START_TEST(who_ends_while_he_is_asked_has_ended)
{
	struct left left;
	int was_started;

	leave_served(&left, CHILD_SHMEM);
	left_lose(&left, UFD_HANDLE_BACKING, 0);
	left.refetch = find_dying;
	ck_assert_int_eq(left_adopt(&left, &was_started), -ESRCH);
	ck_assert_ptr_nonnull(strstr(left.reports, "Every process of the guest has ended"));
	left_done(&left);
}
END_TEST

START_TEST(nothing_is_known_of_what_is_not_recorded)
{
	UFD_OPTS(ufd_handle_info, info);
	struct left left;

	left_init(&left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(ufd_pager_handle_info(left.guest, UFD_HANDLE_UFFD, 0, &info), 0);
	ck_assert_int_eq(info.pid, left.child.pid);
	ck_assert_uint_eq(info.address, 0);
	ck_assert_int_eq(ufd_pager_handle_info(left.guest, UFD_HANDLE_SOURCE, 0, &info), 0);
	ck_assert_int_eq(info.pid, 0);
	ck_assert_int_eq(ufd_pager_handle_info(left.guest, UFD_HANDLE_UFFD, 1, &info), -ENOENT);
	ck_assert_int_eq(ufd_pager_handle_info(left.guest, UFD_HANDLE_BACKING, 1, &info), -ENOENT);
	ck_assert_int_eq(ufd_pager_handle_info(left.guest, UFD_HANDLE_SOURCE, 64, &info), -ENOENT);
	ck_assert_int_eq(ufd_pager_handle_info(left.guest, 0, 0, &info), -ENOENT);
	ck_assert_int_eq(ufd_pager_handle_info(left.guest, 6, 0, &info), -ENOENT);
	left_done(&left);
}
END_TEST

START_TEST(a_name_is_there_once)
{
	struct left left;
	int was_started;

	left_init(&left, CHILD_SHMEM, NULL);
	left_keep(&left);
	{
		struct ufd_pager_guest *guest = left.guest;

		ck_assert_int_eq(left_adopt(&left, &was_started), -EEXIST);
		ck_assert_ptr_eq(left.guest, guest);
	}
	left_done(&left);
}
END_TEST

int main(void)
{
	static const int three[3];

	return unit_run(
		"pager-adopt",
		(struct unit_test[]){
			UNIT_TABLE(a_guest_goes_on_as_it_was, three),
			UNIT(records_of_the_caller_have_tags_of_their_own),
			UNIT_TABLE(a_handle_that_does_not_fit_is_reported_and_never_used, handles),
			UNIT(all_handles_may_be_found_elsewhere),
			UNIT(what_is_found_elsewhere_is_looked_at_as_closely),
			UNIT(who_ends_while_he_is_asked_has_ended),
			UNIT(nothing_is_known_of_what_is_not_recorded),
			UNIT(a_name_is_there_once),
			{},
		});
}
