/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a fault message means. */
#include "fault/decide.h"

#include <linux/userfaultfd.h>

/*
 * Why each cell says what it says:
 *
 * missing x absent, backing source: the file has a hole there, so the page is zero.
 * minor x absent, source elsewhere: neither we nor the guest put a page into the file. Mapping it
 *	would show foreign bytes (often zeros) in place of the guest's.
 * minor x filling: the fill under way meets the foreign page (EEXIST) and restores it then.
 * minor x removed: the file is the truth. MADV_DONTNEED of a shared mapping raises the same event
 *	as MADV_REMOVE but keeps the file's bytes, so zeroing here would destroy them.
 * wp x anything: un-protecting is always safe; a page that is not there faults again as missing.
 */
static const enum fault_action table[FAULT_KINDS][PAGE_STATES] = {
	[FAULT_MISSING] = {
		[PAGE_ABSENT] = ACTION_FILL,
		[PAGE_FILLING] = ACTION_DROP,
		[PAGE_PRESENT] = ACTION_PROBE,
		[PAGE_REMOVED] = ACTION_ZERO,
	},
	[FAULT_MINOR] = {
		[PAGE_ABSENT] = ACTION_RESTORE,
		[PAGE_FILLING] = ACTION_DROP,
		[PAGE_PRESENT] = ACTION_MAP,
		[PAGE_REMOVED] = ACTION_MAP_FIRST,
	},
	[FAULT_WP] = {
		[PAGE_ABSENT] = ACTION_UNPROTECT,
		[PAGE_FILLING] = ACTION_UNPROTECT,
		[PAGE_PRESENT] = ACTION_UNPROTECT,
		[PAGE_REMOVED] = ACTION_UNPROTECT,
	},
};

enum fault_action fault_decide(enum fault_kind kind, enum page_state state, bool is_backing_source)
{
	if (is_backing_source && state == PAGE_ABSENT && kind == FAULT_MISSING)
		return ACTION_ZERO;
	if (is_backing_source && state == PAGE_ABSENT && kind == FAULT_MINOR)
		return ACTION_MAP_FIRST;
	return table[kind][state];
}

enum fault_kind fault_kind_of(uint64_t message_flags)
{
	if (message_flags & UFFD_PAGEFAULT_FLAG_WP)
		return FAULT_WP;
	if (message_flags & UFFD_PAGEFAULT_FLAG_MINOR)
		return FAULT_MINOR;
	return FAULT_MISSING;
}

const char *fault_action_name(enum fault_action action)
{
	static const char *const names[] = {
		[ACTION_FILL] = "fill",	      [ACTION_MAP_FIRST] = "map-first",
		[ACTION_MAP] = "map",	      [ACTION_DROP] = "drop",
		[ACTION_ZERO] = "zero",	      [ACTION_PROBE] = "probe",
		[ACTION_RESTORE] = "restore", [ACTION_UNPROTECT] = "unprotect",
	};

	return names[action];
}
