/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which ufdd this is. */
#include "upgrade/release.h"

const char release_version[] = UFD_VERSION;
