/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every check, in the order in which they are tried and told. */
#include "probe/table.h"

#include <assert.h>
#include <string.h>

#define MAX_CHECKS 512

static const struct probe_family *const families[] = {
	&probe_family_services,
	&probe_family_features,
	&probe_family_rights,
	&probe_family_limits,
	&probe_family_programs,
	&probe_family_trackable,
	&probe_family_trackable_async,
	&probe_family_trackable_rules,
	&probe_family_trackable_notify,
	&probe_family_fill,
	&probe_family_fill_results,
	&probe_family_fill_huge,
	&probe_family_fill_marks,
	&probe_family_fill_poison,
	&probe_family_fill_protect,
	&probe_family_fill_move,
	&probe_family_fill_sigbus,
	&probe_family_fill_race,
	&probe_family_continue,
	&probe_family_continue_kept,
	&probe_family_access,
	&probe_family_missing,
	&probe_family_kvm,
	&probe_family_mapper,
	&probe_family_zap,
	&probe_family_zap_life,
	&probe_family_zap_fork,
	&probe_family_zap_thp,
	&probe_family_scan,
	&probe_family_scan_arguments,
	&probe_family_scan_empty,
	&probe_family_scan_huge,
	&probe_family_scan_process,
	&probe_family_handshake,
	&probe_family_messages,
	&probe_family_waiting,
	&probe_family_lifecycle,
	&probe_family_events,
	&probe_family_uring,
};

const struct probe_check *const *probe_checks(size_t *ret_n)
{
	static const struct probe_check *checks[512];
	static size_t n_checks;

	if (!n_checks)
		for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
			for (size_t j = 0; j < families[i]->n_checks; j++) {
				assert(n_checks < MAX_CHECKS);
				checks[n_checks++] = &families[i]->checks[j];
			}
	*ret_n = n_checks;
	return checks;
}

const struct probe_check *probe_find(const char *id)
{
	const struct probe_check *const *checks;
	size_t n;

	checks = probe_checks(&n);
	for (size_t i = 0; i < n; i++)
		if (!strcmp(checks[i]->id, id))
			return checks[i];
	return NULL;
}

const char *probe_group_name(enum probe_group group)
{
	static const char *const names[] = {
		[PROBE_HOST] = "host",	   [PROBE_TRACKABLE] = "trackable",
		[PROBE_FILL] = "fill",	   [PROBE_CONTINUE] = "continue",
		[PROBE_ACCESS] = "access", [PROBE_MAPPER] = "mapper",
		[PROBE_ZAP] = "zap",	   [PROBE_SCAN] = "scan",
		[PROBE_EVENT] = "event",   [PROBE_URING] = "uring",
	};

	return names[group];
}

const char *probe_group_title(enum probe_group group)
{
	static const char *const titles[] = {
		[PROBE_HOST] = "versions, permissions, limits, services",
		[PROBE_TRACKABLE] = "which memory can be paged and tracked, who needs notification",
		[PROBE_FILL] = "filling pages: results, marks, wake-ups",
		[PROBE_CONTINUE] = "minor faults and the pages that they map",
		[PROBE_ACCESS] = "forced copy-on-write, reads and writes by the kernel",
		[PROBE_MAPPER] = "kernel users with a mapping of their own: KVM, pins",
		[PROBE_ZAP] = "the mark of a page across zapping, swap, remapping and fork",
		[PROBE_SCAN] = "PAGEMAP_SCAN",
		[PROBE_EVENT] = "messages, events, life cycle",
		[PROBE_URING] = "io_uring on a userfaultfd",
	};

	return titles[group];
}

const char *probe_result_name(enum probe_result result)
{
	static const char *const names[] = {
		[PROBE_OK] = "ok",	   [PROBE_DIFFERS] = "differs", [PROBE_MISSING] = "missing",
		[PROBE_FAILED] = "failed", [PROBE_SKIPPED] = "skipped",
	};

	return names[result];
}
