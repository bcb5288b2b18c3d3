/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A next release of ufdd, for tests of upgrades: with a later layout of ledgers, in name. */
#include "guest/ledger.h"
#include "upgrade/release.h"

const char release_version[] = UFD_VERSION "-next";
const uint32_t ledger_layout = LEDGER_LAYOUT + 1;
