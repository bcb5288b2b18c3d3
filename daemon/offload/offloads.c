/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Restored Cloud Hypervisors whose pages are still asked for. */
#include "offload/offloads.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/wait.h>

#include "base/files.h"
#include "kernel/pidfd.h"
#include "log-ids.h"
#include "log.h"
#include "offload/delivery.h"
#include "offload/start.h"
#include "refusal.h"
#include "store/bundle.h"
#include "store/manager.h"
#include "store/number.h"
#include "upgrade/upgrade.h"

#define RETRY_SECONDS 1 /* a process that cannot be started, or that ends again and again */

struct offload {
	LIST_ENTRY(offload) offload_link;
	struct offloads *offloads;
	uint32_t number;
	char name[8];		 /* in the manager's store */
	int bundle;		 /* owned */
	int pidfd;		 /* owned; of the process that serves; -EBADF: none */
	struct journal *journal; /* owned; NULL until it is watched over */
	struct event *ended;	 /* owned; of the process */
	struct event *again;	 /* owned; a timer: start another */
};

struct offloads {
	struct event_base *base;
	pthread_mutex_t lock; /* of the list and the numbers */
	LIST_HEAD(, offload) offload_list;
	size_t n_offloads;
	bool is_kept; /* the manager has them, too */
};

int offloads_new(struct offloads **ret, struct event_base *base)
{
	struct offloads *offloads = calloc(1, sizeof(*offloads));

	if (!offloads)
		return -ENOMEM;
	offloads->base = base;
	offloads->is_kept = manager_store_max() > 0;
	pthread_mutex_init(&offloads->lock, NULL);
	LIST_INIT(&offloads->offload_list);
	*ret = offloads;
	return 0;
}

static void offload_free(struct offload *offload)
{
	journal_unmap(offload->journal);
	if (offload->ended)
		event_free(offload->ended);
	if (offload->again)
		event_free(offload->again);
	closep(&offload->bundle);
	closep(&offload->pidfd);
	free(offload);
}

struct offloads *offloads_free(struct offloads *offloads)
{
	struct offload *offload;

	if (!offloads)
		return NULL;
	while ((offload = LIST_FIRST(&offloads->offload_list))) {
		LIST_REMOVE(offload, offload_link);
		offload_free(offload);
	}
	pthread_mutex_destroy(&offloads->lock);
	free(offloads);
	return NULL;
}

static struct offload *find_locked(const struct offloads *offloads, uint32_t number)
{
	struct offload *offload;

	LIST_FOREACH(offload, &offloads->offload_list, offload_link)
	if (offload->number == number)
		return offload;
	return NULL;
}

/* @bundle, @pidfd: consumed. NULL without memory. */
static struct offload *add_locked(struct offloads *offloads, uint32_t number, int bundle, int pidfd)
{
	struct offload *offload = calloc(1, sizeof(*offload));
	char text[STORE_NUMBER_BYTES];

	if (!offload) {
		closep(&bundle);
		closep(&pidfd);
		return NULL;
	}
	offload->offloads = offloads;
	offload->number = number;
	number_print(number, text);
	snprintf(offload->name, sizeof(offload->name), "o%s", text);
	offload->bundle = bundle;
	offload->pidfd = pidfd;
	LIST_INSERT_HEAD(&offloads->offload_list, offload, offload_link);
	offloads->n_offloads++;
	return offload;
}

/* Nobody needs it any more. */
static void offload_drop(struct offload *offload)
{
	struct offloads *offloads = offload->offloads;

	if (offloads->is_kept)
		(void)manager_remove(offload->name);
	pthread_mutex_lock(&offloads->lock);
	LIST_REMOVE(offload, offload_link);
	offloads->n_offloads--;
	pthread_mutex_unlock(&offloads->lock);
	offload_free(offload);
}

/* ---- keeping ---- */

static int keep_in_manager(const struct offload *offload)
{
	int r;

	if (!offload->offloads->is_kept)
		return 0;
	r = manager_keep(offload->name, offload->bundle);
	return r == 0 ? manager_barrier() : r;
}

int offloads_keep(struct offloads *offloads, int bundle, int pidfd, uint32_t *ret_number,
		  struct refusal *refusal)
{
	struct offload *offload = NULL;
	uint32_t number = 0;
	bool is_full;
	int r;

	pthread_mutex_lock(&offloads->lock);
	is_full = offloads->n_offloads >= OFFLOADS_MAX;
	while (find_locked(offloads, number))
		number++;
	if (!is_full)
		offload = add_locked(offloads, number, bundle, pidfd);
	pthread_mutex_unlock(&offloads->lock);
	if (is_full) {
		closep(&bundle);
		closep(&pidfd);
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "offloads"),
				   "%d guests of Cloud Hypervisor are being restored already",
				   OFFLOADS_MAX);
	}
	if (!offload)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	*ret_number = number;
	r = keep_in_manager(offload);
	return r < 0 ? refusal_set_errno(refusal, r,
					 "the service manager does not keep the guest: %s",
					 strerror(-r))
		     : 0;
}

/* ---- watching ---- */

static void offload_watch(struct offload *offload);

static int start_again(struct offload *offload)
{
	const struct timeval pause = { .tv_sec = RETRY_SECONDS };
	int r = offload_start_again(offload->bundle, &offload->pidfd);

	if (r < 0) {
		log_error(LOG_FIELDS(.guest = offload->journal->name, .error = r,
				     .message_id = LOG_ID_NOT_ADOPTED),
			  "ufdd-offload cannot be started: the guest waits");
		(void)event_add(offload->again, &pause);
	}
	return r;
}

static void on_again(evutil_socket_t fd, short what, void *userdata)
{
	struct offload *offload = userdata;

	if (start_again(offload) == 0)
		offload_watch(offload);
}

/* Over, or killed in the middle: the guest waits for another one, and reads nothing wrong meanwhile. */
static void on_ended(evutil_socket_t fd, short what, void *userdata)
{
	const struct timeval pause = { .tv_sec = RETRY_SECONDS };
	struct offload *offload = userdata;
	siginfo_t info = {};

	/* one that a program before us started is nobody's child */
	bool is_killed = waitid(P_PIDFD, (id_t)offload->pidfd, &info, WEXITED | WNOHANG) < 0 ||
			 info.si_code != CLD_EXITED;

	event_free(offload->ended);
	offload->ended = NULL;
	closep(&offload->pidfd);
	offload->pidfd = -EBADF;
	if (journal_is_over(offload->journal) || offload->journal->phase == JOURNAL_SENDING) {
		offload_drop(offload);
		return;
	}
	log_warning(LOG_FIELDS(.guest = offload->journal->name),
		    "ufdd-offload has ended before the guest had its pages: another one goes on");
	if (!is_killed)
		(void)event_add(offload->again, &pause);
	else if (start_again(offload) == 0)
		offload_watch(offload);
}

static void offload_watch(struct offload *offload)
{
	offload->ended = event_new(offload->offloads->base, offload->pidfd, EV_READ, on_ended,
				   offload);
	if (!offload->ended || event_add(offload->ended, NULL) < 0)
		log_error(LOG_FIELDS(.guest = offload->journal->name, .error = -ENOMEM,
				     .message_id = LOG_ID_NOT_KEPT),
			  "nobody watches over the guest's ufdd-offload");
}

/* Return: 0, -errno: it is no whole one. @ret_owner: who serves it; 0: nobody. */
static int offload_open(struct offload *offload, pid_t *ret_owner)
{
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n = 0;
	int journal, r;

	r = bundle_read(offload->bundle, handles, &n);
	if (r < 0)
		return r;
	journal = delivery_find_journal(handles, n);
	r = journal < 0 ? -EBADMSG : journal_map(&offload->journal, journal);
	if (r == 0)
		*ret_owner = journal_owner(journal);
	bundle_close_handles(handles, n);
	if (r < 0)
		return r;
	offload->again = evtimer_new(offload->offloads->base, on_again, offload);
	return offload->again ? 0 : -ENOMEM;
}

void offloads_begin(struct offloads *offloads, uint32_t number)
{
	struct offload *offload;
	pid_t owner;

	pthread_mutex_lock(&offloads->lock);
	offload = find_locked(offloads, number);
	pthread_mutex_unlock(&offloads->lock);
	if (offload_open(offload, &owner) < 0) {
		log_error(
			LOG_FIELDS(.message_id = LOG_ID_NOT_KEPT),
			"what a restored guest needs cannot be looked at: nobody watches over it");
		return;
	}
	if (!offloads->is_kept)
		log_warning(
			LOG_FIELDS(.guest = offload->journal->name),
			"no service manager keeps file descriptors for us: if ufdd ends, nobody "
			"watches over the guest's ufdd-offload any more");
	offload_watch(offload);
}

/* ---- a former process's ---- */

bool offloads_offer(struct offloads *offloads, const char *name, int fd)
{
	uint32_t number;

	if (name[0] != 'o' || !number_parse(name + 1, &number))
		return false;
	if (find_locked(offloads, number) || !bundle_is(fd)) {
		log_warning(LOG_FIELDS(.message_id = LOG_ID_STORE_ODD),
			    "stored fd %s is no bundle, or there are two", name);
		close(fd);
		return true;
	}
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	(void)add_locked(offloads, number, fd, -EBADF);
	return true;
}

static void offload_adopt(struct offload *offload)
{
	pid_t owner = 0;
	int r = offload_open(offload, &owner);

	if (r < 0) {
		log_error(LOG_FIELDS(.error = r, .message_id = LOG_ID_NOT_ADOPTED),
			  "a stored guest of Cloud Hypervisor cannot be adopted, and is left where "
			  "it is");
		return;
	}
	if (owner && pidfd_open_pid(&offload->pidfd, owner) < 0)
		owner = 0;
	if (!owner &&
	    (journal_is_over(offload->journal) || offload->journal->phase == JOURNAL_SENDING)) {
		offload_drop(offload);
		return;
	}
	if (owner || start_again(offload) == 0)
		offload_watch(offload);
}

void offloads_adopt(struct offloads *offloads)
{
	struct offload *offload = LIST_FIRST(&offloads->offload_list);

	while (offload) {
		struct offload *next = LIST_NEXT(offload, offload_link);

		offload_adopt(offload);
		offload = next;
	}
}

/* ---- showing ---- */

static const char *phase_word(uint32_t phase)
{
	static const char *const words[] = { "sending", "serving", "complete", "ended", "failed" };

	return phase < sizeof(words) / sizeof(words[0]) ? words[phase] : "?";
}

json_t *offloads_json(struct offloads *offloads)
{
	json_t *list = json_array();
	struct offload *offload;

	pthread_mutex_lock(&offloads->lock);
	LIST_FOREACH(offload, &offloads->offload_list, offload_link)
	{
		const struct journal *journal = offload->journal;

		if (!journal)
			continue;
		json_array_append_new(
			list,
			json_pack("{s:s, s:s, s:s, s:b, s:s, s:I, s:I, s:I, s:I}", "guest",
				  journal->name, "directory", journal->directory, "socket",
				  journal->socket, "inline", (int)journal->is_inline, "phase",
				  phase_word(journal->phase), "delivered_bytes",
				  (json_int_t)(journal->n_delivered * CH_PAGE_BYTES), "total_bytes",
				  (json_int_t)(journal->n_pages * CH_PAGE_BYTES), "faults",
				  (json_int_t)journal->n_faults, "retries",
				  (json_int_t)journal->n_retries));
	}
	pthread_mutex_unlock(&offloads->lock);
	return list;
}

size_t offloads_fds(const struct offloads *offloads, struct upgrade_fd *ret)
{
	const struct offload *offload;
	size_t n = 0;

	LIST_FOREACH(offload, &offloads->offload_list, offload_link)
	if (n < OFFLOADS_MAX)
		ret[n++] = (struct upgrade_fd){ offload->name, offload->bundle };
	return n;
}
