/* SPDX-License-Identifier: MIT */
/* The daemon's answers as errno and sentence. */
#include "client/verdict.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *error;
	int value;
} errors[] = {
	{ "io.ufd.guest.NoSuchGuest", -ENOENT },
	{ "io.ufd.guest.GuestExists", -EEXIST },
	{ "io.ufd.guest.BadFd", -EBADF },
	{ "io.ufd.guest.BadRegion", -EINVAL },
	{ "io.ufd.guest.BadSource", -ENODATA },
	{ "io.ufd.guest.OtherMappers", -EUSERS },
	{ "io.ufd.guest.NotEmpty", -ENOTEMPTY },
	{ "io.ufd.guest.NotComplete", -EBUSY },
	{ "io.ufd.manager.LimitReached", -ENOSPC },
	{ "io.ufd.manager.NotSupported", -EOPNOTSUPP },
	{ "org.varlink.service.PermissionDenied", -EPERM },
	{ "org.varlink.service.InvalidParameter", -EINVAL },
	{ "org.varlink.service.InterfaceNotFound", -ENOSYS },
	{ "org.varlink.service.MethodNotFound", -ENOSYS },
	{ "org.varlink.service.MethodNotImplemented", -ENOSYS },
};

static int errno_of_answer(const struct varlink_answer *answer)
{
	json_int_t number;

	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		if (strcmp(errors[i].error, answer->error) == 0)
			return errors[i].value;
	if (strcmp(answer->error, "io.ufd.manager.SystemError") == 0) {
		number = json_integer_value(json_object_get(answer->parameters, "errno"));
		if (number > 0 && number < 4096)
			return (int)-number;
	}
	return -EREMOTEIO;
}

/* The text ends up in logs and terminals. */
static void blank_controls(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = ' ';
}

int verdict_of_answer(const struct varlink_answer *answer, char ret_text[VERDICT_TEXT_BYTES])
{
	const char *message = json_string_value(json_object_get(answer->parameters, "message"));
	const char *what = json_string_value(json_object_get(answer->parameters, "parameter"));
	int error = errno_of_answer(answer);

	if (message)
		snprintf(ret_text, VERDICT_TEXT_BYTES, "%.400s (%.90s)", message, answer->error);
	else if (what)
		snprintf(ret_text, VERDICT_TEXT_BYTES, "the daemon refuses parameter %.64s (%.90s)",
			 what, answer->error);
	else if (error == -EPERM)
		snprintf(
			ret_text, VERDICT_TEXT_BYTES,
			"the daemon does not serve this user: run as root or as the instance's own "
			"user (%.90s)",
			answer->error);
	else if (error == -ENOSYS)
		snprintf(ret_text, VERDICT_TEXT_BYTES,
			 "the daemon is older than this library: upgrade ufdd (%.90s)",
			 answer->error);
	else
		snprintf(ret_text, VERDICT_TEXT_BYTES, "the daemon refuses (%.90s)", answer->error);
	blank_controls(ret_text);
	return error;
}

int verdict_of_connection(int error, const char *socket_path, char ret_text[VERDICT_TEXT_BYTES])
{
	const char *where = socket_path ? socket_path : "the inherited connection";

	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		snprintf(
			ret_text, VERDICT_TEXT_BYTES,
			"no daemon listens on %.200s: start ufdd, or name its socket in UFD_SOCKET",
			where);
		break;
	case -EACCES:
	case -EPERM:
		snprintf(ret_text, VERDICT_TEXT_BYTES,
			 "%.200s is not for this user: join the group that owns it", where);
		break;
	case -ENAMETOOLONG:
		snprintf(
			ret_text, VERDICT_TEXT_BYTES,
			"the path of the socket is longer than a Unix socket's may be (107 bytes)");
		break;
	case -ENOTCONN:
		snprintf(ret_text, VERDICT_TEXT_BYTES,
			 "the inherited connection is used up: pass a new one to "
			 "ufd_client_reconnect()");
		break;
	case -ETIMEDOUT:
		snprintf(ret_text, VERDICT_TEXT_BYTES,
			 "no answer in time from the daemon on %.200s", where);
		break;
	case -EPIPE:
	case -ECONNRESET:
		snprintf(ret_text, VERDICT_TEXT_BYTES, "the daemon on %.200s went away", where);
		break;
	case -EPROTO:
		snprintf(ret_text, VERDICT_TEXT_BYTES, "what answers on %.200s is no ufdd", where);
		break;
	default:
		snprintf(ret_text, VERDICT_TEXT_BYTES, "cannot talk to the daemon on %.200s: %s",
			 where, strerrordesc_np(-error) ? strerrordesc_np(-error) : "?");
	}
	return error;
}
