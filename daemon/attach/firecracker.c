/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Firecracker, 1.1 and later, and the fork of e2b: one message, an array of regions in JSON with the
 * userfaultfd beside its first bytes. Nothing is answered, and nothing else is ever said.
 *
 *	1.1 to 1.6	base_host_virt_addr, size, offset
 *	1.7 to 1.11	and page_size_kib, which is in bytes whatever its name says
 *	1.12 on		and page_size, in bytes, too
 *	e2b		like its version; with a second fd, the memfd that all regions map
 *
 * Keys that nobody knows are for handlers of the future. But two of them, and three fds, belong to
 * memory that no userfaultfd alone can fill ("secret freedom"): those are refused by name, and so is
 * what other proposals begin with.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "attach/frontend.h"
#include "attach/json-text.h"
#include "kernel/uffd.h"
#include "refusal.h"

#define SECRET_FREEDOM	  "firecracker-secret-freedom"
#define BINARY		  "firecracker-uffd-block"
#define BINARY_MAGIC	  "DFFU" /* 0x55464644, little-endian */
#define AMBIGUOUS_BYTES	  4
#define MIN_PAGE_BYTES	  4096
#define MAX_PAGE_BYTES	  GIB

#define BAD(refusal, ...) refusal_set(refusal, "io.ufd.handoff.BadMessage", NULL, __VA_ARGS__)

static int refuse_dialect(struct refusal *refusal, const char *dialect, const char *what)
{
	return refusal_set(refusal, "io.ufd.handoff.UnsupportedDialect",
			   json_pack("{s:s}", "dialect", dialect),
			   "the VMM speaks a dialect that is not served: %s", what);
}

static int refuse_secret_freedom(struct refusal *refusal)
{
	return refuse_dialect(refusal, SECRET_FREEDOM,
			      "Firecracker's secret freedom (memory in a guest_memfd, which is "
			      "filled by other calls than those of a userfaultfd); restore the "
			      "VM without secret_free");
}

/* ---- regions ---- */

/* Which keys were there. */
struct seen {
	bool has_page_size, has_page_size_kib;
};

static int read_page_size(const json_t *object, struct frontend_region *region, struct seen *seen,
			  struct refusal *refusal)
{
	bool has_page_size = json_object_get(object, "page_size");
	bool has_kib = json_object_get(object, "page_size_kib");
	const char *key = has_page_size ? "page_size" : "page_size_kib";
	uint64_t *ret = &region->page_bytes;

	seen->has_page_size |= has_page_size;
	seen->has_page_size_kib |= has_kib;
	if (!has_page_size && !has_kib) {
		*ret = (uint64_t)sysconf(_SC_PAGESIZE);
		return 0;
	}
	if (!json_text_uint(object, key, ret) || *ret < MIN_PAGE_BYTES || *ret > MAX_PAGE_BYTES ||
	    (*ret & (*ret - 1)))
		return BAD(refusal, "`%s` of a region is no page size in bytes", key);
	return 0;
}

static int read_region(const json_t *object, struct frontend_region *region, struct seen *seen,
		       struct refusal *refusal)
{
	const struct {
		const char *key;
		uint64_t *value;
	} fields[] = { { "base_host_virt_addr", &region->address },
		       { "size", &region->length_bytes },
		       { "offset", &region->offset_bytes } };

	if (json_object_get(object, "gpa_start") || json_object_get(object, "is_guest_memfd"))
		return refuse_secret_freedom(refusal);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (!json_text_uint(object, fields[i].key, fields[i].value))
			return BAD(refusal, "a region has no `%s` that is a number", fields[i].key);
	return read_page_size(object, region, seen, refusal);
}

static int read_regions(const json_t *array, struct frontend_offer *offer, struct seen *seen,
			struct refusal *refusal)
{
	size_t n = json_array_size(array);
	int r;

	if (n == 0 || n > FRONTEND_MAX_REGIONS)
		return BAD(refusal, "a message names 1 to %d regions, not %zu",
			   FRONTEND_MAX_REGIONS, n);
	for (size_t i = 0; i < n; i++) {
		r = read_region(json_array_get(array, i), &offer->regions[i], seen, refusal);
		if (r < 0)
			return r;
	}
	offer->n_regions = n;
	return 0;
}

/* ---- the message ---- */

static int read_fds(const struct frontend_input *input, struct frontend_offer *offer,
		    struct refusal *refusal)
{
	switch (input->n_fds) {
	case 0:
		return BAD(refusal, "no userfaultfd came with the message");
	case 1:
		break;
	case 2:
		offer->backing = 1;
		offer->modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
		break;
	case 3:
		return refuse_secret_freedom(refusal);
	default:
		return BAD(refusal, "%zu file descriptors came with the message", input->n_fds);
	}
	offer->uffd = 0;
	return 0;
}

static void name_version(const struct seen *seen, struct frontend_offer *offer)
{
	const char *version = seen->has_page_size	? "1.12 or later"
			      : seen->has_page_size_kib ? "1.7 to 1.11"
							: "1.1 to 1.6";

	snprintf(offer->version, sizeof(offer->version), "Firecracker %s%s", version,
		 offer->backing >= 0 ? ", e2b's fork" : "");
}

/* The array and nothing but white space behind it. */
static int read_message(const struct frontend_input *input, size_t n_bytes,
			struct frontend_offer *ret, struct refusal *refusal)
{
	struct frontend_offer offer = { .n_bytes = input->n_bytes, .uffd = -1, .backing = -1 };
	struct seen seen = {};
	json_error_t error;
	json_t *array;
	int r;

	for (size_t i = n_bytes; i < input->n_bytes; i++)
		if (input->bytes[i] == '\0' || !strchr(" \t\r\n", input->bytes[i]))
			return input->bytes[i] == 'n' || input->bytes[i] == 'e'
				       ? refuse_secret_freedom(refusal)
				       : BAD(refusal, "something follows the regions, at byte %zu",
					     i);
	array = json_loadb(input->bytes, n_bytes, JSON_REJECT_DUPLICATES, &error);
	if (!array)
		return BAD(refusal, "the message is no JSON: %s, at byte %d", error.text,
			   error.position);
	r = read_regions(array, &offer, &seen, refusal);
	json_decref(array);
	if (r == 0)
		r = read_fds(input, &offer, refusal);
	if (r < 0)
		return r;
	name_version(&seen, &offer);
	*ret = offer;
	return 0;
}

/* ---- what it might be ---- */

/* Do the first bytes begin as @word does? */
static bool begins(const struct frontend_input *input, const char *word)
{
	size_t n = strlen(word);

	return memcmp(input->bytes, word, input->n_bytes < n ? input->n_bytes : n) == 0;
}

/* Relatives that do not begin with an array. Return: as the dialect's read(). */
static int read_relative(const struct frontend_input *input, struct refusal *refusal)
{
	static const char *const secrets[] = { "no_exitless_apf", "exitless_apf:" };

	if (begins(input, BINARY_MAGIC))
		return input->n_bytes < strlen(BINARY_MAGIC)
			       ? FRONTEND_MORE
			       : refuse_dialect(refusal, BINARY,
						"the binary frames proposed for Firecracker's "
						"uffd_block");
	for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++)
		if (begins(input, secrets[i]))
			return input->n_bytes < strlen(secrets[i]) ? FRONTEND_MORE
								   : refuse_secret_freedom(refusal);
	return FRONTEND_OTHER;
}

static int read_begun(const struct frontend_input *input, struct frontend_offer *ret,
		      struct refusal *refusal)
{
	static const char blanks[] = " \t\r\n";
	size_t first = 0, end = 0;
	int r;

	while (first < input->n_bytes && input->bytes[first] != '\0' &&
	       strchr(blanks, input->bytes[first]))
		first++;
	if (first == input->n_bytes)
		return FRONTEND_MORE;
	if (input->bytes[first] != '[')
		return read_relative(input, refusal);
	r = json_text_end(input->bytes, input->n_bytes, &end);
	/* so short it may be the length that another dialect begins with */
	if (r != JSON_TEXT_MORE && end < AMBIGUOUS_BYTES)
		return FRONTEND_OTHER;
	if (r == JSON_TEXT_BAD)
		return BAD(refusal,
			   "the message becomes no JSON array of objects, from byte %zu on", end);
	return r == JSON_TEXT_MORE ? FRONTEND_MORE : read_message(input, end, ret, refusal);
}

static int firecracker_read(const struct frontend_input *input, struct frontend_offer *ret,
			    struct refusal *refusal)
{
	int r;

	if (input->n_bytes > FRONTEND_MAX_BYTES)
		return BAD(refusal, "a message has at most %llu bytes",
			   (unsigned long long)FRONTEND_MAX_BYTES);
	r = read_begun(input, ret, refusal);
	if (r == FRONTEND_MORE && input->is_ended)
		return input->n_bytes ? BAD(refusal,
					    "the connection ended within the message, after "
					    "%zu bytes",
					    input->n_bytes)
				      : BAD(refusal, "the connection ended before a message came");
	return r;
}

const struct frontend frontend_firecracker = {
	.name = "firecracker",
	.read = firecracker_read,
	.end = FRONTEND_END_LOOK,
};
