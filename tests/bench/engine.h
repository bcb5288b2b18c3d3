/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory that exists, tracked by the engine in this process: libufd-pager, as ufdd uses it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct ram;
struct ufd_pager;
struct ufd_pager_guest;

/* Readable. Zero is none. */
struct engine {
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
};

/* The consumer whose baseline is the start. */
#define ENGINE_CONSUMER "bench"

/* With the features that tracking needs; @is_sync: for messages of writes. Owned by the caller. */
int engine_new_uffd(bool is_sync);

/* All of @ram is protected when it returns. @cpu: of the thread that answers faults. */
void engine_start(struct engine *ret, const struct ram *ram, int uffd, bool is_sync, int cpu);
void engine_stop(struct engine *engine);

/* What was written since the call before; it is protected again. Return: bytes. @ret_epoch: its number; may be NULL. */
uint64_t engine_read(const struct engine *engine, const char *consumer, uint64_t acknowledge,
		     uint64_t *ret_epoch);
