/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a guest arrived. */
#pragma once

#include <stdbool.h>

/* The numbers are in ledgers. */
enum front_end {
	FRONT_END_CLIENT,      /* libufd, in the VMM */
	FRONT_END_PROCESS,     /* by pid, its userfaultfd was made by us */
	FRONT_END_PRELOAD,     /* libufd-preload, put into the VMM by its environment */
	FRONT_END_FIRECRACKER, /* by the dialects of these VMMs, at a socket of ours */
	FRONT_END_CLOUD_HYPERVISOR,
};

/* As people are shown it; "unknown" for what a later release wrote. Context: any. */
const char *front_end_word(enum front_end front_end);

/* By that word. Return: false if there is none. Context: any. */
bool front_end_find(const char *word, enum front_end *ret);
