/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why an image cannot be had: a sentence of the calling thread. */
#pragma once

/*
 * Keep the sentence, good until this thread's next call, and point *@ret_error (may be NULL) at it.
 * Context: any; may allocate. Return: @r.
 */
int image_fail(const char **ret_error, int r, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
