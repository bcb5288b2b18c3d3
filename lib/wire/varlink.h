/* SPDX-License-Identifier: MIT */
/*
 * Calls, replies and errors of Varlink, as JSON objects.
 *
 * Context of all: any.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

enum varlink_outcome {
	_VARLINK_DONE,
	VARLINK_BAD_MESSAGE, /* an object, but no call (or no reply); the connection cannot go on */
};

/* Readable; everything is borrowed from the message. */
struct varlink_call {
	const char *method; /* io.ufd.guest.Attach */
	json_t *parameters; /* object, or NULL if there are none */
	bool is_more;	    /* several replies are welcome */
	bool is_oneway;	    /* no reply at all, not even an error */
	bool is_upgrade;    /* the connection shall become raw bytes; not offered by any method */
};

/* Readable; everything is borrowed from the message. */
struct varlink_reply {
	const char *error;  /* NULL for success */
	json_t *parameters; /* object, or NULL if there are none */
	bool has_more;	    /* another reply follows */
};

/* Unknown members are refused: a typing error in "oneway" would wait for ever. Return: 0 or
 * VARLINK_BAD_MESSAGE, -ENOMEM. */
int varlink_call_parse(json_t *message, struct varlink_call *ret);
int varlink_reply_parse(json_t *message, struct varlink_reply *ret);

/* Each consumes @parameters (NULL for none) and returns an owned object, or NULL without memory. */
json_t *varlink_call_new(const char *method, json_t *parameters, bool is_more, bool is_oneway);
json_t *varlink_reply_new(json_t *parameters, bool has_more);
json_t *varlink_error_new(const char *error, json_t *parameters);
