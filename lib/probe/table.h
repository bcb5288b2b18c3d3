/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rows of the table lie beside their experiments, a family a file; table.c puts them in order. */
#pragma once

#include "probe/probe.h"

/* Readable. */
struct probe_family {
	const struct probe_check *checks;
	size_t n_checks;
};

#define PROBE_FAMILY(checks)                                 \
	{                                                    \
		checks, sizeof(checks) / sizeof((checks)[0]) \
	}

extern const struct probe_family probe_family_features;
extern const struct probe_family probe_family_trackable, probe_family_trackable_async,
	probe_family_trackable_rules, probe_family_trackable_notify;
extern const struct probe_family probe_family_fill, probe_family_fill_results,
	probe_family_fill_huge, probe_family_fill_marks, probe_family_fill_poison,
	probe_family_fill_protect, probe_family_fill_move, probe_family_fill_sigbus,
	probe_family_fill_race;
extern const struct probe_family probe_family_continue, probe_family_continue_kept;
extern const struct probe_family probe_family_access, probe_family_missing, probe_family_kvm,
	probe_family_mapper;
extern const struct probe_family probe_family_zap, probe_family_zap_life, probe_family_zap_fork,
	probe_family_zap_thp;
extern const struct probe_family probe_family_handshake, probe_family_messages,
	probe_family_waiting, probe_family_lifecycle, probe_family_events;
extern const struct probe_family probe_family_scan, probe_family_scan_arguments,
	probe_family_scan_empty, probe_family_scan_huge, probe_family_scan_process;
extern const struct probe_family probe_family_limits, probe_family_programs, probe_family_rights,
	probe_family_services, probe_family_uring;
