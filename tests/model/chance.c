/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random numbers that a seed repeats (splitmix64). */
#include "parties.h"

static uint64_t state;

void chance_seed(uint64_t seed)
{
	state = seed;
}

uint64_t chance_word(void)
{
	uint64_t word = (state += UINT64_C(0x9e3779b97f4a7c15));

	word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
	return word ^ word >> 31;
}

uint64_t chance_below(uint64_t n)
{
	return chance_word() % n;
}

bool chance_one_in(uint64_t n)
{
	return !world.is_calm && chance_word() % n == 0;
}
