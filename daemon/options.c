/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line, the environment and ufdd.conf, together. */
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log-ids.h"
#include "log.h"

static void on_report(void *userdata, bool is_error, const char *text)
{
	if (is_error)
		log_error(LOG_FIELDS(.message_id = LOG_ID_CONFIG), "%s", text);
	else
		log_warning(LOG_FIELDS(.message_id = LOG_ID_CONFIG), "%s", text);
}

/* `ufdd --user`: the runtime, configuration and state folders of the calling user. */
static int user_folder(const char *variable, const char *below_home, const char *rest, char *buffer,
		       size_t n_buffer)
{
	const char *folder = getenv(variable);
	const char *home = getenv("HOME");
	int n;

	if (folder && folder[0] == '/')
		n = snprintf(buffer, n_buffer, "%s/%s", folder, rest);
	else if (below_home && home)
		n = snprintf(buffer, n_buffer, "%s/%s/%s", home, below_home, rest);
	else
		return -ENOENT;
	return (size_t)n < n_buffer ? 0 : -ENAMETOOLONG;
}

static int copy_path(const char *from, char *to, size_t n_to, const char *what)
{
	if (strlen(from) >= n_to) {
		log_error(LOG_FIELDS(), "%s `%s` is longer than %zu bytes", what, from, n_to - 1);
		return -ENAMETOOLONG;
	}
	strcpy(to, from);
	return 0;
}

/* The command line is a drop-in of its own: same words, same errors. */
static int apply_word(struct config *config, const char *section, const char *key,
		      const char *value, const char *name)
{
	char text[4200];

	if (!value)
		return 0;
	snprintf(text, sizeof(text), "[%s]\n%s = %s\n", section, key, value);
	return config_parse(config, name, text, on_report, NULL);
}

static int apply_options(const struct options *options, struct config *config)
{
	const char *socket = options->socket ? options->socket : getenv("UFD_SOCKET");
	int r;

	if (socket) {
		r = copy_path(socket, config->socket, sizeof(config->socket), "socket");
		if (r < 0)
			return r;
	}
	if (options->state_dir) {
		r = copy_path(options->state_dir, config->state_dir, sizeof(config->state_dir),
			      "state directory");
		if (r < 0)
			return r;
	}
	r = apply_word(config, "daemon", "log-level", options->log_level, "--log-level");
	if (r < 0)
		return r;
	return apply_word(config, "daemon", "debug", options->debug, "--debug");
}

int options_load_config(const struct options *options, struct config *ret)
{
	struct config config = config_built_in();
	char path[4096] = "/etc/ufd/ufdd.conf";
	int r;

	if (options->is_user) {
		r = user_folder("XDG_RUNTIME_DIR", NULL, "ufd/io.ufd.manager", config.socket,
				sizeof(config.socket));
		if (r < 0 && !options->socket) {
			log_error(LOG_FIELDS(), "--user needs $XDG_RUNTIME_DIR, or --socket");
			return r;
		}
		if (user_folder("XDG_CONFIG_HOME", ".config", "ufd/ufdd.conf", path, sizeof(path)) <
		    0)
			path[0] = '\0';
		user_folder("XDG_RUNTIME_DIR", NULL, "ufd/state", config.state_dir,
			    sizeof(config.state_dir));
	}
	if (options->config_path) {
		r = copy_path(options->config_path, path, sizeof(path), "config file");
		if (r < 0)
			return r;
	}
	if (path[0]) {
		r = config_load(&config, path, options->config_path, on_report, NULL);
		if (r < 0)
			return r;
	}
	r = apply_options(options, &config);
	if (r == 0)
		*ret = config;
	return r;
}
