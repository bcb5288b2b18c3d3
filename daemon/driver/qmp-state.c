/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Device state out of QEMU and back: a migration that leaves shared memory where it is. */

/*
 * The stream goes through a socket pair whose other end QEMU gets by `getfd`: that needs no shell
 * (`-sandbox on,spawn=deny` forbids one), works from 7.2 on (`file:` is younger, and plain files
 * behind `fd:` are on their way out), and lets us watch monitor and stream in one wait.
 *
 * `x-ignore-shared` keeps memory backends with share=on out of the stream; ROMs, video memory and
 * backends with share=off are streamed. It and `events` are put back as they were: QEMU's own
 * migrations, later, must not lose the guest's memory to a capability that we forgot.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/units.h"
#include "driver/qmp-io.h"

#define STREAM_NAME  "ufd-state"
#define STREAM_BYTES (64 * KIB)

/* The two capabilities we need, as they were before. */
struct capabilities {
	bool has_ignore_shared;
	bool was_ignore_shared;
	bool was_events;
};

static int capabilities_read(struct qmp *qmp, struct capabilities *ret, struct refusal *refusal)
{
	json_t *answer = NULL, *entry;
	size_t i;
	int r;

	r = qmp_call(qmp, "query-migrate-capabilities", NULL, -EBADF, &answer, refusal);
	if (r)
		return r;

	*ret = (struct capabilities){};
	json_array_foreach(answer, i, entry)
	{
		const char *name = json_string_value(json_object_get(entry, "capability"));
		bool is_on = json_is_true(json_object_get(entry, "state"));

		if (name && !strcmp(name, "x-ignore-shared")) {
			ret->has_ignore_shared = true;
			ret->was_ignore_shared = is_on;
		} else if (name && !strcmp(name, "events")) {
			ret->was_events = is_on;
		}
	}
	json_decref(answer);
	return 0;
}

static int capabilities_write(struct qmp *qmp, bool ignore_shared, bool events,
			      struct refusal *refusal)
{
	json_t *arguments = json_pack("{s:[{s:s,s:b},{s:s,s:b}]}", "capabilities", "capability",
				      "x-ignore-shared", "state", ignore_shared, "capability",
				      "events", "state", events);

	return qmp_call(qmp, "migrate-set-capabilities", arguments, -EBADF, NULL, refusal);
}

/* Settings put back: failing a transfer that succeeded, for that, would help nobody. */
static void capabilities_restore(struct qmp *qmp, const struct capabilities *before)
{
	struct refusal ignored = {};

	capabilities_write(qmp, before->was_ignore_shared, before->was_events, &ignored);
	refusal_done(&ignored);
}

/* Begin `migrate` or `migrate-incoming` on a fresh socket pair; our end is @ret_stream. */
static int stream_start(struct qmp *qmp, const char *command, int *ret_stream,
			struct refusal *refusal)
{
	_cleanup_(closep) int ours = -EBADF;
	_cleanup_(closep) int theirs = -EBADF;
	int ends[2];
	int r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return refusal_set_errno(refusal, -errno, "no socket pair for device state");
	ours = ends[0];
	theirs = ends[1];
	if (fcntl(ours, F_SETFL, O_NONBLOCK) < 0)
		return refusal_set_errno(refusal, -errno, "no socket pair for device state");

	r = qmp_push_fd(qmp, STREAM_NAME, theirs, refusal);
	if (r)
		return r;

	qmp->migration[0] = '\0';
	r = qmp_call(qmp, command, json_pack("{s:s}", "uri", "fd:" STREAM_NAME), -EBADF, NULL,
		     refusal);
	if (r) {
		struct refusal ignored = {};

		qmp_drop_fd(qmp, STREAM_NAME, &ignored);
		refusal_done(&ignored);
		return r;
	}
	*ret_stream = TAKE_FD(ours);
	return 0;
}

static bool is_over(const struct qmp *qmp)
{
	return !strcmp(qmp->migration, "completed") || !strcmp(qmp->migration, "failed") ||
	       !strcmp(qmp->migration, "cancelled");
}

/* Names what QEMU says of a migration that did not complete. */
static int check_completed(struct qmp *qmp, const char *doing, struct refusal *refusal)
{
	const char *reason = "no reason given";
	json_t *answer = NULL;
	int r;

	if (!strcmp(qmp->migration, "completed"))
		return 0;

	r = qmp_call(qmp, "query-migrate", NULL, -EBADF, &answer, refusal);
	if (r)
		return r;
	json_unpack(answer, "{s:s}", "error-desc", &reason);
	r = refusal_set(refusal, QMP_DRIVER_FAILED, NULL, "QEMU (pid %d) %s while %s: %s", qmp->pid,
			qmp->migration, doing, reason);
	json_decref(answer);
	return r;
}

/* One read of the stream into the file. @ret_n: 0 at the stream's end. */
static int drain_some(int stream, int state_fd, size_t *ret_n)
{
	char bytes[STREAM_BYTES];
	ssize_t n = recv(stream, bytes, sizeof(bytes), 0);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
	*ret_n = n;
	return fd_write_all(state_fd, bytes, (size_t)n);
}

static int drain(struct qmp *qmp, int stream, int state_fd, uint64_t *ret_bytes,
		 struct refusal *refusal)
{
	uint64_t deadline_ns = clock_now_ns() + qmp->driver.transfer_timeout_ns;
	bool is_ended = false;
	uint64_t n_bytes = 0;
	int r;

	while (!is_ended || !is_over(qmp)) {
		bool is_ready;
		size_t n;

		r = qmp_wait(qmp, is_ended ? -EBADF : stream, POLLIN, &is_ready, deadline_ns,
			     "saving device state", refusal);
		if (r)
			return r;
		if (!is_ready)
			continue;

		r = drain_some(stream, state_fd, &n);
		if (r == -EAGAIN)
			continue;
		if (r)
			return refusal_set_errno(refusal, r, "device state not written");
		n_bytes += n;
		is_ended = n == 0;
	}
	*ret_bytes = n_bytes;
	return check_completed(qmp, "saving device state", refusal);
}

/* Ends a migration that we gave up; whatever it answers, the caller's refusal stands. */
static void cancel(struct qmp *qmp)
{
	struct refusal ignored = {};

	qmp_call(qmp, "migrate_cancel", NULL, -EBADF, NULL, &ignored);
	refusal_done(&ignored);
}

/* Asks for our two capabilities, remembers what they were. */
static int prepare(struct qmp *qmp, struct capabilities *ret_before, struct refusal *refusal)
{
	int r = capabilities_read(qmp, ret_before, refusal);

	if (r)
		return r;
	if (!ret_before->has_ignore_shared)
		return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
				   "QEMU %s (pid %d) has no migration capability x-ignore-shared; "
				   "4.0 or newer is needed",
				   qmp->version, qmp->pid);
	return capabilities_write(qmp, true, true, refusal);
}

enum { WAS_IGNORE_SHARED = 1 << 0, WAS_EVENTS = 1 << 1 };

int qmp_remember(struct driver *driver, uint32_t *ret_state, struct refusal *refusal)
{
	struct capabilities now;
	int r = capabilities_read((struct qmp *)driver, &now, refusal);

	if (r)
		return r;
	*ret_state = (now.was_ignore_shared ? WAS_IGNORE_SHARED : 0) |
		     (now.was_events ? WAS_EVENTS : 0);
	return 0;
}

/* A migration that a dead daemon's socket took has failed by itself, or will be cancelled here. */
int qmp_recall(struct driver *driver, uint32_t state, struct refusal *refusal)
{
	struct qmp *qmp = (struct qmp *)driver;

	cancel(qmp);
	return capabilities_write(qmp, state & WAS_IGNORE_SHARED, state & WAS_EVENTS, refusal);
}

int qmp_save(struct driver *driver, int state_fd, uint64_t *ret_bytes, struct refusal *refusal)
{
	struct qmp *qmp = (struct qmp *)driver;
	_cleanup_(closep) int stream = -EBADF;
	struct capabilities before;
	int r;

	r = prepare(qmp, &before, refusal);
	if (r)
		return r;

	r = stream_start(qmp, "migrate", &stream, refusal);
	if (!r) {
		r = drain(qmp, stream, state_fd, ret_bytes, refusal);
		if (r)
			cancel(qmp);
	}
	capabilities_restore(qmp, &before);
	return r;
}

/* Bytes of the file that the stream did not take yet. */
struct feed {
	char bytes[STREAM_BYTES];
	size_t n_bytes;
	size_t n_sent;
	bool is_ended; /* all of the file is sent, and our side is shut */
};

static int feed_some(struct feed *feed, int state_fd, int stream)
{
	ssize_t n;

	if (feed->n_sent == feed->n_bytes) {
		n = read(state_fd, feed->bytes, sizeof(feed->bytes));
		if (n < 0)
			return -errno;
		if (n == 0) {
			feed->is_ended = true;
			return shutdown(stream, SHUT_WR) < 0 ? -errno : 0;
		}
		feed->n_bytes = n;
		feed->n_sent = 0;
	}
	n = send(stream, feed->bytes + feed->n_sent, feed->n_bytes - feed->n_sent, MSG_NOSIGNAL);
	if (n < 0)
		return -errno;
	feed->n_sent += n;
	return 0;
}

static int feed_all(struct qmp *qmp, int state_fd, int stream, struct refusal *refusal)
{
	uint64_t deadline_ns = clock_now_ns() + qmp->driver.transfer_timeout_ns;
	struct feed feed = {};
	int r;

	while (!is_over(qmp)) {
		bool is_ready;

		r = qmp_wait(qmp, feed.is_ended ? -EBADF : stream, POLLOUT, &is_ready, deadline_ns,
			     "loading device state", refusal);
		if (r)
			return r;
		if (!is_ready)
			continue;

		r = feed_some(&feed, state_fd, stream);
		if (r == -EPIPE || r == -ECONNRESET)
			feed.is_ended = true; /* QEMU had enough: it says why on the monitor */
		else if (r && r != -EAGAIN && r != -EINTR)
			return refusal_set_errno(refusal, r, "device state not read");
	}
	return check_completed(qmp, "loading device state", refusal);
}

int qmp_load(struct driver *driver, int state_fd, struct refusal *refusal)
{
	struct qmp *qmp = (struct qmp *)driver;
	_cleanup_(closep) int stream = -EBADF;
	struct capabilities before;
	struct qmp_status status;
	int r;

	r = qmp_query_status(qmp, &status, refusal);
	if (r)
		return r;
	if (strcmp(status.name, "inmigrate"))
		return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
				   "QEMU (pid %d) is %s and does not wait for a guest; start it "
				   "with -incoming defer",
				   qmp->pid, status.name);

	r = prepare(qmp, &before, refusal);
	if (r)
		return r;

	r = stream_start(qmp, "migrate-incoming", &stream, refusal);
	if (!r)
		r = feed_all(qmp, state_fd, stream, refusal);
	if (!r)
		capabilities_restore(qmp, &before);
	return r;
}
