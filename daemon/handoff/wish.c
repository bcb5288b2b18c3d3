/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is asked of a listener. */
#include "handoff/wish.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "refusal.h"

#define NUMBER_BYTES 20 /* the longest number that takes the place of a `%` */

struct handoff_wish wish_built_in(void)
{
	return (struct handoff_wish){
		.socket_uid = (uid_t)-1,
		.socket_gid = (gid_t)-1,
		.mode = 0660,
		.settings = settings_built_in(),
	};
}

void wish_done(struct handoff_wish *wish)
{
	free(wish->path);
	free(wish->dialect);
	free(wish->source);
	free(wish->name);
	free(wish->consumer);
	wish->path = wish->dialect = wish->source = wish->name = wish->consumer = NULL;
}

static int copy_text(const char *text, char **ret)
{
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

int wish_copy(const struct handoff_wish *wish, struct handoff_wish *ret)
{
	_cleanup_(wish_done) struct handoff_wish copy = *wish;

	copy.path = copy.dialect = copy.source = copy.name = copy.consumer = NULL;
	if (copy_text(wish->path, &copy.path) < 0 || copy_text(wish->dialect, &copy.dialect) < 0 ||
	    copy_text(wish->source, &copy.source) < 0 || copy_text(wish->name, &copy.name) < 0 ||
	    copy_text(wish->consumer, &copy.consumer) < 0)
		return -ENOMEM;
	*ret = copy;
	copy = (struct handoff_wish){};
	return 0;
}

/* ---- names ---- */

static bool fits_name(char c)
{
	return isalnum((unsigned char)c) || strchr("-_.:@+", c);
}

/* As guests are called (they appear in paths, labels and log fields), with one `%` at most. */
static bool is_name(const char *name)
{
	size_t n = strlen(name), n_marks = 0;

	for (size_t i = 0; i < n; i++) {
		n_marks += name[i] == '%';
		if (name[i] != '%' && (!fits_name(name[i]) || !name[i]))
			return false;
	}
	return n > 0 && n_marks <= 1 && n + (n_marks ? NUMBER_BYTES : 0) < UFD_NAME_BYTES &&
	       name[0] != '.' && name[0] != '-';
}

/* `/run/vms/fc.sock` is `fc-%`. */
static char *name_of_path(const char *path)
{
	const char *base = strrchr(path, '/') + 1;
	size_t n = strcspn(base + 1, ".") + 1;
	char *name = NULL;

	if (n > UFD_NAME_BYTES - NUMBER_BYTES - 3)
		n = UFD_NAME_BYTES - NUMBER_BYTES - 3;
	if (asprintf(&name, "%.*s-%%", (int)n, base) < 0)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (!fits_name(name[i]) || (i == 0 && (name[i] == '.' || name[i] == '-')))
			name[i] = '_';
	return name;
}

void wish_guest_name(const struct handoff_wish *wish, uint64_t number,
		     char ret[static UFD_NAME_BYTES])
{
	size_t n = strcspn(wish->name, "%");

	if (wish->name[n])
		snprintf(ret, UFD_NAME_BYTES, "%.*s%llu%s", (int)n, wish->name,
			 (unsigned long long)number, wish->name + n + 1);
	else
		snprintf(ret, UFD_NAME_BYTES, "%s", wish->name);
}

/* ---- is it one ---- */

static int refuse_parameter(const char *name, struct refusal *refusal)
{
	return refusal_set(refusal, "org.varlink.service.InvalidParameter",
			   json_pack("{s:s}", "parameter", name), "bad %s", name);
}

int wish_check(struct handoff_wish *wish, struct refusal *refusal)
{
	const size_t n_most = sizeof(((struct sockaddr_un *)0)->sun_path);

	if (wish->path[0] != '/' || strlen(wish->path) >= n_most ||
	    wish->path[strlen(wish->path) - 1] == '/')
		return refusal_set(
			refusal, "io.ufd.handoff.BadPath", json_pack("{s:s}", "path", wish->path),
			"the path of a socket is absolute, and shorter than %zu bytes", n_most);
	if (!wish->name)
		wish->name = name_of_path(wish->path);
	if (!wish->name)
		return -ENOMEM;
	if (!is_name(wish->name))
		return refuse_parameter("name", refusal);
	if (wish->consumer &&
	    (strlen(wish->consumer) >= UFD_NAME_BYTES || !is_name(wish->consumer)))
		return refuse_parameter("consumer", refusal);
	if (wish->mode & ~(mode_t)0777)
		return refuse_parameter("mode", refusal);
	return 0;
}

/* ---- as a text ---- */

int wish_print(const struct handoff_wish *wish, char **ret)
{
	json_t *json;
	char *text;

	json = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:I, s:o}", "path", wish->path,
			 "dialect", wish->dialect, "source", wish->source, "name", wish->name,
			 "owner", (json_int_t)wish->owner, "socket_uid",
			 (json_int_t)wish->socket_uid, "socket_gid", (json_int_t)wish->socket_gid,
			 "mode", (int)wish->mode, "count", (json_int_t)wish->n_most, "settings",
			 settings_to_json(&wish->settings));
	if (json && wish->consumer)
		json_object_set_new(json, "consumer", json_string(wish->consumer));
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!text)
		return -ENOMEM;
	*ret = text;
	return 0;
}

static int take_texts(const json_t *json, struct handoff_wish *wish)
{
	const char *path, *dialect, *source, *name;

	if (json_unpack((json_t *)json, "{s:s, s:s, s:s, s:s}", "path", &path, "dialect", &dialect,
			"source", &source, "name", &name) < 0)
		return -EBADMSG;
	if (copy_text(path, &wish->path) < 0 || copy_text(dialect, &wish->dialect) < 0 ||
	    copy_text(source, &wish->source) < 0 || copy_text(name, &wish->name) < 0 ||
	    copy_text(json_string_value(json_object_get(json, "consumer")), &wish->consumer) < 0)
		return -ENOMEM;
	return 0;
}

int wish_parse(const char *text, size_t n_text, struct handoff_wish *ret)
{
	_cleanup_(wish_done) struct handoff_wish wish = wish_built_in();
	json_t *json = json_loadb(text, n_text, JSON_REJECT_DUPLICATES, NULL);
	json_int_t owner, socket_uid, socket_gid, n_most;
	struct refusal refusal = {};
	json_t *settings;
	const char *wrong;
	int mode, r;

	r = take_texts(json, &wish);
	if (r == 0 && json_unpack(json, "{s:I, s:I, s:I, s:i, s:I, s:o}", "owner", &owner,
				  "socket_uid", &socket_uid, "socket_gid", &socket_gid, "mode",
				  &mode, "count", &n_most, "settings", &settings) < 0)
		r = -EBADMSG;
	/* one setting that a release does not know is no reason to forget all of them */
	if (r == 0 && !json_is_object(settings))
		r = -EBADMSG;
	if (r == 0)
		(void)settings_apply(&wish.settings, settings, &wrong);
	json_decref(json);
	if (r < 0)
		return r;
	wish.owner = (uid_t)owner;
	wish.socket_uid = (uid_t)socket_uid;
	wish.socket_gid = (gid_t)socket_gid;
	wish.mode = (mode_t)mode;
	wish.n_most = (uint64_t)n_most;
	if (wish_check(&wish, &refusal) < 0) {
		refusal_done(&refusal);
		return -EBADMSG;
	}
	*ret = wish;
	wish = (struct handoff_wish){};
	return 0;
}
