/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl why: why a guest, or any process, does not go on. */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"
#include "output.h"
#include "verbs.h"
#include "why.h"

#define STATE_DIRECTORY "/run/ufd/state"
#define SECOND_LOOK_MS	200

/* ---- for people ------------------------------------------------------------------------------ */

static const char *text_of(const json_t *json, const char *field)
{
	const char *text = json_string_value(json_object_get(json, field));

	return text ? text : "-";
}

static void print_age(const json_t *json, const char *field, const char *before)
{
	const json_t *value = json_object_get(json, field);

	if (json_is_integer(value))
		printf("%s%.1f s", before, (double)json_integer_value(value) / 1e3);
}

static void print_threads(const json_t *threads)
{
	const json_t *thread;
	size_t i;

	if (json_array_size(threads))
		puts("\nThreads that wait for a page:");
	json_array_foreach(threads, i, thread)
	{
		const json_t *address = json_object_get(thread, "address");
		const char *from = text_of(thread, "address_from");

		printf("  %lld/%lld %s", json_integer_value(json_object_get(thread, "pid")),
		       json_integer_value(json_object_get(thread, "tid")), text_of(thread, "name"));
		if (json_is_integer(address))
			printf(" at 0x%llx", json_integer_value(address));
		if (json_is_integer(json_object_get(thread, "page")))
			printf(", page %lld of %s",
			       json_integer_value(json_object_get(thread, "page")),
			       text_of(thread, "memory"));
		print_age(thread, "since_ms", ", for ");
		if (strcmp(from, "syscall") == 0)
			printf(" (an argument of its system call: the kernel does not tell)");
		else if (strcmp(from, "exclusion") == 0)
			printf(" (the only page that is waited for: the kernel does not tell)");
		else if (strcmp(from, "unknown") == 0)
			printf(" (where, the kernel tells only to who reads the userfaultfd%s)",
			       strcmp(text_of(thread, "ours"), "unknown") ? ", and ufdd has not"
									  : "");
		putchar('\n');
	}
}

static void print_pages(const json_t *pages)
{
	const json_t *page;
	size_t i;

	if (json_array_size(pages))
		puts("\nWhat is done for them:");
	json_array_foreach(pages, i, page)
	{
		printf("  page %lld of %s is %s", json_integer_value(json_object_get(page, "page")),
		       text_of(page, "memory"), text_of(page, "state"));
		printf(", %s", text_of(page, "doing"));
		print_age(page, "since_ms", " for ");
		printf("; source %s at offset %lld", text_of(page, "source"),
		       json_integer_value(json_object_get(page, "source_offset_bytes")));
		print_age(page, "read_ms", ", asked ");
		if (json_is_integer(json_object_get(page, "read_ms")))
			printf(" ago");
		if (json_is_string(json_object_get(page, "error")))
			printf(", %s", text_of(page, "error"));
		if (json_integer_value(json_object_get(page, "tries")))
			printf(", %lld tries", json_integer_value(json_object_get(page, "tries")));
		print_age(page, "retry_in_ms", ", again in ");
		if (json_object_get(page, "policy"))
			printf("; policy %s", text_of(page, "policy"));
		print_age(page, "deadline_in_ms", " in ");
		putchar('\n');
	}
}

static void print_pager(const json_t *json)
{
	const json_t *pager = json_object_get(json, "pager");
	const json_t *ledger = json_object_get(json, "ledger");

	if (!json_is_string(json_object_get(json, "guest")))
		return;
	printf("\nPager: process %lld, %s", json_integer_value(json_object_get(pager, "pid")),
	       text_of(pager, "state"));
	print_age(pager, "beat_ms", "; its demand thread turned ");
	printf(" ago; ledger from %s", text_of(ledger, "from"));
	if (json_is_string(json_object_get(ledger, "path")))
		printf(" (%s)", text_of(ledger, "path"));
	putchar('\n');
}

static void print_cause(const json_t *cause, bool is_first)
{
	if (!is_first)
		puts("\nBesides:");
	printf("%s%s\n", is_first ? "" : "  ", text_of(cause, "sentence"));
	printf("%sCause: %s, %s; %s.\n", is_first ? "" : "  ", text_of(cause, "cause"),
	       text_of(cause, "sureness"),
	       json_is_true(json_object_get(cause, "is_us")) ? "it is ufdd" : "it is not ufdd");
	if (!json_is_string(json_object_get(cause, "remedy")))
		return;
	printf("%sRemedy: %s\n", is_first ? "" : "  ", text_of(cause, "remedy"));
	if (json_is_string(json_object_get(cause, "after")))
		printf("%s  %s\n", is_first ? "" : "  ", text_of(cause, "after"));
}

static void print_text(const json_t *json)
{
	const json_t *entry, *unseen = json_object_get(json, "unseen");
	size_t i;

	json_array_foreach(json_object_get(json, "causes"), i, entry) print_cause(entry, i == 0);
	print_threads(json_object_get(json, "threads"));
	print_pages(json_object_get(json, "pages"));
	print_pager(json);
	json_array_foreach(unseen, i, entry)
		printf("%sNot seen: %s; see: %s\n", i ? "" : "\n", text_of(entry, "what"),
		       text_of(entry, "command"));
}

/* ---- the verb -------------------------------------------------------------------------------- */

static int why_not_found(const struct why *why)
{
	const json_t *entry;
	size_t i;

	fprintf(stderr, "ufdctl: there is no guest%s '%s'\n", why->pid ? " or process" : "",
		why->asked);
	if (why->search.answer == DAEMON_SILENT)
		fputs("ufdd does not answer.\n", stderr);
	if (why->search.n_hidden)
		fprintf(stderr,
			"The files of %zu processes are hidden from us; try: sudo ufdctl why %s\n",
			why->search.n_hidden, why->asked);
	json_array_foreach(why->unseen, i, entry)
		fprintf(stderr, "Not seen: %s\n", text_of(entry, "what"));
	return why->search.n_hidden || why->search.answer == DAEMON_REFUSES ? EXIT_DENIED
									    : EXIT_NO_GUEST;
}

static int why_parse(struct why *why, int argc, char **argv)
{
	static const struct option options[] = { { "state-dir", required_argument, NULL, 'd' },
						 {} };
	uint64_t pid;
	int value;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value != 'd')
			return session_usage("why knows --state-dir DIR only");
		why->directory = optarg;
	}
	if (argc - optind != 1)
		return session_usage("why wants one GUEST or PID");
	why->asked = argv[optind];
	if (number_parse(why->asked, &pid) && pid > 0 && pid <= INT32_MAX)
		why->pid = (pid_t)pid;
	return EXIT_DONE;
}

/* Return: 0, -ENOENT, other -errno. */
static int look_once(struct why *why)
{
	int r = why_gather(why);

	if (r == 0)
		why_find_causes(why);
	return r;
}

/*
 * Facts are gathered one after the other while the guest runs. What would be an error of ours is
 * believed only if a second look finds it, too.
 */
static int look(struct why *why)
{
	struct why fresh = *why;
	int r = look_once(why);

	if (r < 0 || !why->n_causes || strcmp(why->causes[0].word, "not_woken"))
		return r;
	why_done(why);
	(void)poll(NULL, 0, SECOND_LOOK_MS);
	*why = fresh;
	return look_once(why);
}

static int show(const struct session *session, struct why *why)
{
	json_t *json;
	int r = look(why);

	if (r == -ENOENT)
		return why_not_found(why);
	if (r < 0) {
		fprintf(stderr, "ufdctl: looking failed: %s\n", strerror(-r));
		return EXIT_FAILED;
	}
	json = why_to_json(why);
	if (!output_json(session, json))
		print_text(json);
	json_decref(json);
	return EXIT_DONE;
}

int cmd_why(struct session *session, int argc, char **argv)
{
	struct why *why = calloc(1, sizeof(*why));
	int status;

	if (!why)
		return EXIT_FAILED;
	why->socket_path = session->socket_path;
	why->directory = STATE_DIRECTORY;
	status = why_parse(why, argc, argv);
	if (status == EXIT_DONE)
		status = show(session, why);
	why_done(why);
	free(why);
	return status;
}
