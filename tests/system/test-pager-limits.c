/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest whose memory control group is too small for it: filling stops before the kernel kills. And a
 * kernel that is too old for what is asked.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "support/gate.h"
#include "support/memory-group.h"
#include "support/paged-child.h"
#include "support/unit.h"
#include "ufd/pager.h"

#define LENGTH (128 * MIB)
#define LIMIT  (64 * MIB)
#define ENOUGH (512 * MIB)

struct limited {
	struct memory_group group;
	struct paged_child child;
	struct gate gate;
	struct ufd_source *source;
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	unsigned int n_events[32];
	int64_t stalled_error;
};

static const enum child_memory kinds[] = { CHILD_ANON, CHILD_SHMEM };

static void on_event(struct ufd_pager_guest *guest, const struct ufd_event *event, void *userdata)
{
	struct limited *limited = userdata;

	limited->n_events[event->kind]++;
	if (event->kind == UFD_EVENT_STALLED)
		limited->stalled_error = event->value;
}

static void limited_begin(struct limited *limited, enum child_memory kind, bool has_background)
{
	UFD_OPTS(ufd_pager_opts, opts, .on_event = on_event, .userdata = limited);
	UFD_OPTS(ufd_pager_guest_opts, guest_opts, .no_background = !has_background);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = LENGTH, .kind = kind);
	uint32_t mapper, number;
	int r;

#ifdef __SANITIZE_THREAD__
	unit_skip("ThreadSanitizer's shadow of the guest's memory does not fit the limit");
#endif
	r = memory_group_make(&limited->group, LIMIT);
	if (r < 0)
		unit_skip("no memory control group can be made: %s", strerror(-r));
	r = child_start(&limited->child, kind, LENGTH);
	if (r < 0) {
		memory_group_remove(&limited->group);
		unit_skip("no userfaultfd: %s", strerror(-r));
	}
	memory_group_enter(&limited->group, limited->child.pid);
	limited->source = gate_source(&limited->gate, LENGTH);
	gate_open(&limited->gate);
	memory.source = limited->source;
	memory.backing = limited->child.memfd;
	ck_assert_int_eq(ufd_pager_new(&limited->pager, &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_new(limited->pager, &limited->guest, "g", &guest_opts), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(limited->guest, limited->child.uffd,
						    limited->child.pidfd, -1, &mapper),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_memory(limited->guest, &memory, &number), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(limited->guest, mapper, number,
						     limited->child.address, LENGTH, 0, NULL),
			 0);
	ck_assert_int_eq(ufd_pager_guest_start(limited->guest), 0);
}

static void limited_end(struct limited *limited)
{
	child_stop(&limited->child);
	ufd_pager_free(limited->pager);
	ufd_source_unref(limited->source);
	memory_group_remove(&limited->group);
}

static void wait_event(struct limited *limited, enum ufd_event_kind kind)
{
	uint64_t until_ns = clock_now_ns() + 30 * NSEC_PER_SEC;

	while (!limited->n_events[kind]) {
		struct pollfd wait = { .fd = ufd_pager_fd(limited->pager), .events = POLLIN };

		ck_assert_msg(clock_now_ns() < until_ns, "event %d never came", (int)kind);
		ck_assert_msg(pidfd_is_alive(limited->child.pidfd), "the guest was killed");
		(void)poll(&wait, 1, 100);
		ufd_pager_dispatch(limited->pager);
	}
}

static struct ufd_guest_stats stats_of(struct limited *limited)
{
	UFD_OPTS(ufd_guest_stats, stats);

	ck_assert_int_eq(ufd_pager_guest_stats(limited->guest, &stats), 0);
	return stats;
}

START_TEST(background_fill_stops_before_the_limit_and_goes_on_when_there_is_room)
{
	struct limited limited = {};
	struct ufd_guest_stats stats;
	uint64_t n_wrong, left;

	limited_begin(&limited, kinds[_i], true);
	wait_event(&limited, UFD_EVENT_HELD);
	left = LIMIT - memory_group_usage(&limited.group);
	stats = stats_of(&limited);
	ck_assert_uint_eq(stats.is_held, 1);
	ck_assert_uint_ge(stats.held, 1);
	ck_assert_uint_ge(left, MIB);
	ck_assert_uint_ge(stats.present_bytes, LIMIT / 2);

	/* a page that somebody waits for comes all the same */
	ck_assert_uint_eq(child_peek(&limited.child, LENGTH / 4096 - 1),
			  child_word(LENGTH / 4096 - 1, 0));
	ck_assert_uint_eq(limited.n_events[UFD_EVENT_STALLED], 0);

	memory_group_limit(&limited.group, ENOUGH);
	wait_event(&limited, UFD_EVENT_RELEASED);
	wait_event(&limited, UFD_EVENT_COMPLETED);
	child_check(&limited.child, 2, CHILD_RANDOM, false, &n_wrong);
	ck_assert_uint_eq(n_wrong, 0);
	ck_assert_uint_eq(stats_of(&limited).is_held, 0);
	limited_end(&limited);
}
END_TEST

START_TEST(demanded_pages_stall_at_the_end_of_the_margin)
{
	struct limited limited = {};

	limited_begin(&limited, kinds[_i], false);
	child_begin(&limited.child, 1, CHILD_SEQUENTIAL, false);
	wait_event(&limited, UFD_EVENT_STALLED);
	ck_assert_int_eq(limited.stalled_error, ENOMEM);
	ck_assert_uint_eq(limited.n_events[UFD_EVENT_HELD], 1);
	ck_assert_uint_ge(LIMIT - memory_group_usage(&limited.group), MIB);
	/* it went on through the margin, to less than background fill leaves */
	ck_assert_uint_le(LIMIT - memory_group_usage(&limited.group), 4 * MIB);
	ck_assert(pidfd_is_alive(limited.child.pidfd));

	memory_group_limit(&limited.group, ENOUGH);
	wait_event(&limited, UFD_EVENT_RECOVERED);
	ck_assert_uint_eq(child_result(&limited.child), 0);
	limited_end(&limited);
}
END_TEST

START_TEST(poison_is_refused_where_the_kernel_has_none)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .policy = UFD_POLICY_POISON);
	struct ufd_pager_guest *guest;
	struct ufd_pager *pager;

	setenv("UFD_FEATURES_MASK", "1fff", 1);
	if (features_get()->uffd & (1 << 14))
		unit_skip("features were asked before");
	ck_assert_int_eq(ufd_pager_new(&pager, NULL), 0);
	ck_assert_int_eq(ufd_pager_guest_new(pager, &guest, "guest", &opts), -EOPNOTSUPP);
	ufd_pager_free(pager);
}
END_TEST

int main(void)
{
	return unit_run(
		"pager-limits",
		(struct unit_test[]){
			UNIT_TABLE(
				background_fill_stops_before_the_limit_and_goes_on_when_there_is_room,
				kinds),
			UNIT_TABLE(demanded_pages_stall_at_the_end_of_the_margin, kinds),
			UNIT(poison_is_refused_where_the_kernel_has_none),
			{},
		});
}
