/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why a request was turned down. */
#include "refusal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void refusal_fill(struct refusal *refusal, const char *error, json_t *parameters,
			 const char *message, va_list arguments)
{
	char text[512];

	if (refusal->parameters) {
		json_decref(parameters);
		return;
	}
	vsnprintf(text, sizeof(text), message, arguments);
	snprintf(refusal->error, sizeof(refusal->error), "%s", error);
	refusal->parameters = parameters ? parameters : json_object();
	json_object_set_new(refusal->parameters, "message", json_string(text));
}

int refusal_set(struct refusal *refusal, const char *error, json_t *parameters, const char *message,
		...)
{
	va_list arguments;

	va_start(arguments, message);
	refusal_fill(refusal, error, parameters, message, arguments);
	va_end(arguments);
	return -ECANCELED;
}

int refusal_set_errno(struct refusal *refusal, int error, const char *message, ...)
{
	json_t *parameters = json_pack("{s:i,s:s}", "errno", -error, "name",
				       strerrorname_np(-error) ? strerrorname_np(-error) : "?");
	va_list arguments;

	va_start(arguments, message);
	refusal_fill(refusal, "io.ufd.manager.SystemError", parameters, message, arguments);
	va_end(arguments);
	return -ECANCELED;
}

void refusal_done(struct refusal *refusal)
{
	json_decref(refusal->parameters);
	*refusal = (struct refusal){};
}
