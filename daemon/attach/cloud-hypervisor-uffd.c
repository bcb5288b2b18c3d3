/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cloud Hypervisor's proposal to hand its userfaultfd over, which is in no release: messages of a
 * length (32 bits, little-endian) and a JSON object, each answered by one byte.
 *
 *	handoff		version, vmm_pid, mode, regions; with the userfaultfd
 *	add_region	region; memory that was plugged in, registered by the same userfaultfd
 *
 * When we end, it waits for the next of us and sends the same userfaultfd again. It names no page
 * size and sends no file, though its memory may be one that it maps shared: there its maps tell, or
 * a second fd if there is one.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "attach/frontend.h"
#include "attach/json-text.h"
#include "kernel/uffd.h"
#include "refusal.h"

#define LENGTH_BYTES	  4
#define BINARY		  "cloud-hypervisor-uffd-binary"
#define MIGRATION	  "cloud-hypervisor"

#define BAD(refusal, ...) refusal_set(refusal, "io.ufd.handoff.BadMessage", NULL, __VA_ARGS__)

static int read_region(const json_t *object, struct frontend_offer *offer, struct refusal *refusal)
{
	struct frontend_region *region = &offer->regions[offer->n_regions];
	const struct {
		const char *key;
		uint64_t *value;
	} fields[] = { { "host_virt_addr", &region->address },
		       { "size", &region->length_bytes },
		       { "backing_file_offset", &region->offset_bytes } };

	if (offer->n_regions == FRONTEND_MAX_REGIONS)
		return BAD(refusal, "a message names at most %d regions", FRONTEND_MAX_REGIONS);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (!json_text_uint(object, fields[i].key, fields[i].value))
			return BAD(refusal, "a region has no `%s` that is a number", fields[i].key);
	region->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	offer->n_regions++;
	return 0;
}

/* Words between bars: MISSING|WP|WP_ASYNC. */
static int read_modes(const char *text, struct frontend_offer *offer, struct refusal *refusal)
{
	while (text && text[0]) {
		size_t n = strcspn(text, "|");

		if (n == 7 && memcmp(text, "MISSING", n) == 0)
			offer->modes |= UFFD_MODE_MISSING;
		else if (n >= 2 && memcmp(text, "WP", 2) == 0 && (n == 2 || text[2] == '_'))
			offer->modes |= UFFD_MODE_WP;
		else
			return BAD(refusal, "`%.*s` is no mode that is known", (int)n, text);
		text += n;
		text += text[0] == '|';
	}
	if (!offer->modes)
		return BAD(refusal, "the hand-over names no mode");
	return 0;
}

static int read_handoff(const json_t *object, const struct frontend_input *input,
			struct frontend_offer *offer, struct refusal *refusal)
{
	const json_t *regions = json_object_get(object, "regions");
	uint64_t version, pid;
	int r;

	if (!json_text_uint(object, "version", &version) || version != 0)
		return BAD(refusal, "the hand-over has another version than 0");
	if (!json_text_uint(object, "vmm_pid", &pid) || pid == 0 || pid > INT32_MAX)
		return BAD(refusal, "the hand-over names no process");
	if (json_array_size(regions) == 0)
		return BAD(refusal, "the hand-over names no regions");
	if (input->n_fds < 1 || input->n_fds > 2)
		return BAD(refusal, "%zu file descriptors came with the message", input->n_fds);
	offer->claimed_pid = (pid_t)pid;
	offer->uffd = 0;
	offer->backing = input->n_fds == 2 ? 1 : -1;
	r = read_modes(json_string_value(json_object_get(object, "mode")), offer, refusal);
	for (size_t i = 0; r == 0 && i < json_array_size(regions); i++)
		r = read_region(json_array_get(regions, i), offer, refusal);
	return r;
}

static int read_object(const json_t *object, const struct frontend_input *input,
		       struct frontend_offer *offer, struct refusal *refusal)
{
	const char *type = json_string_value(json_object_get(object, "type"));

	if (type && strcmp(type, "handoff") == 0)
		return read_handoff(object, input, offer, refusal);
	if (type && strcmp(type, "add_region") == 0)
		return read_region(json_object_get(object, "region"), offer, refusal);
	return BAD(refusal, "messages are a `handoff` or an `add_region`");
}

static int read_message(const struct frontend_input *input, size_t n_bytes,
			struct frontend_offer *ret, struct refusal *refusal)
{
	struct frontend_offer offer = { .n_bytes = n_bytes, .uffd = -1, .backing = -1 };
	json_error_t error;
	json_t *object = json_loadb(input->bytes + LENGTH_BYTES, n_bytes - LENGTH_BYTES,
				    JSON_REJECT_DUPLICATES, &error);
	int r;

	if (!object)
		return BAD(refusal, "the message is no JSON: %s, at byte %d", error.text,
			   error.position);
	r = read_object(object, input, &offer, refusal);
	json_decref(object);
	if (r < 0)
		return r;
	offer.is_backing_unsaid = offer.backing < 0;
	strcpy(offer.version, "Cloud Hypervisor, proposal of 2026");
	*ret = offer;
	return 0;
}

/* ---- what it might be ---- */

/* Relatives with binary heads of 16 bytes: a command, then what depends on it. Return: as read(). */
static int read_relative(const struct frontend_input *input, struct refusal *refusal)
{
	static const struct {
		unsigned char head[LENGTH_BYTES];
		const char *dialect, *what;
	} relatives[] = {
		{ { 0x0a, 0, 1, 0 },
		  BINARY,
		  "the binary messages proposed for Cloud Hypervisor's userfaultfd back end" },
		{ { 1, 0, 0, 0 },
		  MIGRATION,
		  "Cloud Hypervisor's migration, which needs a hand-off of its own: --dialect "
		  "cloud-hypervisor" },
	};

	for (size_t i = 0; i < sizeof(relatives) / sizeof(relatives[0]); i++)
		if (input->n_bytes > LENGTH_BYTES &&
		    memcmp(input->bytes, relatives[i].head, LENGTH_BYTES) == 0)
			return refusal_set(refusal, "io.ufd.handoff.UnsupportedDialect",
					   json_pack("{s:s}", "dialect", relatives[i].dialect),
					   "the VMM speaks a dialect that is not served: %s",
					   relatives[i].what);
	return FRONTEND_OTHER;
}

static uint32_t read_length(const char *bytes)
{
	const unsigned char *at = (const unsigned char *)bytes;

	return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Could it be a length and a bracket, as far as it goes? The length is below 2^17. */
static bool is_plausible(const struct frontend_input *input)
{
	return (input->n_bytes < 3 || (unsigned char)input->bytes[2] <= 1) &&
	       (input->n_bytes < 4 || input->bytes[3] == 0) &&
	       (input->n_bytes <= LENGTH_BYTES || input->bytes[LENGTH_BYTES] == '{');
}

static int read_begun(const struct frontend_input *input, struct frontend_offer *ret,
		      struct refusal *refusal)
{
	uint32_t n_text;

	if (!is_plausible(input))
		return read_relative(input, refusal);
	if (input->n_bytes <= LENGTH_BYTES)
		return FRONTEND_MORE;
	n_text = read_length(input->bytes);
	if (n_text > FRONTEND_MAX_BYTES)
		return BAD(refusal, "a message has at most %llu bytes",
			   (unsigned long long)FRONTEND_MAX_BYTES);
	if (input->n_bytes - LENGTH_BYTES < n_text)
		return FRONTEND_MORE;
	return read_message(input, LENGTH_BYTES + n_text, ret, refusal);
}

static int handoff_read(const struct frontend_input *input, struct frontend_offer *ret,
			struct refusal *refusal)
{
	int r = read_begun(input, ret, refusal);

	if (r == FRONTEND_MORE && input->is_ended)
		return BAD(refusal, "the connection ended within the message, after %zu bytes",
			   input->n_bytes);
	return r;
}

const struct frontend frontend_cloud_hypervisor_uffd = {
	.name = "cloud-hypervisor-uffd",
	.read = handoff_read,
	.ack = "\1",
	.n_ack = 1,
	.end = FRONTEND_END_REATTACH,
	.has_more = true,
	.is_experimental = true,
};
