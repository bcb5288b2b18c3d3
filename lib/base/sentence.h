/* SPDX-License-Identifier: MIT */
/*
 * A sentence of the calling thread: what is wrong, with the names of files in it.
 *
 * Its memory is taken when a thread first has something to say, and given back when the thread ends:
 * as a thread-local array it would be resident in each thread of each guest.
 */
#pragma once

#include <stdarg.h>

/**
 * sentence_make() - format, cut to 8 KiB
 *
 * The two sentences that a thread made last are good, so that one may be an argument of the other.
 * Context: any; allocates at a thread's first call. Return: the sentence, never NULL.
 */
const char *sentence_make(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
