/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl handoff: create, list, remove. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "numbers.h"
#include "output.h"
#include "setting-options.h"
#include "verbs.h"

#define BACKLOG 128

static const struct column handoff_columns[] = {
	{ "PATH", "path", COLUMN_TEXT },
	{ "DIALECT", "dialect", COLUMN_TEXT },
	{ "SOURCE", "source", COLUMN_TEXT },
	{ "NAME", "name", COLUMN_TEXT },
	{ "COUNT", "count", COLUMN_NUMBER },
	{ "TAKEN", "taken", COLUMN_NUMBER },
	{ "WAITING", "waiting", COLUMN_NUMBER },
	{ "REFUSED", "refused", COLUMN_NUMBER },
	{ "LAST REFUSAL", "last_refusal", COLUMN_TEXT },
	{},
};

/* ---- create ---- */

/* The daemon has another working directory. */
static void set_path(json_t *parameters, const char *path)
{
	_cleanup_(freep) char *folder = NULL;
	_cleanup_(freep) char *whole = NULL;

	if (path[0] != '/')
		folder = realpath(".", NULL);
	if (folder && asprintf(&whole, "%s/%s", strcmp(folder, "/") ? folder : "", path) < 0)
		whole = NULL;
	json_object_set_new(parameters, "path", json_string(whole ? whole : path));
}

static bool find_user(const char *name, uint64_t *ret)
{
	const struct passwd *user = getpwnam(name);

	if (user)
		*ret = user->pw_uid;
	return user || (number_parse(name, ret) && *ret < UINT32_MAX);
}

static bool find_group(const char *name, uint64_t *ret)
{
	const struct group *group = getgrnam(name);

	if (group)
		*ret = group->gr_gid;
	return group || (number_parse(name, ret) && *ret < UINT32_MAX);
}

/* USER, or USER:GROUP. */
static int take_owner(json_t *parameters, const char *text)
{
	_cleanup_(freep) char *user = strdup(text);
	char *group = user ? strchr(user, ':') : NULL;
	uint64_t number;

	if (!user)
		return EXIT_FAILED;
	if (group)
		*group++ = '\0';
	if (!find_user(user, &number))
		return session_usage("there is no user '%s'", user);
	json_object_set_new(parameters, "uid", json_integer((json_int_t)number));
	if (!group)
		return EXIT_DONE;
	if (!find_group(group, &number))
		return session_usage("there is no group '%s'", group);
	json_object_set_new(parameters, "gid", json_integer((json_int_t)number));
	return EXIT_DONE;
}

static int take_option(json_t *parameters, int value)
{
	uint64_t count;

	switch (value) {
	case 'd':
		json_object_set_new(parameters, "dialect", json_string(optarg));
		return EXIT_DONE;
	case 's':
		json_object_set_new(parameters, "source", json_string(optarg));
		return EXIT_DONE;
	case 'n':
		json_object_set_new(parameters, "name", json_string(optarg));
		return EXIT_DONE;
	case 'C':
		json_object_set_new(parameters, "consumer", json_string(optarg));
		return EXIT_DONE;
	case 'm':
		json_object_set_new(parameters, "mode", json_string(optarg));
		return EXIT_DONE;
	case 'o':
		return take_owner(parameters, optarg);
	case 'c':
		if (!number_parse(optarg, &count) || count > INT64_MAX)
			return session_usage("--count wants a number, not '%s'", optarg);
		json_object_set_new(parameters, "count", json_integer((json_int_t)count));
		return EXIT_DONE;
	default:
		return value >= SETTING_FIRST
			       ? setting_take(json_object_get(parameters, "settings"), value,
					      optarg)
			       : session_usage("handoff create: bad option");
	}
}

static int create_parse(json_t *parameters, int argc, char **argv)
{
	static const struct option options[] = {
		{ "dialect", required_argument, NULL, 'd' },
		{ "source", required_argument, NULL, 's' },
		{ "name", required_argument, NULL, 'n' },
		{ "consumer", required_argument, NULL, 'C' },
		{ "mode", required_argument, NULL, 'm' },
		{ "owner", required_argument, NULL, 'o' },
		{ "count", required_argument, NULL, 'c' },
		SETTING_OPTIONS,
		{},
	};
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		status = take_option(parameters, value);
		if (status)
			return status;
	}
	if (argc - optind != 1)
		return session_usage("handoff create wants one PATH");
	if (!json_object_get(parameters, "source"))
		return session_usage("handoff create wants --source SPEC");
	set_path(parameters, argv[optind]);
	return EXIT_DONE;
}

/* Somebody else's that nobody listens at any more is replaced. */
static int bind_to(int fd, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_(closep) int probe = -EBADF;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return -errno;
	if (connect(probe, (struct sockaddr *)&address, sizeof(address)) == 0 ||
	    errno != ECONNREFUSED)
		return -EADDRINUSE;
	if (unlink(path) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return 0;
}

/*
 * The socket is made here, with the rights of who asks: the daemon is confined, and may write to few places.
 * Nobody is let in before it has its owner and mode, for until then it does not listen.
 */
static int make_socket(json_t *parameters, int *ret_fd)
{
	const char *path = json_string_value(json_object_get(parameters, "path"));
	const char *mode = json_string_value(json_object_get(parameters, "mode"));
	const json_t *uid = json_object_get(parameters, "uid");
	const json_t *gid = json_object_get(parameters, "gid");
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = fd < 0 ? -errno : 0;

	/* what bind() makes has the mode of the socket: at no moment is it another one */
	(void)umask(0);
	if (r == 0 && fchmod(fd, mode ? (mode_t)strtoul(mode, NULL, 8) : 0660) < 0)
		r = -errno;
	if (r == 0)
		r = bind_to(fd, path);
	if (r < 0) {
		fprintf(stderr, "ufdctl: no socket can be made at %s: %s\n", path, strerror(-r));
		return r == -EACCES || r == -EPERM ? EXIT_DENIED : EXIT_FAILED;
	}
	if (fchownat(AT_FDCWD, path, uid ? (uid_t)json_integer_value(uid) : (uid_t)-1,
		     gid ? (gid_t)json_integer_value(gid) : (gid_t)-1, AT_SYMLINK_NOFOLLOW) < 0 ||
	    listen(fd, BACKLOG) < 0) {
		r = -errno;
		fprintf(stderr, "ufdctl: %s cannot be given its owner: %s\n", path, strerror(-r));
		(void)unlink(path);
		return r == -EPERM ? EXIT_DENIED : EXIT_FAILED;
	}
	json_object_set_new(parameters, "socket", json_integer(0));
	*ret_fd = TAKE_FD(fd);
	return EXIT_DONE;
}

int cmd_handoff_create(struct session *session, int argc, char **argv)
{
	_cleanup_(closep) int fd = -EBADF;
	json_t *parameters = json_pack("{s:{}}", "settings");
	json_t *reply = NULL;
	int status = create_parse(parameters, argc, argv);

	if (status == EXIT_DONE)
		status = make_socket(parameters, &fd);
	if (status == EXIT_DONE) {
		status = session_call(session, "io.ufd.handoff.Create", json_incref(parameters),
				      &fd, 1, &reply);
		if (status != EXIT_DONE)
			(void)unlink(json_string_value(json_object_get(parameters, "path")));
	}
	if (status == EXIT_DONE && !output_json(session, reply) && !session->is_quiet)
		output_record(session, handoff_columns, json_object_get(reply, "handoff"));
	json_decref(reply);
	json_decref(parameters);
	return status;
}

/* ---- list, remove ---- */

int cmd_handoff_list(struct session *session, int argc, char **argv)
{
	json_t *reply = NULL;
	int status;

	if (argc > 1)
		return session_usage("handoff list takes no argument");
	status = session_call(session, "io.ufd.handoff.List", NULL, NULL, 0, &reply);
	if (status == EXIT_DONE && !output_json(session, reply))
		output_table(session, handoff_columns, json_object_get(reply, "handoffs"),
			     "hand-offs");
	json_decref(reply);
	return status;
}

int cmd_handoff_remove(struct session *session, int argc, char **argv)
{
	json_t *parameters, *reply = NULL;
	int status;

	if (argc != 2)
		return session_usage("handoff remove wants one PATH");
	parameters = json_object();
	set_path(parameters, argv[1]);
	status = session_call(session, "io.ufd.handoff.Remove", json_incref(parameters), NULL, 0,
			      &reply);
	if (status == EXIT_DONE) {
		/* where the daemon may not */
		(void)unlink(json_string_value(json_object_get(parameters, "path")));
		(void)output_json(session, reply);
	}
	json_decref(parameters);
	json_decref(reply);
	return status;
}
