/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Settings of guests. */
#include "settings.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

#define DEADLINE_MAX_S	 (UINT64_C(7) * 24 * 3600)
#define RATE_MAX	 (UINT64_C(1) << 50)
#define WINDOW_MAX_BYTES (2 * MIB)
#define SPIN_MAX_US	 UINT64_C(1000000)
#define MAX_WORDS	 3

enum setting_form {
	FORM_NUMBER,
	FORM_BOOL,
	FORM_WORD,
	FORM_CPU, /* a number; stored plus one, so that zero is "anywhere" */
};

static const struct setting {
	const char *name;
	size_t offset;
	enum setting_form form;
	uint64_t most;
	const char *words[MAX_WORDS]; /* by value */
} table[] = {
	{ "policy",
	  offsetof(struct settings, policy),
	  FORM_WORD,
	  0,
	  { "stall", "poison", "kill" } },
	{ "fault_deadline_s", offsetof(struct settings, fault_deadline_s), FORM_NUMBER,
	  DEADLINE_MAX_S },
	{ "track", offsetof(struct settings, track), FORM_WORD, 0, { "scan", "wp", "auto" } },
	{ "other_mappers",
	  offsetof(struct settings, other_mappers),
	  FORM_WORD,
	  0,
	  { "refuse", "attach", "eager" } },
	{ "populated",
	  offsetof(struct settings, populated),
	  FORM_WORD,
	  0,
	  { "refuse", "punch", "keep" } },
	{ "background", offsetof(struct settings, background), FORM_BOOL },
	{ "background_rate", offsetof(struct settings, background_rate), FORM_NUMBER, RATE_MAX },
	{ "window_bytes", offsetof(struct settings, window_bytes), FORM_NUMBER, WINDOW_MAX_BYTES },
	{ "cpu", offsetof(struct settings, cpu), FORM_CPU, CPU_SETSIZE - 1 },
	{ "spin_us", offsetof(struct settings, spin_us), FORM_NUMBER, SPIN_MAX_US },
};
#define N_TABLE (sizeof(table) / sizeof(table[0]))

struct settings settings_built_in(void)
{
	return (struct settings){ .track = SETTINGS_TRACK_AUTO,
				  .background = 1,
				  .window_bytes = 64 * KIB };
}

static uint64_t *field_of(const struct setting *setting, const struct settings *settings)
{
	return (uint64_t *)((char *)settings + setting->offset);
}

int settings_parse_bool(const char *text, uint64_t *ret)
{
	static const char *const words[][2] = {
		{ "no", "yes" }, { "false", "true" }, { "off", "on" }, { "0", "1" }
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		for (uint64_t value = 0; value < 2; value++)
			if (strcmp(text, words[i][value]) == 0) {
				*ret = value;
				return 0;
			}
	return -EINVAL;
}

int settings_parse_number(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	unsigned long long value;
	unsigned int shift = 0;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	if (*end && strchr(units, *end)) {
		shift = 10 * (unsigned int)(strchr(units, *end) - units + 1);
		end++;
	}
	if (*end || value > UINT64_MAX >> shift)
		return -EINVAL;
	*ret = (uint64_t)value << shift;
	return 0;
}

static int setting_parse(const struct setting *setting, const char *text, uint64_t *ret)
{
	uint64_t value;

	switch (setting->form) {
	case FORM_BOOL:
		return settings_parse_bool(text, ret);
	case FORM_WORD:
		for (uint64_t i = 0; i < MAX_WORDS && setting->words[i]; i++)
			if (strcmp(text, setting->words[i]) == 0) {
				*ret = i;
				return 0;
			}
		return -EINVAL;
	case FORM_NUMBER:
	case FORM_CPU:
		if (settings_parse_number(text, &value) < 0 || value > setting->most)
			return -EINVAL;
		*ret = value + (setting->form == FORM_CPU);
		return 0;
	}
	return -EINVAL;
}

/* `-` in the file is `_` in the interface. */
static bool is_name(const struct setting *setting, const char *name)
{
	size_t i;

	for (i = 0; setting->name[i]; i++)
		if (name[i] != setting->name[i] && !(name[i] == '-' && setting->name[i] == '_'))
			return false;
	return !name[i];
}

int settings_set(struct settings *settings, const char *name, const char *value)
{
	for (size_t i = 0; i < N_TABLE; i++)
		if (is_name(&table[i], name))
			return setting_parse(&table[i], value, field_of(&table[i], settings));
	return -ENOENT;
}

/* Negative numbers become text that no form accepts. */
static int set_from_json(struct settings *settings, const char *name, const json_t *value)
{
	char number[32];

	if (json_is_null(value))
		return 0;
	if (json_is_string(value))
		return settings_set(settings, name, json_string_value(value));
	if (json_is_boolean(value))
		return settings_set(settings, name, json_is_true(value) ? "yes" : "no");
	snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return settings_set(settings, name, number);
}

int settings_apply(struct settings *settings, const json_t *json, const char **ret_name)
{
	struct settings changed = *settings;
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)json, name,
			    value) if (set_from_json(&changed, name, value) < 0)
	{
		*ret_name = name;
		return -EINVAL;
	}
	*settings = changed;
	return 0;
}

json_t *settings_to_json(const struct settings *settings)
{
	json_t *json = json_object();

	for (size_t i = 0; i < N_TABLE; i++) {
		uint64_t value = *field_of(&table[i], settings);
		json_t *shown = NULL;

		switch (table[i].form) {
		case FORM_BOOL:
			shown = json_boolean(value);
			break;
		case FORM_WORD:
			shown = json_string(table[i].words[value]);
			break;
		case FORM_NUMBER:
			shown = json_integer((json_int_t)value);
			break;
		case FORM_CPU:
			shown = value ? json_integer((json_int_t)value - 1) : json_null();
			break;
		}
		json_object_set_new(json, table[i].name, shown);
	}
	return json;
}

void settings_to_opts(const struct settings *settings, struct ufd_pager_guest_opts *ret)
{
	ret->policy = (uint32_t)settings->policy;
	ret->populated = (uint32_t)settings->populated;
	ret->deadline_ns = settings->fault_deadline_s * NSEC_PER_SEC;
	ret->background_rate = settings->background_rate;
	ret->window_bytes = settings->window_bytes ? settings->window_bytes : UFD_NO_WINDOW;
	ret->no_background = !settings->background;
	ret->cpu = (uint32_t)settings->cpu;
	ret->spin_ns = settings->spin_us * NSEC_PER_USEC;
}
