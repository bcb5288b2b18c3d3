/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods of io.ufd.handoff that are about restored Cloud Hypervisors. Context of all: loop. */
#pragma once

struct call;
struct control;
struct refusal;

int method_offload_restore(struct control *control, struct call *call, struct refusal *refusal);
int method_offload_list(struct control *control, struct call *call, struct refusal *refusal);
