/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sources that read nothing: all zero, the memory's own file, and one that is gone. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "source/kinds.h"

static uint64_t endless_length(struct source *source)
{
	return UINT64_MAX;
}

static void endless_free(struct source *source)
{
	free(source);
}

static int zero_read(struct source *source, struct source_request *request)
{
	return SOURCE_ZERO;
}

static int zero_extent(struct source *source, uint64_t offset, uint64_t length,
		       uint64_t *ret_length)
{
	*ret_length = length;
	return SOURCE_ZERO;
}

static int backing_extent(struct source *source, uint64_t offset, uint64_t length,
			  uint64_t *ret_length)
{
	*ret_length = length;
	return _SOURCE_DATA;
}

/* Neither goes to a ring, so nothing is ever to be finished; source_read() refuses to read a
 * backing. */
static const struct source_ops zero_ops = {
	.kind = "zero",
	.length = endless_length,
	.read = zero_read,
	.extent = zero_extent,
	.free = endless_free,
};

static const struct source_ops backing_ops = {
	.kind = "backing",
	.length = endless_length,
	.extent = backing_extent,
	.free = endless_free,
};

static int gone_read(struct source *source, struct source_request *request)
{
	return SOURCE_CHANGED;
}

static const struct source_ops gone_ops = {
	.kind = "gone",
	.length = endless_length,
	.read = gone_read,
	.extent = backing_extent,
	.free = endless_free,
};

static int endless_new(struct source **ret, const struct source_ops *ops)
{
	struct source *source = calloc(1, sizeof(*source));

	if (!source)
		return -ENOMEM;

	source->ops = ops;
	source->n_refs = 1;
	source->is_backing = ops == &backing_ops;
	source->is_zero = ops == &zero_ops;
	*ret = source;
	return 0;
}

int source_new_zero(struct source **ret)
{
	return endless_new(ret, &zero_ops);
}

int source_new_backing(struct source **ret)
{
	return endless_new(ret, &backing_ops);
}

int source_new_gone(struct source **ret, const char *spec)
{
	_cleanup_(source_unrefp) struct source *source = NULL;
	int r;

	r = endless_new(&source, &gone_ops);
	if (r)
		return r;
	source->spec = strdup(spec);
	if (!source->spec)
		return -ENOMEM;
	*ret = TAKE_PTR(source);
	return 0;
}
