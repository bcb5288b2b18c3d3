/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memories that a save copies. */
#include "snapshots/inputs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/process.h"
#include "base/files.h"
#include "pager/view.h"
#include "refusal.h"
#include "registry.h"
#include "snapshots/record.h"

void snapshot_inputs_done(struct snapshot_inputs *inputs)
{
	for (size_t i = 0; i < inputs->n_inputs; i++)
		memory_view_done(&inputs->inputs[i].view);
	free(inputs->inputs);
	for (size_t i = 0; i < inputs->n_guests; i++)
		guest_views_done(&inputs->guests[i]);
	free(inputs->guests);
	*inputs = (struct snapshot_inputs){};
}

static int make_room(struct snapshot_inputs *inputs, size_t n_inputs, size_t n_guests)
{
	inputs->inputs = calloc(n_inputs + 1, sizeof(*inputs->inputs));
	inputs->guests = calloc(n_guests + 1, sizeof(*inputs->guests));
	return inputs->inputs && inputs->guests ? 0 : -ENOMEM;
}

/* A long name keeps its end, where it differs from others. */
static void copy_name(const char *from, char to[VIEW_NAME_BYTES])
{
	size_t n = strlen(from);

	memset(to, 0, VIEW_NAME_BYTES);
	memcpy(to, n < VIEW_NAME_BYTES ? from : from + n - (VIEW_NAME_BYTES - 1),
	       n < VIEW_NAME_BYTES ? n : VIEW_NAME_BYTES - 1);
}

/* Where a memory of the guest begins, in the count of whoever named it. With the lock. */
static uint64_t base_of(struct paging *paging, uint32_t number)
{
	for (size_t i = 0; i < paging->n_memories; i++)
		if (paging->memories[i].number == number)
			return paging->memories[i].base_bytes;
	return 0;
}

static int view_guest(struct snapshot_inputs *inputs, struct registration *registration)
{
	struct guest_views *views = &inputs->guests[inputs->n_guests];
	struct paging *paging = &registration->paging;
	int r = -ESRCH;

	paging_lock(paging);
	if (paging->guest)
		r = pager_view(paging->guest, views);
	for (size_t i = 0; r == 0 && i < views->n_memories; i++) {
		struct memory_view *view = &views->memories[i];
		struct record_name record;

		memory_view_shift(view, base_of(paging, view->number));
		if (record_get_name(paging->guest, view->number, &record) == 0 &&
		    record.device == view->device && record.inode == view->inode)
			memcpy(view->name, record.name, sizeof(view->name));
	}
	paging_unlock(paging);
	if (r == 0)
		inputs->n_guests++;
	return r;
}

static int refuse(struct registration *registration, int r, struct refusal *refusal)
{
	return refusal_set_errno(refusal, r, "the memories of guest `%s` cannot be looked at: %s",
				 registration->paging.name, strerror(-r));
}

/* The input becomes the owner of the view. */
static void take_view(struct snapshot_inputs *inputs, struct memory_view *view, bool is_guests)
{
	inputs->inputs[inputs->n_inputs++] = (struct snapshot_input){
		.view = *view,
		.is_guests = is_guests,
	};
	*view = (struct memory_view){ .backing = -EBADF };
}

int snapshot_inputs_of_guest(struct snapshot_inputs *ret, struct registration *guest,
			     struct refusal *refusal)
{
	_cleanup_(snapshot_inputs_done) struct snapshot_inputs inputs = {};
	struct guest_views *views;
	int r;

	r = make_room(&inputs, IMAGE_MAX_MEMORIES, 1);
	if (r == 0)
		r = view_guest(&inputs, guest);
	if (r < 0)
		return refuse(guest, r, refusal);
	views = &inputs.guests[0];
	for (size_t i = 0; i < views->n_memories; i++)
		take_view(&inputs, &views->memories[i], true);
	*ret = inputs;
	inputs = (struct snapshot_inputs){};
	return 0;
}

/*
 * The guest's view of this file behind @after (NULL: the first one), if it pages it. @ret_guest:
 * index of the guest.
 */
static struct memory_view *find_view(const struct snapshot_inputs *inputs,
				     const struct process_memory *memory,
				     const struct memory_view *after, size_t *ret_guest)
{
	bool is_behind = !after;

	for (size_t i = 0; i < inputs->n_guests; i++)
		for (size_t j = 0; j < inputs->guests[i].n_memories; j++) {
			struct memory_view *view = &inputs->guests[i].memories[j];

			if (view == after)
				is_behind = true;
			else if (is_behind && view->backing >= 0 && view->kind == memory->kind &&
				 view->device == memory->device && view->inode == memory->inode) {
				*ret_guest = i;
				return view;
			}
		}
	return NULL;
}

static bool is_name_taken(const struct snapshot_inputs *inputs, const char *name)
{
	for (size_t i = 0; i < inputs->n_inputs; i++)
		if (strcmp(inputs->inputs[i].view.name, name) == 0)
			return true;
	return false;
}

static int add_memory(struct snapshot_inputs *inputs, const struct process_memory *memory,
		      bool has_named_guest)
{
	struct memory_view plain = { .backing = -EBADF };
	size_t guest = SIZE_MAX;
	struct memory_view *view = find_view(inputs, memory, NULL, &guest);
	int r;

	if (!view) {
		view = &plain;
		plain.kind = memory->kind;
		plain.page_bytes = memory->page_bytes;
		plain.device = memory->device;
		plain.inode = memory->inode;
		copy_name(memory->name, plain.name);
		r = fd_duplicate(&plain.backing, memory->fd);
		if (r < 0)
			return r;
	}
	view->length_bytes = memory->length_bytes;
	if (is_name_taken(inputs, view->name))
		copy_name(memory->name, view->name);
	take_view(inputs, view, has_named_guest && guest == 0);
	return 0;
}

/* A file is one memory of an image, with one state a page and one source. */
static int check_views(const struct snapshot_inputs *inputs, const struct process_memory *memory,
		       struct refusal *refusal)
{
	size_t guest;
	const struct memory_view *one = find_view(inputs, memory, NULL, &guest);
	const struct memory_view *other = one ? find_view(inputs, memory, one, &guest) : NULL;

	if (!other)
		return 0;
	return refusal_set(
		refusal, "io.ufd.guest.DriverFailed", NULL,
		"memories `%s` and `%s` lie in one file (%s, inode %llu), which a snapshot "
		"with devices has as one memory: hand the file over as one, or pause the "
		"guest yourself and save its memory alone (memory_only)",
		one->name, other->name, memory->name, (unsigned long long)memory->inode);
}

int snapshot_inputs_of_process(struct snapshot_inputs *ret, pid_t pid, struct registration *guest,
			       struct registration **registrations, size_t n_registrations,
			       struct refusal *refusal)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	_cleanup_(snapshot_inputs_done) struct snapshot_inputs inputs = {};
	int r;

	r = process_find_paged_memories(pid, &memories, refusal);
	if (r < 0)
		return r;
	if (memories.n_memories > IMAGE_MAX_MEMORIES)
		return refusal_set_errno(refusal, -E2BIG, "process %d has more than %d memories",
					 pid, IMAGE_MAX_MEMORIES);
	r = make_room(&inputs, memories.n_memories, n_registrations + 1);
	if (r < 0)
		return refusal_set_errno(refusal, r, "no memory for what is to be saved");
	if (guest) { /* the first one */
		r = view_guest(&inputs, guest);
		if (r < 0)
			return refuse(guest, r, refusal);
	}
	for (size_t i = 0; i < n_registrations; i++) {
		if (registrations[i] == guest ||
		    !paging_has_process(&registrations[i]->paging, pid))
			continue;
		r = view_guest(&inputs, registrations[i]);
		if (r < 0)
			return refuse(registrations[i], r, refusal);
	}
	for (size_t i = 0; i < memories.n_memories; i++) {
		r = check_views(&inputs, &memories.memories[i], refusal);
		if (r < 0)
			return r;
		r = add_memory(&inputs, &memories.memories[i], guest);
		if (r < 0)
			return refusal_set_errno(refusal, r, "memory `%s`: %s",
						 memories.memories[i].name, strerror(-r));
	}
	*ret = inputs;
	inputs = (struct snapshot_inputs){};
	return 0;
}

static bool is_current(const struct snapshot_inputs *inputs, const struct memory_view *now)
{
	for (size_t i = 0; i < inputs->n_inputs; i++) {
		const struct memory_view *view = &inputs->inputs[i].view;

		if (inputs->inputs[i].is_guests && view->number == now->number &&
		    view->device == now->device && view->inode == now->inode &&
		    view->states.n_pages == now->states.n_pages)
			return true;
	}
	return false;
}

bool snapshot_inputs_are_current(const struct snapshot_inputs *inputs, struct registration *guest)
{
	_cleanup_(guest_views_done) struct guest_views views = {};
	struct paging *paging = &guest->paging;
	size_t n_guests = 0;
	int r = -ESRCH;

	paging_lock(paging);
	if (paging->guest)
		r = pager_view(paging->guest, &views);
	paging_unlock(paging);
	if (r < 0)
		return false;
	for (size_t i = 0; i < inputs->n_inputs; i++)
		n_guests += inputs->inputs[i].is_guests;
	for (size_t i = 0; i < views.n_memories; i++)
		if (views.memories[i].kind != BACKING_ANON &&
		    !is_current(inputs, &views.memories[i]))
			return false;
	return n_guests <= views.n_memories;
}

void snapshot_inputs_keep_names(const struct snapshot_inputs *inputs, struct registration *guest)
{
	struct paging *paging = &guest->paging;

	paging_lock(paging);
	for (size_t i = 0; paging->guest && i < inputs->n_inputs; i++) {
		const struct memory_view *view = &inputs->inputs[i].view;
		struct record_name record = { .device = view->device, .inode = view->inode };

		if (!inputs->inputs[i].is_guests)
			continue;
		memcpy(record.name, view->name, sizeof(record.name));
		/* without it the next one copies this memory whole */
		(void)record_put_name(paging->guest, view->number, &record);
	}
	paging_unlock(paging);
}
