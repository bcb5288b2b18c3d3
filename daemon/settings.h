/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a guest is treated: one table behind [defaults] of ufdd.conf and Settings of io.ufd.guest.
 *
 * Context of all: any.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <ufd/pager.h>

/* Who else maps a memory. Attaching to them is the daemon's work, the engine knows only the others.
 */
enum settings_others {
	SETTINGS_OTHERS_REFUSE,
	SETTINGS_OTHERS_ATTACH,
	SETTINGS_OTHERS_EAGER,
};

/* What the userfaultfd can do decides, if nobody else does. */
enum settings_track {
	SETTINGS_TRACK_SCAN = UFD_TRACK_SCAN,
	SETTINGS_TRACK_WP = UFD_TRACK_WP,
	SETTINGS_TRACK_AUTO,
};

/* Readable. */
struct settings {
	uint64_t policy;	/* enum ufd_policy */
	uint64_t track;		/* enum settings_track */
	uint64_t other_mappers; /* enum settings_others */
	uint64_t populated;	/* enum ufd_populated */
	uint64_t fault_deadline_s;
	uint64_t background; /* 0 or 1 */
	uint64_t background_rate;
	uint64_t window_bytes; /* 0: none */
	uint64_t cpu;	       /* 1 + the CPU; 0: anywhere */
	uint64_t spin_us;
};

struct settings settings_built_in(void);

/**
 * settings_set() - one setting from text
 * @name: as in the interface; `-` stands for `_` as well
 *
 * Return: 0, -ENOENT for an unknown name, -EINVAL for a value that cannot be.
 */
int settings_set(struct settings *settings, const char *name, const char *value);

/**
 * settings_apply() - an object of the interface over what is there
 * @json:     has been checked against the interface; may be NULL
 * @ret_name: the setting whose value cannot be
 *
 * Return: 0 or -EINVAL, with @settings untouched then.
 */
int settings_apply(struct settings *settings, const json_t *json, const char **ret_name);

/* An owned object of the interface; NULL without memory. */
json_t *settings_to_json(const struct settings *settings);

/* For the engine; all but other_mappers and track, which depend on what was attached. */
void settings_to_opts(const struct settings *settings, struct ufd_pager_guest_opts *ret);

/* Words shared with other settings of the file. Return: 0 or -EINVAL. */
int settings_parse_bool(const char *text, uint64_t *ret);
/* Decimal, with K, M, G, T for powers of 1024. */
int settings_parse_number(const char *text, uint64_t *ret);
