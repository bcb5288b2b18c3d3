/* SPDX-License-Identifier: MIT */
/* Calls, replies and errors. */
#include "wire/varlink.h"

#include <errno.h>
#include <string.h>

/* Of a json_unpack_ex() that failed. */
static int unpack_outcome(const json_error_t *error)
{
	return json_error_code(error) == json_error_out_of_memory ? -ENOMEM : VARLINK_BAD_MESSAGE;
}

int varlink_call_parse(json_t *message, struct varlink_call *ret)
{
	struct varlink_call call = {};
	int is_more = 0, is_oneway = 0, is_upgrade = 0;
	json_error_t error;

	if (json_unpack_ex(message, &error, 0, "{s:s, s?o, s?b, s?b, s?b !}", "method",
			   &call.method, "parameters", &call.parameters, "more", &is_more, "oneway",
			   &is_oneway, "upgrade", &is_upgrade) < 0)
		return unpack_outcome(&error);
	if (json_is_null(call.parameters))
		call.parameters = NULL;
	if (call.parameters && !json_is_object(call.parameters))
		return VARLINK_BAD_MESSAGE;
	call.is_more = is_more;
	call.is_oneway = is_oneway;
	call.is_upgrade = is_upgrade;
	if (call.is_more && call.is_oneway)
		return VARLINK_BAD_MESSAGE;
	*ret = call;
	return 0;
}

int varlink_reply_parse(json_t *message, struct varlink_reply *ret)
{
	struct varlink_reply reply = {};
	json_error_t error;
	int has_more = 0;

	if (json_unpack_ex(message, &error, 0, "{s?s, s?o, s?b}", "error", &reply.error,
			   "parameters", &reply.parameters, "continues", &has_more) < 0)
		return unpack_outcome(&error);
	if (json_is_null(reply.parameters))
		reply.parameters = NULL;
	if (reply.parameters && !json_is_object(reply.parameters))
		return VARLINK_BAD_MESSAGE;
	reply.has_more = has_more;
	if (reply.error && reply.has_more)
		return VARLINK_BAD_MESSAGE;
	*ret = reply;
	return 0;
}

/* Return: @message, or NULL without memory; it is released then. */
static json_t *set_true(json_t *message, const char *name)
{
	if (message && json_object_set_new(message, name, json_true()) < 0) {
		json_decref(message);
		return NULL;
	}
	return message;
}

json_t *varlink_call_new(const char *method, json_t *parameters, bool is_more, bool is_oneway)
{
	json_t *message = json_pack("{s:s, s:o*}", "method", method, "parameters", parameters);

	if (is_more)
		message = set_true(message, "more");
	if (is_oneway)
		message = set_true(message, "oneway");
	return message;
}

json_t *varlink_reply_new(json_t *parameters, bool has_more)
{
	json_t *message = json_pack("{s:o}", "parameters", parameters ? parameters : json_object());

	return has_more ? set_true(message, "continues") : message;
}

json_t *varlink_error_new(const char *error, json_t *parameters)
{
	return json_pack("{s:s, s:o}", "error", error, "parameters",
			 parameters ? parameters : json_object());
}
