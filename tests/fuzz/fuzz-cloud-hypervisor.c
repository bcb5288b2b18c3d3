/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: what a Cloud Hypervisor sends: heads one after the other, and Config's text. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attach/cloud-hypervisor.h"
#include "base/cleanup.h"
#include "fuzz/fuzz.h"
#include "refusal.h"

/* What was understood can be said again, and means the same; zeros in what is reserved. */
static void look_request(const struct ch_request *request)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	uint8_t bytes[CH_HEAD_BYTES];
	struct ch_request again;

	ch_request_write(request, bytes);
	FUZZ_ASSERT(ch_request_read(bytes, sizeof(bytes), &again, &refusal) == 0);
	FUZZ_ASSERT(again.command == request->command && again.n_payload == request->n_payload);
	FUZZ_ASSERT(strcmp(ch_command_word(request->command), "?") != 0);
	FUZZ_ASSERT(request->n_payload <= CH_MAX_TEXT);
}

static void look_layout(const struct ch_layout *layout)
{
	FUZZ_ASSERT(layout->n_mappings > 0 && layout->n_mappings <= CH_MAX_MAPPINGS);
	for (size_t i = 0; i < layout->n_mappings; i++) {
		const struct ch_mapping *mapping = &layout->mappings[i];
		const struct ch_range whole = { mapping->address, mapping->length_bytes };
		const struct ch_range more = { mapping->address, mapping->length_bytes + 1 };

		FUZZ_ASSERT(ch_layout_find(layout, &whole) == (int)i);
		FUZZ_ASSERT(ch_layout_find(layout, &more) == -1);
		FUZZ_ASSERT(ch_layout_find_slot(layout, mapping->slot) == (int)i);
		FUZZ_ASSERT(mapping->file_offset_bytes + mapping->length_bytes <= CH_ADDRESS_LIMIT);
	}
}

static void look_text(const uint8_t *bytes, size_t n_bytes)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct ch_layout layout = {};
	int r = ch_layout_read((const char *)bytes, n_bytes, &layout, &refusal);

	FUZZ_ASSERT(r == 0 || (r == -ECANCELED && refusal.parameters));
	if (r == 0)
		look_layout(&layout);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	size_t at = 0;
	int r = 0;

	if (n_bytes > 0 && bytes[0] == '{') {
		look_text(bytes, n_bytes);
		return 0;
	}
	while (r == 0) {
		_cleanup_(refusal_done) struct refusal refusal = {};
		struct ch_request request = {};
		struct ch_response response = {};

		(void)ch_response_read(bytes + at, n_bytes - at, &response, &refusal);
		refusal_done(&refusal);
		refusal = (struct refusal){};
		r = ch_request_read(bytes + at, n_bytes - at, &request, &refusal);
		FUZZ_ASSERT((r == CH_MORE) == (n_bytes - at < CH_HEAD_BYTES));
		if (r != 0)
			break;
		look_request(&request);
		at += CH_HEAD_BYTES;
		if (request.command == CH_CONFIG && request.n_payload <= n_bytes - at)
			look_text(bytes + at, request.n_payload);
		if (request.n_payload > n_bytes - at)
			break;
		at += request.n_payload;
	}
	return 0;
}
