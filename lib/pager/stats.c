/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking at guests. Counters are relaxed: a reader may see them a moment apart. */
#include <errno.h>
#include <string.h>

#include "pager/paged.h"

static const uint32_t kinds[] = {
	[BACKING_ANON] = UFD_MEMORY_ANON,
	[BACKING_SHMEM] = UFD_MEMORY_SHMEM,
	[BACKING_HUGETLB] = UFD_MEMORY_HUGETLB,
	[BACKING_PRIVATE] = UFD_MEMORY_PRIVATE,
};

int stats_hand_over(void *to, const void *from, size_t n_from)
{
	size_t n_to;

	memcpy(&n_to, to, sizeof(n_to));
	if (n_to < sizeof(n_to))
		return -EINVAL;
	memcpy((char *)to + sizeof(size_t), (const char *)from + sizeof(size_t),
	       (n_to < n_from ? n_to : n_from) - sizeof(size_t));
	return 0;
}

static void stats_of_faults(const struct fault_counters *counters, struct ufd_guest_stats *stats)
{
	stats->faults_missing = count_get(&counters->faults_missing);
	stats->faults_minor = count_get(&counters->faults_minor);
	stats->faults_wp = count_get(&counters->faults_wp);
	stats->faults_stale = count_get(&counters->faults_stale);
	stats->removes = count_get(&counters->removes);
	stats->pages_demand = count_get(&counters->pages_demand);
	stats->pages_window = count_get(&counters->pages_window);
	stats->pages_background = count_get(&counters->pages_background);
	stats->pages_zero = count_get(&counters->pages_zero);
	stats->filled_bytes = count_get(&counters->filled_bytes);
	stats->source_bytes = count_get(&counters->source_bytes);
	stats->source_errors = count_get(&counters->source_errors);
	stats->foreign_touches = count_get(&counters->foreign_touches);
	stats->discards_unannounced = count_get(&counters->discards_unannounced);
	stats->exhausted = count_get(&counters->exhausted);
	stats->wakes = count_get(&counters->wakes);
	stats->retries = count_get(&counters->retries);
	stats->poisoned_pages = count_get(&counters->poisoned_pages);
	stats->held = count_get(&counters->held);
	stats->faults_strange = count_get(&counters->faults_strange);
	stats->fault_p50_ns = histogram_quantile_ns(&counters->demand_latency, 500);
	stats->fault_p90_ns = histogram_quantile_ns(&counters->demand_latency, 900);
	stats->fault_p99_ns = histogram_quantile_ns(&counters->demand_latency, 990);
	stats->fault_max_ns = atomic_load_explicit(&counters->demand_latency.max_ns,
						   memory_order_relaxed);
}

/* What sources unpacked. Whoever changes the memories may free a source: then what was last known holds. */
static void stats_of_sources(struct ufd_pager_guest *paged, struct ufd_guest_stats *stats)
{
	uint64_t n_cached = 0, n_unpacked = 0;

	if (pthread_mutex_trylock(&paged->model_lock) == 0) {
		for (uint32_t i = 0; i < paged->guest->n_memories; i++) {
			struct source_counts counts = {};

			if (paged->sources[i])
				source_get_counts(paged->sources[i], &counts);
			n_cached += counts.frames_cached;
			n_unpacked += counts.frames_unpacked;
		}
		atomic_store(&paged->frames_cached, n_cached);
		atomic_store(&paged->frames_unpacked, n_unpacked);
		pthread_mutex_unlock(&paged->model_lock);
	}
	stats->frames_cached = atomic_load(&paged->frames_cached);
	stats->frames_unpacked = atomic_load(&paged->frames_unpacked);
}

EXPORT int ufd_pager_guest_stats(struct ufd_pager_guest *paged, struct ufd_guest_stats *ret)
{
	struct ufd_guest_stats stats = { .size = sizeof(stats) };
	const struct guest *guest = paged->guest;

	if (paged_demand(paged)) {
		stats_of_faults(demand_counters(paged_demand(paged)), &stats);
		stats.is_held = demand_is_held(paged_demand(paged));
	}
	for (uint32_t i = 0; i < guest->n_memories; i++) {
		struct ufd_memory_stats memory = { .size = sizeof(memory) };

		if (ufd_pager_memory_stats(paged, i, &memory) < 0)
			continue; /* forgotten */
		stats.n_memories++;
		stats.length_bytes += memory.length_bytes;
		stats.absent_bytes += memory.absent_bytes + memory.filling_bytes;
		stats.present_bytes += memory.present_bytes;
		stats.removed_bytes += memory.removed_bytes;
		stats.stalled_pages += memory.stalled_pages;
		stats.n_mappings += memory.n_mappings;
	}
	stats_of_sources(paged, &stats);
	stats.dirty_reads = count_get(&paged->dirty.n_reads);
	stats.dirty_scans = count_get(&paged->dirty.n_scans);
	stats.dirty_pages = count_get(&paged->dirty.n_reported);
	stats.dirty_uncertain_bytes = count_get(&paged->dirty.uncertain_bytes);
	stats.dirty_unarmed_bytes = count_get(&paged->dirty.unarmed_bytes);
	stats.dirty_strange_writes = count_get(&paged->dirty.n_strange);
	stats.is_complete = stats.n_memories && stats.absent_bytes == 0;
	stats.is_graduated = atomic_load(&paged->is_graduated);
	stats.is_ended = atomic_load(&paged->is_ended);
	return stats_hand_over(ret, &stats, sizeof(stats));
}

EXPORT int ufd_pager_memory_stats(struct ufd_pager_guest *paged, uint32_t id,
				  struct ufd_memory_stats *ret)
{
	struct ufd_memory_stats stats = { .size = sizeof(stats) };
	uint64_t counts[PAGE_STATES];
	const struct memory *memory;

	if (id >= paged->guest->n_memories || paged->guest->memories[id]->is_forgotten)
		return -ENOENT;
	memory = paged->guest->memories[id];
	page_states_count(&memory->states, (struct page_range){ 0, memory_n_pages(memory) },
			  counts);
	stats.name = memory->name;
	stats.length_bytes = memory->length_bytes;
	stats.page_bytes = memory->page_bytes;
	stats.absent_bytes = counts[PAGE_ABSENT] * memory->page_bytes;
	stats.filling_bytes = counts[PAGE_FILLING] * memory->page_bytes;
	stats.present_bytes = counts[PAGE_PRESENT] * memory->page_bytes;
	stats.removed_bytes = counts[PAGE_REMOVED] * memory->page_bytes;
	stats.stalled_pages = count_get(&memory->n_stalled);
	stats.kind = kinds[memory->kind];
	stats.n_mappings = memory->n_mappings;
	return stats_hand_over(ret, &stats, sizeof(stats));
}

/* The others are known to nobody: they came to nothing, or are gone. */
static const struct mapping *find_open(const struct guest_view *view, uint32_t index)
{
	for (uint32_t i = 0; i < view->n_mappings; i++)
		if (view->mappings[i]->stage == MAPPING_OPEN && index-- == 0)
			return view->mappings[i];
	return NULL;
}

EXPORT int ufd_pager_mapping_info(struct ufd_pager_guest *paged, uint32_t index,
				  struct ufd_mapping_info *ret)
{
	struct ufd_mapping_info info = { .size = sizeof(info) };
	const struct mapping *mapping;

	pthread_mutex_lock(&paged->model_lock);
	mapping = find_open(paged->guest->view, index);
	if (!mapping) {
		pthread_mutex_unlock(&paged->model_lock);
		return -ENOENT;
	}
	info.address = mapping->range.start.v;
	info.length = mapping->range.length_bytes;
	info.offset = mapping->offset_bytes;
	info.mapper = mapping->mapper->id;
	info.memory = mapping->memory->id;
	info.pid = mapping->mapper->pid;
	pthread_mutex_unlock(&paged->model_lock);
	return stats_hand_over(ret, &info, sizeof(info));
}

EXPORT int ufd_pager_guest_absent(struct ufd_pager_guest *paged, uint32_t id, uint64_t offset,
				  uint64_t length, uint64_t *ret_absent_bytes)
{
	uint64_t counts[PAGE_STATES];
	const struct memory *memory;
	uint64_t first, end;

	if (id >= paged->guest->n_memories || paged->guest->memories[id]->is_forgotten)
		return -ENOENT;
	memory = paged->guest->memories[id];
	if (offset > memory->length_bytes || length > memory->length_bytes - offset)
		return -EINVAL;
	first = offset / memory->page_bytes;
	end = align_up(offset + length, memory->page_bytes) / memory->page_bytes;
	page_states_count(&memory->states, (struct page_range){ first, end - first }, counts);
	*ret_absent_bytes = (counts[PAGE_ABSENT] + counts[PAGE_FILLING]) * memory->page_bytes;
	return 0;
}
