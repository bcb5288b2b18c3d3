/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests on the wire. */
#include "control/guest-json.h"

#include <stdatomic.h>
#include <stdatomic.h>
#include <string.h>

#include "control/call.h"
#include "control/control.h"
#include "refusal.h"
#include "registry.h"

static const char *state_word(const struct ufd_guest_stats *stats)
{
	if (stats->is_ended)
		return "ended";
	if (stats->is_graduated)
		return "graduated";
	return stats->is_complete ? "complete" : "serving";
}

json_t *guest_json(struct registration *registration)
{
	UFD_OPTS(ufd_guest_stats, stats);

	ufd_pager_guest_stats(registration->shown, &stats);
	return json_pack("{s:s, s:i, s:i, s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
			 "name", registration->paging.name, "pid", registration->pid, "uid",
			 (int)registration->owner, "front_end",
			 front_end_word(registration->paging.front_end), "state",
			 state_word(&stats), "duplicate", registration->paging.has_duplicates,
			 "length_bytes", (json_int_t)stats.length_bytes, "present_bytes",
			 (json_int_t)stats.present_bytes, "absent_bytes",
			 (json_int_t)stats.absent_bytes, "stalled_pages",
			 (json_int_t)stats.stalled_pages, "faults",
			 (json_int_t)(stats.faults_missing + stats.faults_minor + stats.faults_wp),
			 "fault_p50_ns", (json_int_t)stats.fault_p50_ns, "fault_p99_ns",
			 (json_int_t)stats.fault_p99_ns, "attached_ns",
			 (json_int_t)registration->attached_ns);
}

json_t *guest_counters_json(struct registration *registration)
{
	UFD_OPTS(ufd_guest_stats, stats);
	json_t *json = json_object();

	ufd_pager_guest_stats(registration->shown, &stats);
#define COUNTER(name) json_object_set_new(json, #name, json_integer((json_int_t)stats.name))
	COUNTER(faults_missing);
	COUNTER(faults_minor);
	COUNTER(faults_wp);
	COUNTER(faults_stale);
	COUNTER(removes);
	COUNTER(pages_demand);
	COUNTER(pages_window);
	COUNTER(pages_background);
	COUNTER(pages_zero);
	COUNTER(source_bytes);
	COUNTER(source_errors);
	COUNTER(foreign_touches);
	COUNTER(discards_unannounced);
	COUNTER(exhausted);
	COUNTER(wakes);
	COUNTER(retries);
	COUNTER(poisoned_pages);
	COUNTER(held);
	COUNTER(faults_strange);
	COUNTER(frames_cached);
	COUNTER(frames_unpacked);
	COUNTER(fault_p50_ns);
	COUNTER(fault_p90_ns);
	COUNTER(fault_p99_ns);
	COUNTER(fault_max_ns);
#undef COUNTER
#define COUNTER(json_name, name)                                           \
	json_object_set_new(json, json_name,                               \
			    json_integer((json_int_t)atomic_load_explicit( \
				    &registration->dirty.name, memory_order_relaxed)))
	COUNTER("dirty_reads", n_reads);
	COUNTER("dirty_bytes", dirty_bytes);
	COUNTER("pauses", n_pauses);
	COUNTER("paused_ns", paused_ns);
#undef COUNTER
	json_object_set_new(json, "snapshots",
			    json_integer((json_int_t)atomic_load_explicit(
				    &registration->n_snapshots, memory_order_relaxed)));
	json_object_set_new(json, "snapshots_failed",
			    json_integer((json_int_t)atomic_load_explicit(
				    &registration->n_snapshots_failed, memory_order_relaxed)));
	return json;
}

static json_t *mappings_json(struct registration *registration, const struct paging_memory *memory)
{
	UFD_OPTS(ufd_mapping_info, info);
	json_t *mappings = json_array();

	for (uint32_t i = 0; ufd_pager_mapping_info(registration->paging.guest, i, &info) == 0; i++)
		if (info.memory == memory->number)
			json_array_append_new(
				mappings,
				json_pack("{s:i, s:I, s:I, s:I}", "pid", info.pid, "address",
					  (json_int_t)info.address, "length_bytes",
					  (json_int_t)info.length, "offset_bytes",
					  (json_int_t)(info.offset + memory->base_bytes)));
	return mappings;
}

json_t *guest_memories_json(struct registration *registration)
{
	static const char *const kinds[] = { "anon", "shmem", "hugetlb", "private" };
	json_t *memories = json_array();

	for (size_t i = 0; i < registration->paging.n_memories; i++) {
		const struct paging_memory *memory = &registration->paging.memories[i];
		UFD_OPTS(ufd_memory_stats, stats);

		if (ufd_pager_memory_stats(registration->paging.guest, memory->number, &stats) < 0)
			continue;
		json_array_append_new(
			memories,
			json_pack("{s:s, s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:o}", "name",
				  memory->name, "kind", kinds[memory->kind], "page_bytes",
				  (json_int_t)stats.page_bytes, "length_bytes",
				  (json_int_t)stats.length_bytes, "source", memory->source,
				  "present_bytes", (json_int_t)stats.present_bytes, "absent_bytes",
				  (json_int_t)(stats.absent_bytes + stats.filling_bytes),
				  "removed_bytes", (json_int_t)stats.removed_bytes, "stalled_pages",
				  (json_int_t)stats.stalled_pages, "mappings",
				  mappings_json(registration, memory)));
	}
	return memories;
}

int refuse_no_guest(const char *name, struct refusal *refusal)
{
	return refusal_set(refusal, "io.ufd.guest.NoSuchGuest", json_pack("{s:s}", "name", name),
			   "there is no guest `%s`", name);
}

int refuse_permission(struct refusal *refusal)
{
	return refusal_set(refusal, "org.varlink.service.PermissionDenied", NULL, "not permitted");
}

int guest_of_call(struct control *control, struct call *call, struct registration **ret,
		  struct refusal *refusal)
{
	const char *name = json_string_value(json_object_get(call->parameters, "name"));
	struct registration *registration = registry_find(control->registry, name);

	if (!registration)
		return refuse_no_guest(name, refusal);
	if (!credentials_may_touch(&call->peer, control->own_uid, registration->owner))
		return refuse_permission(refusal);
	*ret = registration;
	return 0;
}
