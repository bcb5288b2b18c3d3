/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MESSAGE_IDs: stable for ever, one a kind of event, explained in ufdd(8) and the journal's
 * catalog. */
#pragma once

#define LOG_ID_ATTACHED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f01"
#define LOG_ID_DETACHED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f02"
#define LOG_ID_ENDED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f03"
#define LOG_ID_STALLED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f04"
#define LOG_ID_RECOVERED      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f05"
#define LOG_ID_POLICY	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f06"
#define LOG_ID_FOREIGN	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f07"
#define LOG_ID_EXHAUSTED      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f08"
#define LOG_ID_SOURCE_CHANGED "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f09"
#define LOG_ID_COMPLETED      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f0a"
#define LOG_ID_CONFIG	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f0b"
#define LOG_ID_HUNG	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f0c"
#define LOG_ID_ADOPTED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f0d"
#define LOG_ID_NOT_ADOPTED    "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f0e"
#define LOG_ID_DROPPED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f0f"
#define LOG_ID_HELD	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f10"
#define LOG_ID_DRAINED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f20"
#define LOG_ID_UPGRADED	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f21"
#define LOG_ID_ROLLED_BACK    "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f22"
#define LOG_ID_COMMITTED      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f23"
#define LOG_ID_UPGRADE_FAILED "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f24"
#define LOG_ID_STORE_ODD      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f30"
#define LOG_ID_NOT_KEPT	      "6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f31"
