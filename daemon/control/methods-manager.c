/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io.ufd.manager */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "control/control.h"
#include "control/drain.h"
#include "control/method.h"
#include "control/methods-upgrade.h"
#include "control/server.h"
#include "control/watch.h"
#include "kernel/features.h"
#include "log.h"
#include "registry.h"
#include "store/store.h"
#include "upgrade/release.h"
#include "upgrade/upgrade.h"

static uint64_t resident_bytes(void)
{
	unsigned long long n_pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (!file)
		return 0;
	if (fscanf(file, "%*u %llu", &n_pages) != 1)
		n_pages = 0;
	fclose(file);
	return n_pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int status(struct control *control, struct call *call, struct refusal *refusal)
{
	struct registry_totals totals = registry_totals(control->registry);
	size_t n_stored, n_name_bytes;
	struct utsname host;
	char features[32];

	uname(&host);
	store_count(control->store, &n_stored, &n_name_bytes);
	snprintf(features, sizeof(features), "0x%llx", (unsigned long long)features_get()->uffd);
	call_reply(
		call,
		json_pack("{s:s, s:i, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, "
			  "s:I, s:I, s:I, s:b, s:b}",
			  "version", release_version, "pid", getpid(), "started_ns",
			  (json_int_t)control->started_ns, "kernel", host.release, "uffd_features",
			  features, "guests", (json_int_t)totals.n_guests, "memories",
			  (json_int_t)totals.n_memories, "faults", (json_int_t)totals.n_faults,
			  "filled_bytes", (json_int_t)totals.filled_bytes, "stalled_pages",
			  (json_int_t)totals.n_stalled_pages, "connections",
			  (json_int_t)server_n_connections(control->server), "resident_bytes",
			  (json_int_t)resident_bytes(), "store", store_word(control->store),
			  "stored_fds", (json_int_t)n_stored, "adopted_guests",
			  (json_int_t)control->n_adopted, "adopted_ns",
			  (json_int_t)control->adopted_ns, "draining", drain_is_on(control->drain),
			  "uncommitted", upgrade_is_uncommitted(control->upgrade)));
	return 0;
}

static int watch_events(struct control *control, struct call *call, struct refusal *refusal)
{
	return watch_add(control->watch, call);
}

static int set_log(struct control *control, struct call *call, struct refusal *refusal)
{
	json_t *word, *words = json_object_get(call->parameters, "debug");
	const char *name = json_string_value(json_object_get(call->parameters, "level"));
	unsigned int switches = 0, one;
	enum log_level level;
	size_t i;

	if (name && log_level_parse(name, &level) < 0) {
		call_fail_parameter(call, "level");
		return 0;
	}
	json_array_foreach(words, i, word)
	{
		if (log_switch_parse(json_string_value(word), &one) < 0) {
			call_fail_parameter(call, "debug");
			return 0;
		}
		switches |= one;
	}
	if (name)
		log_set_level(level);
	if (json_is_array(words))
		log_set_switches(switches);
	call_reply(call, NULL);
	return 0;
}

const struct method manager_methods[] = {
	{ "Status", ACCESS_READ, false, false, status },
	{ "WatchEvents", ACCESS_READ, true, false, watch_events },
	{ "SetLog", ACCESS_ADMIN, false, false, set_log },
	{ "Drain", ACCESS_ADMIN, false, false, method_drain },
	{ "Upgrade", ACCESS_ADMIN, false, false, method_upgrade },
	{},
};
