/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One invocation: its connection, how it calls and how it fails. */
#include "session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "output.h"

static const struct {
	const char *error;
	int status;
} statuses[] = {
	{ "io.ufd.guest.NoSuchGuest", EXIT_NO_GUEST },
	{ "org.varlink.service.PermissionDenied", EXIT_DENIED },
	{ "org.varlink.service.InvalidParameter", EXIT_USAGE },
	{ "org.varlink.service.MethodNotFound", EXIT_USAGE },
	{ "org.varlink.service.InterfaceNotFound", EXIT_USAGE },
};

void session_done(struct session *session)
{
	session->client = varlink_client_free(session->client);
}

int session_usage(const char *message, ...)
{
	va_list arguments;

	fputs("ufdctl: ", stderr);
	va_start(arguments, message);
	vfprintf(stderr, message, arguments);
	va_end(arguments);
	fputs("\nTry 'ufdctl --help'.\n", stderr);
	return EXIT_USAGE;
}

static int session_connect(struct session *session)
{
	int r;

	if (session->client)
		return EXIT_DONE;
	r = varlink_client_connect(&session->client, session->socket_path);
	if (r == 0)
		return EXIT_DONE;
	fprintf(stderr, "ufdctl: cannot connect to ufdd at %s: %s\n", session->socket_path,
		strerror(-r));
	if (r == -ENOENT || r == -ECONNREFUSED) {
		fputs("Is ufdd running? Name its socket by --socket or $UFD_SOCKET.\n", stderr);
		return EXIT_NO_DAEMON;
	}
	if (r == -EACCES) {
		fputs("Members of the group of that socket may connect.\n", stderr);
		return EXIT_DENIED;
	}
	return EXIT_FAILED;
}

static uint64_t session_deadline_ns(const struct session *session)
{
	return session->timeout_ns ? clock_now_ns() + session->timeout_ns : 0;
}

static int session_broken(int error)
{
	if (error == -ETIMEDOUT) {
		fputs("ufdctl: ufdd did not answer in time (see --timeout)\n", stderr);
		return EXIT_TIMEOUT;
	}
	if (error == -ECONNRESET || error == -EPIPE)
		fputs("ufdctl: ufdd closed the connection\n", stderr);
	else
		fprintf(stderr, "ufdctl: talking to ufdd failed: %s\n", strerror(-error));
	return EXIT_FAILED;
}

/* Print an error for people, or as JSON for programs. */
static int session_refused(const struct session *session, const struct varlink_answer *answer)
{
	const char *message = json_string_value(json_object_get(answer->parameters, "message"));
	char *rest;

	if (session->json != JSON_OFF) {
		json_t *error = json_pack("{s:s,s:O}", "error", answer->error, "parameters",
					  answer->parameters);

		json_dumpf(error, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(error);
	} else if (message) {
		fputs("ufdctl: ", stderr);
		output_text(stderr, message);
		fprintf(stderr, " (%s)\n", answer->error);
	} else {
		rest = json_dumps(answer->parameters, JSON_COMPACT);
		fprintf(stderr, "ufdctl: %s %s\n", answer->error,
			rest && strcmp(rest, "{}") ? rest : "");
		free(rest);
	}
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (strcmp(statuses[i].error, answer->error) == 0)
			return statuses[i].status;
	return EXIT_FAILED;
}

/* @ret: filled in after success. */
static int call_once(struct session *session, const char *method, json_t *parameters,
		     const int *fds, size_t n_fds, struct varlink_answer *ret)
{
	int status, r;

	status = session_connect(session);
	if (status) {
		json_decref(parameters);
		return status;
	}
	r = varlink_client_call(session->client, method, parameters, fds, n_fds,
				session_deadline_ns(session), ret);
	json_decref(parameters);
	if (r < 0)
		return session_broken(r);
	return ret->error ? session_refused(session, ret) : EXIT_DONE;
}

int session_call(struct session *session, const char *method, json_t *parameters, const int *fds,
		 size_t n_fds, json_t **ret)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	int status = call_once(session, method, parameters, fds, n_fds, &answer);

	if (status == EXIT_DONE)
		*ret = json_incref(answer.parameters);
	return status;
}

int session_call_fd(struct session *session, const char *method, json_t *parameters, json_t **ret,
		    int *ret_fd)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	int status = call_once(session, method, parameters, NULL, 0, &answer);
	const json_t *index = json_object_get(answer.parameters, "fd");
	size_t i = (size_t)json_integer_value(index);

	if (status != EXIT_DONE)
		return status;
	if (json_is_integer(index) && i < answer.n_fds)
		*ret_fd = TAKE_FD(answer.fds[i]);
	*ret = json_incref(answer.parameters);
	return EXIT_DONE;
}

int session_follow(struct session *session, const char *method, json_t *parameters,
		   reply_fn on_reply, void *userdata)
{
	bool goes_on = true;
	int status, r;

	status = session_connect(session);
	if (status) {
		json_decref(parameters);
		return status;
	}
	r = varlink_client_send(session->client, method, parameters, NULL, 0, VARLINK_MORE,
				session_deadline_ns(session));
	json_decref(parameters);
	while (r == 0 && goes_on) {
		_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

		r = varlink_client_next(session->client, session_deadline_ns(session), &answer);
		if (r < 0)
			break;
		if (answer.error)
			return session_refused(session, &answer);
		goes_on = on_reply(answer.parameters, userdata) && answer.has_more;
	}
	return r < 0 ? session_broken(r) : EXIT_DONE;
}
