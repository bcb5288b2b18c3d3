/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking for ledgers. */
#include "ledger-search.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/units.h"
#include "fd-walk.h"
#include "wire/varlink-client.h"

#define DAEMON_PATIENCE_NS (300 * NSEC_PER_MSEC)
#define LEDGER_SUFFIX	   ".ledger"

static bool has_suffix(const char *text, const char *suffix)
{
	size_t n = strlen(text), n_suffix = strlen(suffix);

	return n > n_suffix && strcmp(text + n - n_suffix, suffix) == 0;
}

/* ---- the daemon ------------------------------------------------------------------------------ */

/* A stopped daemon's queue may be full, and then connecting waits as well. */
int ledger_search_connect(struct varlink_client **ret, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_usec = DAEMON_PATIENCE_NS / NSEC_PER_USEC };
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return varlink_client_adopt(ret, TAKE_FD(fd));
}

/* One call; @parameters is consumed. Return: true with @answer if it was answered without error. */
static bool ask(struct varlink_client *client, const char *method, json_t *parameters,
		uint64_t deadline_ns, struct varlink_answer *answer, enum daemon_answer *ret)
{
	int r = varlink_client_call(client, method, parameters, NULL, 0, deadline_ns, answer);

	json_decref(parameters);
	if (r < 0) {
		*ret = DAEMON_SILENT;
		return false;
	}
	*ret = DAEMON_ANSWERS;
	if (answer->error && strstr(answer->error, "PermissionDenied"))
		*ret = DAEMON_REFUSES;
	return !answer->error;
}

/* The name of the guest whose first process has this pid; the caller frees it. */
static char *name_of_pid(const json_t *reply, pid_t pid)
{
	const json_t *guest;
	size_t i;

	json_array_foreach(json_object_get(reply, "guests"), i, guest)
	{
		const char *name = json_string_value(json_object_get(guest, "name"));

		if (name && json_integer_value(json_object_get(guest, "pid")) == pid)
			return strdup(name);
	}
	return NULL;
}

static bool take_ledger(struct ledger_search *search, int fd)
{
	struct ledger *ledger = NULL;

	if (ledger_open_readonly(&ledger, fd) != 0)
		return false;
	if (!search->matches(ledger, search->userdata)) {
		ledger_free(ledger);
		return false;
	}
	search->ledger = ledger;
	return true;
}

static void ask_for_ledger(struct ledger_search *search, struct varlink_client *client,
			   const char *name, uint64_t deadline_ns)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	if (ask(client, "io.ufd.guest.Ledger", json_pack("{s:s}", "name", name), deadline_ns,
		&answer, &search->answer) &&
	    answer.n_fds == 1 && take_ledger(search, answer.fds[0]))
		search->origin = LEDGER_OF_DAEMON;
}

/* Who listens. That is the service manager where it made the socket, and then it tells nothing. */
static pid_t peer_of(const struct varlink_client *client)
{
	struct ucred peer = {};
	socklen_t n_peer = sizeof(peer);

	if (getsockopt(varlink_client_fd(client), SOL_SOCKET, SO_PEERCRED, &peer, &n_peer) < 0)
		return 0;
	return peer.pid > 1 ? peer.pid : 0;
}

static void search_daemon(struct ledger_search *search)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	_cleanup_(varlink_answer_done) struct varlink_answer status = {}, list = {};
	_cleanup_(freep) char *name = NULL;
	uint64_t begun_ns = clock_now_ns();
	uint64_t deadline_ns = begun_ns + DAEMON_PATIENCE_NS;
	const char *version;
	int r;

	r = ledger_search_connect(&client, search->socket_path);
	if (r < 0) {
		search->answer = r == -EAGAIN		       ? DAEMON_SILENT
				 : r == -EACCES || r == -EPERM ? DAEMON_REFUSES
							       : DAEMON_ABSENT;
		return;
	}
	search->daemon_pid = peer_of(client);
	if (!ask(client, "io.ufd.manager.Status", NULL, deadline_ns, &status, &search->answer))
		return;
	search->answered_ns = clock_now_ns() - begun_ns;
	search->daemon_pid = (pid_t)json_integer_value(json_object_get(status.parameters, "pid"));
	version = json_string_value(json_object_get(status.parameters, "version"));
	snprintf(search->daemon_version, sizeof(search->daemon_version), "%s",
		 version ? version : "");
	if (search->guest)
		ask_for_ledger(search, client, search->guest, deadline_ns);
	if (search->ledger || !search->pid || search->answer != DAEMON_ANSWERS)
		return;
	if (ask(client, "io.ufd.guest.List", NULL, deadline_ns, &list, &search->answer))
		name = name_of_pid(list.parameters, search->pid);
	if (name)
		ask_for_ledger(search, client, name, deadline_ns);
}

/* ---- /proc ----------------------------------------------------------------------------------- */

/* A memfd, or a file in a state directory that somebody has open. */
static int open_ledger(pid_t pid, int fd, const char *name, char path[64])
{
	if (strncmp(name, "/memfd:ufd-ledger", strlen("/memfd:ufd-ledger")) &&
	    !has_suffix(name, LEDGER_SUFFIX))
		return -ENOENT;
	snprintf(path, 64, "/proc/%d/fd/%d", pid, fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static bool visit_fd(pid_t pid, int number, const char *name, void *userdata)
{
	struct ledger_search *search = userdata;
	_cleanup_(closep) int fd = -EBADF;
	char path[64];

	fd = open_ledger(pid, number, name, path);
	if (fd < 0 || !take_ledger(search, fd))
		return true;
	search->origin = LEDGER_OF_PROCESS;
	search->holder = pid;
	snprintf(search->path, sizeof(search->path), "%s", path);
	return false;
}

static void search_processes(struct ledger_search *search)
{
	struct fd_walk walk = { .first = search->daemon_pid, .deadline_ns = search->deadline_ns };

	fd_walk(&walk, visit_fd, search);
	search->n_hidden = walk.n_hidden;
	search->is_cut = walk.is_cut;
}

/* The inode of the socket that listens at our path, as /proc/net/unix tells. */
static bool find_listening(const char *path, char ret_name[64])
{
	_cleanup_(freep) char *line = NULL;
	size_t n_line = 0, n_path = strlen(path);
	FILE *file = fopen("/proc/net/unix", "re");
	bool is_found = false;

	while (file && !is_found && getline(&line, &n_line, file) > 0) {
		unsigned long flags, inode;
		char *at = strchr(line, '/');

		if (!at || strncmp(at, path, n_path) || at[n_path] != '\n' ||
		    sscanf(line, "%*s %*s %*s %lx %*s %*s %lu", &flags, &inode) != 2 ||
		    !(flags & 0x10000)) /* __SO_ACCEPTCON */
			continue;
		snprintf(ret_name, 64, "socket:[%lu]", inode);
		is_found = true;
	}
	if (file)
		fclose(file);
	return is_found;
}

struct listener {
	char name[64];
	pid_t pid;
};

static bool visit_listener(pid_t pid, int fd, const char *name, void *userdata)
{
	struct listener *listener = userdata;

	if (pid == 1 || strcmp(name, listener->name))
		return true;
	listener->pid = pid;
	return false;
}

/*
 * The daemon behind our socket, though it does not answer: two daemons may each have a guest of the
 * same name.
 */
static void find_daemon(struct ledger_search *search)
{
	struct fd_walk walk = { .deadline_ns = search->deadline_ns };
	struct listener listener = {};

	if (search->daemon_pid || !find_listening(search->socket_path, listener.name))
		return;
	fd_walk(&walk, visit_listener, &listener);
	search->daemon_pid = listener.pid;
}

/* ---- files ----------------------------------------------------------------------------------- */

typedef bool (*file_fn)(int fd, const char *path, void *userdata);

static void each_file(const char *directory, file_fn visit, void *userdata)
{
	_cleanup_(closedirp) DIR *dir = opendir(directory);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		_cleanup_(closep) int fd = -EBADF;
		char path[512];

		if (!has_suffix(entry->d_name, LEDGER_SUFFIX) ||
		    snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name) >=
			    (int)sizeof(path))
			continue;
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
		if (fd >= 0 && !visit(fd, path, userdata))
			return;
	}
}

static bool visit_file(int fd, const char *path, void *userdata)
{
	struct ledger_search *search = userdata;

	if (!take_ledger(search, fd))
		return true;
	search->origin = LEDGER_OF_DIRECTORY;
	snprintf(search->path, sizeof(search->path), "%s", path);
	return false;
}

int ledger_search_run(struct ledger_search *search)
{
	search_daemon(search);
	if (search->ledger)
		return 0;
	find_daemon(search);
	if (search->daemon_pid)
		fd_walk_process(search->daemon_pid, visit_fd, search);
	if (!search->ledger && search->directory)
		each_file(search->directory, visit_file, search);
	if (!search->ledger)
		search_processes(search);
	return 0;
}

void ledger_search_done(struct ledger_search *search)
{
	search->ledger = ledger_free(search->ledger);
}

/* ---- all of them ----------------------------------------------------------------------------- */

#define MAX_SEEN 4096

struct each {
	void (*visit)(struct ledger *ledger, const char *path, void *userdata);
	void *userdata;
	struct {
		dev_t device;
		ino_t inode;
	} seen[MAX_SEEN];
	size_t n_seen;
};

static bool is_seen(struct each *each, int fd)
{
	struct stat stat;

	if (fstat(fd, &stat) < 0 || each->n_seen == MAX_SEEN)
		return true;
	for (size_t i = 0; i < each->n_seen; i++)
		if (each->seen[i].device == stat.st_dev && each->seen[i].inode == stat.st_ino)
			return true;
	each->seen[each->n_seen].device = stat.st_dev;
	each->seen[each->n_seen++].inode = stat.st_ino;
	return false;
}

static bool each_ledger(int fd, const char *path, void *userdata)
{
	struct each *each = userdata;
	struct ledger *ledger = NULL;

	if (!is_seen(each, fd) && ledger_open_readonly(&ledger, fd) == 0)
		each->visit(ledger, path, each->userdata);
	return true;
}

static bool each_fd(pid_t pid, int number, const char *name, void *userdata)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[64];

	fd = open_ledger(pid, number, name, path);
	return fd < 0 || each_ledger(fd, path, userdata);
}

void ledger_search_each(struct ledger_search *search,
			void (*visit)(struct ledger *ledger, const char *path, void *userdata),
			void *userdata)
{
	_cleanup_(freep) struct each *each = calloc(1, sizeof(*each));
	struct fd_walk walk = { .first = search->daemon_pid, .deadline_ns = search->deadline_ns };

	if (!each)
		return;
	each->visit = visit;
	each->userdata = userdata;
	fd_walk(&walk, each_fd, each);
	search->n_hidden = walk.n_hidden;
	search->is_cut = walk.is_cut;
	if (search->directory)
		each_file(search->directory, each_ledger, each);
}
