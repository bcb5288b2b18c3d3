/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the running kernel can do, and kernels that it pretends to be. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "kernel/features.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "support/unit.h"

enum {
	LINUX_6_1 = 0x1fff, /* the features of a release are the bits up to its newest */
	LINUX_6_6 = 0x7fff,
};

static const bool is_wp_sync[] = { false, true };

START_TEST(what_is_wanted_can_be_had)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t wanted = features_wanted(is_wp_sync[_i]), found;

	if (!features_get()->uffd)
		unit_skip("userfaultfd is not allowed");
	ck_assert_uint_eq(wanted & ~features_get()->uffd, 0);
	ck_assert_int_eq(uffd_open(&fd, UFFD_WAY_USER_MODE, wanted), 0);
	ck_assert_int_eq(uffd_inspect(fd, &found), 0);
	ck_assert_uint_eq(found, wanted);
	ck_assert_uint_eq(wanted & (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_SIGBUS), 0);
}
END_TEST

START_TEST(sync_and_async_differ_in_one_bit)
{
	if (!(features_get()->uffd & UFFD_FEATURE_WP_ASYNC))
		unit_skip("needs Linux 6.7");
	ck_assert_uint_eq(features_wanted(false) ^ features_wanted(true), UFFD_FEATURE_WP_ASYNC);
}
END_TEST

static const struct {
	const char *mask;
	uint64_t hidden;
} masks[] = {
	{ "1fff", ~(uint64_t)LINUX_6_1 },
	{ "0x1fff", ~(uint64_t)LINUX_6_1 },
	{ "0x7FFF", ~(uint64_t)LINUX_6_6 },
	{ "0", UINT64_MAX },
	{ "", 0 },
};

START_TEST(the_mask_hides_what_an_older_kernel_lacks)
{
	bool has_async;

	setenv("UFD_FEATURES_MASK", masks[_i].mask, 1);
	ck_assert_uint_eq(features_get()->uffd & masks[_i].hidden, 0);
	ck_assert_uint_eq(features_wanted(false) & masks[_i].hidden, 0);
	has_async = features_get()->uffd & UFFD_FEATURE_WP_ASYNC;
	ck_assert_int_eq(features_get()->has_pagemap_scan, has_async);
	if (masks[_i].hidden == UINT64_MAX)
		ck_assert_uint_eq(features_get()->uffd, 0);
	else
		ck_assert_uint_ne(features_get()->uffd, 0);
}
END_TEST

START_TEST(poison_is_refused_where_it_is_hidden)
{
	struct hva_range nothing = {};
	uint64_t done = 5;

	setenv("UFD_FEATURES_MASK", "1fff", 1);
	ck_assert_int_eq(uffd_poison(-EBADF, nothing, &done), -EOPNOTSUPP);
	ck_assert_uint_eq(done, 0);
}
END_TEST

START_TEST(a_way_that_is_closed_says_why)
{
	const struct kernel_features *features = features_get();

	ck_assert_int_eq(features->may_syscall, features->syscall_errno == 0);
	ck_assert_int_eq(features->may_device, features->device_errno == 0);
}
END_TEST

START_TEST(nobody_is_told_why_and_still_learns_the_features)
{
	if (geteuid() != 0)
		unit_skip("needs root to become somebody else");
	ck_assert_int_eq(setresuid(65534, 65534, 65534), 0);
	if (features_get()->may_syscall || features_get()->may_device)
		unit_skip("the host allows userfaultfd to everybody");
	ck_assert_int_eq(features_get()->syscall_errno, EPERM);
	ck_assert_int_eq(features_get()->device_errno, EACCES);
	ck_assert_uint_ne(features_get()->uffd, 0);
}
END_TEST

int main(void)
{
	return unit_run("features",
			(struct unit_test[]){
				UNIT_TABLE(what_is_wanted_can_be_had, is_wp_sync),
				UNIT(sync_and_async_differ_in_one_bit),
				UNIT_TABLE(the_mask_hides_what_an_older_kernel_lacks, masks),
				UNIT(poison_is_refused_where_it_is_hidden),
				UNIT(a_way_that_is_closed_says_why),
				UNIT(nobody_is_told_why_and_still_learns_the_features),
				{},
			});
}
