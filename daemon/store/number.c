/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers of the store. */
#include "store/number.h"

#include <string.h>

void number_print(uint32_t number, char ret[static STORE_NUMBER_BYTES])
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
	char text[STORE_NUMBER_BYTES] = "";
	char *at = text + sizeof(text) - 1;

	do
		*--at = digits[number % 36];
	while ((number /= 36));
	strcpy(ret, at);
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'z' ? c - 'a' + 10 : -1;
}

bool number_parse(const char *text, uint32_t *ret)
{
	uint32_t number = 0;
	size_t n = strlen(text);

	if (n < 1 || n >= STORE_NUMBER_BYTES || (text[0] == '0' && n > 1))
		return false;
	for (; *text; text++) {
		if (digit_of(*text) < 0)
			return false;
		number = number * 36 + (uint32_t)digit_of(*text);
	}
	*ret = number;
	return true;
}
