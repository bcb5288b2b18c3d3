/* SPDX-License-Identifier: MIT */
/*
 * Attach and AddRegions as messages.
 *
 * Jansson's setters take NULL values and then fail, so one check at the end of each object finds
 * that memory ran out anywhere in it.
 */
#include "client/request.h"

#include <errno.h>

void request_done(struct request *request)
{
	json_decref(request->parameters);
	*request = (struct request){};
}

/* Return: 0 with @ret_index, or -ENOSPC. */
static int add_fd(struct request *request, int fd, json_int_t *ret_index)
{
	if (request->n_fds == FRAME_MAX_FDS)
		return -ENOSPC;
	*ret_index = (json_int_t)request->n_fds;
	request->fds[request->n_fds++] = fd;
	return 0;
}

/* Sets @name to the index of @fd. */
static int set_fd(struct request *request, json_t *object, const char *name, int fd)
{
	json_int_t index;
	int r;

	r = add_fd(request, fd, &index);
	if (r < 0)
		return r;
	return json_object_set_new(object, name, json_integer(index)) < 0 ? -ENOMEM : 0;
}

/* Where the memory's bytes come from: what is complete already has none to come. */
static int set_source(struct request *request, json_t *object, const struct client_memory *memory)
{
	const char *source = memory->is_complete ? "zero" : memory->source;

	if (json_object_set_new(object, "source", json_string(source)) < 0)
		return -ENOMEM;
	if (memory->source_fd < 0 || memory->is_complete)
		return 0;
	return set_fd(request, object, "source_fd", memory->source_fd);
}

/* Appends a region to @list. @backing_index: -1 for anonymous memory. */
static int add_region(struct request *request, json_t *list, const struct client_memory *memory,
		      const struct region *region, json_int_t backing_index, bool is_first)
{
	json_t *object;
	int r = 0;

	object = json_pack("{s:s,s:I,s:I,s:I}", "memory", memory->name, "address",
			   (json_int_t)region->range.start.v, "length_bytes",
			   (json_int_t)region->range.length_bytes, "offset_bytes",
			   (json_int_t)region->offset_bytes);
	if (json_array_append_new(list, object) < 0)
		return -ENOMEM;
	if (memory->asked_page_bytes)
		r |= json_object_set_new(object, "page_bytes",
					 json_integer((json_int_t)memory->asked_page_bytes));
	if (memory->kind == BACKING_PRIVATE)
		r |= json_object_set_new(object, "private", json_true());
	if (backing_index >= 0)
		r |= json_object_set_new(object, "backing_fd", json_integer(backing_index));
	if (r < 0)
		return -ENOMEM;
	return is_first ? set_source(request, object, memory) : 0;
}

/* The backing rides once, however many regions show it. */
static int add_memory(struct request *request, json_t *list, const struct client_memory *memory)
{
	json_int_t backing_index = -1;
	bool is_first = true;
	int r = 0;

	for (size_t i = 0; i < memory->n_regions && r == 0; i++) {
		if (memory->regions[i].is_gone)
			continue;
		if (is_first && memory->backing >= 0)
			r = add_fd(request, memory->backing, &backing_index);
		if (r == 0)
			r = add_region(request, list, memory, &memory->regions[i], backing_index,
				       is_first);
		is_first = false;
	}
	return r;
}

static int set_word(json_t *object, const char *name, const char *const *words, uint32_t word)
{
	return word ? json_object_set_new(object, name, json_string(words[word])) : 0;
}

/* 0 is not said; @none stands for the number 0. */
static int set_number(json_t *object, const char *name, uint64_t number, uint64_t none)
{
	if (number == 0)
		return 0;
	return json_object_set_new(object, name,
				   json_integer(number == none ? 0 : (json_int_t)number));
}

/* Return: owned, or NULL without memory. */
static json_t *settings_new(const struct handover *handover)
{
	static const char *const policies[] = { NULL, "stall", "poison", "kill" };
	static const char *const others[] = { NULL, "refuse", "attach", "eager" };
	static const char *const populated[] = { NULL, "refuse", "punch", "keep" };
	const struct ufd_client_opts *opts = handover->opts;
	json_t *settings = json_object();
	int r = 0;

	if (opts->track == UFD_CLIENT_WP)
		r |= json_object_set_new(settings, "track", json_string("wp"));
	else if (handover->is_scan)
		r |= json_object_set_new(settings, "track", json_string("scan"));
	if (opts->background)
		r |= json_object_set_new(settings, "background",
					 json_boolean(opts->background == UFD_CLIENT_ON));
	if (opts->cpu)
		r |= json_object_set_new(settings, "cpu", json_integer(opts->cpu - 1));
	r |= set_word(settings, "policy", policies, opts->policy);
	r |= set_word(settings, "other_mappers", others, opts->other_mappers);
	r |= set_word(settings, "populated", populated,
		      handover->is_again ? UFD_CLIENT_POPULATED_KEEP : opts->populated);
	r |= set_number(settings, "fault_deadline_s", opts->fault_deadline_s, UFD_CLIENT_AT_ONCE);
	r |= set_number(settings, "background_rate", opts->background_rate, UFD_CLIENT_NO_LIMIT);
	r |= set_number(settings, "window_bytes", opts->window_bytes, UFD_CLIENT_NO_WINDOW);
	r |= set_number(settings, "spin_us", opts->spin_us, UINT64_MAX);
	if (r < 0) {
		json_decref(settings);
		return NULL;
	}
	return settings;
}

static int set_uffd(struct request *request, const struct handover *handover)
{
	if (handover->opts->flags & UFD_CLIENT_PRELOADED &&
	    json_object_set_new(request->parameters, "front_end", json_string("preload")) < 0)
		return -ENOMEM;
	return set_fd(request, request->parameters, "uffd", handover->uffd);
}

int request_offer(struct request *request, const struct handover *handover)
{
	request->parameters = json_object();
	return request->parameters ? set_uffd(request, handover) : -ENOMEM;
}

int request_attach(struct request *request, const struct handover *handover)
{
	json_t *regions;
	int r;

	request->parameters = json_pack("{s:s,s:[],s:o}", "name", handover->opts->guest, "regions",
					"settings", settings_new(handover));
	if (!request->parameters)
		return -ENOMEM;
	if (handover->opts->consumer && !handover->is_again &&
	    json_object_set_new(request->parameters, "consumer",
				json_string(handover->opts->consumer)) < 0)
		return -ENOMEM;
	r = set_uffd(request, handover);
	if (r == 0 && handover->pagemap >= 0)
		r = set_fd(request, request->parameters, "pagemap", handover->pagemap);
	regions = json_object_get(request->parameters, "regions");
	for (size_t i = 0; i < handover->memories->n_list && r == 0; i++)
		r = add_memory(request, regions, handover->memories->list[i]);
	return r;
}

int request_add_region(struct request *request, const char *guest,
		       const struct client_memory *memory, const struct region *region,
		       bool is_first)
{
	json_int_t backing_index = -1;
	int r = 0;

	request->parameters = json_pack("{s:s,s:[]}", "name", guest, "regions");
	if (!request->parameters)
		return -ENOMEM;
	if (memory->backing >= 0)
		r = add_fd(request, memory->backing, &backing_index);
	if (r < 0)
		return r;
	return add_region(request, json_object_get(request->parameters, "regions"), memory, region,
			  backing_index, is_first);
}
