/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Drain and Upgrade of io.ufd.manager, and what follows them in the program that took over. */
#pragma once

#include <stdbool.h>

struct call;
struct control;
struct refusal;

int method_drain(struct control *control, struct call *call, struct refusal *refusal);
int method_upgrade(struct control *control, struct call *call, struct refusal *refusal);

/*
 * Calls that come while the guests are handed over wait: for the end of it if it fails; else their
 * connection ends with this program, before they have begun. Return: true if this one waits.
 */
bool upgrade_holds(struct control *control, struct call *call);

/* Guests are served again: go on draining, and say what became of the upgrade. Context: loop, at start. */
void upgrade_report(struct control *control);
