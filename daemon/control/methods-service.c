/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.varlink.service */
#include <string.h>

#include "control/control.h"
#include "control/method.h"
#include "upgrade/release.h"
#include "wire/interfaces.h"

static int get_info(struct control *control, struct call *call, struct refusal *refusal)
{
	json_t *names = json_array();

	for (const struct wire_interface *i = wire_interfaces; i->name; i++)
		json_array_append_new(names, json_string(i->name));
	call_reply(call, json_pack("{s:s, s:s, s:s, s:s, s:o}", "vendor", "ufd", "product", "ufdd",
				   "version", release_version, "url", "", "interfaces", names));
	return 0;
}

static int get_interface_description(struct control *control, struct call *call,
				     struct refusal *refusal)
{
	const char *name = json_string_value(json_object_get(call->parameters, "interface"));
	const struct wire_interface *interface = wire_interface_find(name);

	if (interface)
		call_reply(call, json_pack("{s:s}", "description", interface->text));
	else
		call_fail(call, "org.varlink.service.InterfaceNotFound",
			  json_pack("{s:s}", "interface", name));
	return 0;
}

const struct method service_methods[] = {
	{ "GetInfo", ACCESS_READ, false, false, get_info },
	{ "GetInterfaceDescription", ACCESS_READ, false, false, get_interface_description },
	{},
};
