/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a soak guest comes to the daemon by libufd; soak-attendant.c has the other way. */
#include "support/soak-paging.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <ufd/ufd.h>
#include <unistd.h>

#include "support/soak-attendant.h"
#include "support/soak-memory.h"

#define RETRY_US 2000

static void on_event(struct ufd_client *client, uint32_t event, void *userdata)
{
	struct soak_paging *paging = userdata;

	if (event == UFD_CLIENT_RESUMED)
		atomic_fetch_add(&paging->board->n_resumed, 1);
	else if (event == UFD_CLIENT_REATTACHED && paging->board->phase == SOAK_RUNNING)
		atomic_fetch_add(&paging->board->n_reattached, 1);
	else if (event == UFD_CLIENT_REFUSED)
		fprintf(stderr, "soak-guest %d: refused: %s\n", getpid(), ufd_client_error(client));
}

/* Was this call cut off, or could it not be made, because the daemon is being killed? */
static bool is_away(int r)
{
	return r == -ENOTCONN || r == -ECONNRESET || r == -ETIMEDOUT || r == -ECONNREFUSED ||
	       r == -ENOENT || r == -EPIPE;
}

void soak_paging_init(struct soak_paging *paging, const struct soak_way *way,
		      struct soak_guest *board)
{
	*paging = (struct soak_paging){
		.way = *way,
		.board = board,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.attendant = way->by_pid ? soak_attendant_start(way) : -EBADF,
	};
}

void soak_paging_wait(struct soak_paging *paging, int event_fd, int timeout_ms)
{
	struct pollfd fds[] = {
		{ .fd = event_fd, .events = POLLIN },
		{ .fd = paging->client ? ufd_client_fd(paging->client) : -1, .events = POLLIN },
	};

	if (poll(fds, 2, timeout_ms) < 0 && errno != EINTR)
		soak_give_up("poll", errno);
	if (!fds[1].revents)
		return;
	pthread_mutex_lock(&paging->lock);
	ufd_client_dispatch(paging->client);
	pthread_mutex_unlock(&paging->lock);
}

/* ---- by libufd ------------------------------------------------------------------------------- */

static void new_client(struct soak_paging *paging, const struct soak_memory *memory)
{
	const struct soak_way *way = &paging->way;
	const char *why = "";
	char source[4200];
	UFD_OPTS(ufd_client_opts, opts, .guest = way->name, .socket_path = way->socket_path,
		 .on_event = on_event, .userdata = paging,
		 .window_bytes = way->has_window ? 0 : UFD_CLIENT_NO_WINDOW,
		 .populated = way->is_backing ? UFD_CLIENT_POPULATED_KEEP : 0,
		 .background = way->has_background ? UFD_CLIENT_ON : UFD_CLIENT_OFF,
		 .background_rate = way->has_background ? memory->length_bytes / 4 : 0);
	UFD_OPTS(ufd_client_memory_opts, ram, .name = "ram", .address = memory->bytes,
		 .length = memory->length_bytes, .source = source,
		 .backing = memory->backing > 0 ? memory->backing : 0,
		 .source_fd = way->image_fd > 0 ? way->image_fd : 0,
		 .page_bytes = memory->page_bytes);
	int r = ufd_client_new(&paging->client, &opts, &why);

	if (r < 0)
		soak_give_up(why, -r);
	if (way->is_backing)
		snprintf(source, sizeof(source), "backing");
	else
		snprintf(source, sizeof(source), "file:%s,offset=%llu",
			 way->image_fd > 0 ? "" : way->image_path,
			 (unsigned long long)soak_memory_image_offset(memory));
	r = ufd_client_add_memory(paging->client, &ram);
	if (r < 0)
		soak_give_up(ufd_client_error(paging->client), -r);
}

static void detach(struct soak_paging *paging)
{
	int r;

	for (;;) {
		pthread_mutex_lock(&paging->lock);
		r = ufd_client_detach(paging->client, NULL);
		pthread_mutex_unlock(&paging->lock);
		if (r == 0)
			break;
		if (!is_away(r))
			soak_give_up(ufd_client_error(paging->client), -r);
		usleep(RETRY_US);
		soak_paging_wait(paging, -1, 0);
	}
	paging->client = ufd_client_free(paging->client);
}

static bool attach(struct soak_paging *paging, const struct soak_memory *memory)
{
	int r;

	new_client(paging, memory);
	for (;;) {
		r = ufd_client_attach(paging->client);
		if (r == 0)
			return true;
		if (r == -ECONNRESET || r == -ETIMEDOUT || r == -EPIPE) {
			detach(paging);
			return false;
		}
		if (!is_away(r))
			soak_give_up(ufd_client_error(paging->client), -r);
		usleep(RETRY_US);
	}
}

/* ---- both ------------------------------------------------------------------------------------ */

bool soak_paging_arrive(struct soak_paging *paging, const struct soak_memory *memory)
{
	if (!paging->way.by_pid)
		return attach(paging, memory);
	soak_attendant_arrive(paging->attendant, memory);
	return true;
}

void soak_paging_leave(struct soak_paging *paging)
{
	if (paging->way.by_pid)
		soak_attendant_leave(paging->attendant);
	else
		detach(paging);
}

bool soak_paging_announce(struct soak_paging *paging, struct soak_memory *memory, uint64_t page)
{
	int r;

	pthread_mutex_lock(&paging->lock);
	r = ufd_client_note_discard(paging->client, "ram", page * memory->page_bytes,
				    memory->page_bytes);
	pthread_mutex_unlock(&paging->lock);
	if (r < 0 && !is_away(r))
		soak_give_up(ufd_client_error(paging->client), -r);
	/* Told, or half told: then it is to be made. */
	return r != -ENOTCONN;
}
