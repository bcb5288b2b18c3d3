/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest as those see it who copy its memory. */
#include "pager/view.h"

#include <errno.h>
#include <string.h>

#include "base/files.h"
#include "pager/paged.h"
#include "snapshot/view.h"

static int copy_mappings(const struct guest_view *guest, const struct memory *memory,
			 struct memory_view *view)
{
	view->mappings = calloc(guest->n_mappings + 1, sizeof(*view->mappings));
	if (!view->mappings)
		return -ENOMEM;
	for (uint32_t i = 0; i < guest->n_mappings; i++) {
		const struct mapping *mapping = guest->mappings[i];

		if (mapping->memory != memory || mapping->stage != MAPPING_OPEN ||
		    mapping->mapper->is_gone)
			continue;
		view->mappings[view->n_mappings++] = (struct view_mapping){
			.pid = mapping->mapper->pid,
			.address = mapping->range.start,
			.pages = mapping_pages(mapping),
		};
	}
	return 0;
}

static int copy_memory(struct ufd_pager_guest *paged, const struct memory *memory,
		       struct guest_views *views)
{
	struct memory_view *view = &views->memories[views->n_memories++];
	uint64_t ignored;
	int r;

	*view = (struct memory_view){
		.number = memory->id,
		.kind = memory->kind,
		.page_bytes = memory->page_bytes,
		.length_bytes = memory->length_bytes,
		.backing = -EBADF,
		.device = memory->device,
		.inode = memory->inode,
		.backing_offset = memory->backing_offset,
		.source_offset = memory->source_offset,
		.is_graduated = atomic_load(&paged->is_graduated),
	};
	memcpy(view->name, memory->name, sizeof(view->name));
	if (memory->source && !memory->is_backing_source)
		view->source = source_ref(memory->source);
	r = memory_recorded_states(views->ledger, memory->id, &view->states, &ignored);
	if (r)
		return r < 0 ? r : -EBADMSG;
	if (memory->backing >= 0) {
		r = fd_duplicate(&view->backing, memory->backing);
		if (r)
			return r;
	}
	return copy_mappings(paged->guest->view, memory, view);
}

static int copy_memories(struct ufd_pager_guest *paged, struct guest_views *views)
{
	const struct guest *guest = paged->guest;
	int r;

	r = ledger_open_readonly(&views->ledger, ledger_fd(guest->ledger));
	if (r)
		return r < 0 ? r : -EBADMSG;
	views->memories = calloc(guest->n_memories + 1, sizeof(*views->memories));
	if (!views->memories)
		return -ENOMEM;
	for (uint32_t i = 0; !r && i < guest->n_memories; i++)
		if (!guest->memories[i]->is_forgotten)
			r = copy_memory(paged, guest->memories[i], views);
	return r;
}

int pager_view(struct ufd_pager_guest *paged, struct guest_views *ret)
{
	struct guest_views views = {};
	int r;

	pthread_mutex_lock(&paged->model_lock);
	r = copy_memories(paged, &views);
	pthread_mutex_unlock(&paged->model_lock);
	if (r) {
		guest_views_done(&views);
		return r;
	}
	*ret = views;
	return 0;
}
