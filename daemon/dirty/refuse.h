/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors of io.ufd.dirty. Each return: -ECANCELED. */
#pragma once

#include <stdint.h>

struct refusal;
struct registration;

/* What the engine answered to a start, a read or a stop. With the engine's lock. */
int dirty_refuse_engine(struct registration *registration, const char *consumer,
			uint64_t acknowledge, int r, struct refusal *refusal);

/* Something may write unseen, and nobody can be paused. @why: what. */
int dirty_refuse_unquiesced(const struct registration *registration, const char *why,
			    struct refusal *refusal);
