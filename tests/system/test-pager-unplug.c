/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One memory in two mappings, of which the first comes or goes while a discard through it is under way: the other
 * must show zeros. The discard's message waits unread, the engine's thread is held in a fill, and goes on when
 * the thread that adds or removes waits for it.
 *
 * So functions are wrapped by the linker: to hold, to let go, and to be asked between two steps.
 */
#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/ledger.h"
#include "guest/mapping.h"
#include "kernel/uffd.h"
#include "support/left-guest.h"
#include "support/unit.h"

#define DISCARDED 1 /* a page */

static sem_t held, go;
static _Atomic bool must_hold;
static _Thread_local bool lets_go; /* when it waits next */
static struct left
	*_Atomic discards_registered; /* whose child discards when its memory was registered next */

int __real_sem_wait(sem_t *semaphore);
int __wrap_sem_wait(sem_t *semaphore);
int __wrap_sem_wait(sem_t *semaphore)
{
	if (lets_go) {
		lets_go = false;
		sem_post(&go);
	}
	return __real_sem_wait(semaphore);
}

int __real_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done);
int __wrap_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done);
int __wrap_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done)
{
	if (atomic_exchange(&must_hold, false)) {
		sem_post(&held);
		while (__real_sem_wait(&go))
			;
	}
	return __real_uffd_copy(fd, to, from, length, flags, done);
}

/* ---- the scene ---- */

/* Its message waits in the queue. */
static void discard(const struct left *left)
{
	struct pollfd wait = { .fd = left->child.uffd, .events = POLLIN };

	child_begin_advise(&left->child, DISCARDED, 1, MADV_REMOVE);
	ck_assert_int_eq(poll(&wait, 1, 20000), 1);
}

/* The same, while the engine's thread is held; it goes on when we wait for it next. */
static void discard_unheard(const struct left *left)
{
	atomic_store(&must_hold, true);
	ck_assert_int_eq(ufd_pager_guest_prefetch(left->guest, left->memory, 5 * 4096, 4096), 0);
	while (__real_sem_wait(&held))
		;
	discard(left);
	lets_go = true;
}

int __real_uffd_register(int fd, struct hva_range range, unsigned int modes, uint64_t *ioctls);
int __wrap_uffd_register(int fd, struct hva_range range, unsigned int modes, uint64_t *ioctls);
int __wrap_uffd_register(int fd, struct hva_range range, unsigned int modes, uint64_t *ioctls)
{
	int r = __real_uffd_register(fd, range, modes, ioctls);
	struct left *left = atomic_exchange(&discards_registered, NULL);

	if (left)
		discard_unheard(left);
	return r;
}

static int map(const struct left *left, uint64_t address, uint64_t length)
{
	return ufd_pager_guest_add_mapping(left->guest, left->mapper, left->memory, address, length,
					   0, NULL);
}

static void begin(struct left *left, uint64_t *ret_other)
{
	sem_init(&held, 0, 0);
	sem_init(&go, 0, 0);
	left_init(left, CHILD_SHMEM, NULL);
	*ret_other = child_map_again(&left->child);
}

/* What the other mapping shows. */
static void must_be_discarded(const struct left *left, uint64_t other)
{
	uint64_t first = (other - left->child.address) / left->child.page_bytes;

	ck_assert_uint_eq(child_peek(&left->child, first + DISCARDED), 0);
	ck_assert_uint_eq(child_peek(&left->child, first + DISCARDED + 1),
			  child_word(DISCARDED + 1, 0));
}

/* The first mapping is: the place is free again. */
static void must_be_gone(const struct left *left)
{
	UFD_OPTS(ufd_mapping_info, info);

	ck_assert_int_eq(ufd_pager_guest_remove_mapping(left->guest, left->mapper,
							left->child.address, left->child.length),
			 -ENOENT);
	ck_assert_int_eq(ufd_pager_mapping_info(left->guest, 0, &info), 0);
	ck_assert_uint_ne(info.address, left->child.address);
	ck_assert_int_eq(ufd_pager_mapping_info(left->guest, 1, &info), -ENOENT);
	ck_assert_int_eq(map(left, left->child.address, left->child.length), 0);
}

/* ---- while it is served ---- */

START_TEST(a_discard_is_heard_while_its_mapping_is_removed)
{
	struct left left;
	uint64_t other;

	begin(&left, &other);
	ck_assert_int_eq(map(&left, left.child.address, left.child.length), 0);
	ck_assert_int_eq(map(&left, other, left.child.length), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	discard_unheard(&left);
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(left.guest, left.mapper, left.child.address,
							left.child.length),
			 0);
	ck_assert_uint_eq(child_result(&left.child), 0);
	must_be_discarded(&left, other);
	left_done(&left);
}
END_TEST

/* Nobody reads yet: it stays until somebody does. */
START_TEST(a_discard_is_heard_of_a_mapping_that_was_removed_before_the_start)
{
	struct left left;
	uint64_t other;

	begin(&left, &other);
	ck_assert_int_eq(map(&left, left.child.address, left.child.length), 0);
	ck_assert_int_eq(map(&left, other, left.child.length), 0);
	discard(&left);
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(left.guest, left.mapper, left.child.address,
							left.child.length),
			 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	ck_assert_uint_eq(child_result(&left.child), 0);
	must_be_discarded(&left, other);
	must_be_gone(&left);
	left_done(&left);
}
END_TEST

START_TEST(a_discard_is_heard_in_a_mapping_that_is_refused)
{
	struct left left;
	uint64_t other;

	begin(&left, &other);
	ck_assert_int_eq(map(&left, other, left.child.length / 2), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	/* in the half that nobody has shown yet: it is not absent */
	ck_assert_int_eq(pwrite(left.child.memfd, "x", 1, (off_t)left.child.length - 4096), 1);
	atomic_store(&discards_registered, &left);
	ck_assert_int_eq(map(&left, left.child.address, left.child.length), -ENOTEMPTY);
	ck_assert_uint_eq(child_result(&left.child), 0);
	must_be_discarded(&left, other);
	left_done(&left);
}
END_TEST

/* ---- when its engine died meanwhile ---- */

static const struct {
	enum mapping_stage stage;
	bool is_read;
} deaths[] = {
	{ MAPPING_LEAVING, false },
	{ MAPPING_LEAVING, true },
	{ MAPPING_ARRIVING, false },
	{ MAPPING_ARRIVING, true },
};

/* As far as the engine came before it died: the message is in its buffer, and in no page state. */
static void read_unapplied(const struct left *left)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	struct ledger_messages *buffer;
	unsigned int n;

	ck_assert_int_eq(ledger_adopt(&ledger, left->kept.ledger), 0);
	buffer = ledger_messages(ledger);
	buffer->mapper = left->mapper;
	atomic_store(&buffer->is_reading, 1);
	ck_assert_int_eq(uffd_read(left->child.uffd, buffer->messages, LEDGER_N_MESSAGES, &n), 0);
	ck_assert_uint_eq(n, 1);
}

START_TEST(a_discard_is_heard_by_the_successor)
{
	struct left left;
	uint64_t other;
	int was_started;

	begin(&left, &other);
	ck_assert_int_eq(map(&left, left.child.address, left.child.length), 0);
	ck_assert_int_eq(map(&left, other, left.child.length), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	left_leave(&left);
	left_set_stage(&left, 0, deaths[_i].stage);
	discard(&left);
	if (deaths[_i].is_read)
		read_unapplied(&left);
	ck_assert_int_eq(left_adopt(&left, &was_started), 0);
	ck_assert_int_eq(ufd_pager_guest_start(left.guest), 0);
	ck_assert_uint_eq(child_result(&left.child), 0);
	must_be_discarded(&left, other);
	must_be_gone(&left);
	left_done(&left);
}
END_TEST

int main(void)
{
	return unit_run(
		"pager-unplug",
		(struct unit_test[]){
			UNIT(a_discard_is_heard_while_its_mapping_is_removed),
			UNIT(a_discard_is_heard_of_a_mapping_that_was_removed_before_the_start),
			UNIT(a_discard_is_heard_in_a_mapping_that_is_refused),
			UNIT_TABLE(a_discard_is_heard_by_the_successor, deaths),
			{},
		});
}
