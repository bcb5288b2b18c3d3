/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What snapshots remember of a guest in its ledger. */
#include "snapshots/record.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "attach/paging.h"

/* Part of the ledger's layout: never reused. Those below are of store/record.c. */
enum tag {
	TAG_SNAPSHOT = UFD_OWN_TAG + 8, /* ids from 0 on */
	TAG_NAME = PAGING_TAG_MEMORY,	/* by the engine's number of the memory */
	TAG_SAVING = UFD_OWN_TAG + 10,
};

enum flag {
	FLAG_BASE = 1 << 0,
	FLAG_READING = 1 << 1,
	FLAG_DRIVER = 1 << 2,
};

/* As they lie there; appended to only. */
struct base_layout {
	char consumer[UFD_NAME_BYTES];
	uint8_t tracking[SNAPSHOT_TRACKING_BYTES];
	uint8_t digest[IMAGE_DIGEST_BYTES];
	uint64_t base_epoch, expected, begun_ns;
	uint32_t flags, reserved;
};
static_assert(sizeof(struct base_layout) == 64 + 16 + 16 + 24 + 8, "appended to only");

struct name_layout {
	char name[IMAGE_NAME_BYTES];
	uint64_t device, inode;
};
static_assert(sizeof(struct name_layout) == 64 + 16, "appended to only");

struct saving_layout {
	char consumer[UFD_NAME_BYTES];
	char qmp[112];
	uint32_t driver_state;
	uint32_t flags;
};
static_assert(sizeof(struct saving_layout) == 64 + 112 + 8, "appended to only");

/* Return: 0, -ENOENT, -EBADMSG (too short). */
static int get(const struct ufd_pager_guest *guest, uint32_t tag, uint32_t id, void *data,
	       size_t n_bytes)
{
	size_t n = 0;
	int r = ufd_pager_guest_get_record(guest, tag, id, data, n_bytes, &n);

	return r < 0 ? r : n < n_bytes ? -EBADMSG : 0;
}

int record_get_base_at(const struct ufd_pager_guest *guest, uint32_t place, struct record_base *ret)
{
	struct base_layout layout;
	int r = get(guest, TAG_SNAPSHOT, place, &layout, sizeof(layout));

	if (r < 0)
		return r;
	*ret = (struct record_base){
		.base_epoch = layout.base_epoch,
		.expected = layout.expected,
		.begun_ns = layout.begun_ns,
		.has_base = layout.flags & FLAG_BASE,
		.is_reading = layout.flags & FLAG_READING,
	};
	memcpy(ret->consumer, layout.consumer, sizeof(ret->consumer));
	ret->consumer[sizeof(ret->consumer) - 1] = '\0';
	memcpy(ret->tracking, layout.tracking, sizeof(ret->tracking));
	memcpy(ret->digest, layout.digest, sizeof(ret->digest));
	return 0;
}

int record_get_base_of(const struct ufd_pager_guest *guest, const char *consumer,
		       struct record_base *ret)
{
	struct record_base record;

	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++)
		if (record_get_base_at(guest, i, &record) == 0 &&
		    strcmp(record.consumer, consumer) == 0) {
			*ret = record;
			return 0;
		}
	return -ENOENT;
}

int record_find_base(const struct ufd_pager_guest *guest, const uint8_t digest[IMAGE_DIGEST_BYTES],
		     struct record_base *ret)
{
	struct record_base record;

	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++)
		if (record_get_base_at(guest, i, &record) == 0 && record.has_base &&
		    memcmp(record.digest, digest, IMAGE_DIGEST_BYTES) == 0) {
			*ret = record;
			return 0;
		}
	return -ENOENT;
}

static bool is_known(struct ufd_pager_guest *guest, const char *name)
{
	UFD_OPTS(ufd_consumer_info, info);

	for (uint32_t i = 0; ufd_pager_consumer_info(guest, i, &info) == 0; i++)
		if (strcmp(info.name, name) == 0)
			return true;
	return false;
}

/* The consumer's own place, else one that is free, or of a consumer that is no more. */
static uint32_t find_place(struct ufd_pager_guest *guest, const char *name)
{
	uint32_t place = UFD_MAX_CONSUMERS;

	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++) {
		struct record_base record = {};
		int r = record_get_base_at(guest, i, &record);

		if (r == 0 && strcmp(record.consumer, name) == 0)
			return i;
		if (place == UFD_MAX_CONSUMERS && (r < 0 || !is_known(guest, record.consumer)))
			place = i;
	}
	return place;
}

int record_put_base_of(struct ufd_pager_guest *guest, const struct record_base *record)
{
	struct base_layout layout = {
		.base_epoch = record->base_epoch,
		.expected = record->expected,
		.begun_ns = record->begun_ns,
		.flags = (record->has_base ? FLAG_BASE : 0) |
			 (record->is_reading ? FLAG_READING : 0),
	};
	uint32_t place = find_place(guest, record->consumer);

	if (place == UFD_MAX_CONSUMERS)
		return -ENOSPC;
	memcpy(layout.consumer, record->consumer, sizeof(layout.consumer));
	memcpy(layout.tracking, record->tracking, sizeof(layout.tracking));
	memcpy(layout.digest, record->digest, sizeof(layout.digest));
	return ufd_pager_guest_put_record(guest, TAG_SNAPSHOT, place, &layout, sizeof(layout));
}

void record_drop_base_of(struct ufd_pager_guest *guest, const char *consumer)
{
	struct record_base record;

	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++)
		if (record_get_base_at(guest, i, &record) == 0 &&
		    strcmp(record.consumer, consumer) == 0)
			ufd_pager_guest_drop_record(guest, TAG_SNAPSHOT, i);
}

int record_put_name(struct ufd_pager_guest *guest, uint32_t memory,
		    const struct record_name *record)
{
	struct name_layout layout = { .device = record->device, .inode = record->inode };

	memcpy(layout.name, record->name, sizeof(layout.name));
	return ufd_pager_guest_put_record(guest, TAG_NAME, memory, &layout, sizeof(layout));
}

int record_get_name(const struct ufd_pager_guest *guest, uint32_t memory, struct record_name *ret)
{
	struct name_layout layout;
	int r = get(guest, TAG_NAME, memory, &layout, sizeof(layout));

	if (r < 0)
		return r;
	*ret = (struct record_name){ .device = layout.device, .inode = layout.inode };
	memcpy(ret->name, layout.name, sizeof(ret->name));
	ret->name[sizeof(ret->name) - 1] = '\0';
	return 0;
}

int record_put_saving(struct ufd_pager_guest *guest, const struct record_saving *record)
{
	struct saving_layout layout = {
		.driver_state = record->driver_state,
		.flags = record->has_driver_state ? FLAG_DRIVER : 0,
	};

	memcpy(layout.consumer, record->consumer, sizeof(layout.consumer));
	memcpy(layout.qmp, record->qmp, sizeof(layout.qmp));
	return ufd_pager_guest_put_record(guest, TAG_SAVING, 0, &layout, sizeof(layout));
}

int record_get_saving(const struct ufd_pager_guest *guest, struct record_saving *ret)
{
	struct saving_layout layout;
	int r = get(guest, TAG_SAVING, 0, &layout, sizeof(layout));

	if (r < 0)
		return r;
	*ret = (struct record_saving){
		.driver_state = layout.driver_state,
		.has_driver_state = layout.flags & FLAG_DRIVER,
	};
	memcpy(ret->consumer, layout.consumer, sizeof(ret->consumer));
	ret->consumer[sizeof(ret->consumer) - 1] = '\0';
	memcpy(ret->qmp, layout.qmp, sizeof(ret->qmp));
	ret->qmp[sizeof(ret->qmp) - 1] = '\0';
	return 0;
}

void record_drop_saving(struct ufd_pager_guest *guest)
{
	ufd_pager_guest_drop_record(guest, TAG_SAVING, 0);
}
