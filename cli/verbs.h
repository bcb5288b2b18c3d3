/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ufdctl can do: one table behind parsing and --help. */
#pragma once

#include "session.h"

struct verb {
	const char *object; /* "guest"; NULL for verbs that need none */
	const char *name;
	const char *arguments; /* for --help */
	const char *help;
	int (*run)(struct session *session, int argc, char **argv); /* argv[0] is the verb */
};

int cmd_status(struct session *session, int argc, char **argv);
int cmd_version(struct session *session, int argc, char **argv);
int cmd_call(struct session *session, int argc, char **argv);
int cmd_events(struct session *session, int argc, char **argv);
int cmd_guest_list(struct session *session, int argc, char **argv);
int cmd_guest_show(struct session *session, int argc, char **argv);
int cmd_guest_attach(struct session *session, int argc, char **argv);
int cmd_guest_detach(struct session *session, int argc, char **argv);
int cmd_guest_prefetch(struct session *session, int argc, char **argv);
int cmd_dirty_start(struct session *session, int argc, char **argv);
int cmd_dirty_read(struct session *session, int argc, char **argv);
int cmd_dirty_stop(struct session *session, int argc, char **argv);
int cmd_dirty_list(struct session *session, int argc, char **argv);
int cmd_dirty_rate(struct session *session, int argc, char **argv);
int cmd_dirty_heatmap(struct session *session, int argc, char **argv);
int cmd_handoff_create(struct session *session, int argc, char **argv);
int cmd_handoff_list(struct session *session, int argc, char **argv);
int cmd_handoff_remove(struct session *session, int argc, char **argv);
int cmd_snapshot_save(struct session *session, int argc, char **argv);
int cmd_run(struct session *session, int argc, char **argv);
int cmd_restore(struct session *session, int argc, char **argv);
int cmd_image_info(struct session *session, int argc, char **argv);
int cmd_image_verify(struct session *session, int argc, char **argv);
int cmd_image_append(struct session *session, int argc, char **argv);
int cmd_image_convert(struct session *session, int argc, char **argv);
int cmd_image_diff(struct session *session, int argc, char **argv);
int cmd_image_flatten(struct session *session, int argc, char **argv);
int cmd_drain(struct session *session, int argc, char **argv);
int cmd_upgrade(struct session *session, int argc, char **argv);
int cmd_probe(struct session *session, int argc, char **argv);
int cmd_why(struct session *session, int argc, char **argv);
int cmd_support_bundle(struct session *session, int argc, char **argv);

/* The table of a guest's consumers; @list: reply of io.ufd.dirty.List. */
void dirty_show(const struct session *session, const json_t *list);
