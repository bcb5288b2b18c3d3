/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a guest is treated: options shared by `guest attach` and `restore`, the interface's Settings.
 */
#pragma once

#include <getopt.h>
#include <jansson.h>

enum { SETTING_FIRST = 512 };

/* Append to a verb's own long options. */
#define SETTING_OPTIONS                                                            \
	{ "policy", required_argument, NULL, SETTING_FIRST },                      \
		{ "fault-deadline", required_argument, NULL, SETTING_FIRST + 1 },  \
		{ "track", required_argument, NULL, SETTING_FIRST + 2 },           \
		{ "other-mappers", required_argument, NULL, SETTING_FIRST + 3 },   \
		{ "populated", required_argument, NULL, SETTING_FIRST + 4 },       \
		{ "background", required_argument, NULL, SETTING_FIRST + 5 },      \
		{ "background-rate", required_argument, NULL, SETTING_FIRST + 6 }, \
		{ "window", required_argument, NULL, SETTING_FIRST + 7 },          \
		{ "cpu", required_argument, NULL, SETTING_FIRST + 8 },             \
	{                                                                          \
		"spin-us", required_argument, NULL, SETTING_FIRST + 9              \
	}

/* Put the option @value that getopt_long() returned, with optarg @text, into @settings. Return: an
 * exit status. */
int setting_take(json_t *settings, int value, const char *text);
