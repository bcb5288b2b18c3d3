/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which ufdd this is. */
#pragma once

/* Tests link a ufdd with a file of their own in its place, to have a next release. */
extern const char release_version[];
