/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Places in the store: numbers of up to four digits of base 36, since names are dear. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define N_NUMBERS	   UINT32_C(1679616) /* 36^4 */
#define STORE_NUMBER_BYTES 5		     /* the digits, and NUL */

void number_print(uint32_t number, char ret[static STORE_NUMBER_BYTES]);
bool number_parse(const char *text, uint32_t *ret);
