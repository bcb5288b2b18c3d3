/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl support-bundle: everything a maintainer needs, and not one byte of a guest. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "bundle-guest.h"
#include "bundle.h"
#include "kernel/features.h"
#include "ledger-search.h"
#include "output.h"
#include "verbs.h"
#include "wire/varlink-client.h"

#define STATE_DIRECTORY	   "/run/ufd/state"
#define DAEMON_PATIENCE_NS (2 * NSEC_PER_SEC)
#define LOOK_PATIENCE_NS   (60 * NSEC_PER_SEC)

/* ---- the machine ----------------------------------------------------------------------------- */

static void add_machine(struct bundle *bundle)
{
	static const char *const uname[] = { "uname", "-a", NULL };
	static const char *const pools[] = { "grep", "-r", ".", "/sys/kernel/mm/hugepages", NULL };
	static const char *const sysctls[] = { "grep",
					       ".",
					       "/proc/sys/vm/unprivileged_userfaultfd",
					       "/proc/sys/vm/overcommit_memory",
					       "/proc/sys/vm/max_map_count",
					       "/proc/sys/vm/nr_hugepages",
					       "/proc/sys/vm/swappiness",
					       "/proc/sys/fs/file-max",
					       NULL };

	bundle_run(bundle, "machine/uname.txt", uname);
	bundle_copy(bundle, "machine/os-release", "/etc/os-release");
	bundle_copy(bundle, "machine/meminfo", "/proc/meminfo");
	bundle_copy(bundle, "machine/vmstat", "/proc/vmstat");
	bundle_copy(bundle, "machine/swaps", "/proc/swaps");
	bundle_copy(bundle, "machine/loadavg", "/proc/loadavg");
	bundle_copy(bundle, "machine/mounts", "/proc/self/mounts");
	bundle_run(bundle, "machine/hugepages.txt", pools);
	bundle_copy(bundle, "machine/transparent_hugepage",
		    "/sys/kernel/mm/transparent_hugepage/enabled");
	bundle_run(bundle, "machine/sysctls.txt", sysctls);
}

static void add_features(struct bundle *bundle)
{
	const struct kernel_features *features = features_get();
	json_t *json = json_pack("{s:s, s:I, s:b, s:b, s:b, s:i, s:i}", "ufdctl", UFD_VERSION,
				 "uffd_features", (json_int_t)features->uffd, "pagemap_scan",
				 features->has_pagemap_scan, "may_syscall", features->may_syscall,
				 "may_device", features->may_device, "syscall_errno",
				 features->syscall_errno, "device_errno", features->device_errno);

	bundle_add_json(bundle, "versions.json", json);
	json_decref(json);
}

static void add_service(struct bundle *bundle)
{
	static const char *const journal[] = { "journalctl",
					       "--no-pager",
					       "--output=short-iso-precise",
					       "--lines=5000",
					       "--unit=ufdd.service",
					       "--unit=ufdd@*.service",
					       NULL };
	static const char *const units[] = { "systemctl",    "show",	    "--no-pager",
					     "ufdd.service", "ufdd.socket", NULL };

	bundle_copy(bundle, "service/ufdd.conf", "/etc/ufd/ufdd.conf");
	bundle_run(bundle, "service/journal.txt", journal);
	bundle_run(bundle, "service/units.txt", units);
}

/* ---- the daemon ------------------------------------------------------------------------------ */

/* One call, if the daemon answers. Return: what it said, owned, or NULL. */
static json_t *ask(struct bundle *bundle, struct varlink_client *client, const char *method,
		   const char *guest, const char *member)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	json_t *parameters = guest ? json_pack("{s:s}", "name", guest) : NULL;
	int r;

	r = varlink_client_call(client, method, parameters, NULL, 0,
				clock_now_ns() + DAEMON_PATIENCE_NS, &answer);
	json_decref(parameters);
	if (r < 0 || answer.error) {
		bundle_note_missing(bundle, member, "%s: %s", method,
				    r < 0 ? strerror(-r) : answer.error);
		return NULL;
	}
	bundle_add_json(bundle, member, answer.parameters);
	return json_incref(answer.parameters);
}

static void add_daemon(struct bundle *bundle, const char *socket_path)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	json_t *status, *list, *guest;
	size_t i;
	int r;

	r = ledger_search_connect(&client, socket_path);
	if (r < 0) {
		bundle_note_missing(bundle, "daemon", "%s: %s", socket_path, strerror(-r));
		return;
	}
	status = ask(bundle, client, "io.ufd.manager.Status", NULL, "daemon/status.json");
	if (!status)
		return; /* it would not answer the next one either */
	list = ask(bundle, client, "io.ufd.guest.List", NULL, "daemon/guests.json");
	json_array_foreach(json_object_get(list, "guests"), i, guest)
	{
		char member[64];

		snprintf(member, sizeof(member), "daemon/guest-%zu.json", i);
		json_decref(ask(bundle, client, "io.ufd.guest.Show",
				json_string_value(json_object_get(guest, "name")), member));
	}
	json_decref(list);
	json_decref(status);
}

/* ---- processes and ledgers ------------------------------------------------------------------- */

static void collect_ledger(struct ledger *given, const char *path, void *userdata)
{
	_cleanup_(ledger_freep) struct ledger *ledger = given;
	pid_t pid = 0;

	bundle_add_ledger(userdata, ledger, path);
	if (sscanf(path, "/proc/%d/", &pid) == 1 && pid > 1)
		bundle_add_process(userdata, pid);
}

static void add_guests(struct bundle *bundle, const char *directory)
{
	struct ledger_search search = { .directory = directory,
					.deadline_ns = clock_now_ns() + LOOK_PATIENCE_NS };

	ledger_search_each(&search, collect_ledger, bundle);
	if (search.n_hidden)
		bundle_note_missing(bundle, "guests",
				    "the files of %zu processes are hidden from us: run it as root",
				    search.n_hidden);
	if (search.is_cut)
		bundle_note_missing(bundle, "guests", "there were too many to look at all of them");
}

static void add_contents(struct bundle *bundle)
{
	static const char about[] =
		"What ufdctl support-bundle found. Addresses, sizes, names, times and errors; no contents of\n"
		"any guest's memory, no command line, no environment.\n"
		"missing.json says what could not be had, and why.\n";

	bundle_add_text(bundle, "README", about);
	bundle_add_json(bundle, "missing.json", bundle_missing(bundle));
}

/* ---- the verb -------------------------------------------------------------------------------- */

static void default_name(char ret[64])
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(ret, 64, "ufd-support-%Y%m%d-%H%M%S", &tm);
}

static void report(const struct session *session, struct bundle *bundle, const char *file)
{
	json_t *missing = bundle_missing(bundle), *entry, *json;
	size_t i;

	json = json_pack("{s:s, s:O, s:O}", "file", file, "members", bundle_members(bundle),
			 "missing", missing);
	if (strcmp(file, "-") && !output_json(session, json) && !session->is_quiet) {
		printf("%s has %zu files; read them before you send them.\n", file,
		       json_array_size(bundle_members(bundle)));
		json_array_foreach(missing, i, entry) printf(
			"Not in it: %s (%s)\n", json_string_value(json_object_get(entry, "what")),
			json_string_value(json_object_get(entry, "why")));
	}
	json_decref(json);
}

static int make_bundle(struct session *session, const char *name, const char *file,
		       const char *directory)
{
	_cleanup_(bundle_freep) struct bundle *bundle = NULL;
	int r;

	r = bundle_new(&bundle, name);
	if (r == 0) {
		add_features(bundle);
		add_machine(bundle);
		add_service(bundle);
		add_daemon(bundle, session->socket_path);
		add_guests(bundle, directory);
		add_contents(bundle);
		r = bundle_pack(bundle, file);
	}
	if (r < 0) {
		fprintf(stderr, "ufdctl: the bundle %s cannot be written: %s\n", file,
			r == -ENOENT ? "there is no tar here" : strerror(-r));
		return EXIT_FAILED;
	}
	report(session, bundle, file);
	return EXIT_DONE;
}

int cmd_support_bundle(struct session *session, int argc, char **argv)
{
	static const struct option options[] = { { "state-dir", required_argument, NULL, 'd' },
						 {} };
	const char *directory = STATE_DIRECTORY, *file;
	char name[64], path[80];
	int value;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value != 'd')
			return session_usage("support-bundle knows --state-dir DIR only");
		directory = optarg;
	}
	if (argc - optind > 1)
		return session_usage("support-bundle wants one FILE at most");
	default_name(name);
	snprintf(path, sizeof(path), "%s.tar.gz", name);
	file = argc > optind ? argv[optind] : path;
	if (strcmp(file, "-") == 0 && isatty(STDOUT_FILENO))
		return session_usage("a bundle is no text: name a file, or send it somewhere");
	umask(077);
	return make_bundle(session, name, file, directory);
}
