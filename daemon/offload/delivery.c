/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What serving pages to a Cloud Hypervisor needs, and how it lies in a bundle. */
#include "offload/delivery.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ufd/pager.h>

#include "offload/folder.h"

/* An answer with its bytes lies in a pipe, whole. The largest needs the right to a pipe like that. */
#define PIPE_BYTES	 (4 * MIB)
#define PIPE_FEWER_BYTES MIB

/* In a bundle of this kind; numbers of their own. */
enum {
	HANDLE_JOURNAL = 0x100,
	HANDLE_CONNECTION,
	HANDLE_PIPE,   /* id: 0, 1 requests, 2, 3 answers */
	HANDLE_MEMORY, /* id: index of the mapping */
	HANDLE_SOURCE, /* likewise */
};

_Static_assert(DELIVERY_MAX_HANDLES <= UFD_MAX_HANDLES, "they fit one bundle");

static struct delivery *delivery_make(void)
{
	struct delivery *delivery = calloc(1, sizeof(*delivery));

	if (!delivery)
		return NULL;
	delivery->journal_fd = delivery->connection = -EBADF;
	for (size_t i = 0; i < 2; i++)
		delivery->request[i] = delivery->answer[i] = delivery->look[i] = -EBADF;
	for (size_t i = 0; i < CH_MAX_MAPPINGS; i++)
		delivery->memories[i] = delivery->sources[i] = -EBADF;
	return delivery;
}

struct delivery *delivery_free(struct delivery *delivery)
{
	if (!delivery)
		return NULL;
	journal_unmap(delivery->journal);
	closep(&delivery->journal_fd);
	closep(&delivery->connection);
	for (size_t i = 0; i < 2; i++) {
		closep(&delivery->request[i]);
		closep(&delivery->answer[i]);
		closep(&delivery->look[i]);
	}
	for (size_t i = 0; i < CH_MAX_MAPPINGS; i++) {
		closep(&delivery->memories[i]);
		closep(&delivery->sources[i]);
	}
	free(delivery->buffer);
	free(delivery);
	return NULL;
}

static int open_pipe(int ret[2])
{
	return pipe2(ret, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
}

/* What no successor needs. */
static int delivery_prepare(struct delivery *delivery)
{
	int r = open_pipe(delivery->look);
	int n;

	if (r < 0)
		return r;
	n = fcntl(delivery->answer[1], F_GETPIPE_SZ);
	if (n < 0)
		return -errno;
	delivery->n_buffer = (size_t)n;
	delivery->buffer = malloc(delivery->n_buffer);
	return delivery->buffer ? 0 : -ENOMEM;
}

int delivery_new(struct delivery **ret, struct folder *folder, int connection)
{
	_cleanup_(delivery_freep) struct delivery *delivery = delivery_make();
	int r;

	if (!delivery)
		return -ENOMEM;
	r = journal_new(&delivery->journal, &delivery->journal_fd, &folder->layout);
	if (r == 0)
		r = open_pipe(delivery->request);
	if (r == 0)
		r = open_pipe(delivery->answer);
	if (r == 0 && fcntl(delivery->answer[1], F_SETPIPE_SZ, (int)PIPE_BYTES) < 0)
		(void)fcntl(delivery->answer[1], F_SETPIPE_SZ, (int)PIPE_FEWER_BYTES);
	if (r == 0)
		r = delivery_prepare(delivery);
	if (r < 0)
		return r;
	for (size_t i = 0; i < folder->layout.n_mappings; i++)
		delivery->sources[i] = TAKE_FD(folder->memories[i]);
	delivery->connection = connection;
	*ret = TAKE_PTR(delivery);
	return 0;
}

/*
 * Where shared memory is made of huge pages, writing one page makes its neighbours exist, as zeros, and
 * whoever asks for missing pages only would read them.
 */
int delivery_check_host(void)
{
	_cleanup_(closep) int fd = memfd_create("ufd-memory-try", MFD_CLOEXEC);
	static const char page[CH_PAGE_BYTES];

	if (fd < 0 || ftruncate(fd, 4 * MIB) < 0 ||
	    pwrite(fd, page, sizeof(page), 0) != (ssize_t)sizeof(page))
		return -errno;
	return lseek(fd, 0, SEEK_HOLE) == (off_t)sizeof(page) ? 0 : -EOPNOTSUPP;
}

/* What Cloud Hypervisor gets shares no file position with what we write through. */
int delivery_add_memory(struct delivery *delivery, size_t index, int *ret_fd)
{
	const struct ch_mapping *mapping = &delivery->journal->layout.mappings[index];
	_cleanup_(closep) int fd = -EBADF;
	char name[40];

	snprintf(name, sizeof(name), "ufd-memory-%u", mapping->slot);
	fd = memfd_create(name, MFD_CLOEXEC);
	if (fd < 0 ||
	    ftruncate(fd, (off_t)(mapping->file_offset_bytes + mapping->length_bytes)) < 0)
		return -errno;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	delivery->memories[index] = open(name, O_RDWR | O_CLOEXEC);
	if (delivery->memories[index] < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* ---- in a bundle ---- */

static struct ufd_handle handle_of(uint32_t kind, uint32_t id, int fd)
{
	return (struct ufd_handle){ .kind = kind, .id = id, .fd = fd };
}

size_t delivery_handles(const struct delivery *delivery, struct ufd_handle *ret)
{
	size_t n = 0;

	ret[n++] = handle_of(HANDLE_JOURNAL, 0, delivery->journal_fd);
	ret[n++] = handle_of(HANDLE_CONNECTION, 0, delivery->connection);
	for (uint32_t i = 0; i < 2; i++) {
		ret[n++] = handle_of(HANDLE_PIPE, i, delivery->request[i]);
		ret[n++] = handle_of(HANDLE_PIPE, 2 + i, delivery->answer[i]);
	}
	for (uint32_t i = 0; i < CH_MAX_MAPPINGS; i++) {
		if (delivery->memories[i] >= 0)
			ret[n++] = handle_of(HANDLE_MEMORY, i, delivery->memories[i]);
		if (delivery->sources[i] >= 0)
			ret[n++] = handle_of(HANDLE_SOURCE, i, delivery->sources[i]);
	}
	return n;
}

static int *place_of(struct delivery *delivery, const struct ufd_handle *handle)
{
	switch (handle->kind) {
	case HANDLE_JOURNAL:
		return &delivery->journal_fd;
	case HANDLE_CONNECTION:
		return &delivery->connection;
	case HANDLE_PIPE:
		if (handle->id < 4)
			return handle->id < 2 ? &delivery->request[handle->id]
					      : &delivery->answer[handle->id - 2];
		return NULL;
	case HANDLE_MEMORY:
		return handle->id < CH_MAX_MAPPINGS ? &delivery->memories[handle->id] : NULL;
	case HANDLE_SOURCE:
		return handle->id < CH_MAX_MAPPINGS ? &delivery->sources[handle->id] : NULL;
	default:
		return NULL;
	}
}

static bool is_whole(const struct delivery *delivery)
{
	if (delivery->connection < 0 || delivery->request[0] < 0 || delivery->request[1] < 0 ||
	    delivery->answer[0] < 0 || delivery->answer[1] < 0)
		return false;
	for (size_t i = 0; i < delivery->journal->layout.n_mappings; i++)
		if (delivery->sources[i] < 0 ||
		    (!delivery->journal->is_inline && delivery->memories[i] < 0))
			return false;
	return true;
}

int delivery_adopt(struct delivery **ret, struct ufd_handle *handles, size_t n_handles)
{
	_cleanup_(delivery_freep) struct delivery *delivery = delivery_make();
	int r;

	if (!delivery)
		return -ENOMEM;
	for (size_t i = 0; i < n_handles; i++) {
		int *place = place_of(delivery, &handles[i]);

		if (!place || *place >= 0)
			return -EBADMSG;
		*place = TAKE_FD(handles[i].fd);
	}
	if (delivery->journal_fd < 0)
		return -EBADMSG;
	r = journal_map(&delivery->journal, delivery->journal_fd);
	if (r == 0)
		r = is_whole(delivery) ? delivery_prepare(delivery) : -EBADMSG;
	if (r < 0)
		return r;
	*ret = TAKE_PTR(delivery);
	return 0;
}

int delivery_find_journal(const struct ufd_handle *handles, size_t n_handles)
{
	for (size_t i = 0; i < n_handles; i++)
		if (handles[i].kind == HANDLE_JOURNAL)
			return handles[i].fd;
	return -EBADF;
}
