/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: what VMMs say when they hand memory over. The first byte: how many fds, is it all. */
#include <stdint.h>
#include <string.h>

#include "attach/frontend.h"
#include "attach/plan.h"
#include "fuzz/fuzz.h"
#include "refusal.h"

#define N_FDS 3

static void refused(int r, struct refusal *refusal)
{
	FUZZ_ASSERT(r == -ECANCELED && refusal->error[0]);
	FUZZ_ASSERT(json_is_string(json_object_get(refusal->parameters, "message")));
	refusal_done(refusal);
}

static void check_offer(const struct frontend_offer *offer, const struct frontend_input *input)
{
	struct refusal refusal = {};
	struct plan plan = {};
	int r;

	FUZZ_ASSERT(offer->n_regions > 0 && offer->n_regions <= FRONTEND_MAX_REGIONS);
	FUZZ_ASSERT(offer->n_bytes > 0 && offer->n_bytes <= input->n_bytes);
	FUZZ_ASSERT(offer->uffd < (int)input->n_fds && offer->backing < (int)input->n_fds);
	FUZZ_ASSERT(memchr(offer->version, '\0', sizeof(offer->version)));
	r = frontend_plan(offer, input, "zero", -1, &plan, &refusal);
	if (r < 0)
		refused(r, &refusal);
	else
		FUZZ_ASSERT(plan.n_mappings == offer->n_regions && plan.n_memories > 0);
	plan_done(&plan);
}

/* What becomes a message is none of less, and nothing is refused that may become one. */
static void check_beginning(struct frontend_input input, size_t n_bytes)
{
	const struct frontend *frontend = NULL;
	struct refusal refusal = {};
	struct frontend_offer offer;

	input.n_bytes = n_bytes;
	input.is_ended = false;
	FUZZ_ASSERT(frontend_recognise(&input, &frontend, &offer, &refusal) >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	static const int fds[N_FDS] = { -1, -1, -1 };
	const struct frontend *frontend = NULL;
	struct refusal refusal = {};
	struct frontend_offer offer;
	struct frontend_input input = { .fds = fds };
	int r;

	if (n_bytes == 0)
		return 0;
	input.n_fds = bytes[0] & 3;
	input.is_ended = bytes[0] & 4;
	input.bytes = (const char *)bytes + 1;
	input.n_bytes = n_bytes - 1;
	r = frontend_recognise(&input, &frontend, &offer, &refusal);
	if (r < 0) {
		refused(r, &refusal);
		return 0;
	}
	FUZZ_ASSERT(r == FRONTEND_WHOLE ? frontend != NULL : r == FRONTEND_MORE && !input.is_ended);
	if (r == FRONTEND_WHOLE) {
		check_offer(&offer, &input);
		check_beginning(input, offer.n_bytes - 1);
	}
	check_beginning(input, input.n_bytes / 2);
	return 0;
}
