/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Methods of io.ufd.guest that have a file of their own, and what they share. */
#pragma once

#include "attach/front-end.h"
#include "base/units.h"

struct call;
struct control;
struct refusal;

/* As long as a call may work that waits for nothing but the engine and /proc. */
#define CALL_TIMEOUT_NS (30 * NSEC_PER_SEC)

/* methods-attach.c */
int method_attach(struct control *control, struct call *call, struct refusal *refusal);
int method_add_regions(struct control *control, struct call *call, struct refusal *refusal);

/* methods-offer.c */
int method_offer(struct control *control, struct call *call, struct refusal *refusal);

/* `front_end` of Attach and Offer. Return: 0, or -ECANCELED with InvalidParameter. */
int front_end_of_call(const struct call *call, enum front_end *ret, struct refusal *refusal);

/* methods-process.c */
int method_attach_process(struct control *control, struct call *call, struct refusal *refusal);

/* methods-ledger.c */
int method_ledger(struct control *control, struct call *call, struct refusal *refusal);

/* methods-snapshot.c */
int method_snapshot_save(struct control *control, struct call *call, struct refusal *refusal);
/* methods-restore.c */
int method_restore(struct control *control, struct call *call, struct refusal *refusal);
