/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages a guest wrote. */
#include "dirty-epoch.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

static uint64_t number_of(const json_t *object, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(object, name));

	return value < 0 ? 0 : (uint64_t)value;
}

static int parse_memory(const json_t *json, const unsigned char *bytes, size_t n_bytes,
			struct dirty_memory *ret)
{
	uint64_t at = number_of(json, "fd_offset_bytes");

	ret->name = json_string_value(json_object_get(json, "name"));
	ret->base_bytes = number_of(json, "base_bytes");
	ret->page_bytes = number_of(json, "page_bytes");
	ret->length_bytes = number_of(json, "length_bytes");
	ret->dirty_bytes = number_of(json, "dirty_bytes");
	if (!ret->name || !ret->page_bytes)
		return -EBADMSG;
	ret->n_pages = ret->length_bytes / ret->page_bytes;
	ret->n_words = (ret->n_pages + 63) / 64;
	if (at > n_bytes || (n_bytes - at) / sizeof(uint64_t) < ret->n_words)
		return -EBADMSG;
	ret->words = calloc(ret->n_words + 1, sizeof(*ret->words));
	if (!ret->words)
		return -ENOMEM;
	for (size_t i = 0; i < ret->n_words; i++) {
		memcpy(&ret->words[i], bytes + at + i * sizeof(uint64_t), sizeof(uint64_t));
		ret->words[i] = le64toh(ret->words[i]);
	}
	return 0;
}

int dirty_epoch_parse(json_t *reply, const void *bytes, size_t n_bytes, struct dirty_epoch *ret)
{
	_cleanup_(dirty_epoch_done) struct dirty_epoch epoch = { .reply = json_incref(reply) };
	const json_t *list = json_object_get(reply, "memories"), *json;
	size_t i;

	epoch.memories = calloc(json_array_size(list) + 1, sizeof(*epoch.memories));
	if (!epoch.memories)
		return -ENOMEM;
	json_array_foreach(list, i, json)
	{
		int r = parse_memory(json, bytes, n_bytes, &epoch.memories[epoch.n_memories++]);

		if (r < 0)
			return r;
	}
	*ret = epoch;
	epoch = (struct dirty_epoch){};
	return 0;
}

void dirty_epoch_done(struct dirty_epoch *epoch)
{
	for (size_t i = 0; i < epoch->n_memories; i++)
		free(epoch->memories[i].words);
	free(epoch->memories);
	json_decref(epoch->reply);
	*epoch = (struct dirty_epoch){};
}

static int parse_file(json_t *reply, int fd, struct dirty_epoch *ret)
{
	struct stat info = {};
	void *bytes = NULL;
	int r;

	if (fd >= 0 && fstat(fd, &info) < 0)
		return -errno;
	if (info.st_size > 0) {
		bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (bytes == MAP_FAILED)
			return -errno;
	}
	r = dirty_epoch_parse(reply, bytes, (size_t)info.st_size, ret);
	if (bytes)
		munmap(bytes, (size_t)info.st_size);
	return r;
}

int dirty_epoch_read(struct session *session, json_t *parameters, struct dirty_epoch *ret)
{
	_cleanup_(closep) int fd = -EBADF;
	json_t *reply = NULL;
	int status, r;

	json_object_set_new(parameters, "format", json_string("bitmap"));
	status = session_call_fd(session, "io.ufd.dirty.Read", parameters, &reply, &fd);
	if (status)
		return status;
	r = parse_file(reply, fd, ret);
	json_decref(reply);
	if (r < 0) {
		fprintf(stderr, "ufdctl: what ufdd sent cannot be used: %s\n", strerror(-r));
		return EXIT_FAILED;
	}
	return EXIT_DONE;
}

static int is_dirty(const struct dirty_memory *memory, uint64_t page)
{
	return memory->words[page / 64] >> (page % 64) & 1;
}

void dirty_epoch_ranges(const struct dirty_epoch *epoch, dirty_range_fn on_range, void *userdata)
{
	for (size_t i = 0; i < epoch->n_memories; i++) {
		const struct dirty_memory *memory = &epoch->memories[i];
		uint64_t page = 0;

		while (page < memory->n_pages) {
			uint64_t first = page;

			while (page < memory->n_pages && is_dirty(memory, page))
				page++;
			if (page > first)
				on_range(userdata, memory,
					 memory->base_bytes + first * memory->page_bytes,
					 (page - first) * memory->page_bytes);
			else
				page++;
		}
	}
}
