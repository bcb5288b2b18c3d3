/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tracker `wp`: each first write is a fault; the demand thread marks the page, then takes its
 * protection off. Nothing is to be looked for, and what was read is protected again before it is told.
 */
#include "dirty/tracker.h"

#include "guest/mapping.h"

static int wp_collect(struct ledger *ledger, struct mapping *mapping, struct dirty_counts *counts)
{
	(void)ledger;
	(void)counts;
	return tracker_check_alive(mapping);
}

static int wp_protect_again(struct mapping *mapping, struct page_range pages)
{
	return protect_pages(mapping, pages, true);
}

const struct tracker tracker_wp = {
	.name = "wp",
	.is_sync = true,
	.collect = wp_collect,
	.protect_again = wp_protect_again,
};
