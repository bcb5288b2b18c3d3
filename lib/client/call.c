/* SPDX-License-Identifier: MIT */
/* Calls that ask the daemon and wait for its answer. */
#include "client/client.h"

#include <errno.h>

#include "base/opts.h"
#include "client/zeroing.h"

int client_call(struct ufd_client *client, const char *what, const char *method,
		const struct request *request, uint64_t deadline_ns,
		struct varlink_answer *ret_answer)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	char text[VERDICT_TEXT_BYTES];
	int r;

	if (client->state == UFD_CLIENT_AWAY)
		return client_fail(client, -ENOTCONN,
				   "%s: the daemon is lost; ufd_client_dispatch() looks for it",
				   what);
	if (!client->connection.varlink)
		return client_fail(client, -ENOTCONN, "%s: there is no connection", what);

	r = varlink_client_call(client->connection.varlink, method, request->parameters,
				request->fds, request->n_fds, deadline_ns, &answer);
	if (r == -EPIPE)
		r = -ECONNRESET;
	if (r < 0) {
		verdict_of_connection(r, client->connection.path, text);
		client_lose(client);
		return client_fail(client, r, "%s: %s", what, text);
	}
	if (answer.error) {
		r = verdict_of_answer(&answer, text);
		return client_fail(client, r, "%s: %s", what, text);
	}
	if (ret_answer) {
		*ret_answer = answer;
		answer = (struct varlink_answer){};
	}
	return 0;
}

struct handover client_handover(const struct ufd_client *client)
{
	return (struct handover){
		.opts = &client->opts,
		.memories = &client->memories,
		.uffd = client->uffd,
		.pagemap = client->pagemap,
		.is_scan = client->is_scan,
		.is_again = client->is_again,
	};
}

void client_set_attached(struct ufd_client *client, const struct varlink_answer *answer)
{
	const json_t *guest = json_object_get(answer->parameters, "guest");

	client->pid_there = json_integer_value(json_object_get(guest, "pid"));
	client->state = UFD_CLIENT_ATTACHED;
	client->is_again = true;
	client->is_uncertain = false;
	client_disarm(client);
}

/* Open the connection, patiently. */
static int open_connection(struct ufd_client *client, const char *what, uint64_t deadline_ns)
{
	char text[VERDICT_TEXT_BYTES];
	int r;

	r = connection_open_wait(&client->connection, deadline_ns);
	if (r == 0)
		return 0;
	verdict_of_connection(r, client->connection.path, text);
	return client_fail(client, r, "%s: %s", what, text);
}

int ufd_client_attach(struct ufd_client *client)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	_cleanup_(request_done) struct request request = {};
	uint64_t deadline_ns = client_deadline(client, 0);
	struct handover handover = client_handover(client);
	int r;

	if (client->state != UFD_CLIENT_DETACHED)
		return client_fail(client, -EALREADY, "guest %s is attached already",
				   client->opts.guest);
	r = zeroing_find_complete(client);
	if (r < 0)
		return r;
	r = request_attach(&request, &handover);
	if (r == -ENOSPC)
		return client_fail(client, r, "cannot attach: too many memories for one message");
	if (r < 0)
		return client_fail(client, r, "cannot attach: out of memory");
	r = open_connection(client, "cannot attach", deadline_ns);
	if (r < 0)
		return r;
	r = client_call(client, "cannot attach", "io.ufd.guest.Attach", &request, deadline_ns,
			&answer);
	if (r == 0 && !json_is_object(json_object_get(answer.parameters, "guest"))) {
		connection_close(&client->connection);
		r = client_fail(client, -EPROTO, "cannot attach: what answers is no ufdd");
	}
	if (r < 0) {
		/* The connection survives a refusal only. */
		client->is_uncertain |= !client->connection.varlink;
		return r;
	}
	memories_set_handed_over(&client->memories);
	client_set_attached(client, &answer);
	return 0;
}

int ufd_client_offer(struct ufd_client *client)
{
	static const char what[] = "cannot offer this process";
	_cleanup_(request_done) struct request request = {};
	uint64_t deadline_ns = client_deadline(client, 0);
	struct handover handover = client_handover(client);
	int r;

	if (client->state != UFD_CLIENT_DETACHED)
		return client_fail(client, -EALREADY, "guest %s is attached already",
				   client->opts.guest);
	if (request_offer(&request, &handover) < 0)
		return client_fail(client, -ENOMEM, "%s: out of memory", what);
	r = open_connection(client, what, deadline_ns);
	if (r < 0)
		return r;
	return client_call(client, what, "io.ufd.guest.Offer", &request, deadline_ns, NULL);
}

/* Nothing is absent or registered any more, which the next attach sees for itself. */
static void set_detached(struct ufd_client *client)
{
	client->state = UFD_CLIENT_DETACHED;
	client->is_uncertain = false;
	for (size_t i = 0; i < client->memories.n_list; i++)
		discards_done(&client->memories.list[i]->discards);
}

int ufd_client_detach(struct ufd_client *client, const struct ufd_client_detach_opts *given)
{
	_cleanup_(request_done) struct request request = {};
	struct ufd_client_detach_opts opts;
	uint64_t deadline_ns;
	int r;

	r = opts_load(&opts, sizeof(opts), given);
	if (r < 0)
		return client_fail(client, r,
				   "the options come from a newer library than this one");
	if (opts.no_populate > 1 || opts.reserved)
		return client_fail(client, -EINVAL,
				   "an option has a value this library does not know");
	if (client->state == UFD_CLIENT_DETACHED && !client->is_uncertain)
		return client_fail(client, -EINVAL, "guest %s is not attached", client->opts.guest);

	deadline_ns = client_deadline(client, opts.timeout_ns);
	request.parameters = json_pack("{s:s,s:b}", "name", client->opts.guest, "populate",
				       !opts.no_populate);
	if (!request.parameters)
		return client_fail(client, -ENOMEM, "cannot detach: out of memory");
	if (client->state == UFD_CLIENT_DETACHED) {
		r = open_connection(client, "cannot detach", deadline_ns);
		if (r < 0)
			return r;
	}
	r = client_call(client, "cannot detach", "io.ufd.guest.Detach", &request, deadline_ns,
			NULL);
	/* It was attached after all, and its pages exist. */
	if (r == 0 && client->is_uncertain) {
		client->is_again = true;
		memories_set_handed_over(&client->memories);
	}
	/* The daemon has ended the guest by itself, or never had it. */
	if (r == 0 || (r == -ENOENT && client->connection.varlink)) {
		set_detached(client);
		return 0;
	}
	return r;
}

int ufd_client_remove_region(struct ufd_client *client, void *address, uint64_t length)
{
	_cleanup_(request_done) struct request request = {};
	struct hva_range range = { { (uintptr_t)address }, length };
	struct region *region = memories_find_region(&client->memories, range);
	int r;

	if (client->state == UFD_CLIENT_DETACHED || (region && region->is_gone)) {
		if (memories_remove_region(&client->memories, range))
			return 0;
		return client_fail(client, -ENOENT, "there is no mapping %p of %llu bytes", address,
				   (unsigned long long)length);
	}
	request.parameters = json_pack("{s:s,s:I,s:I}", "name", client->opts.guest, "address",
				       (json_int_t)range.start.v, "length_bytes",
				       (json_int_t)length);
	if (!request.parameters)
		return client_fail(client, -ENOMEM, "cannot remove mapping: out of memory");
	if (region)
		region->is_leaving = true;
	r = client_call(client, "cannot remove mapping", "io.ufd.guest.RemoveRegion", &request,
			client_deadline(client, 0), NULL);
	/* BadRegion: it has no such mapping, which is what we wanted. */
	if (r == 0 || r == -EINVAL)
		memories_remove_region(&client->memories, range);
	return r == -EINVAL ? region ? 0 : -ENOENT : r;
}

/* ---- announcements --------------------------------------------------------------------------- */

/* NoteDiscard and NoteWrite take the same words. */
static int note(struct ufd_client *client, const char *what, const char *method, const char *memory,
		uint64_t offset, uint64_t length)
{
	_cleanup_(request_done) struct request request = {};

	request.parameters = json_pack("{s:s,s:s,s:I,s:I}", "name", client->opts.guest, "memory",
				       memory, "offset_bytes", (json_int_t)offset, "length_bytes",
				       (json_int_t)length);
	if (!request.parameters)
		return client_fail(client, -ENOMEM, "%s: out of memory", what);
	return client_call(client, what, method, &request, client_deadline(client, 0), NULL);
}

static int find_noted(struct ufd_client *client, const char *what, const char *name,
		      uint64_t offset, uint64_t length, struct client_memory **ret)
{
	struct client_memory *memory = name ? memories_find(&client->memories, name) : NULL;

	if (client->state == UFD_CLIENT_DETACHED)
		return client_fail(client, -EINVAL, "%s: guest %s is not attached", what,
				   client->opts.guest);
	if (!memory)
		return client_fail(client, -ENOENT, "%s: there is no memory %s", what,
				   name ? name : "without a name");
	if (length == 0 || !is_aligned(offset | length, memory->page_bytes) ||
	    !memory_is_mapped(memory, offset, length))
		return client_fail(client, -EINVAL,
				   "%s: offset %llu, %llu bytes of memory %s are not whole pages "
				   "of its mappings",
				   what, (unsigned long long)offset, (unsigned long long)length,
				   name);
	*ret = memory;
	return 0;
}

int ufd_client_note_discard(struct ufd_client *client, const char *name, uint64_t offset,
			    uint64_t length)
{
	static const char what[] = "cannot announce a discard";
	struct client_memory *memory = NULL;
	int r;

	r = find_noted(client, what, name, offset, length, &memory);
	if (r < 0)
		return r;
	if (discards_reserve(&memory->discards) < 0)
		return client_fail(client, -ENOMEM, "%s: out of memory", what);
	r = note(client, what, "io.ufd.guest.NoteDiscard", name, offset, length);
	/*
	 * A daemon that was lost on the way may have taken it, and the caller discards then. The
	 * range is of use only if that daemon dies; it costs nothing if it does not.
	 */
	if (r == 0 || (client->state == UFD_CLIENT_AWAY && r != -ENOTCONN))
		discards_add(&memory->discards, offset, offset + length);
	return r;
}

int ufd_client_note_write(struct ufd_client *client, const char *name, uint64_t offset,
			  uint64_t length)
{
	static const char what[] = "cannot announce a write";
	struct client_memory *memory;
	int r;

	r = find_noted(client, what, name, offset, length, &memory);
	if (r < 0)
		return r;
	return note(client, what, "io.ufd.guest.NoteWrite", name, offset, length);
}
