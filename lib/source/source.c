/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources: what holds for every kind, checked once. */
#include "source/source.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/units.h"

struct source *source_ref(struct source *source)
{
	atomic_fetch_add_explicit(&source->n_refs, 1, memory_order_relaxed);
	return source;
}

struct source *source_unref(struct source *source)
{
	/* acq_rel: whoever frees sees what every other holder did before it let go */
	if (source && atomic_fetch_sub_explicit(&source->n_refs, 1, memory_order_acq_rel) == 1) {
		free(source->spec);
		source->ops->free(source);
	}
	return NULL;
}

const char *source_spec(const struct source *source)
{
	return source->spec;
}

int source_file(struct source *source, struct source_identity *ret)
{
	return source->ops->file ? source->ops->file(source, ret) : -EBADF;
}

bool source_is_same_file(const struct source_identity *a, const struct source_identity *b)
{
	return a->device == b->device && a->inode == b->inode &&
	       a->length_bytes == b->length_bytes && a->modified_s == b->modified_s &&
	       a->modified_ns == b->modified_ns && a->changed_s == b->changed_s &&
	       a->changed_ns == b->changed_ns;
}

bool source_where(struct source *source, uint64_t offset, struct source_where *ret)
{
	return source->ops->where && offset < source_length(source) &&
	       source->ops->where(source, offset, ret);
}

void source_get_counts(struct source *source, struct source_counts *ret)
{
	*ret = (struct source_counts){};
	if (source->ops->counts)
		source->ops->counts(source, ret);
}

uint64_t source_length(struct source *source)
{
	return source->ops->length(source);
}

int source_read(struct source *source, struct source_request *request)
{
	uint64_t length = source_length(source);

	assert(!source->is_backing);
	assert(request->length_bytes > 0 && request->length_bytes <= UINT32_MAX);

	if (request->offset > length || request->length_bytes > length - request->offset)
		return SOURCE_SHORT;
	request->is_in_ring = false;
	request->n_done_bytes = 0;
	request->n_part_bytes = 0;
	return source->ops->read(source, request);
}

int source_finish(struct source *source, struct source_request *request, int32_t result)
{
	assert(request->is_in_ring);

	return source->ops->finish(source, request, result);
}

int source_extent(struct source *source, uint64_t offset, uint64_t length_bytes,
		  uint64_t *ret_length_bytes)
{
	uint64_t end = source_length(source);
	uint64_t length = 0;
	int r;

	assert(length_bytes > 0);

	/* what lies beyond the end is not zero: reading it is an error to be told */
	if (offset >= end) {
		*ret_length_bytes = length_bytes;
		return _SOURCE_DATA;
	}
	length_bytes = min_u64(length_bytes, end - offset);
	r = source->ops->extent(source, offset, length_bytes, &length);
	if (r < 0 || length == 0) {
		*ret_length_bytes = length_bytes;
		return _SOURCE_DATA;
	}
	*ret_length_bytes = min_u64(length, length_bytes);
	return r == SOURCE_ZERO ? SOURCE_ZERO : _SOURCE_DATA;
}

void source_complete(struct source_request *request, int answer)
{
	if (answer == SOURCE_PENDING || answer == SOURCE_FULL || answer > SOURCE_SHORT)
		answer = -EINVAL;
	request->on_complete(request, answer);
}
