/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl run: start a VMM with libufd-preload in it. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "path.h"
#include "setting-options.h"
#include "verbs.h"
#include "vmm-program.h"

struct run {
	const char *name;
	const char *source;
	char *memory;	  /* owned; what UFD_MEMORY is to be, or NULL */
	json_t *settings; /* owned */
};

/* Beside this program when that runs in its build tree. */
static void find_library(char *path, size_t n_path)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[n < 0 ? 0 : n] = '\0';
	slash = strrchr(self, '/');
	if (slash) {
		*slash = '\0';
		if (snprintf(path, n_path, "%s/../lib/preload/libufd-preload.so", self) <
			    (int)n_path &&
		    access(path, R_OK) == 0)
			return;
	}
	snprintf(path, n_path, "%s", UFD_PRELOAD_PATH);
}

static int add_memory(struct run *run, const char *match)
{
	char *list = NULL;

	if (strchr(match, ';'))
		return session_usage("--memory cannot name what has a semicolon in it");
	if (asprintf(&list, "%s%s%s", run->memory ? run->memory : "", run->memory ? ";" : "",
		     match) < 0)
		return EXIT_FAILED;
	free(run->memory);
	run->memory = list;
	return EXIT_DONE;
}

static int parse(struct run *run, int argc, char **argv)
{
	static const struct option options[] = {
		{ "name", required_argument, NULL, 'n' },
		{ "source", required_argument, NULL, 's' },
		{ "memory", required_argument, NULL, 'm' },
		SETTING_OPTIONS,
		{},
	};
	int value, status = EXIT_DONE;

	/* `+`: what stands behind the program is its own */
	while (status == EXIT_DONE && (value = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (value == 'n')
			run->name = optarg;
		else if (value == 's')
			run->source = optarg;
		else if (value == 'm')
			status = add_memory(run, optarg);
		else if (value >= SETTING_FIRST)
			status = setting_take(run->settings, value, optarg);
		else
			status = session_usage("run: bad option");
	}
	if (status)
		return status;
	if (optind == argc)
		return session_usage("run wants a program to start: ufdctl run [OPTION]... -- "
				     "PROGRAM [ARGUMENT]...");
	if (!run->source && (run->name || run->memory || json_object_size(run->settings)) &&
	    !(run->memory && strchr(run->memory, '=')))
		return session_usage("run wants --source SPEC, or else no option: then whoever "
				     "brings the guest says all of that");
	if ((run->source || run->memory) && !run->name)
		return session_usage("run --source wants --name NAME of the guest");
	return EXIT_DONE;
}

/* As the library reads them. Return: owned; NULL without memory. */
static char *settings_text(const json_t *settings)
{
	char *text = strdup("");
	const char *name;
	const json_t *value;

	json_object_foreach((json_t *)settings, name, value)
	{
		char *longer = NULL, number[24] = "";
		const char *word = json_string_value(value);

		if (json_is_boolean(value))
			word = json_is_true(value) ? "yes" : "no";
		else if (json_is_integer(value))
			snprintf(number, sizeof(number), "%lld", json_integer_value(value));
		if (!text || asprintf(&longer, "%s%s%s=%s", text, *text ? "," : "", name,
				      word ? word : number) < 0)
			longer = NULL;
		free(text);
		text = longer;
	}
	return text;
}

/* Ours first: what others preload finds the C library's functions behind it. */
static int set_preload(const char *library)
{
	_cleanup_(freep) char *list = NULL;
	const char *others = getenv("LD_PRELOAD");

	if (asprintf(&list, "%s%s%s", library, others && *others ? ":" : "", others ? others : "") <
	    0)
		return -ENOMEM;
	return setenv("LD_PRELOAD", list, 1) < 0 ? -errno : 0;
}

static int set_or_unset(const char *name, const char *value)
{
	return (value && *value ? setenv(name, value, 1) : unsetenv(name)) < 0 ? -errno : 0;
}

static int set_environment(const struct session *session, const struct run *run)
{
	_cleanup_(freep) char *settings = settings_text(run->settings);
	json_t *socket = path_absolute(session->socket_path);
	char library[PATH_MAX];
	int r = settings ? 0 : -ENOMEM;

	find_library(library, sizeof(library));
	if (access(library, R_OK) < 0) {
		fprintf(stderr, "ufdctl: %s: %s\n", library, strerror(errno));
		r = -errno;
	}
	if (r == 0)
		r = set_or_unset("UFD_SOCKET", json_string_value(socket));
	if (r == 0)
		r = set_or_unset("UFD_GUEST", run->name);
	if (r == 0)
		r = set_or_unset("UFD_SOURCE", run->source);
	if (r == 0)
		r = set_or_unset("UFD_MEMORY", run->memory);
	if (r == 0)
		r = set_or_unset("UFD_SETTINGS", settings);
	if (r == 0)
		r = set_preload(library);
	json_decref(socket);
	return r;
}

/* A daemon that is not there is better known now than when the guest has begun. */
static int check_daemon(struct session *session)
{
	json_t *reply = NULL;
	int status = session_call(session, "org.varlink.service.GetInfo", NULL, NULL, 0, &reply);

	json_decref(reply);
	session_done(session);
	return status;
}

static int check_program(const char *name, char *path)
{
	char why[PATH_MAX + 512] = "";
	int r = vmm_program_find(name, path);

	if (r == 0)
		r = vmm_program_check(path, why, sizeof(why));
	if (r == 0)
		return EXIT_DONE;
	fprintf(stderr, "ufdctl: %s%s%s\n", *why ? why : name, *why ? "" : ": ",
		*why ? "" : strerror(-r));
	return r == -EACCES ? EXIT_DENIED : EXIT_FAILED;
}

int cmd_run(struct session *session, int argc, char **argv)
{
	struct run run = { .settings = json_object() };
	char path[PATH_MAX];
	int status;

	status = parse(&run, argc, argv);
	if (status == EXIT_DONE)
		status = check_program(argv[optind], path);
	if (status == EXIT_DONE)
		status = check_daemon(session);
	if (status == EXIT_DONE && set_environment(session, &run) < 0)
		status = EXIT_FAILED;
	if (status == EXIT_DONE) {
		signal(SIGPIPE, SIG_DFL); /* main() changed it, and it is inherited */
		execv(path, argv + optind);
		fprintf(stderr, "ufdctl: %s: %s\n", path, strerror(errno));
		status = EXIT_FAILED;
	}
	json_decref(run.settings);
	free(run.memory);
	return status;
}
