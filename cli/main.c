/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl: the verb table and the options that all verbs share. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "numbers.h"
#include "verbs.h"

static const struct verb verbs[] = {
	{ NULL, "status", "", "what the daemon runs on and serves", cmd_status },
	{ NULL, "version", "", "of this program and of the daemon", cmd_version },
	{ NULL, "why", "GUEST|PID", "why it does not go on, and the remedy", cmd_why },
	{ NULL, "probe", "[--only ID...] [--list]", "what this host's kernel really does",
	  cmd_probe },
	{ NULL, "support-bundle", "[FILE.tar.gz|-]", "all a maintainer needs, no guest byte",
	  cmd_support_bundle },
	{ NULL, "events", "", "follow what happens, a line an event", cmd_events },
	{ NULL, "call", "METHOD [JSON]", "any method of the interface", cmd_call },
	{ "guest", "list", "", "all guests", cmd_guest_list },
	{ "guest", "show", "GUEST", "its settings, counters and memories", cmd_guest_show },
	{ "guest", "attach", "NAME --pid PID|--qmp SOCK --source SPEC", "page a process",
	  cmd_guest_attach },
	{ "guest", "detach", "GUEST [--no-populate]", "fill what is absent, then stop paging",
	  cmd_guest_detach },
	{ "guest", "prefetch", "GUEST [--memory M]", "fill now, and wait", cmd_guest_prefetch },
	{ "handoff", "create", "PATH --source SPEC [--dialect D]",
	  "a socket for VMMs to leave memory", cmd_handoff_create },
	{ "handoff", "list", "", "all of them", cmd_handoff_list },
	{ "handoff", "remove", "PATH", "let nobody in any more", cmd_handoff_remove },
	{ "dirty", "start", "GUEST [--consumer C] [--all-mappers]", "track what it writes",
	  cmd_dirty_start },
	{ "dirty", "read", "GUEST [--consumer C] [--output F]", "what it wrote since the last read",
	  cmd_dirty_read },
	{ "dirty", "rate", "GUEST [--bandwidth B]", "how fast it writes; would it migrate?",
	  cmd_dirty_rate },
	{ "dirty", "heatmap", "GUEST", "where it writes, over time", cmd_dirty_heatmap },
	{ "dirty", "list", "GUEST", "who reads what it writes", cmd_dirty_list },
	{ "dirty", "stop", "GUEST [--consumer C]", "forget a consumer", cmd_dirty_stop },
	{ "snapshot", "save", "GUEST DIR [--incremental DIR] [--live]",
	  "memory and devices, on disk", cmd_snapshot_save },
	{ NULL, "restore", "DIR --qmp SOCK [--wait]", "run a snapshot, fill it lazily",
	  cmd_restore },
	{ NULL, "run", "[--name N --source SPEC] -- VMM [ARG]...",
	  "start a VMM, to be paged without tracing", cmd_run },
	{ "image", "info", "IMAGE", "what it holds, and its parents", cmd_image_info },
	{ "image", "verify", "IMAGE", "read all of it, name what is broken", cmd_image_verify },
	{ "image", "convert", "IMAGE FILE", "into another format, or anew", cmd_image_convert },
	{ "image", "append", "IMAGE FILE", "continue FILE by what IMAGE holds", cmd_image_append },
	{ "image", "diff", "IMAGE IMAGE", "pages that are different", cmd_image_diff },
	{ "image", "flatten", "IMAGE FILE", "a chain as one image", cmd_image_flatten },
	{ NULL, "drain", "[--wait] [--cancel]", "fill every guest, take no new ones", cmd_drain },
	{ NULL, "upgrade", "[BINARY] [--dry-run]", "go on as another program, in place",
	  cmd_upgrade },
	{ NULL, "upgrade", "--rollback|--commit", "back to the one before, or keep it",
	  cmd_upgrade },
};
#define N_VERBS (sizeof(verbs) / sizeof(verbs[0]))

static int print_help(void)
{
	puts("ufdctl [OPTION]... VERB [ARGUMENT]...\n\n"
	     "Look at and steer ufdd, the userspace paging daemon.\n\nVerbs:");
	for (size_t i = 0; i < N_VERBS; i++) {
		char left[80];

		snprintf(left, sizeof(left), "%s%s%s %s", verbs[i].object ? verbs[i].object : "",
			 verbs[i].object ? " " : "", verbs[i].name, verbs[i].arguments);
		if (strlen(left) > 34)
			printf("  %s\n  %-34s %s\n", left, "", verbs[i].help);
		else
			printf("  %-34s %s\n", left, verbs[i].help);
	}
	puts("\nOptions:\n"
	     "  --socket PATH          of ufdd; default $UFD_SOCKET, /run/ufd/io.ufd.manager\n"
	     "  -j, --json[=STYLE]     pretty, short or off; -j chooses by the terminal\n"
	     "  --bytes                raw numbers instead of K, M, G\n"
	     "  --no-legend            no titles, no last line\n"
	     "  -q, --quiet            no progress\n"
	     "  --timeout SECONDS      longest wait for an answer; default 60, 0 for ever\n"
	     "  -h, --help; --version\n\n"
	     "Each verb has its own options: see ufdctl(1) and ufdctl-VERB(1).");
	return EXIT_DONE;
}

static bool parse_json_style(const char *text, enum json_style *ret)
{
	if (!text)
		*ret = isatty(1) ? JSON_PRETTY : JSON_SHORT;
	else if (strcmp(text, "pretty") == 0)
		*ret = JSON_PRETTY;
	else if (strcmp(text, "short") == 0)
		*ret = JSON_SHORT;
	else if (strcmp(text, "off") == 0)
		*ret = JSON_OFF;
	else
		return false;
	return true;
}

/* Shared options may stand before the verb and after it: they are taken out of @argv wherever they
 * are. */
static int take_shared(struct session *session, int *argc, char **argv)
{
	int n = 1;

	for (int i = 1; i < *argc; i++) {
		char *word = argv[i];
		uint64_t seconds;

		if (strcmp(word, "--") == 0) {
			while (i < *argc)
				argv[n++] = argv[i++];
		} else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
			exit(print_help());
		} else if (strcmp(word, "-j") == 0 || strcmp(word, "--json") == 0) {
			(void)parse_json_style(NULL, &session->json);
		} else if (strncmp(word, "--json=", 7) == 0) {
			if (!parse_json_style(word + 7, &session->json))
				return session_usage("--json is pretty, short or off, not '%s'",
						     word + 7);
		} else if (strcmp(word, "--bytes") == 0) {
			session->with_bytes = true;
		} else if (strcmp(word, "--no-legend") == 0) {
			session->no_legend = true;
		} else if (strcmp(word, "-q") == 0 || strcmp(word, "--quiet") == 0) {
			session->is_quiet = true;
		} else if (strncmp(word, "--socket=", 9) == 0) {
			session->socket_path = word + 9;
		} else if (strcmp(word, "--socket") == 0 && i + 1 < *argc) {
			session->socket_path = argv[++i];
		} else if (strcmp(word, "--timeout") == 0 || strncmp(word, "--timeout=", 10) == 0) {
			const char *text = word[9] ? word + 10 : (i + 1 < *argc ? argv[++i] : "");

			if (!number_parse(text, &seconds))
				return session_usage("--timeout wants seconds, not '%s'", text);
			session->timeout_ns = seconds * NSEC_PER_SEC;
		} else {
			argv[n++] = word;
		}
	}
	*argc = n;
	argv[n] = NULL;
	return EXIT_DONE;
}

static const struct verb *find_verb(int argc, char **argv, int *ret_n_words)
{
	for (size_t i = 0; i < N_VERBS; i++) {
		bool has_object = verbs[i].object != NULL;

		if (argc < (has_object ? 3 : 2))
			continue;
		if (has_object && strcmp(argv[1], verbs[i].object))
			continue;
		if (strcmp(argv[has_object ? 2 : 1], verbs[i].name))
			continue;
		*ret_n_words = has_object ? 2 : 1;
		return &verbs[i];
	}
	return NULL;
}

static int unknown_verb(int argc, char **argv)
{
	for (size_t i = 0; i < N_VERBS; i++)
		if (verbs[i].object && strcmp(verbs[i].object, argv[1]) == 0)
			return argc > 2 ? session_usage("'%s' has no verb '%s'", argv[1], argv[2])
					: session_usage("'%s' wants a verb", argv[1]);
	return session_usage("unknown verb '%s'", argv[1]);
}

int main(int argc, char **argv)
{
	struct session session = { .timeout_ns = 60 * NSEC_PER_SEC };
	const struct verb *verb;
	int n_words = 0, status;

	signal(SIGPIPE, SIG_IGN);
	session.socket_path = getenv("UFD_SOCKET");
	if (!session.socket_path)
		session.socket_path = "/run/ufd/io.ufd.manager";
	status = take_shared(&session, &argc, argv);
	if (status)
		return status;
	if (argc < 2)
		return session_usage("what shall I do?");
	if (strcmp(argv[1], "--version") == 0) {
		puts("ufdctl " UFD_VERSION);
		return EXIT_DONE;
	}
	verb = find_verb(argc, argv, &n_words);
	if (!verb)
		return unknown_verb(argc, argv);
	status = verb->run(&session, argc - n_words, argv + n_words);
	session_done(&session);
	return status;
}
