/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control plane, put together. */
#include "control/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "control/drain.h"
#include "control/method.h"
#include "control/server.h"
#include "control/watch.h"
#include "kernel/closing.h"
#include "wire/frame.h"
#include "wire/interfaces.h"

static const struct method *const tables[CONTROL_INTERFACES] = {
	service_methods, manager_methods, guest_methods, dirty_methods, handoff_methods,
};

int control_new(struct control **ret, struct event_base *base, const struct config *config,
		struct jobs *jobs, struct registry *registry)
{
	_cleanup_(control_freep) struct control *control = calloc(1, sizeof(*control));
	int r;

	if (!control)
		return -ENOMEM;
	control->base = base;
	control->config = config;
	control->jobs = jobs;
	LIST_INIT(&control->call_job_list);
	control->registry = registry;
	control->own_uid = geteuid();
	frame_set_close(closing_close);
	control->started_ns = clock_wall_now_ns();
	for (size_t i = 0; i < CONTROL_INTERFACES; i++) {
		control->interfaces[i].text = wire_interfaces[i].text;
		control->interfaces[i].methods = tables[i];
		r = idl_parse(&control->interfaces[i].idl, wire_interfaces[i].text, NULL);
		if (r < 0)
			return r;
	}
	r = watch_new(&control->watch);
	if (r < 0)
		return r;
	r = server_new(&control->server, control, base);
	if (r < 0)
		return r;
	r = drain_new(&control->drain, control);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(control);
	return 0;
}

struct control *control_free(struct control *control)
{
	if (!control)
		return NULL;
	server_free(control->server);
	drain_free(control->drain);
	watch_free(control->watch);
	for (size_t i = 0; i < CONTROL_INTERFACES; i++)
		idl_free(control->interfaces[i].idl);
	free(control);
	return NULL;
}

const struct interface *control_find_interface(const struct control *control, const char *name,
					       size_t n_name)
{
	for (size_t i = 0; i < CONTROL_INTERFACES; i++) {
		const char *known = wire_interfaces[i].name;

		if (strlen(known) == n_name && memcmp(known, name, n_name) == 0)
			return &control->interfaces[i];
	}
	return NULL;
}

void control_print_methods(void)
{
	for (size_t i = 0; i < CONTROL_INTERFACES; i++)
		for (const struct method *method = tables[i]; method->name; method++)
			printf("%s.%s\n", wire_interfaces[i].name, method->name);
}
