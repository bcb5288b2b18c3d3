/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a fault message means: message x state x whose bytes. One table, used by the demand thread,
 * by the model test as its oracle's columns, and printed in docs/architecture.md.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/page-state.h"

enum fault_kind {
	FAULT_MISSING,
	FAULT_MINOR,
	FAULT_WP,
};
#define FAULT_KINDS 3

enum fault_action {
	ACTION_FILL,	  /* claim the page, get its bytes from the source, COPY */
	ACTION_MAP_FIRST, /* the bytes are in the file: present in the ledger, then CONTINUE */
	ACTION_MAP,	  /* CONTINUE */
	ACTION_DROP,	  /* its fill is under way and will wake it */
	ACTION_ZERO,	  /* fill with zeros */
	ACTION_PROBE,	  /* we think it is there: map it; a hole means an unannounced discard */
	ACTION_RESTORE, /* somebody made a page in the file before we filled it: see fault/foreign.h
			 */
	ACTION_UNPROTECT, /* mark dirty, then un-protect */
};

/* @is_backing_source: the memory's own file holds the bytes. Context: any; pure. */
enum fault_action fault_decide(enum fault_kind kind, enum page_state state, bool is_backing_source);

/* From the flags of a UFFD_EVENT_PAGEFAULT message. */
enum fault_kind fault_kind_of(uint64_t message_flags);

const char *fault_action_name(enum fault_action action);
