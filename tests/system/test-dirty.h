/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small tracked guest, and what is expected of it. For the tests of tracking. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/features.h"
#include "kernel/uapi.h"
#include "support/hugepages.h"
#include "support/paged-child.h"
#include "support/unit.h"
#include "ufd/pager-dirty.h"
#include "ufd/pager.h"

#define DIRTY_PAGES 12

/* Readable. */
struct dirty_row {
	const char *what;
	enum child_memory kind;
	uint32_t track; /* enum ufd_track */
};

static const struct dirty_row dirty_rows[] = {
	{ "shmem, scan", CHILD_SHMEM, UFD_TRACK_SCAN },
	{ "shmem, wp", CHILD_SHMEM, UFD_TRACK_WP },
	{ "anonymous, scan", CHILD_ANON, UFD_TRACK_SCAN },
	{ "anonymous, wp", CHILD_ANON, UFD_TRACK_WP },
	{ "huge pages, scan", CHILD_HUGETLB, UFD_TRACK_SCAN },
	{ "huge pages, wp", CHILD_HUGETLB, UFD_TRACK_WP },
	{ "private file, scan", CHILD_PRIVATE, UFD_TRACK_SCAN },
	{ "private file, wp", CHILD_PRIVATE, UFD_TRACK_WP },
};

struct dirty_fixture {
	const struct dirty_row *row;
	struct paged_child child;
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	struct ufd_source *source;
	uint32_t mapper, memory;
	unsigned int n_events[32];
};

static inline void dirty_on_event(struct ufd_pager_guest *guest, const struct ufd_event *event,
				  void *userdata)
{
	struct dirty_fixture *fixture = userdata;

	(void)guest;
	fixture->n_events[event->kind]++;
}

static inline void dirty_wait_event(struct dirty_fixture *fixture, uint32_t kind)
{
	struct pollfd wait = { .fd = ufd_pager_fd(fixture->pager), .events = POLLIN };

	while (!fixture->n_events[kind]) {
		ck_assert_msg(poll(&wait, 1, 20000) == 1, "event %u never came", kind);
		ufd_pager_dispatch(fixture->pager);
	}
}

/* The child's pattern. */
static inline int dirty_read_source(void *userdata, uint64_t offset, void *buffer, uint64_t length,
				    struct ufd_read *read)
{
	const struct paged_child *child = userdata;

	(void)read;
	for (uint64_t at = 0; at < length; at += child->page_bytes)
		child_page((offset + at) / child->page_bytes, child->page_bytes,
			   (char *)buffer + at);
	return UFD_SOURCE_DATA;
}

/* A guest that is not started yet, all of it absent. @is_wp_sync: how its userfaultfd is made. */
static inline void dirty_prepare_child(struct dirty_fixture *fixture, const struct dirty_row *row,
				       uint64_t n_pages, bool is_wp_sync)
{
	UFD_OPTS(ufd_pager_opts, opts, .on_event = dirty_on_event, .userdata = fixture);
	UFD_OPTS(ufd_pager_guest_opts, guest_opts, .track = row->track, .no_background = 1,
		 .window_bytes = UFD_NO_WINDOW, .other_mappers = UFD_OTHERS_IGNORE);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .kind = row->kind);
	UFD_OPTS(ufd_source_ops, source, .read = dirty_read_source);
	uint64_t page_bytes = row->kind == CHILD_HUGETLB ? 2 * MIB : 4096;
	int r;

	*fixture = (struct dirty_fixture){ .row = row };
	if (row->kind == CHILD_HUGETLB && !hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	r = child_start_tracked(&fixture->child, row->kind, n_pages * page_bytes, is_wp_sync);
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	source.length = fixture->child.length;
	ck_assert_int_eq(ufd_source_new(&fixture->source, &source, &fixture->child), 0);
	ck_assert_int_eq(ufd_pager_new(&fixture->pager, &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_new(fixture->pager, &fixture->guest, "guest", &guest_opts),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(fixture->guest, fixture->child.uffd,
						    fixture->child.pidfd, -1, &fixture->mapper),
			 0);
	memory.length = fixture->child.length;
	memory.page_bytes = page_bytes;
	memory.source = fixture->source;
	memory.backing = fixture->child.memfd;
	ck_assert_int_eq(ufd_pager_guest_add_memory(fixture->guest, &memory, &fixture->memory), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(fixture->guest, fixture->mapper,
						     fixture->memory, fixture->child.address,
						     fixture->child.length, 0, NULL),
			 0);
}

static inline void dirty_prepare_unsealed(struct dirty_fixture *fixture,
					  const struct dirty_row *row, uint64_t n_pages)
{
	if (row->track == UFD_TRACK_SCAN && !features_get()->has_pagemap_scan)
		unit_skip("no PAGEMAP_SCAN");
	dirty_prepare_child(fixture, row, n_pages, row->track == UFD_TRACK_WP);
}

static inline void dirty_prepare(struct dirty_fixture *fixture, const struct dirty_row *row,
				 uint64_t n_pages)
{
	dirty_prepare_unsealed(fixture, row, n_pages);
	if (row->kind == CHILD_PRIVATE)
		ck_assert_int_eq(fcntl(fixture->child.memfd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
}

static inline void dirty_begin(struct dirty_fixture *fixture, const struct dirty_row *row)
{
	dirty_prepare(fixture, row, DIRTY_PAGES);
	ck_assert_int_eq(ufd_pager_guest_start(fixture->guest), 0);
}

static inline void dirty_end(struct dirty_fixture *fixture)
{
	ufd_pager_free(fixture->pager);
	ufd_source_unref(fixture->source);
	child_stop(&fixture->child);
}

static inline void dirty_finish(struct dirty_fixture *fixture)
{
	ck_assert_int_eq(ufd_pager_guest_finish(fixture->guest, 0), 0);
}

static inline void dirty_start(struct dirty_fixture *fixture, const char *consumer)
{
	int r = ufd_pager_guest_dirty_start(fixture->guest, consumer);

	ck_assert_msg(r == 0, "%s: start: %s (%s)", fixture->row->what, strerror(-r),
		      ufd_pager_guest_dirty_refusal(fixture->guest));
}

static inline void dirty_stop(struct dirty_fixture *fixture, const char *consumer)
{
	ck_assert_int_eq(ufd_pager_guest_dirty_stop(fixture->guest, consumer), 0);
}

/* The map of @memory as it was read last must have exactly these pages. */
static inline void dirty_expect_map(struct dirty_fixture *fixture, const char *consumer,
				    uint32_t memory, const uint64_t *pages, size_t n_pages)
{
	uint64_t expected[64] = {}, found[64] = {};

	for (size_t i = 0; i < n_pages; i++)
		expected[pages[i] / 64] |= UINT64_C(1) << pages[i] % 64;
	ck_assert_int_eq(
		ufd_pager_guest_dirty_bitmap(fixture->guest, consumer, memory, 0, found, 64), 0);
	for (size_t i = 0; i < 64; i++)
		ck_assert_msg(found[i] == expected[i], "%s: word %zu: %#llx for %#llx",
			      fixture->row->what, i, (unsigned long long)found[i],
			      (unsigned long long)expected[i]);
}

static inline void dirty_read(struct dirty_fixture *fixture, const char *consumer,
			      uint64_t acknowledge, struct ufd_dirty_epoch *ret)
{
	int r = ufd_pager_guest_dirty_read(fixture->guest, consumer, acknowledge, ret);

	ck_assert_msg(r == 0, "%s: read: %s", fixture->row->what, strerror(-r));
}

/* One epoch more, which has exactly these pages of the first memory. */
static inline void dirty_expect(struct dirty_fixture *fixture, const char *consumer,
				const uint64_t *pages, size_t n_pages)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);

	dirty_read(fixture, consumer, UFD_DIRTY_LAST, &epoch);
	dirty_expect_map(fixture, consumer, fixture->memory, pages, n_pages);
	ck_assert_uint_eq(epoch.dirty_bytes, n_pages * fixture->child.page_bytes);
}

/* The same without looking which. */
static inline void dirty_expect_sum(struct dirty_fixture *fixture, const char *consumer,
				    uint64_t n_pages)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);

	dirty_read(fixture, consumer, UFD_DIRTY_LAST, &epoch);
	ck_assert_uint_eq(epoch.dirty_bytes, n_pages * fixture->child.page_bytes);
}

/* A memory of its own for some pages of the child. Return: its number. */
static inline uint32_t dirty_add(struct dirty_fixture *fixture, const char *name, uint64_t first,
				 uint64_t n_pages)
{
	uint64_t offset = first * fixture->child.page_bytes;
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = name, .kind = fixture->row->kind,
		 .length = n_pages * fixture->child.page_bytes,
		 .page_bytes = fixture->child.page_bytes, .source = fixture->source,
		 .source_offset = offset, .backing = fixture->child.memfd,
		 .backing_offset = fixture->child.memfd >= 0 ? offset : 0);
	uint32_t id = 0;
	int r = ufd_pager_guest_add_memory(fixture->guest, &memory, &id);

	if (r == 0)
		r = ufd_pager_guest_add_mapping(fixture->guest, fixture->mapper, id,
						fixture->child.address + offset, memory.length, 0,
						NULL);
	ck_assert_msg(r == 0, "%s: %s", fixture->row->what, strerror(-r));
	return id;
}

static uint64_t dirty_strides(const struct paged_child *self, const void *argument)
{
	const uint64_t stride = *(const uint64_t *)argument;

	for (uint64_t at = 0; at < self->length; at += stride * self->page_bytes)
		*(volatile uint64_t *)(self->address + at) = at + 1;
	return 0;
}

/* The child writes each @stride-th page. */
static inline void dirty_write_strided(struct dirty_fixture *fixture, uint64_t stride)
{
	ck_assert_uint_eq(child_call(&fixture->child, dirty_strides, &stride, sizeof(stride)), 0);
}
