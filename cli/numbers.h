/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers on the command line: decimal or 0x, with K, M, G or T behind them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Return: false if @text is no such number or does not fit 63 bits (JSON has no more). */
bool number_parse(const char *text, uint64_t *ret);
