/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources of the model: answers at once, late, in any order, never, or with an error. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "source/kinds.h"
#include "parties.h"

#define N_PENDING 64

static struct {
	struct model_memory *memory;
	struct source_request *request;
} pending[N_PENDING];
static unsigned int n_pending;

static void put_token(void *page, uint64_t page_bytes, uint64_t token)
{
	memcpy(page, &token, sizeof(token));
	memcpy((unsigned char *)page + page_bytes - sizeof(token), &token, sizeof(token));
}

static void put_tokens(const struct model_memory *memory, uint64_t offset, void *buffer,
		       uint64_t length)
{
	uint64_t first = (offset - memory->source_offset) / memory->page_bytes;

	for (uint64_t i = 0; i < length / memory->page_bytes; i++)
		put_token((unsigned char *)buffer + i * memory->page_bytes, memory->page_bytes,
			  memory->source_tokens[first + i]);
}

static void note_trouble(struct model_memory *memory, uint64_t offset, uint64_t length)
{
	oracle_trouble(memory, (offset - memory->source_offset) / memory->page_bytes,
		       length / memory->page_bytes);
}

/* Bytes, zeros if they are, or an error. */
static int answer(struct model_memory *memory, uint64_t offset, void *buffer, uint64_t length)
{
	uint64_t first = (offset - memory->source_offset) / memory->page_bytes;
	bool is_zero = true;

	if (world.is_source_bad || chance_one_in(25)) {
		note_trouble(memory, offset, length);
		return -EIO;
	}
	for (uint64_t i = 0; i < length / memory->page_bytes; i++)
		is_zero &= memory->source_tokens[first + i] == 0;
	if (is_zero && chance_below(2))
		return UFD_SOURCE_ZERO;
	put_tokens(memory, offset, buffer, length);
	return UFD_SOURCE_DATA;
}

static int callback_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
			 struct ufd_read *read)
{
	struct model_memory *memory = userdata;
	struct source_request *request = (struct source_request *)read;

	if (n_pending == N_PENDING || chance_below(3) == 0)
		return answer(memory, offset, buffer, length);
	if (chance_below(5) == 0) {
		/* quicker than this call returns */
		source_complete(request, answer(memory, offset, buffer, length));
		return UFD_SOURCE_PENDING;
	}
	pending[n_pending].memory = memory;
	pending[n_pending++].request = request;
	return UFD_SOURCE_PENDING;
}

static int callback_extent(void *userdata, uint64_t offset, uint64_t length, uint64_t *ret_length)
{
	struct model_memory *memory = userdata;
	uint64_t first = (offset - memory->source_offset) / memory->page_bytes;
	uint64_t n_pages = (length + memory->page_bytes - 1) / memory->page_bytes, n = 0;
	bool is_zero = memory->source_tokens[first] == 0;

	while (n < n_pages && (memory->source_tokens[first + n] == 0) == is_zero)
		n++;
	*ret_length = min_u64(n * memory->page_bytes, length);
	return is_zero ? UFD_SOURCE_ZERO : UFD_SOURCE_DATA;
}

bool model_source_complete(void)
{
	struct source_request *request;
	struct model_memory *memory;
	unsigned int i;

	if (!n_pending)
		return false;
	i = (unsigned int)chance_below(n_pending);
	request = pending[i].request;
	memory = pending[i].memory;
	pending[i] = pending[--n_pending];
	trace("the source of memory %llu completes offset %#llx",
	      (uint64_t)(memory - world.memories), request->offset, 0, 0);
	source_complete(request,
			answer(memory, request->offset, request->buffer, request->length_bytes));
	return true;
}

void model_source_forget(void)
{
	n_pending = 0;
}

static void open_file(struct model_memory *memory)
{
	unsigned char page[16384];

	memory->source_fd = memfd_create("model-source", MFD_CLOEXEC);
	if (memory->page_bytes > sizeof(page) || memory->source_fd < 0 ||
	    ftruncate(memory->source_fd,
		      (off_t)(memory->source_offset + memory->n_pages * memory->page_bytes)) < 0)
		model_fail("no file for a source");
	memset(page, 0, sizeof(page));
	for (uint64_t i = 0; i < memory->n_pages; i++) {
		put_token(page, memory->page_bytes, memory->source_tokens[i]);
		/* some zeros are holes */
		if ((memory->source_tokens[i] || i % 2) &&
		    pwrite(memory->source_fd, page, memory->page_bytes,
			   (off_t)(memory->source_offset + i * memory->page_bytes)) < 0)
			model_fail("the file of a source cannot be written");
	}
	if (source_new_file(&memory->source, memory->source_fd, 0))
		model_fail("no source of a file");
}

void model_source_open(struct model_memory *memory)
{
	const struct ufd_source_ops ops = {
		.size = sizeof(ops),
		.length = memory->source_offset + memory->n_pages * memory->page_bytes,
		.read = callback_read,
		.extent = chance_below(2) ? callback_extent : NULL,
	};
	int r = 0;

	memory->source_fd = -EBADF;
	memory->is_source_changed = false;
	switch (memory->source_kind) {
	case SOURCE_KIND_ZERO:
		r = source_new_zero(&memory->source);
		break;
	case SOURCE_KIND_CALLBACK:
		r = source_new_callback(&memory->source, &ops, memory);
		break;
	case SOURCE_KIND_FILE:
		open_file(memory);
		break;
	case SOURCE_KIND_BACKING:
		r = source_new_backing(&memory->source);
		break;
	}
	if (r)
		model_fail("no source of kind %u: %d", memory->source_kind, r);
}

void model_source_close(struct model_memory *memory)
{
	memory->source = source_unref(memory->source);
	closep(&memory->source_fd);
	memory->source_fd = -EBADF;
}

/* Reads that wait for the disk, as the file source is to believe. */
ssize_t __wrap_preadv2(int fd, const struct iovec *pieces, int n_pieces, off_t offset, int flags);
ssize_t __real_preadv2(int fd, const struct iovec *pieces, int n_pieces, off_t offset, int flags);

ssize_t __wrap_preadv2(int fd, const struct iovec *pieces, int n_pieces, off_t offset, int flags)
{
	struct iovec piece = pieces[0];

	if (world.is_source_bad || chance_one_in(2)) {
		errno = EAGAIN;
		return -1;
	}
	if (chance_one_in(5))
		piece.iov_len = chance_below(piece.iov_len) + 1;
	return __real_preadv2(fd, &piece, 1, offset, flags);
}

void model_source_change(struct model_memory *memory)
{
	if (memory->source_kind != SOURCE_KIND_FILE || memory->is_source_changed)
		return;
	trace("the file of memory %llu grows under its reader", (uint64_t)(memory - world.memories),
	      0, 0, 0);
	memory->is_source_changed = true;
	oracle_trouble(memory, 0, memory->n_pages);
	if (ftruncate(memory->source_fd, (off_t)(memory->source_offset +
						 memory->n_pages * memory->page_bytes + 1)) < 0)
		model_fail("the file of a source cannot grow");
}
