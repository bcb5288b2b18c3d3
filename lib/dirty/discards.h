/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Discards that were told and have not happened yet. */
#pragma once

#include <stdint.h>

struct guest_view;
struct memory;

/**
 * discards_keep() - pages of @memory that consumer @slot is about to be told of, and that will
 * change after that
 * @ret_n_pages: how many will be told again
 *
 * Context: bulk; asks the kernel about removed pages among them. Return: 0, -EACCES (pagemap),
 * -errno.
 */
int discards_keep(const struct guest_view *view, struct memory *memory, uint32_t slot,
		  uint64_t *ret_n_pages);

/*
 * The same for a consumer who begins: what he copies may go after that, and the word of it came
 * before.
 */
int discards_begin(const struct guest_view *view, struct memory *memory, uint32_t slot,
		   uint64_t *ret_n_pages);
