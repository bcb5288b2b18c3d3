/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A short talk with a QMP monitor. */
#include "monitor.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "kernel/procfs.h"

#define ARGUMENTS_BYTES 65536
#define REPLY_BYTES	16384

/* ---- where ----------------------------------------------------------------------------------- */

/* "unix:PATH,server=on,..." as after -qmp, or "socket,...,path=PATH,..." as after -chardev. */
static bool take_path(const char *argument, char *ret, size_t n_ret)
{
	const char *path = strstr(argument, ",path=");

	if (strncmp(argument, "unix:", 5) == 0)
		path = argument + 5;
	else if (strncmp(argument, "socket,", 7) == 0 && path)
		path += strlen(",path=");
	else
		return false;
	snprintf(ret, n_ret, "%.*s", (int)strcspn(path, ","), path);
	return ret[0] != '\0';
}

bool monitor_find(pid_t pid, char *ret_path, size_t n_path)
{
	_cleanup_(freep) char *text = malloc(ARGUMENTS_BYTES);
	const char *before = "", *argument;
	char found[256] = "", path[64];
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	if (!text || procfs_read(path, text, ARGUMENTS_BYTES, &n) < 0)
		return false;
	for (argument = text; argument < text + n; argument += strlen(argument) + 1) {
		bool is_qmp = strcmp(before, "-qmp") == 0 || strcmp(before, "-qmp-pretty") == 0;

		if ((is_qmp || (strcmp(before, "-chardev") == 0 && !found[0])) &&
		    take_path(argument, found, sizeof(found)) && is_qmp)
			break;
		before = argument;
	}
	if (!found[0])
		return false;
	if (found[0] == '/')
		snprintf(ret_path, n_path, "/proc/%d/root%s", pid, found);
	else
		snprintf(ret_path, n_path, "/proc/%d/cwd/%s", pid, found);
	return true;
}

/* ---- what ------------------------------------------------------------------------------------ */

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* Lines until one has `return` with a `status` in it. */
static bool find_status(char *text, char *ret_state, size_t n_state)
{
	char *rest = text, *line;
	bool is_found = false;

	while (!is_found && (line = strsep(&rest, "\n"))) {
		json_t *message = json_loads(line, 0, NULL);
		const char *state = json_string_value(
			json_object_get(json_object_get(message, "return"), "status"));

		if (state)
			snprintf(ret_state, n_state, "%s", state);
		is_found = state != NULL;
		json_decref(message);
	}
	return is_found;
}

bool monitor_ask(const char *path, uint64_t patience_ns, char *ret_state, size_t n_state)
{
	static const char words[] = "{\"execute\":\"qmp_capabilities\"}\n"
				    "{\"execute\":\"query-status\"}\n";
	uint64_t deadline_ns = clock_now_ns() + patience_ns;
	_cleanup_(freep) char *text = calloc(1, REPLY_BYTES);
	_cleanup_(closep) int fd = connect_to(path);
	size_t n_text = 0;

	if (!text || fd < 0 || send(fd, words, strlen(words), MSG_NOSIGNAL) < 0)
		return false;
	while (n_text < REPLY_BYTES - 1 && clock_now_ns() < deadline_ns) {
		_cleanup_(freep) char *copy = NULL;
		size_t n = 0;

		if (poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1,
			 (int)((deadline_ns - clock_now_ns()) / NSEC_PER_MSEC)) <= 0)
			return false;
		n = recv(fd, text + n_text, REPLY_BYTES - 1 - n_text, 0);
		if (n <= 0)
			return false;
		n_text += (size_t)n;
		copy = strdup(text);
		if (copy && find_status(copy, ret_state, n_state))
			return true;
	}
	return false;
}
