/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver for QEMU: commands and what they mean. */

/*
 * A monitor is a foreign program's goodwill: its main thread may hang in a page fault that we
 * serve, in a disk, or in a debugger. So nothing here runs in the loop or in a demand thread, every
 * wait has a deadline, and commands carry an id: what answers after its deadline is dropped, not
 * taken for the next command's answer.
 */
#include "driver/qmp.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/units.h"
#include "driver/qmp-io.h"
#include "kernel/pidfd.h"

#define DEFAULT_CALL_TIMEOUT_NS (10 * NSEC_PER_SEC)
#define LISTEN_TIMEOUT_NS	(NSEC_PER_SEC / 2)
/* Devices are a megabyte and take milliseconds; loading them may wait for a slow source. */
#define TRANSFER_TIMEOUT_NS (60 * NSEC_PER_SEC)

struct qmp *qmp_free(struct qmp *qmp)
{
	if (!qmp)
		return NULL;

	json_decref(qmp->answer);
	closep(&qmp->socket);
	closep(&qmp->pidfd);
	free(qmp->input);
	free(qmp);
	return NULL;
}

struct driver *qmp_driver(struct qmp *qmp)
{
	return &qmp->driver;
}

pid_t qmp_pid(const struct qmp *qmp)
{
	return qmp->pid;
}

int qmp_pidfd(const struct qmp *qmp)
{
	return qmp->pidfd;
}

int qmp_call(struct qmp *qmp, const char *command, json_t *arguments, int fd, json_t **ret,
	     struct refusal *refusal)
{
	uint64_t deadline_ns = clock_now_ns() + qmp->driver.call_timeout_ns;
	const char *description = "no reason given";
	json_t *message, *answer;
	int r;

	json_decref(qmp->answer);
	qmp->answer = NULL;
	message = json_pack("{s:s,s:I,s:o*}", "execute", command, "id", (json_int_t)++qmp->last_id,
			    "arguments", arguments);
	r = message ? qmp_send(qmp, message, fd, deadline_ns, refusal)
		    : refusal_set_errno(refusal, -ENOMEM, "command not sent");
	json_decref(message);
	while (!r && !qmp->answer)
		r = qmp_wait(qmp, -EBADF, 0, NULL, deadline_ns, command, refusal);
	if (r)
		return r;

	answer = json_object_get(qmp->answer, "return");
	if (answer) {
		if (ret)
			*ret = json_incref(answer);
		return 0;
	}
	json_unpack(qmp->answer, "{s:{s:s}}", "error", "desc", &description);
	return refusal_set(refusal, QMP_DRIVER_FAILED, NULL, "QEMU (pid %d) refused `%s`: %s",
			   qmp->pid, command, description);
}

static int greet(struct qmp *qmp, struct refusal *refusal)
{
	uint64_t deadline_ns = clock_now_ns() + qmp->driver.call_timeout_ns;
	int r = 0;

	while (!r && !qmp->is_greeted)
		r = qmp_wait(qmp, -EBADF, 0, NULL, deadline_ns,
			     "greeting (a monitor serves one client at a time: is another one "
			     "connected?)",
			     refusal);
	return r ? r : qmp_call(qmp, "qmp_capabilities", NULL, -EBADF, NULL, refusal);
}

static int qmp_pause(struct driver *driver, bool *ret_was_running, struct refusal *refusal)
{
	struct qmp *qmp = (struct qmp *)driver;
	struct qmp_status status;
	int r;

	r = qmp_query_status(qmp, &status, refusal);
	if (r)
		return r;
	if (status.is_running) {
		r = qmp_call(qmp, "stop", NULL, -EBADF, NULL, refusal);
		if (r)
			return r;
	}
	*ret_was_running = status.is_running;
	return 0;
}

static int qmp_resume(struct driver *driver, struct refusal *refusal)
{
	return qmp_call((struct qmp *)driver, "cont", NULL, -EBADF, NULL, refusal);
}

static int qmp_look(struct driver *driver, bool *ret_is_running, bool *ret_is_paused,
		    struct refusal *refusal)
{
	struct qmp_status status;
	int r = qmp_query_status((struct qmp *)driver, &status, refusal);

	if (r)
		return r;
	*ret_is_running = status.is_running;
	/* the latter two: behind and within a save of its devices */
	*ret_is_paused = strcmp(status.name, "paused") == 0 ||
			 strcmp(status.name, "postmigrate") == 0 ||
			 strcmp(status.name, "finish-migrate") == 0;
	return 0;
}

/* Facts for people who look into a manifest later; what this QEMU does not tell is left out. */
static int qmp_describe(struct driver *driver, json_t **ret_machine, struct refusal *refusal)
{
	struct qmp *qmp = (struct qmp *)driver;
	json_t *machine = json_pack("{s:s,s:s}", "vmm", "qemu", "version", qmp->version);
	json_t *answer = NULL;
	int r;

	if (!machine)
		return refusal_set_errno(refusal, -ENOMEM, "machine not described");

	r = qmp_call(qmp, "query-cpus-fast", NULL, -EBADF, &answer, refusal);
	if (!r) {
		json_object_set_new(machine, "vcpus", json_integer(json_array_size(answer)));
		json_decref(answer);
		r = qmp_call(qmp, "query-kvm", NULL, -EBADF, &answer, refusal);
	}
	if (!r) {
		json_object_set(machine, "kvm", json_object_get(answer, "enabled"));
		json_decref(answer);
		r = qmp_call(qmp, "qom-get",
			     json_pack("{s:s,s:s}", "path", "/machine", "property", "type"), -EBADF,
			     &answer, refusal);
	}
	if (r) {
		json_decref(machine);
		return r;
	}
	json_object_set_new(machine, "type", answer);
	*ret_machine = machine;
	return 0;
}

static void qmp_close(struct driver *driver)
{
	qmp_free((struct qmp *)driver);
}

static const struct driver_ops qmp_ops = {
	.kind = "qmp",
	.pause = qmp_pause,
	.resume = qmp_resume,
	.look = qmp_look,
	.save = qmp_save,
	.load = qmp_load,
	.describe = qmp_describe,
	.remember = qmp_remember,
	.recall = qmp_recall,
	.close = qmp_close,
};

int qmp_adopt(struct qmp **ret, int socket, uint64_t timeout_ns, struct refusal *refusal)
{
	_cleanup_(qmp_freep) struct qmp *qmp = calloc(1, sizeof(*qmp));
	uid_t uid;
	gid_t gid;
	int r;

	if (!qmp) {
		closep(&socket);
		return refusal_set_errno(refusal, -ENOMEM, "monitor not adopted");
	}
	qmp->driver.ops = &qmp_ops;
	qmp->driver.call_timeout_ns = timeout_ns ? timeout_ns : DEFAULT_CALL_TIMEOUT_NS;
	qmp->driver.transfer_timeout_ns = TRANSFER_TIMEOUT_NS;
	qmp->socket = socket;
	qmp->pidfd = -EBADF;

	r = pidfd_of_peer(qmp->socket, &qmp->pidfd, &qmp->pid, &uid, &gid);
	if (r)
		return refusal_set_errno(refusal, r, "whose monitor this is cannot be learned");

	r = greet(qmp, refusal);
	if (r)
		return r;

	*ret = TAKE_PTR(qmp);
	return 0;
}

/*
 * A QEMU that has just started gives its socket a name first and listens a moment later; a name
 * that nobody listens behind looks the same. So it is tried again, but not for long. A full queue
 * of a hung monitor answers EAGAIN at once, since the socket does not block.
 */
static int connect_patiently(int fd, const struct sockaddr_un *address)
{
	uint64_t deadline_ns = clock_now_ns() + LISTEN_TIMEOUT_NS;

	while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		if (errno != ECONNREFUSED || clock_now_ns() >= deadline_ns)
			return -errno;
		poll(NULL, 0, 2);
	}
	return 0;
}

int qmp_connect(struct qmp **ret, const char *path, uint64_t timeout_ns, struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
				   "%s: a socket's path has at most %zu characters", path,
				   sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path));

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return refusal_set_errno(refusal, -errno, "no socket");
	r = connect_patiently(fd, &address);
	if (r)
		return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
				   "cannot connect to the monitor %s: %s", path, strerror(-r));

	return qmp_adopt(ret, TAKE_FD(fd), timeout_ns, refusal);
}

int qmp_query_status(struct qmp *qmp, struct qmp_status *ret, struct refusal *refusal)
{
	const char *name = "";
	int is_running = 0;
	json_t *answer = NULL;
	int r;

	r = qmp_call(qmp, "query-status", NULL, -EBADF, &answer, refusal);
	if (r)
		return r;

	json_unpack(answer, "{s:s,s:b}", "status", &name, "running", &is_running);
	*ret = (struct qmp_status){ .is_running = is_running };
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	json_decref(answer);
	return 0;
}

int qmp_check_pageable(struct qmp *qmp, struct refusal *refusal)
{
	json_t *answer = NULL, *entry;
	size_t i;
	int r;

	r = qmp_call(qmp, "query-migrate-capabilities", NULL, -EBADF, &answer, refusal);
	if (r)
		return r;

	json_array_foreach(answer, i, entry)
	{
		const char *name = json_string_value(json_object_get(entry, "capability"));

		if (!name || !json_is_true(json_object_get(entry, "state")))
			continue;
		if (!strcmp(name, "postcopy-ram") || !strcmp(name, "background-snapshot"))
			r = refusal_set(refusal, "io.ufd.guest.CannotAttach",
					json_pack("{s:i}", "pid", qmp->pid),
					"QEMU (pid %d) would page its memory itself: its migration "
					"capability %s is on; switch it off with "
					"migrate-set-capabilities first",
					qmp->pid, name);
	}
	json_decref(answer);
	return r;
}

int qmp_push_fd(struct qmp *qmp, const char *name, int fd, struct refusal *refusal)
{
	return qmp_call(qmp, "getfd", json_pack("{s:s}", "fdname", name), fd, NULL, refusal);
}

int qmp_drop_fd(struct qmp *qmp, const char *name, struct refusal *refusal)
{
	return qmp_call(qmp, "closefd", json_pack("{s:s}", "fdname", name), -EBADF, NULL, refusal);
}
