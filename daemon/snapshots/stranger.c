/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* VMMs that ufdd does not page, paused by a save. */
#include "snapshots/stranger.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/units.h"
#include "driver/qmp.h"
#include "job.h"
#include "log-ids.h"
#include "log.h"
#include "refusal.h"

#define ENDING	      ".paused"
#define TIMEOUT_NS    NSEC_PER_SEC /* of one command */
#define RETRY_MS      500
#define RETRY_LAST_NS (60 * NSEC_PER_SEC)

/* ---- the file ---- */

static void name_of(const struct stranger *stranger, char ret[static 32])
{
	snprintf(ret, 32, "%d" ENDING, stranger->pid);
}

static int open_folder(const char *state_dir, int *ret)
{
	*ret = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret < 0 ? -errno : 0;
}

/* It gets its name when it is whole. */
static int write_file(const struct stranger *stranger, const char *state_dir)
{
	_cleanup_(closep) int folder = -EBADF, file = -EBADF;
	_cleanup_(freep) char *text = NULL;
	char name[32], new_name[40];
	json_t *json = json_pack("{s:i,s:s,s:I}", "pid", (int)stranger->pid, "qmp", stranger->qmp,
				 "driver_state", (json_int_t)stranger->driver_state);
	int r;

	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!text)
		return -ENOMEM;
	r = open_folder(state_dir, &folder);
	if (r < 0)
		return r;
	name_of(stranger, name);
	snprintf(new_name, sizeof(new_name), "%s.new", name);
	file = openat(folder, new_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
		      0600);
	if (file < 0)
		return -errno;
	r = fd_write_all(file, text, strlen(text));
	if (r == 0 && renameat(folder, new_name, folder, name) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(folder, new_name, 0);
	return r;
}

static bool read_file(int folder, const char *name, struct stranger *ret)
{
	_cleanup_(closep) int file = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	json_t *json = file < 0 ? NULL : json_loadfd(file, 0, NULL);
	json_int_t driver_state = 0;
	const char *qmp = NULL;
	int pid = 0;
	bool is_whole = json &&
			json_unpack(json, "{s:i,s:s,s:I}", "pid", &pid, "qmp", &qmp, "driver_state",
				    &driver_state) == 0 &&
			pid > 0 && strlen(qmp) < sizeof(ret->qmp);

	if (is_whole) {
		*ret = (struct stranger){ .pid = pid, .driver_state = (uint32_t)driver_state };
		strcpy(ret->qmp, qmp);
	}
	json_decref(json);
	return is_whole;
}

int stranger_note(struct stranger *ret, const char *state_dir, pid_t pid, const char *qmp,
		  struct driver *driver, struct refusal *refusal)
{
	struct stranger stranger = { .pid = pid };
	int r = driver->ops->remember(driver, &stranger.driver_state, refusal);

	if (r < 0)
		return r;
	if (strlen(qmp) >= sizeof(stranger.qmp))
		return refusal_set_errno(refusal, -ENAMETOOLONG, "%s: the path is too long", qmp);
	strcpy(stranger.qmp, qmp);
	r = state_dir ? write_file(&stranger, state_dir) : 0;
	if (r < 0)
		return refusal_set_errno(refusal, r,
					 "that process %d is to be paused cannot be kept in %s: "
					 "%s",
					 pid, state_dir, strerror(-r));
	*ret = stranger;
	return 0;
}

void stranger_forget(const struct stranger *stranger, const char *state_dir)
{
	_cleanup_(closep) int folder = -EBADF;
	char name[32];

	if (!stranger->pid || !state_dir || open_folder(state_dir, &folder) < 0)
		return;
	name_of(stranger, name);
	unlinkat(folder, name, 0);
}

/* ---- going on ---- */

/* Return: true if there is nothing left to do. */
static bool let_go_once(const struct stranger *stranger)
{
	_cleanup_(refusal_done) struct refusal ignored = {};
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	bool is_running = false, is_paused = false;
	struct driver *driver;

	if (qmp_connect(&qmp, stranger->qmp, TIMEOUT_NS, &ignored) < 0)
		return kill(stranger->pid, 0) < 0 && errno == ESRCH;
	if (qmp_pid(qmp) != stranger->pid)
		return true; /* another VMM listens there by now */
	driver = qmp_driver(qmp);
	if (driver->ops->recall(driver, stranger->driver_state, &ignored) < 0 ||
	    driver->ops->look(driver, &is_running, &is_paused, &ignored) < 0)
		return false;
	if (is_paused && driver->ops->resume(driver, &ignored) < 0)
		return false;
	if (is_paused)
		log_info(LOG_FIELDS(.message_id = LOG_ID_RESUMED),
			 "process %d (monitor %s) was left paused by a save, and goes on",
			 stranger->pid, stranger->qmp);
	return true;
}

void stranger_let_go(const struct stranger *stranger, const char *state_dir, const struct job *job)
{
	uint64_t end_ns = clock_now_ns() + RETRY_LAST_NS;
	bool is_done = let_go_once(stranger);

	while (!is_done && clock_now_ns() < end_ns) {
		if (job && job_is_cancelled(job))
			return;
		(void)poll(NULL, 0, RETRY_MS);
		is_done = let_go_once(stranger);
	}
	if (!is_done)
		log_error(LOG_FIELDS(.message_id = LOG_ID_STAYS_PAUSED),
			  "process %d may be paused still by a save, for its monitor %s does not "
			  "answer: tell it `cont`",
			  stranger->pid, stranger->qmp);
	stranger_forget(stranger, state_dir);
}

/* ---- those that a former process paused ---- */

struct adopted_stranger {
	struct stranger stranger;
	char *state_dir; /* owned */
};

static void adopted_run(struct job *job, void *data)
{
	const struct adopted_stranger *adopted = data;

	stranger_let_go(&adopted->stranger, adopted->state_dir, job);
}

static void adopted_done(void *data)
{
	struct adopted_stranger *adopted = data;

	free(adopted->state_dir);
	free(adopted);
}

static void adopt(struct jobs *jobs, const char *state_dir, const struct stranger *stranger)
{
	static const struct job_ops ops = { .run = adopted_run, .done = adopted_done };
	struct adopted_stranger *adopted = calloc(1, sizeof(*adopted));

	if (!adopted)
		return; /* the next ufdd does it */
	adopted->stranger = *stranger;
	adopted->state_dir = strdup(state_dir);
	if (!adopted->state_dir || job_start(jobs, &ops, 0, adopted, NULL) < 0)
		adopted_done(adopted);
}

static bool is_note(const char *name)
{
	size_t n = strlen(name), n_ending = strlen(ENDING);

	return n > n_ending && strcmp(name + n - n_ending, ENDING) == 0;
}

void strangers_adopt(struct jobs *jobs, const char *state_dir)
{
	_cleanup_(closedirp) DIR *folder = state_dir ? opendir(state_dir) : NULL;
	const struct dirent *entry;

	while (folder && (entry = readdir(folder))) {
		struct stranger stranger;

		if (!is_note(entry->d_name))
			continue;
		if (read_file(dirfd(folder), entry->d_name, &stranger))
			adopt(jobs, state_dir, &stranger);
		else
			unlinkat(dirfd(folder), entry->d_name, 0); /* no word of ours */
	}
}
