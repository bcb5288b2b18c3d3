/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A real ufdd behind an activated socket, and calls to it. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "support/unit.h"
#include "wire/varlink-client.h"

#define SOON (clock_now_ns() + 20 * NSEC_PER_SEC)

struct service {
	char folder[64];
	char socket[96];
	pid_t pid;
};

static inline void service_exec(int listener, const char *config, const char *log, pid_t parent)
{
	char program[512], pid[32];
	ssize_t n = readlink("/proc/self/exe", program, 400);
	int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

	program[n > 0 ? n : 0] = '\0';
	strcpy(strrchr(program, '/'), "/../../daemon/ufdd");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || out < 0)
		_exit(1);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	if (listener != 3)
		dup2(listener, 3);
	else
		fcntl(3, F_SETFD, 0);
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_FDNAMES", "varlink", 1);
	execl(program, "ufdd", "--config", config, "--debug", "control,data", NULL);
	_exit(127);
}

/* The socket listens before the daemon runs: whoever connects waits for it, and nobody polls. */
static inline void service_start(struct service *service)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char log[96], config[96];
	FILE *file;
	int listener;
	pid_t self = getpid();

	*service = (struct service){ .folder = "/tmp/ufd-rpc-XXXXXX" };
	ck_assert_ptr_nonnull(mkdtemp(service->folder));
	chmod(service->folder, 0755);
	snprintf(service->socket, sizeof(service->socket), "%s/s", service->folder);
	snprintf(log, sizeof(log), "%s/log", service->folder);
	snprintf(config, sizeof(config), "%s/conf", service->folder);
	file = fopen(config, "we");
	ck_assert_ptr_nonnull(file);
	fputs("[daemon]\nstop-timeout-s = 2\n", file);
	fclose(file);
	strcpy(address.sun_path, service->socket);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	chmod(service->socket, 0666);
	ck_assert_int_eq(listen(listener, 64), 0);
	service->pid = fork();
	ck_assert_int_ge(service->pid, 0);
	if (service->pid == 0)
		service_exec(listener, config, log, self);
	close(listener);
}

/* SIGTERM, and the daemon must end with this status. */
static inline void service_end(struct service *service, int expected)
{
	char command[128];
	int status = -1;

	kill(service->pid, SIGTERM);
	waitpid(service->pid, &status, 0);
	if (getenv("UFD_TEST_KEEP") == NULL) {
		snprintf(command, sizeof(command), "rm -r %s", service->folder);
		ck_assert_int_eq(system(command), 0);
	}
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == expected,
		      "ufdd ended with 0x%x: %s", status, service->folder);
}

static inline void service_stop(struct service *service)
{
	service_end(service, 0);
}

static inline unsigned int service_n_fds(const struct service *service)
{
	unsigned int n = 0;
	char path[64];
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", service->pid);
	folder = opendir(path);
	ck_assert_ptr_nonnull(folder);
	while (readdir(folder))
		n++;
	closedir(folder);
	return n;
}

static inline struct varlink_client *service_connect(const struct service *service)
{
	struct varlink_client *client = NULL;

	ck_assert_int_eq(varlink_client_connect(&client, service->socket), 0);
	return client;
}

/* @parameters is consumed. */
static inline void service_call(struct varlink_client *client, const char *method,
				json_t *parameters, const int *fds, size_t n_fds,
				struct varlink_answer *ret)
{
	ck_assert_msg(parameters, "%s: parameters", method);
	ck_assert_int_eq(varlink_client_call(client, method, parameters, fds, n_fds, SOON, ret), 0);
	json_decref(parameters);
}

/* The reply must be a success; its parameters, owned. */
static inline json_t *service_ask(struct varlink_client *client, const char *method,
				  json_t *parameters, const int *fds, size_t n_fds)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	service_call(client, method, parameters, fds, n_fds, &answer);
	ck_assert_msg(!answer.error, "%s: %s: %s", method, answer.error,
		      json_string_value(json_object_get(answer.parameters, "message")));
	return json_incref(answer.parameters);
}

/* The reply must be this error. @parameter: its first parameter, or NULL. */
static inline void service_expect(struct varlink_client *client, const char *what,
				  const char *method, json_t *parameters, const int *fds,
				  size_t n_fds, const char *error, const char *parameter)
{
	const char *field = strstr(error, "LimitReached") ? "limit" : "parameter";
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	service_call(client, method, parameters, fds, n_fds, &answer);
	ck_assert_msg(answer.error && strcmp(answer.error, error) == 0, "%s: %s, %s", what,
		      answer.error,
		      json_string_value(json_object_get(answer.parameters, "message")));
	if (parameter)
		ck_assert_msg(strcmp(json_string_value(json_object_get(answer.parameters, field)),
				     parameter) == 0,
			      "%s", what);
}
