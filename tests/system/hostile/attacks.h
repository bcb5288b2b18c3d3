/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tables of attacks; each ends with an entry without name. */
#pragma once

#include "scene.h"

extern const struct attack
	attacks_with_fds[]; /* attacks-fds.c: handles that are not what they seem */
extern const struct attack
	attacks_with_claims[];		       /* attacks-claims.c: what belongs to somebody else */
extern const struct attack attacks_by_flood[]; /* attacks-floods.c: much of what is allowed */
extern const struct attack attacks_by_target[];	 /* attacks-target.c: processes that misbehave */
extern const struct attack attacks_with_files[]; /* attacks-files.c: memories and sources that do */
extern const struct attack
	attacks_at_limits[]; /* attacks-limits.c: a daemon that is short of things */
