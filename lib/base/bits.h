/* SPDX-License-Identifier: MIT */
/* Words of bits that one thread has to itself: the bitmaps of an epoch. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first bit of [@at, @n_bits) that is set, or that is not; @n_bits if there is none. */
static inline size_t bits_find(const uint64_t *words, size_t n_bits, size_t at, bool is_set)
{
	while (at < n_bits) {
		uint64_t word = (is_set ? words[at / 64] : ~words[at / 64]) >> at % 64;

		if (word) {
			at += (size_t)__builtin_ctzll(word);
			return at < n_bits ? at : n_bits;
		}
		at = (at / 64 + 1) * 64;
	}
	return n_bits;
}
