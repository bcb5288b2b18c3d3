/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layout of ledgers, alone in its file: a test's program has another one in its place. */
#include "guest/ledger.h"

const uint32_t ledger_layout = LEDGER_LAYOUT;
