/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdd: the command line. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "control/control.h"
#include "daemon.h"
#include "log.h"
#include "options.h"
#include "probing.h"
#include "upgrade/check-ledgers.h"
#include "upgrade/release.h"

enum { EXIT_USAGE = 2 };

static void print_help(void)
{
	puts("Usage: ufdd [OPTION]...\n"
	     "Serve the memory of virtual machines and other processes page by page.\n"
	     "\n"
	     "      --socket PATH     listen here (default: $UFD_SOCKET, then ufdd.conf,\n"
	     "                        then /run/ufd/io.ufd.manager)\n"
	     "      --config FILE     read FILE and FILE.d/*.conf (default:\n"
	     "                        /etc/ufd/ufdd.conf)\n"
	     "      --check           read the configuration, say what is wrong, and exit\n"
	     "      --state-dir DIR   where state is kept\n"
	     "      --user            socket, configuration and state of the calling user\n"
	     "      --log-level L     error, warning, info or debug\n"
	     "      --debug WORDS     trace of `data`, `control`, or both with a comma\n"
	     "      --version         print the version and exit\n"
	     "  -h, --help            print this and exit");
}

enum option_number {
	OPTION_SOCKET = 256,
	OPTION_CONFIG,
	OPTION_CHECK,
	OPTION_CHECK_LEDGERS,
	OPTION_STATE_DIR,
	OPTION_USER,
	OPTION_LOG_LEVEL,
	OPTION_DEBUG,
	OPTION_LIST_METHODS,
	OPTION_PROBE_START,
	OPTION_VERSION,
};

static const struct option long_options[] = {
	{ "socket", required_argument, NULL, OPTION_SOCKET },
	{ "config", required_argument, NULL, OPTION_CONFIG },
	{ "check", no_argument, NULL, OPTION_CHECK },
	{ "check-ledgers", required_argument, NULL, OPTION_CHECK_LEDGERS },
	{ "state-dir", required_argument, NULL, OPTION_STATE_DIR },
	{ "user", no_argument, NULL, OPTION_USER },
	{ "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
	{ "debug", required_argument, NULL, OPTION_DEBUG },
	{ "list-methods", no_argument, NULL, OPTION_LIST_METHODS },
	{ "probe-start", no_argument, NULL, OPTION_PROBE_START },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{},
};

/* Return: -1 to go on, else the exit status. */
static int parse_options(int argc, char **argv, struct options *options, bool *ret_is_check)
{
	int option;

	while ((option = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		switch (option) {
		case OPTION_SOCKET:
			options->socket = optarg;
			break;
		case OPTION_CONFIG:
			options->config_path = optarg;
			break;
		case OPTION_CHECK:
			*ret_is_check = true;
			break;
		case OPTION_STATE_DIR:
			options->state_dir = optarg;
			break;
		case OPTION_USER:
			options->is_user = true;
			break;
		case OPTION_LOG_LEVEL:
			options->log_level = optarg;
			break;
		case OPTION_DEBUG:
			options->debug = optarg;
			break;
		case OPTION_LIST_METHODS: /* for the check that table, interfaces and manual agree */
			control_print_methods();
			return EXIT_SUCCESS;
		case OPTION_CHECK_LEDGERS: /* for an upgrade, see upgrade/dry-run.h */
			return check_ledgers(optarg);
		case OPTION_PROBE_START: /* see probing.h */
			return probing_main();
		case OPTION_VERSION:
			printf("ufdd %s\n", release_version);
			return EXIT_SUCCESS;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "ufdd: unexpected argument `%s`; see --help\n", argv[optind]);
		return EXIT_USAGE;
	}
	return -1;
}

int main(int argc, char **argv)
{
	_cleanup_(daemon_freep) struct daemon *daemon = NULL;
	struct options options = {};
	struct config config;
	bool is_check = false;
	int status, r;

	status = parse_options(argc, argv, &options, &is_check);
	if (status >= 0)
		return status;
	log_open();
	if (options_load_config(&options, &config) < 0)
		return EXIT_FAILURE;
	if (is_check) {
		puts("the configuration is sound");
		return EXIT_SUCCESS;
	}
	if (daemon_new(&daemon, &options, &config) < 0)
		return EXIT_FAILURE;
	r = daemon_run(daemon);
	if (r < 0)
		_exit(EXIT_FAILURE); /* without daemon_free(): see daemon_run() */
	return EXIT_SUCCESS;
}
