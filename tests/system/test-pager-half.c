/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Adoption of what was only half there: processes that have ended, mappings half made, sources gone. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* ---- processes that have ended ---- */

static void end(const struct paged_child *child)
{
	struct pollfd wait = { .fd = child->pidfd, .events = POLLIN };

	kill(child->pid, SIGKILL);
	ck_assert_int_eq(poll(&wait, 1, 20000), 1);
}

static const bool are_reaped[] = { false, true };

START_TEST(a_guest_whose_processes_have_ended_is_not_adopted)
{
	struct left left;
	int was_started;

	leave_served(&left, CHILD_SHMEM);
	end(&left.child);
	if (are_reaped[_i])
		waitpid(left.child.pid, NULL, 0);
	ck_assert_int_eq(left_adopt(&left, &was_started), -ESRCH);
	ck_assert_ptr_nonnull(strstr(left.reports, "Every process of the guest has ended."));
	/* nor if nobody kept its pidfd: its number belongs to nobody */
	left_lose(&left, UFD_HANDLE_PIDFD, 0);
	ck_assert_int_eq(left_adopt(&left, &was_started), -ESRCH);
	left_done(&left);
}
END_TEST

START_TEST(the_processes_that_are_left_are_served)
{
	struct left left;
	struct paged_child other;
	uint32_t mapper, id;
	struct ufd_source *zero;

	left_init(&left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(child_start(&other, CHILD_ANON, 8 * 4096), 0);
	ck_assert_int_eq(ufd_source_open(&zero, "zero", -1, NULL), 0);
	ck_assert_int_eq(
		ufd_pager_guest_add_mapper(left.guest, other.uffd, other.pidfd, -1, &mapper), 0);
	{
		UFD_OPTS(ufd_pager_memory_opts, memory, .name = "own", .length = 8 * 4096,
			 .source = zero, .backing = -1, .kind = UFD_MEMORY_ANON);

		ck_assert_int_eq(ufd_pager_guest_add_memory(left.guest, &memory, &id), 0);
	}
	ufd_source_unref(zero);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(left.guest, mapper, id, other.address,
						     8 * 4096, 0, NULL),
			 0);
	ck_assert_int_eq(map_all(&left), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	left_leave(&left);

	end(&other);
	left_must_serve(&left);
	ck_assert_ptr_nonnull(strstr(left.reports, "has ended"));
	child_stop(&other);
	left_done(&left);
}
END_TEST

/* ---- what was only half there ---- */

START_TEST(one_that_was_never_served_is_undone_by_freeing_it)
{
	struct left left;
	int was_started = 1;

	left_init(&left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(map_all(&left), 0);
	left_leave(&left);
	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	ck_assert_int_eq(was_started, 0);
	left.guest = ufd_pager_guest_free(left.guest);
	/* nobody serves it, and nobody needs to */
	ck_assert_uint_eq(child_peek(&left.child, 0), 0);
	left_done(&left);
}
END_TEST

static int why_not = -EPERM; /* each test is a process */

static int find_nothing(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
			int *ret_fd)
{
	return why_not;
}

/* Handles are kept before anything is registered, and until all is unregistered. */
START_TEST(one_that_is_not_served_and_has_no_handles_any_more_is_over)
{
	struct left left;
	int was_started;

	left_init(&left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(map_all(&left), 0);
	left_leave(&left);
	while (left.kept.n_handles)
		left_lose(&left, left.kept.handles[0].kind, left.kept.handles[0].id);
	left.refetch = find_nothing;
	ck_assert_int_eq(left_adopt(&left, &was_started), -EBADF);
	why_not = -ENOENT;
	ck_assert_int_eq(left_adopt(&left, &was_started), -ESRCH);
	left_done(&left);
}
END_TEST

static const struct {
	unsigned int stage;
	const char *report;
} halves[] = {
	{ 1, "was only half made" },
	{ 3, "was only half removed" },
};

START_TEST(a_mapping_half_made_is_unregistered_and_its_memory_forgotten)
{
	UFD_OPTS(ufd_guest_stats, stats);
	struct left left;
	int was_started;

	leave_served(&left, CHILD_SHMEM);
	left_set_stage(&left, 0, halves[_i].stage);
	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	ck_assert_ptr_nonnull(strstr(left.reports, halves[_i].report));
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	ck_assert_uint_eq(child_peek(&left.child, 9), 0);
	ck_assert_int_eq(ufd_pager_guest_stats(left.guest, &stats), 0);
	ck_assert_uint_eq(stats.n_memories, 0);
	/* it may come again, under the same name */
	left_leave(&left);
	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	{
		UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = left.child.length,
			 .backing = left.child.memfd, .kind = UFD_MEMORY_SHMEM);
		uint32_t id;

		ck_assert_int_eq(ufd_source_open(&memory.source, "zero", -1, NULL), 0);
		ck_assert_int_eq(ufd_pager_guest_add_memory(left.guest, &memory, &id), 0);
		ufd_source_unref(memory.source);
	}
	left_done(&left);
}
END_TEST

/* A process was announced, and its handles had not been kept yet. */
START_TEST(a_process_without_mappings_needs_no_handles)
{
	struct paged_child other;
	struct left left;
	uint32_t mapper;

	left_init(&left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(map_all(&left), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	left_keep(&left);
	ck_assert_int_eq(child_start(&other, CHILD_ANON, 4096), 0);
	ck_assert_int_eq(
		ufd_pager_guest_add_mapper(left.guest, other.uffd, other.pidfd, -1, &mapper), 0);
	left.guest = ufd_pager_guest_leave(left.guest);
	left_must_serve(&left);
	ck_assert_ptr_nonnull(strstr(left.reports, "was not kept"));
	child_stop(&other);
	left_done(&left);
}
END_TEST

/* ---- a guest that needs nothing any more ---- */

static void wait_event(struct left *left, uint32_t kind)
{
	struct pollfd wait = { .fd = ufd_pager_fd(left->pager), .events = POLLIN };

	while (!left->n_events[kind]) {
		ck_assert_msg(poll(&wait, 1, 20000) == 1, "event %u never came", kind);
		ufd_pager_dispatch(left->pager);
	}
}

START_TEST(a_complete_guest_does_not_need_its_source)
{
	UFD_OPTS(ufd_guest_stats, stats);
	struct left left;

	left_init(&left, CHILD_SHMEM, NULL);
	ck_assert_int_eq(map_all(&left), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	ck_assert_int_eq(ufd_pager_guest_finish(left.guest, 0), 0);
	wait_event(&left, UFD_EVENT_GRADUATED);
	left_leave(&left);
	ck_assert_int_eq(ftruncate(left.source, 0), 0);
	left_lose(&left, UFD_HANDLE_SOURCE, 0);
	memset(left.n_events, 0, sizeof(left.n_events));

	left_must_serve(&left);
	ck_assert_ptr_nonnull(strstr(left.reports, "source of memory `ram` was not kept"));
	ck_assert_int_eq(ufd_pager_guest_stats(left.guest, &stats), 0);
	ck_assert_uint_eq(stats.is_graduated, 1);
	/* what is known is not told again */
	left.guest = ufd_pager_guest_free(left.guest);
	ufd_pager_dispatch(left.pager);
	ck_assert_uint_eq(left.n_events[UFD_EVENT_COMPLETED] + left.n_events[UFD_EVENT_GRADUATED],
			  0);
	left_done(&left);
}
END_TEST

int main(void)
{
	return unit_run(
		"pager-half",
		(struct unit_test[]){
			UNIT_TABLE(a_guest_whose_processes_have_ended_is_not_adopted, are_reaped),
			UNIT(the_processes_that_are_left_are_served),
			UNIT(one_that_was_never_served_is_undone_by_freeing_it),
			UNIT(one_that_is_not_served_and_has_no_handles_any_more_is_over),
			UNIT_TABLE(a_mapping_half_made_is_unregistered_and_its_memory_forgotten,
				   halves),
			UNIT(a_process_without_mappings_needs_no_handles),
			UNIT(a_complete_guest_does_not_need_its_source),
			{},
		});
}
