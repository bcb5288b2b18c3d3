/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors of io.ufd.dirty. */
#include "dirty/refuse.h"

#include <errno.h>
#include <string.h>
#include <ufd/pager-dirty.h>

#include "refusal.h"
#include "registry.h"

static json_t *who(const struct registration *registration, const char *consumer)
{
	return json_pack("{s:s, s:s}", "name", registration->paging.name, "consumer", consumer);
}

static int refuse_epoch(struct registration *registration, const char *consumer,
			uint64_t acknowledge, struct refusal *refusal)
{
	UFD_OPTS(ufd_consumer_info, info);
	uint64_t epoch = 0;
	json_t *parameters;

	for (uint32_t i = 0; ufd_pager_consumer_info(registration->paging.guest, i, &info) == 0;
	     i++)
		if (strcmp(info.name, consumer) == 0)
			epoch = info.epoch;
	parameters = who(registration, consumer);
	json_object_set_new(parameters, "epoch", json_integer((json_int_t)epoch));
	json_object_set_new(parameters, "acknowledge", json_integer((json_int_t)acknowledge));
	return refusal_set(refusal, "io.ufd.dirty.EpochUnknown", parameters,
			   "consumer `%s` of guest `%s` read epoch %llu last; it can acknowledge "
			   "that or the one before it, not %llu",
			   consumer, registration->paging.name, (unsigned long long)epoch,
			   (unsigned long long)acknowledge);
}

int dirty_refuse_engine(struct registration *registration, const char *consumer,
			uint64_t acknowledge, int r, struct refusal *refusal)
{
	const char *name = registration->paging.name;

	switch (r) {
	case -ENOENT:
		return refusal_set(
			refusal, "io.ufd.dirty.NoSuchConsumer", who(registration, consumer),
			"guest `%s` has no consumer `%s`: start it first", name, consumer);
	case -EEXIST:
		return refusal_set(
			refusal, "io.ufd.dirty.ConsumerExists", who(registration, consumer),
			"consumer `%s` of guest `%s` has started already", consumer, name);
	case -ESTALE:
		return refuse_epoch(registration, consumer, acknowledge, refusal);
	case -EOPNOTSUPP:
		return refusal_set(refusal, "io.ufd.dirty.NotTrackable",
				   json_pack("{s:s}", "name", name), "guest `%s`: %s", name,
				   ufd_pager_guest_dirty_refusal(registration->paging.guest));
	case -EINVAL:
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "consumer"),
				   "the name of a consumer has 1 to 63 bytes");
	case -ENOSPC:
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "consumers"),
				   "a guest has at most %d consumers, and their maps must fit its "
				   "ledger",
				   UFD_MAX_CONSUMERS);
	case -ESRCH:
		return refusal_set(refusal, "io.ufd.guest.NoSuchGuest",
				   json_pack("{s:s}", "name", name),
				   "guest `%s` has ended: what it wrote last cannot be told any "
				   "more",
				   name);
	case -ETIMEDOUT:
		return refusal_set_errno(refusal, r,
					 "guest `%s` was paused, but the pager was busy: it goes "
					 "on, nothing was read; try again",
					 name);
	default:
		return refusal_set_errno(refusal, r, "guest `%s`: %s", name, strerror(-r));
	}
}

int dirty_refuse_unquiesced(const struct registration *registration, const char *why,
			    struct refusal *refusal)
{
	const char *name = registration->paging.name;

	return refusal_set(refusal, "io.ufd.dirty.CannotQuiesce", json_pack("{s:s}", "name", name),
			   "guest `%s` must be paused while it is looked at (%s), and has no "
			   "monitor: start with --qmp SOCK, or with --quiesce never if what it "
			   "reads from disks into memory need not be seen",
			   name, why);
}
