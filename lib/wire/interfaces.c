/* SPDX-License-Identifier: MIT */
/* The interface files, embedded by the build. */
#include "wire/interfaces.h"

#include <string.h>

const struct wire_interface wire_interfaces[] = {
	{
		"org.varlink.service",
#include "org.varlink.service.inc"
	},
	{
		"io.ufd.manager",
#include "io.ufd.manager.inc"
	},
	{
		"io.ufd.guest",
#include "io.ufd.guest.inc"
	},
	{
		"io.ufd.dirty",
#include "io.ufd.dirty.inc"
	},
	{
		"io.ufd.handoff",
#include "io.ufd.handoff.inc"
	},
	{},
};

const struct wire_interface *wire_interface_find(const char *name)
{
	for (const struct wire_interface *i = wire_interfaces; i->name; i++)
		if (strcmp(i->name, name) == 0)
			return i;
	return NULL;
}
