/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory files that others wrote. */
#include "image/image-foreign.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "image/image-chain.h"
#include "image/image-error.h"

static const char *const names[] = {
	[IMAGE_UFDI] = "ufdi",
	[IMAGE_RAW_FILE] = "raw",
	[IMAGE_FIRECRACKER] = "firecracker",
	[IMAGE_CLOUD_HYPERVISOR] = "cloud-hypervisor",
};

const char *image_format_name(enum image_format format)
{
	return names[format];
}

bool image_format_parse(const char *text, enum image_format *ret)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum image_format)i;
			return true;
		}
	return false;
}

/* A folder stands for its memory-ranges. */
static const char *name_ranges(const char *path, char text[PATH_MAX])
{
	struct stat info;

	if (stat(path, &info) < 0 || !S_ISDIR(info.st_mode) ||
	    snprintf(text, PATH_MAX, "%s/memory-ranges", path) >= PATH_MAX)
		return path;
	return text;
}

int image_open_foreign(struct image **ret, enum image_format format, const char *const *paths,
		       size_t n_paths, int fd, const char **ret_error)
{
	_cleanup_(image_opening_done) struct image_opening opening = {};
	char text[PATH_MAX];
	int r;

	if (n_paths == 0 || n_paths > IMAGE_MAX_LAYERS ||
	    (n_paths > 1 && format != IMAGE_FIRECRACKER))
		return image_fail(ret_error, -EINVAL, "%s: %zu files are too many",
				  image_format_name(format), n_paths);
	for (size_t i = n_paths; i-- > 0;) {
		const char *path = paths[i];

		if (format == IMAGE_CLOUD_HYPERVISOR && fd < 0)
			path = name_ranges(path, text);
		r = image_layer_open_flat(&opening.layers[opening.n], path,
					  i == n_paths - 1 ? fd : -1, i > 0, ret_error);
		if (r < 0)
			return r;
		opening.n++;
		if (opening.layers[opening.n - 1]->identity.length_bytes !=
		    opening.layers[0]->identity.length_bytes)
			return image_fail(
				ret_error, -EINVAL,
				"%s and %s have different lengths: they are not of one guest", path,
				opening.layers[0]->path);
	}
	r = image_opening_finish(&opening, ret);
	return r < 0 ? image_fail(ret_error, r, "no memory for %s", paths[0]) : 0;
}
