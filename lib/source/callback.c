/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source of the embedder's own: the callbacks of pager.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/opts.h"
#include "source/kinds.h"

struct callback_source {
	struct source source;
	struct ufd_source_ops ops;
	void *userdata;
};

static uint64_t callback_length(struct source *source)
{
	return ((struct callback_source *)source)->ops.length;
}

static int callback_read(struct source *source, struct source_request *request)
{
	struct callback_source *callback = (struct callback_source *)source;
	int r;

	/* struct ufd_read is the request under its public name */
	r = callback->ops.read(callback->userdata, request->offset, request->buffer,
			       request->length_bytes, (struct ufd_read *)request);
	return r > UFD_SOURCE_PENDING ? -EINVAL : r;
}

static int callback_extent(struct source *source, uint64_t offset, uint64_t length,
			   uint64_t *ret_length)
{
	struct callback_source *callback = (struct callback_source *)source;

	if (!callback->ops.extent) {
		*ret_length = length;
		return _SOURCE_DATA;
	}
	return callback->ops.extent(callback->userdata, offset, length, ret_length);
}

static void callback_free(struct source *source)
{
	struct callback_source *callback = (struct callback_source *)source;

	if (callback->ops.free)
		callback->ops.free(callback->userdata);
	free(callback);
}

static const struct source_ops callback_ops = {
	.kind = "callback",
	.length = callback_length,
	.read = callback_read,
	.extent = callback_extent,
	.free = callback_free,
};

int source_new_callback(struct source **ret, const struct ufd_source_ops *ops, void *userdata)
{
	_cleanup_(freep) struct callback_source *callback = NULL;
	int r;

	callback = calloc(1, sizeof(*callback));
	if (!callback)
		return -ENOMEM;
	r = opts_load(&callback->ops, sizeof(callback->ops), ops);
	if (r)
		return r;
	if (!callback->ops.read || !callback->ops.length)
		return -EINVAL;

	callback->source.ops = &callback_ops;
	callback->source.n_refs = 1;
	callback->userdata = userdata;
	*ret = &TAKE_PTR(callback)->source;
	return 0;
}
