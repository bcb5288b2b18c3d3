/* SPDX-License-Identifier: MIT */
/* The interface files, byte for byte as installed. */
#pragma once

#include <stddef.h>

/* Readable. */
struct wire_interface {
	const char *name; /* io.ufd.guest */
	const char *text;
};

/* In the order GetInfo lists them; an entry without a name ends the array. */
extern const struct wire_interface wire_interfaces[];

/* NULL if there is none. */
const struct wire_interface *wire_interface_find(const char *name);
