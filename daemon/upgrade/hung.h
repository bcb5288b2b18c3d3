/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does somebody wait for a source that does not answer? A read that a FUSE server or a host on the
 * network has been asked for cannot be taken back, and until it is answered the kernel lets its
 * process neither end nor execute another program: everybody would wait for that one source.
 */
#pragma once

#include <stddef.h>

struct dry_run_guest;
struct refusal;

#define HUNG_AFTER_MS 1000

/* @guests: all that are served. Context: job. Return: 0, or -ECANCELED with UpgradeRefused in @refusal. */
int hung_check(const struct dry_run_guest *guests, size_t n_guests, struct refusal *refusal);
