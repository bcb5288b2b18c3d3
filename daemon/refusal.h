/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why a request was turned down, for people: a named error of an interface and its parameters. */
#pragma once

#include <jansson.h>

/*
 * Embedded; zero is "nothing refused". Whoever refuses sets it once, at the place that knows guest,
 * file and remedy, and returns -ECANCELED; everybody above passes both on unread.
 */
struct refusal {
	char error[96];	    /* io.ufd.guest.BadRegion */
	json_t *parameters; /* owned; object, always with "message" */
};

/**
 * refusal_set() - name the error
 * @error:      full name, as in the .varlink file
 * @parameters: consumed; what the interface lists beside `message`; NULL for none
 * @message:    format of one sentence: what happened, to which guest, what to do
 *
 * A refusal that was set before keeps its first words.
 * Context: any; allocates. Return: always -ECANCELED.
 */
int refusal_set(struct refusal *refusal, const char *error, json_t *parameters, const char *message,
		...) __attribute__((format(printf, 4, 5)));

/* io.ufd.manager.SystemError from a negative errno. Return: always -ECANCELED. */
int refusal_set_errno(struct refusal *refusal, int error, const char *message, ...)
	__attribute__((format(printf, 3, 4)));

void refusal_done(struct refusal *refusal);
