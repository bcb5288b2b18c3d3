/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process beside a soak guest that calls the daemon for it. */
#include "support/soak-attendant.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "support/soak-memory.h"
#include "support/soak-paging.h"
#include "wire/varlink-client.h"

#define RETRY_US      2000
#define CALL_NS	      (60 * NSEC_PER_SEC)
#define HELPER_NS     (20 * NSEC_PER_SEC) /* how long a dead daemon's helper may still be at it */
#define GUEST(method) "io.ufd.guest." method

/* What the guest asks; 0 as inode: to be let go. */
struct wish {
	uint64_t inode;
	uint64_t image_offset_bytes;
};

struct attendant {
	const struct soak_way *way;
	pid_t pid;
	int socket;
};

/* ---- the daemon's side ----------------------------------------------------------------------- */

static const char *text_of(const json_t *parameters, const char *field)
{
	return json_string_value(json_object_get(parameters, field)) ?: "";
}

/*
 * One call, made again until a daemon answers it. Return: the name of the error, owned; NULL: none.
 */
static char *call(const struct attendant *attendant, const char *method, json_t *parameters)
{
	char text[600];

	for (;;) {
		_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
		_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
		int r = varlink_client_connect(&client, attendant->way->socket_path);

		if (r == 0)
			r = varlink_client_call(client, method, parameters, NULL, 0,
						clock_now_ns() + CALL_NS, &answer);
		if (r < 0) {
			usleep(RETRY_US);
			continue;
		}
		if (!answer.error)
			return NULL;
		snprintf(text, sizeof(text), "%s: %s (%s)", answer.error,
			 text_of(answer.parameters, "message"), text_of(answer.parameters, "name"));
		return strdup(text);
	}
}

static bool is_error(const char *text, const char *error)
{
	return text && !strncmp(text, error, strlen(error)) && text[strlen(error)] == ':';
}

/*
 * Of a call that a dying daemon cut off it is not known what became: the next answer says. While
 * its helper is still letting go of the process, the next daemon cannot have it.
 */
static void bring(const struct attendant *attendant, const struct wish *wish)
{
	const struct soak_way *way = attendant->way;
	uint64_t deadline_ns = clock_now_ns() + HELPER_NS;
	char memory[40], source[4200];
	json_t *parameters, *settings;

	snprintf(memory, sizeof(memory), "inode:%llu", (unsigned long long)wish->inode);
	snprintf(source, sizeof(source), "file:%s,offset=%llu", way->image_path,
		 (unsigned long long)wish->image_offset_bytes);
	settings = json_pack("{s:b}", "background", way->has_background);
	if (!way->has_window)
		json_object_set_new(settings, "window_bytes", json_integer(0));
	parameters = json_pack("{s:s,s:i,s:[s],s:s,s:o}", "name", way->name, "pid", attendant->pid,
			       "memories", memory, "source", source, "settings", settings);
	if (!parameters)
		soak_give_up("out of memory", ENOMEM);
	for (;;) {
		_cleanup_(freep) char *error = call(attendant, GUEST("AttachProcess"), parameters);

		if (!error || is_error(error, GUEST("GuestExists")))
			break;
		if (!is_error(error, GUEST("CannotAttach")) || clock_now_ns() > deadline_ns)
			soak_give_up(error, EREMOTEIO);
		usleep(RETRY_US);
	}
	json_decref(parameters);
}

static void let_go(const struct attendant *attendant)
{
	json_t *parameters = json_pack("{s:s}", "name", attendant->way->name);
	_cleanup_(freep) char *error = NULL;

	if (!parameters)
		soak_give_up("out of memory", ENOMEM);
	error = call(attendant, GUEST("Detach"), parameters);
	if (error && !is_error(error, GUEST("NoSuchGuest")))
		soak_give_up(error, EREMOTEIO);
	json_decref(parameters);
}

static _Noreturn void attend(const struct attendant *attendant)
{
	struct wish wish;
	int status;

	while (read(attendant->socket, &wish, sizeof(wish)) == sizeof(wish)) {
		if (wish.inode)
			bring(attendant, &wish);
		else
			let_go(attendant);
		if (write(attendant->socket, "", 1) != 1)
			break;
	}
	if (waitpid(attendant->pid, &status, 0) < 0)
		soak_give_up("waitpid", errno);
	if (WIFSIGNALED(status))
		fprintf(stderr, "%s %d: ended by signal %d\n", attendant->way->name, attendant->pid,
			WTERMSIG(status));
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
}

/* ---- the guest's side ------------------------------------------------------------------------ */

int soak_attendant_start(const struct soak_way *way)
{
	struct attendant attendant = { .way = way };
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		soak_give_up("socketpair", errno);
	attendant.pid = fork();
	if (attendant.pid < 0)
		soak_give_up("fork", errno);
	if (attendant.pid > 0) {
		close(ends[1]);
		attendant.socket = ends[0];
		attend(&attendant);
	}
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		soak_give_up("prctl", errno);
	close(ends[0]);
	return ends[1];
}

static void wish_for(int attendant, const struct wish *wish)
{
	char done;

	if (write(attendant, wish, sizeof(*wish)) != sizeof(*wish) ||
	    read(attendant, &done, 1) != 1)
		soak_give_up("the attendant has gone", errno);
}

void soak_attendant_arrive(int attendant, const struct soak_memory *memory)
{
	struct stat status;

	if (fstat(memory->backing, &status) < 0)
		soak_give_up("fstat", errno);
	wish_for(attendant, &(struct wish){ status.st_ino, soak_memory_image_offset(memory) });
}

void soak_attendant_leave(int attendant)
{
	wish_for(attendant, &(struct wish){});
}
