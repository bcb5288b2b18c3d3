/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon's own records. */
#include "store/record.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <ufd/pager-dirty.h>

/* Part of the ledger's layout: never reused. */
enum tag {
	TAG_GUEST = UFD_OWN_TAG,
	TAG_MAPPER = UFD_OWN_TAG + 1,
	TAG_BASE = UFD_OWN_TAG + 2,
	TAG_ATTACHING = UFD_OWN_TAG + 3,
	TAG_CONSUMER = UFD_OWN_TAG + 4, /* ids from 0 on */
	TAG_PAUSE = UFD_OWN_TAG + 5,
};

enum flag {
	FLAG_PROCESS = 1 << 0,
	FLAG_LEAVING = 1 << 1,
};

#define N_SETTINGS (sizeof(struct settings) / sizeof(uint64_t))

/* As it lies there. Settings are the last: one that a release does not know has its built-in value. */
struct guest_layout {
	uint32_t owner;
	int32_t pid;
	uint32_t flags;
	uint32_t front_end; /* enum front_end */
	uint64_t attached_ns;
	char qmp[112];
	uint64_t settings[N_SETTINGS];
};
static_assert(offsetof(struct guest_layout, settings) == 136, "appended to only");
static_assert(sizeof(struct settings) % sizeof(uint64_t) == 0, "settings are numbers");

struct mapper_layout {
	int32_t pid;
	int32_t remote_fd;
	uint64_t uffd_inode;
	uint32_t has_duplicate;
	int32_t copy_fd;
};
static_assert(sizeof(struct mapper_layout) == 24, "appended to only");

struct consumer_layout {
	char name[UFD_NAME_BYTES];
	uint32_t quiesce;
	uint32_t has_all_mappers;
	char qmp[112];
};
static_assert(sizeof(struct consumer_layout) == UFD_NAME_BYTES + 8 + 112, "appended to only");

struct pause_layout {
	char qmp[112];
};

/* Return: 0 with *ret_n bytes, not more than @n_bytes and at least @n_least; -ENOENT, -EBADMSG. */
static int get(const struct ufd_pager_guest *guest, uint32_t tag, uint32_t id, void *data,
	       size_t n_least, size_t n_bytes, size_t *ret_n)
{
	size_t n = 0;
	int r = ufd_pager_guest_get_record(guest, tag, id, data, n_bytes, &n);

	if (r < 0)
		return r;
	if (n < n_least)
		return -EBADMSG;
	*ret_n = n < n_bytes ? n : n_bytes;
	return 0;
}

int record_put_guest(struct ufd_pager_guest *guest, const struct record_guest *record)
{
	struct guest_layout layout = {
		.owner = record->owner,
		.pid = record->pid,
		.flags = (record->front_end == FRONT_END_PROCESS ? FLAG_PROCESS : 0) |
			 (record->is_leaving ? FLAG_LEAVING : 0),
		.front_end = record->front_end,
		.attached_ns = record->attached_ns,
	};

	memcpy(layout.qmp, record->qmp, sizeof(record->qmp));
	memcpy(layout.settings, &record->settings, sizeof(record->settings));
	return ufd_pager_guest_put_record(guest, TAG_GUEST, 0, &layout, sizeof(layout));
}

int record_get_guest(const struct ufd_pager_guest *guest, struct record_guest *ret)
{
	const size_t n_head = offsetof(struct guest_layout, settings);
	struct settings settings = settings_built_in();
	struct guest_layout layout = {};
	size_t n;
	int r = get(guest, TAG_GUEST, 0, &layout, n_head, sizeof(layout), &n);

	if (r < 0)
		return r;
	memcpy(&settings, layout.settings, n - n_head);
	*ret = (struct record_guest){
		.owner = layout.owner,
		.pid = layout.pid,
		/* the first layout had two of them, by the flag */
		.front_end = layout.flags & FLAG_PROCESS ? FRONT_END_PROCESS : layout.front_end,
		.is_leaving = layout.flags & FLAG_LEAVING,
		.attached_ns = layout.attached_ns,
		.settings = settings,
	};
	memcpy(ret->qmp, layout.qmp, sizeof(ret->qmp));
	ret->qmp[sizeof(ret->qmp) - 1] = '\0';
	return 0;
}

static int put_mapper(struct ufd_pager_guest *guest, uint32_t tag, uint32_t id,
		      const struct record_mapper *record)
{
	const struct mapper_layout layout = {
		.pid = record->pid,
		.remote_fd = record->remote_fd,
		.uffd_inode = record->uffd_inode,
		.has_duplicate = record->has_duplicate,
		.copy_fd = record->copy_fd,
	};

	return ufd_pager_guest_put_record(guest, tag, id, &layout, sizeof(layout));
}

static int get_mapper(const struct ufd_pager_guest *guest, uint32_t tag, uint32_t id,
		      struct record_mapper *ret)
{
	struct mapper_layout layout;
	size_t n;
	int r = get(guest, tag, id, &layout, sizeof(layout), sizeof(layout), &n);

	if (r < 0)
		return r;
	*ret = (struct record_mapper){
		.pid = layout.pid,
		.remote_fd = layout.remote_fd,
		.uffd_inode = layout.uffd_inode,
		.has_duplicate = layout.has_duplicate,
		.copy_fd = layout.copy_fd,
	};
	return 0;
}

int record_put_mapper(struct ufd_pager_guest *guest, uint32_t mapper,
		      const struct record_mapper *record)
{
	return put_mapper(guest, TAG_MAPPER, mapper, record);
}

int record_get_mapper(const struct ufd_pager_guest *guest, uint32_t mapper,
		      struct record_mapper *ret)
{
	return get_mapper(guest, TAG_MAPPER, mapper, ret);
}

int record_put_attaching(struct ufd_pager_guest *guest, const struct record_mapper *record)
{
	return put_mapper(guest, TAG_ATTACHING, 0, record);
}

int record_get_attaching(const struct ufd_pager_guest *guest, struct record_mapper *ret)
{
	return get_mapper(guest, TAG_ATTACHING, 0, ret);
}

int record_find_mapper(const struct ufd_pager_guest *guest, uint32_t mapper, pid_t pid,
		       struct record_mapper *ret)
{
	struct record_mapper record;
	int r = record_get_mapper(guest, mapper, ret);

	if (r != -ENOENT)
		return r;
	r = record_get_attaching(guest, &record);
	if (r < 0)
		return r;
	if (record.pid != pid || record.remote_fd < 0)
		return -ENOENT;
	/* the copy that we made there is the one that it keeps */
	record.has_duplicate = true;
	record.copy_fd = record.remote_fd;
	*ret = record;
	return 0;
}

void record_drop_attaching(struct ufd_pager_guest *guest)
{
	ufd_pager_guest_drop_record(guest, TAG_ATTACHING, 0);
}

int record_put_base(struct ufd_pager_guest *guest, uint32_t memory, uint64_t base_bytes)
{
	return ufd_pager_guest_put_record(guest, TAG_BASE, memory, &base_bytes, sizeof(base_bytes));
}

int record_get_base(const struct ufd_pager_guest *guest, uint32_t memory, uint64_t *ret)
{
	uint64_t base;
	size_t n;
	int r = get(guest, TAG_BASE, memory, &base, sizeof(base), sizeof(base), &n);

	if (r == 0)
		*ret = base;
	return r;
}

/* ---- consumers ---- */

static int get_consumer(const struct ufd_pager_guest *guest, uint32_t id,
			struct consumer_layout *ret)
{
	size_t n;
	int r = get(guest, TAG_CONSUMER, id, ret, sizeof(*ret), sizeof(*ret), &n);

	if (r < 0)
		return r;
	ret->name[sizeof(ret->name) - 1] = '\0';
	ret->qmp[sizeof(ret->qmp) - 1] = '\0';
	return 0;
}

/* Return: the id of @name's record, or one that is free, or UFD_MAX_CONSUMERS. */
static uint32_t find_place(const struct ufd_pager_guest *guest, const char *name)
{
	uint32_t place = UFD_MAX_CONSUMERS;

	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++) {
		struct consumer_layout layout;
		int r = get_consumer(guest, i, &layout);

		if (r == 0 && strcmp(layout.name, name) == 0)
			return i;
		if (r < 0 && place == UFD_MAX_CONSUMERS)
			place = i;
	}
	return place;
}

int record_put_consumer(struct ufd_pager_guest *guest, const struct record_consumer *record)
{
	struct consumer_layout layout = {
		.quiesce = record->quiesce,
		.has_all_mappers = record->has_all_mappers,
	};
	uint32_t place = find_place(guest, record->name);

	if (place == UFD_MAX_CONSUMERS)
		return -ENOSPC;
	memcpy(layout.name, record->name, sizeof(layout.name));
	memcpy(layout.qmp, record->qmp, sizeof(record->qmp));
	return ufd_pager_guest_put_record(guest, TAG_CONSUMER, place, &layout, sizeof(layout));
}

int record_get_consumer(const struct ufd_pager_guest *guest, const char *name,
			struct record_consumer *ret)
{
	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++) {
		struct consumer_layout layout;

		if (get_consumer(guest, i, &layout) < 0 || strcmp(layout.name, name))
			continue;
		*ret = (struct record_consumer){
			.quiesce = layout.quiesce,
			.has_all_mappers = layout.has_all_mappers,
		};
		memcpy(ret->name, layout.name, sizeof(ret->name));
		memcpy(ret->qmp, layout.qmp, sizeof(ret->qmp));
		ret->qmp[sizeof(ret->qmp) - 1] = '\0';
		return 0;
	}
	return -ENOENT;
}

void record_keep_consumers(struct ufd_pager_guest *guest,
			   bool (*is_there)(struct ufd_pager_guest *guest, const char *name))
{
	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++) {
		struct consumer_layout layout;

		if (get_consumer(guest, i, &layout) == 0 && !is_there(guest, layout.name))
			ufd_pager_guest_drop_record(guest, TAG_CONSUMER, i);
	}
}

void record_drop_consumer(struct ufd_pager_guest *guest, const char *name)
{
	for (uint32_t i = 0; i < UFD_MAX_CONSUMERS; i++) {
		struct consumer_layout layout;

		if (get_consumer(guest, i, &layout) == 0 && strcmp(layout.name, name) == 0)
			ufd_pager_guest_drop_record(guest, TAG_CONSUMER, i);
	}
}

/* ---- pauses ---- */

int record_put_pause(struct ufd_pager_guest *guest, const char *qmp)
{
	struct pause_layout layout = {};

	strncpy(layout.qmp, qmp, RECORD_PATH_BYTES - 1);
	return ufd_pager_guest_put_record(guest, TAG_PAUSE, 0, &layout, sizeof(layout));
}

int record_get_pause(const struct ufd_pager_guest *guest, char ret_qmp[RECORD_PATH_BYTES])
{
	struct pause_layout layout;
	size_t n;
	int r = get(guest, TAG_PAUSE, 0, &layout, sizeof(layout), sizeof(layout), &n);

	if (r < 0)
		return r;
	memcpy(ret_qmp, layout.qmp, RECORD_PATH_BYTES);
	ret_qmp[RECORD_PATH_BYTES - 1] = '\0';
	return 0;
}

void record_drop_pause(struct ufd_pager_guest *guest)
{
	ufd_pager_guest_drop_record(guest, TAG_PAUSE, 0);
}
