/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kinds of sources. */
#include "pager/kinds.h"

#include "image/image-source.h"
#include "source/spec.h"

int kinds_source_open(struct source **ret, const char *spec, int fd, const char **ret_error)
{
	return image_spec_is(spec) ? image_source_open(ret, spec, fd, ret_error)
				   : source_open(ret, spec, fd, ret_error);
}

int kinds_source_reopen(struct source **ret, const char *spec, int fd, const char **ret_error)
{
	return image_spec_is(spec) ? image_source_reopen(ret, spec, fd, ret_error)
				   : source_reopen(ret, spec, fd, ret_error);
}
