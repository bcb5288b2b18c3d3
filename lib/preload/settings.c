/* SPDX-License-Identifier: MIT */
/* Settings from the environment. */
#include "preload/settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ufd/ufd.h"

/* A word's number is its place, from 1 on, as in the enums of libufd. */
static const struct {
	const char *field;
	size_t offset;
	const char *words[4];
} word_fields[] = {
#define WORDS(name, ...)                                       \
	{                                                      \
#name, offsetof(struct ufd_client_opts, name), \
		{                                              \
			__VA_ARGS__                            \
		}                                              \
	}
	WORDS(policy, "stall", "poison", "kill"),
	WORDS(track, "scan", "wp"),
	WORDS(other_mappers, "refuse", "attach", "eager"),
	WORDS(populated, "refuse", "punch", "keep"),
	WORDS(background, "yes", "no"),
};

static bool set_word(struct ufd_client_opts *opts, const char *field, const char *value)
{
	for (size_t i = 0; i < sizeof(word_fields) / sizeof(word_fields[0]); i++) {
		if (strcmp(field, word_fields[i].field))
			continue;
		for (uint32_t j = 0; j < 4 && word_fields[i].words[j]; j++) {
			if (strcmp(value, word_fields[i].words[j]))
				continue;
			*(uint32_t *)((char *)opts + word_fields[i].offset) = j + 1;
			return true;
		}
		return false;
	}
	return false;
}

static bool parse_number(const char *text, uint64_t most, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno == 0 && end != text && *text != '-' && *end == '\0' && *ret <= most;
}

/* To people 0 is none or at once; to libufd it is the default. */
static bool set_number(struct ufd_client_opts *opts, const char *field, const char *value)
{
	uint64_t number;

	if (strcmp(field, "background_rate") == 0 && parse_number(value, INT64_MAX, &number))
		opts->background_rate = number ? number : UFD_CLIENT_NO_LIMIT;
	else if (strcmp(field, "window_bytes") == 0 && parse_number(value, INT64_MAX, &number))
		opts->window_bytes = number ? number : UFD_CLIENT_NO_WINDOW;
	else if (!parse_number(value, INT32_MAX, &number))
		return false;
	else if (strcmp(field, "fault_deadline_s") == 0)
		opts->fault_deadline_s = number ? (uint32_t)number : UFD_CLIENT_AT_ONCE;
	else if (strcmp(field, "cpu") == 0)
		opts->cpu = (uint32_t)number + 1;
	else if (strcmp(field, "spin_us") == 0)
		opts->spin_us = (uint32_t)number;
	else
		return false;
	return true;
}

int settings_parse(struct ufd_client_opts *opts, const char *text, const char **ret_error)
{
	char *copy = strdup(text ? text : ""), *rest = copy, *item;
	bool is_good = copy != NULL;

	while (is_good && (item = strsep(&rest, ","))) {
		char *equals = strchr(item, '=');

		if (!*item)
			continue;
		is_good = equals != NULL;
		if (!equals)
			break;
		*equals = '\0';
		is_good = (strcmp(item, "track") == 0 && strcmp(equals + 1, "auto") == 0) ||
			  set_word(opts, item, equals + 1) || set_number(opts, item, equals + 1);
	}
	free(copy);
	*ret_error = "UFD_SETTINGS has something else than FIELD=VALUE,… of ufdctl-run(1)";
	return is_good ? 0 : -1;
}
