/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdd.conf. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <pwd.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"

#define MAX_FILE_BYTES (UINT32_C(1) << 20)

struct reading {
	struct config *config;
	const char *name;
	const char *at; /* next line */
	unsigned int line;
	bool is_bad;
	config_report_fn report;
	void *userdata;
};

struct config config_built_in(void)
{
	return (struct config){
		.socket = "/run/ufd/io.ufd.manager",
		.log_level = LOG_LEVEL_INFO,
		.stop_timeout_s = 60,
		.n_connections = 64,
		.n_connections_per_user = 32,
		.backlog_bytes = 4 * MIB,
		.n_guests = 1024,
		.n_jobs = 16,
		.n_jobs_per_user = 4,
		.defaults = settings_built_in(),
	};
}

__attribute__((format(printf, 3, 4))) static void say(struct reading *reading, bool is_error,
						      const char *format, ...)
{
	char what[512], text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	snprintf(text, sizeof(text), "%s:%u: %s", reading->name, reading->line, what);
	reading->is_bad |= is_error;
	reading->report(reading->userdata, is_error, text);
}

static int parse_path(const char *value, void *field, size_t n_field)
{
	if (value[0] != '/' || strlen(value) >= n_field)
		return -EINVAL;
	strcpy(field, value);
	return 0;
}

static int parse_log_level(const char *value, void *field, size_t n_field)
{
	return log_level_parse(value, field);
}

/* Words between commas or blanks; "" is none. */
static int parse_debug(const char *value, void *field, size_t n_field)
{
	unsigned int switches = 0, one;
	char copy[128];
	char *rest;

	if (strlen(value) >= sizeof(copy))
		return -EINVAL;
	strcpy(copy, value);
	for (char *word = strtok_r(copy, ", ", &rest); word; word = strtok_r(NULL, ", ", &rest)) {
		if (log_switch_parse(word, &one) < 0)
			return -EINVAL;
		switches |= one;
	}
	memcpy(field, &switches, sizeof(switches));
	return 0;
}

static int parse_bool(const char *value, void *field, size_t n_field)
{
	return settings_parse_bool(value, field);
}

/* Limits and times: at least one; 2^30 is more than any of them can want. */
static int parse_limit(const char *value, void *field, size_t n_field)
{
	uint64_t number;

	if (settings_parse_number(value, &number) < 0 || number < 1 || number > GIB)
		return -EINVAL;
	memcpy(field, &number, sizeof(number));
	return 0;
}

#define FIELD(name) offsetof(struct config, name), sizeof(((struct config *)0)->name)
static const struct key {
	const char *section;
	const char *name;
	int (*parse)(const char *value, void *field, size_t n_field);
	size_t offset;
	size_t n_bytes;
} keys[] = {
	{ "daemon", "socket", parse_path, FIELD(socket) },
	{ "daemon", "state-dir", parse_path, FIELD(state_dir) },
	{ "daemon", "log-level", parse_log_level, FIELD(log_level) },
	{ "daemon", "log-prefix", parse_bool, FIELD(log_prefix) },
	{ "daemon", "debug", parse_debug, FIELD(debug) },
	{ "daemon", "stop-timeout-s", parse_limit, FIELD(stop_timeout_s) },
	{ "daemon", "experimental-dialects", parse_bool, FIELD(may_experiment) },
	{ "limits", "connections", parse_limit, FIELD(n_connections) },
	{ "limits", "connections-per-user", parse_limit, FIELD(n_connections_per_user) },
	{ "limits", "backlog-bytes", parse_limit, FIELD(backlog_bytes) },
	{ "limits", "guests", parse_limit, FIELD(n_guests) },
	{ "limits", "jobs", parse_limit, FIELD(n_jobs) },
	{ "limits", "jobs-per-user", parse_limit, FIELD(n_jobs_per_user) },
};

/* ---- [handoff NAME] ---- */

static int parse_text(const char *value, void *field, size_t n_field)
{
	if (!value[0] || strlen(value) >= n_field)
		return -EINVAL;
	strcpy(field, value);
	return 0;
}

/* By name or number. */
static int parse_user(const char *value, void *field, size_t n_field)
{
	const struct passwd *user = getpwnam(value);
	uint64_t number = user ? user->pw_uid : 0;

	if (!user && (settings_parse_number(value, &number) < 0 || number >= UINT32_MAX))
		return -EINVAL;
	memcpy(field, &number, sizeof(number));
	return 0;
}

#define HANDOFF_FIELD(name) \
	offsetof(struct config_handoff, name), sizeof(((struct config_handoff *)0)->name)
static const struct key handoff_keys[] = {
	{ "handoff", "dialect", parse_text, HANDOFF_FIELD(dialect) },
	{ "handoff", "source", parse_text, HANDOFF_FIELD(source) },
	{ "handoff", "name", parse_text, HANDOFF_FIELD(guest_name) },
	{ "handoff", "owner", parse_user, HANDOFF_FIELD(owner) },
};

/* The one of this name, which is new at its first key. NULL: its name cannot be one, or there are too many. */
static struct config_handoff *find_handoff(struct config *config, const char *name)
{
	struct config_handoff *handoff = config->handoffs;

	for (size_t i = 0; i < config->n_handoffs; i++, handoff++)
		if (strcmp(handoff->name, name) == 0)
			return handoff;
	if (!name[0] || strlen(name) >= sizeof(handoff->name) ||
	    config->n_handoffs == CONFIG_MAX_HANDOFFS)
		return NULL;
	config->n_handoffs++;
	*handoff = (struct config_handoff){ .dialect = "auto" };
	strcpy(handoff->name, name);
	return handoff;
}

static int set_handoff(struct config *config, const char *handoff_name, const char *name,
		       const char *value)
{
	struct config_handoff *handoff = find_handoff(config, handoff_name);

	if (!handoff)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(handoff_keys) / sizeof(handoff_keys[0]); i++)
		if (strcmp(name, handoff_keys[i].name) == 0)
			return handoff_keys[i].parse(value,
						     (char *)handoff + handoff_keys[i].offset,
						     handoff_keys[i].n_bytes);
	return -ENOENT;
}

static int set_key(struct config *config, const char *section, const char *name, const char *value)
{
	if (strcmp(section, "defaults") == 0)
		return settings_set(&config->defaults, name, value);
	if (strncmp(section, "handoff ", 8) == 0)
		return set_handoff(config, section + 8, name, value);
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (strcmp(section, keys[i].section) == 0 && strcmp(name, keys[i].name) == 0)
			return keys[i].parse(value, (char *)config + keys[i].offset,
					     keys[i].n_bytes);
	return -ENOENT;
}

/* Called by the parser for each `name = value`. Return: 1 to go on. */
static int on_value(void *userdata, const char *section, const char *name, const char *value)
{
	struct reading *reading = userdata;
	int r = set_key(reading->config, section, name, value);

	if (r == -ENOENT)
		say(reading, false, "unknown key [%s] %s is ignored", section, name);
	else if (r < 0)
		say(reading, true, "[%s] %s cannot be `%s`", section, name, value);
	return 1;
}

/* Called by the parser for each line; so we know its number, which the packaged parser does not
 * tell. */
static char *on_line(char *buffer, int n_buffer, void *userdata)
{
	struct reading *reading = userdata;
	size_t n = strcspn(reading->at, "\n");

	if (!*reading->at)
		return NULL;
	reading->line++;
	if (n + 2 > (size_t)n_buffer) {
		say(reading, true, "line longer than %d bytes", n_buffer - 2);
		buffer[0] = '\0';
	} else {
		memcpy(buffer, reading->at, n);
		buffer[n] = '\n';
		buffer[n + 1] = '\0';
	}
	reading->at += n + (reading->at[n] == '\n');
	return buffer;
}

int config_parse(struct config *config, const char *name, const char *text, config_report_fn report,
		 void *userdata)
{
	struct reading reading = {
		.config = config,
		.name = name,
		.at = text,
		.report = report,
		.userdata = userdata,
	};
	int bad_line;

	bad_line = ini_parse_stream(on_line, &reading, on_value, &reading);
	if (bad_line > 0) {
		reading.line = (unsigned int)bad_line;
		say(&reading, true, "neither [section], `name = value` nor comment");
	}
	return bad_line < 0 ? -ENOMEM : reading.is_bad ? -EINVAL : 0;
}

static int read_text(const char *path, char **ret)
{
	_cleanup_(freep) char *text = malloc(MAX_FILE_BYTES + 1);
	_cleanup_(closep) int fd = -EBADF;
	size_t n = 0;
	ssize_t more;

	if (!text)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while ((more = read(fd, text + n, MAX_FILE_BYTES - n)) > 0)
		n += (size_t)more;
	if (more < 0)
		return -errno;
	if (n == MAX_FILE_BYTES)
		return -EFBIG;
	text[n] = '\0';
	*ret = TAKE_PTR(text);
	return 0;
}

static int load_file(struct config *config, const char *path, bool must_exist,
		     config_report_fn report, void *userdata)
{
	_cleanup_(freep) char *text = NULL;
	char reason[512];
	int r;

	r = read_text(path, &text);
	if (r == -ENOENT && !must_exist)
		return 0;
	if (r < 0) {
		snprintf(reason, sizeof(reason), "%s: %s", path, strerror(-r));
		report(userdata, true, reason);
		return r;
	}
	return config_parse(config, path, text, report, userdata);
}

static int is_drop_in(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name);

	return entry->d_name[0] != '.' && n > 5 && strcmp(entry->d_name + n - 5, ".conf") == 0;
}

int config_load(struct config *config, const char *path, bool must_exist, config_report_fn report,
		void *userdata)
{
	struct dirent **names = NULL;
	char name[4096];
	int n, r;

	r = load_file(config, path, must_exist, report, userdata);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%s.d", path);
	n = scandir(name, &names, is_drop_in, alphasort);
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s.d/%s", path, names[i]->d_name);
		if (r == 0)
			r = load_file(config, name, false, report, userdata);
		free(names[i]);
	}
	free(names);
	return r;
}
