/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a guest is treated. */
#include "setting-options.h"

#include <string.h>

#include "numbers.h"
#include "session.h"

enum setting_kind { SETTING_WORD, SETTING_NUMBER, SETTING_YES_NO };

static const struct {
	const char *option;
	const char *field;
	enum setting_kind kind;
	const char *words; /* allowed ones, each followed by a blank */
} settings_known[] = {
	{ "policy", "policy", SETTING_WORD, "stall poison kill " },
	{ "fault-deadline", "fault_deadline_s", SETTING_NUMBER, NULL },
	{ "track", "track", SETTING_WORD, "scan wp auto " },
	{ "other-mappers", "other_mappers", SETTING_WORD, "refuse attach eager " },
	{ "populated", "populated", SETTING_WORD, "refuse punch keep " },
	{ "background", "background", SETTING_YES_NO, NULL },
	{ "background-rate", "background_rate", SETTING_NUMBER, NULL },
	{ "window", "window_bytes", SETTING_NUMBER, NULL },
	{ "cpu", "cpu", SETTING_NUMBER, NULL },
	{ "spin-us", "spin_us", SETTING_NUMBER, NULL },
};

static bool is_among(const char *words, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = words; *at; at = strchr(at, ' ') + 1)
		if (strncmp(at, word, n) == 0 && at[n] == ' ')
			return true;
	return false;
}

int setting_take(json_t *settings, int value, const char *text)
{
	int i = value - SETTING_FIRST;
	uint64_t number;

	switch (settings_known[i].kind) {
	case SETTING_WORD:
		if (!is_among(settings_known[i].words, text))
			return session_usage("--%s is one of: %snot '%s'", settings_known[i].option,
					     settings_known[i].words, text);
		json_object_set_new(settings, settings_known[i].field, json_string(text));
		return EXIT_DONE;
	case SETTING_NUMBER:
		if (!number_parse(text, &number))
			return session_usage("--%s wants a number, not '%s'",
					     settings_known[i].option, text);
		json_object_set_new(settings, settings_known[i].field,
				    json_integer((json_int_t)number));
		return EXIT_DONE;
	case SETTING_YES_NO:
		if (strcmp(text, "yes") && strcmp(text, "no"))
			return session_usage("--%s is yes or no, not '%s'",
					     settings_known[i].option, text);
		json_object_set_new(settings, settings_known[i].field,
				    json_boolean(strcmp(text, "yes") == 0));
		return EXIT_DONE;
	}
	return EXIT_USAGE;
}
