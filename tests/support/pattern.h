/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every block of 4 KiB of a toy's memory must hold: f(seed, block, generation), or zero. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define PATTERN_BLOCK_BYTES 4096
#define PATTERN_BLOCK_WORDS (PATTERN_BLOCK_BYTES / sizeof(uint64_t))

static inline uint64_t pattern_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Every eighth block is zero in generation 0: a hole of the image. */
static inline bool pattern_is_zero(uint64_t seed, uint64_t block)
{
	return pattern_mix(seed ^ pattern_mix(block)) % 8 == 0;
}

static inline uint64_t pattern_word(uint64_t key, uint64_t index)
{
	return (key + index) * UINT64_C(0x9e3779b97f4a7c15);
}

static inline uint64_t pattern_key(uint64_t seed, uint64_t block, uint32_t generation)
{
	return pattern_mix(seed ^ pattern_mix(block ^ ((uint64_t)generation << 48)));
}

static inline void pattern_write(void *to, uint64_t seed, uint64_t block, uint32_t generation)
{
	uint64_t key = pattern_key(seed, block, generation);
	uint64_t *words = to;

	if (generation == 0 && pattern_is_zero(seed, block)) {
		memset(to, 0, PATTERN_BLOCK_BYTES);
		return;
	}
	for (uint64_t i = 0; i < PATTERN_BLOCK_WORDS; i++)
		words[i] = pattern_word(key, i);
}

static inline bool pattern_is_all_zero(const void *at)
{
	const volatile uint64_t *words = at;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < PATTERN_BLOCK_WORDS; i++)
		sum |= words[i];
	return sum == 0;
}

static inline bool pattern_is_right(const void *at, uint64_t seed, uint64_t block,
				    uint32_t generation)
{
	uint64_t key = pattern_key(seed, block, generation);
	const volatile uint64_t *words = at;
	uint64_t difference = 0;

	if (generation == 0 && pattern_is_zero(seed, block))
		return pattern_is_all_zero(at);
	for (uint64_t i = 0; i < PATTERN_BLOCK_WORDS; i++)
		difference |= words[i] ^ pattern_word(key, i);
	return difference == 0;
}
