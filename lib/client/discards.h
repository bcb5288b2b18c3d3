/* SPDX-License-Identifier: MIT */
/* What was discarded of one memory, ever: ranges of bytes that read zero wherever no page exists.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Half-open. */
struct discard {
	uint64_t start;
	uint64_t end;
};

/* Embedded; zero is empty. Readable: by start, disjoint, never touching. */
struct discards {
	struct discard *ranges; /* owned */
	size_t n_ranges;
	size_t n_allocated;
};

void discards_done(struct discards *discards);

/* Make room, so that the next discards_add() cannot fail. Return: 0 or -ENOMEM. */
int discards_reserve(struct discards *discards);

/* Remember [start, end), merged with its neighbours. After discards_reserve(). */
void discards_add(struct discards *discards, uint64_t start, uint64_t end);
