/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The records of the façade, packed and unpacked. */
#include "pager/kept.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/opts.h"
#include "guest/ledger.h"

#define MAX_SPEC_BYTES (PATH_MAX + 64)

/* In the ledger, layout 1. */
struct guest_record {
	uint32_t is_started;
	uint32_t is_graduated;
	struct ufd_pager_guest_opts opts; /* grows at its end, and says its size */
};

/* The same; the SPEC follows, with its final NUL. */
struct source_record {
	struct source_identity identity;
	uint32_t is_file;
	uint32_t reserved;
};

int kept_guest_put(struct ledger *ledger, const struct kept_guest *guest)
{
	struct guest_record record;

	memset(&record, 0, sizeof(record));
	record.is_started = guest->is_started;
	record.is_graduated = guest->is_graduated;
	record.opts = guest->opts;
	return ledger_put_record(ledger, LEDGER_GUEST, 0, &record, sizeof(record));
}

int kept_guest_get(const struct ledger *ledger, struct kept_guest *ret)
{
	/* an older release had fewer options, a newer one may have more: in use, they are -E2BIG */
	union {
		struct guest_record record;
		unsigned char bytes[1024];
	} u = {};
	const size_t n_head = offsetof(struct guest_record, opts);
	struct kept_guest kept = {};
	size_t n_bytes;
	int r;

	r = ledger_copy_record(ledger, LEDGER_GUEST, 0, &u, sizeof(u), &n_bytes);
	if (r)
		return r;
	if (n_bytes < n_head + sizeof(size_t) || n_bytes > sizeof(u) ||
	    u.record.opts.size != n_bytes - n_head)
		return LEDGER_DAMAGED;
	r = opts_load(&kept.opts, sizeof(kept.opts), &u.record.opts);
	if (r)
		return r == -EINVAL ? LEDGER_DAMAGED : r;
	kept.opts.size = sizeof(kept.opts);
	kept.is_started = u.record.is_started;
	kept.is_graduated = u.record.is_graduated;
	*ret = kept;
	return 0;
}

int kept_source_put(struct ledger *ledger, uint32_t id, const struct kept_source *source)
{
	unsigned char bytes[sizeof(struct source_record) + MAX_SPEC_BYTES];
	struct source_record record = { .identity = source->identity, .is_file = source->is_file };
	size_t n_spec = strlen(source->spec) + 1;

	if (n_spec > MAX_SPEC_BYTES)
		return -ENOSPC;
	memcpy(bytes, &record, sizeof(record));
	memcpy(bytes + sizeof(record), source->spec, n_spec);
	return ledger_put_record(ledger, LEDGER_SOURCE, id, bytes, sizeof(record) + n_spec);
}

int kept_source_get(const struct ledger *ledger, uint32_t id, struct kept_source *ret)
{
	unsigned char bytes[sizeof(struct source_record) + MAX_SPEC_BYTES];
	struct source_record record;
	size_t n_bytes;
	char *spec;
	int r;

	r = ledger_copy_record(ledger, LEDGER_SOURCE, id, bytes, sizeof(bytes), &n_bytes);
	if (r)
		return r;
	if (n_bytes <= sizeof(record) || n_bytes > sizeof(bytes) || bytes[n_bytes - 1])
		return LEDGER_DAMAGED;
	memcpy(&record, bytes, sizeof(record));
	spec = strdup((const char *)bytes + sizeof(record));
	if (!spec)
		return -ENOMEM;
	*ret = (struct kept_source){
		.identity = record.identity,
		.is_file = record.is_file,
		.spec = spec,
	};
	return 0;
}

void kept_source_done(struct kept_source *source)
{
	free(source->spec);
	source->spec = NULL;
}
