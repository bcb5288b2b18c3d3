/* SPDX-License-Identifier: MIT */
/* What the daemon's answer means for the caller: an errno, and a sentence. */
#pragma once

#include <stddef.h>

#include "wire/varlink-client.h"

/* "cannot attach: " and the like comes before it. */
#define VERDICT_TEXT_BYTES 512

/**
 * verdict_of_answer() - an error reply as errno and sentence
 * @answer:   one that has an error
 * @ret_text: the daemon's message and the error's name, without control characters
 *
 * Return: a negative errno, always.
 */
int verdict_of_answer(const struct varlink_answer *answer, char ret_text[VERDICT_TEXT_BYTES]);

/* The same for a connection that failed with @error. Return: @error. */
int verdict_of_connection(int error, const char *socket_path, char ret_text[VERDICT_TEXT_BYTES]);
