/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A Cloud Hypervisor that waits gets a snapshot. */
#include "offload/restore.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "log-ids.h"
#include "log.h"
#include "offload/delivery.h"
#include "offload/folder.h"
#include "offload/message.h"
#include "offload/stream.h"
#include "refusal.h"
#include "store/bundle.h"

#define FAILED "io.ufd.handoff.OffloadFailed"

/* A machine with its devices is made from Config, and loaded from State. */
#define ANSWER_SECONDS	60
#define CONNECT_SECONDS 5
#define KEEP_MS		30000

struct restore {
	const struct restore_wish *wish;
	int control;
	struct stream stream; /* the first connection */
	struct folder folder;
	struct delivery *delivery; /* owned */
	int bundle;		   /* owned */
};

static void tell_failed(int control, const struct refusal *refusal)
{
	struct message message = { .kind = MESSAGE_FAILED };

	snprintf(message.error, sizeof(message.error), "%s", refusal->error);
	snprintf(message.text, sizeof(message.text), "%s",
		 json_string_value(json_object_get(refusal->parameters, "message")));
	(void)message_send(control, &message, -EBADF); /* perhaps it has ended */
}

/* ---- the conversation ---- */

static int refuse_connect(const char *path, int error, struct refusal *refusal)
{
	return refusal_set(refusal, FAILED, NULL, "%s: %s%s", path, strerror(error),
			   error == ENOENT || error == ECONNREFUSED
				   ? "; let Cloud Hypervisor listen there first (receive-migration)"
			   : error == EACCES ? "; ufdd must be allowed to write to it"
					     : "");
}

static int connect_to(const char *path, int *ret_fd, struct refusal *refusal)
{
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct timeval patience = { .tv_sec = CONNECT_SECONDS };
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return refuse_connect(path, ENAMETOOLONG, refusal);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return refuse_connect(path, errno == EAGAIN ? ETIMEDOUT : errno, refusal);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int send_memory(struct restore *restore, size_t i, struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	uint8_t slot[CH_SLOT_BYTES];
	int r;

	r = delivery_add_memory(restore->delivery, i, &fd);
	if (r < 0)
		return refusal_set_errno(refusal, r, "no file for guest memory can be made: %s",
					 strerror(-r));
	ch_slot_write(restore->delivery->journal->layout.mappings[i].slot, slot);
	return stream_ask(&restore->stream, CH_MEMORY_FD, slot, sizeof(slot), fd, refusal);
}

static int open_faults(struct restore *restore, struct refusal *refusal)
{
	uint8_t role[CH_ROLE_BYTES];
	struct stream stream = restore->stream;
	int r;

	r = connect_to(restore->wish->socket, &restore->delivery->connection, refusal);
	if (r < 0)
		return r;
	ch_role_write(CH_ROLE_FAULT, role);
	stream.fd = restore->delivery->connection;
	r = stream_send(&stream, role, sizeof(role), -EBADF);
	return r < 0 ? stream_refuse(r, "the fault connection", refusal) : 0;
}

/* What both of us can be killed without. */
static int keep(struct restore *restore, struct refusal *refusal)
{
	const struct message ask = { .kind = MESSAGE_KEEP };
	struct ufd_handle handles[DELIVERY_MAX_HANDLES];
	_cleanup_(closep) int none = -EBADF;
	struct message answer;
	int r;

	r = bundle_new(&restore->bundle);
	if (r == 0)
		r = bundle_write(restore->bundle, handles,
				 delivery_handles(restore->delivery, handles));
	if (r == 0)
		r = message_send(restore->control, &ask, restore->bundle);
	if (r == 0)
		r = message_receive(restore->control, &answer, &none, KEEP_MS);
	if (r == 0 && answer.kind != MESSAGE_KEPT)
		r = -EBADMSG;
	if (r == 0)
		r = journal_claim(restore->delivery->journal_fd);
	return r < 0 ? refusal_set_errno(refusal, r, "what the restore needs cannot be kept: %s",
					 strerror(-r))
		     : 0;
}

static int prepare(struct restore *restore, struct refusal *refusal)
{
	const struct restore_wish *wish = restore->wish;
	struct journal *journal;
	int r;

	r = wish->is_inline ? 0 : delivery_check_host();
	if (r == -EOPNOTSUPP)
		return refusal_set(
			refusal, FAILED, NULL,
			"this host makes huge pages of shared memory: write `never` or `advise` to "
			"/sys/kernel/mm/transparent_hugepage/shmem_enabled, or restore --inline");
	if (r == 0)
		r = delivery_new(&restore->delivery, &restore->folder, -EBADF);
	if (r < 0)
		return refusal_set_errno(refusal, r, "%s", strerror(-r));
	journal = restore->delivery->journal;
	journal->is_inline = wish->is_inline;
	snprintf(journal->name, sizeof(journal->name), "%s", wish->name);
	snprintf(journal->directory, sizeof(journal->directory), "%s", wish->directory);
	snprintf(journal->socket, sizeof(journal->socket), "%s", wish->socket);
	return 0;
}

/* Everything before its memory is needed. */
static int begin(struct restore *restore, struct refusal *refusal)
{
	int r;

	r = folder_open(&restore->folder, restore->wish->directory, refusal);
	if (r == 0)
		r = prepare(restore, refusal);
	if (r == 0)
		r = connect_to(restore->wish->socket, &restore->stream.fd, refusal);
	if (r == 0)
		r = stream_ask(&restore->stream, CH_START, NULL, 0, -EBADF, refusal);
	for (size_t i = 0;
	     r == 0 && !restore->wish->is_inline && i < restore->folder.layout.n_mappings; i++)
		r = send_memory(restore, i, refusal);
	if (r == 0)
		r = stream_ask(&restore->stream, CH_CONFIG, restore->folder.config,
			       restore->folder.n_config, -EBADF, refusal);
	if (r == 0)
		r = open_faults(restore, refusal);
	if (r == 0)
		r = keep(restore, refusal);
	return r;
}

static void log_failed(const struct restore *restore, const struct refusal *refusal)
{
	log_error(LOG_FIELDS(.guest = restore->wish->name), "Cloud Hypervisor at %s: %s",
		  restore->wish->socket,
		  json_string_value(json_object_get(refusal->parameters, "message")));
}

/*
 * As long as State is not answered nothing runs. After that nobody but Cloud Hypervisor knows: pages are served until
 * it closes their connection.
 */
static void *finish(void *userdata)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	const struct message runs = { .kind = MESSAGE_RUNS };
	struct restore *restore = userdata;
	int r;

	r = stream_ask(&restore->stream, CH_STATE, restore->folder.state, restore->folder.n_state,
		       -EBADF, &refusal);
	if (r < 0) {
		restore->delivery->journal->phase = JOURNAL_FAILED;
		shutdown(restore->delivery->connection, SHUT_RDWR);
	} else {
		r = stream_ask(&restore->stream,
			       restore->wish->is_paused ? CH_COMPLETE_PAUSED : CH_COMPLETE, NULL, 0,
			       -EBADF, &refusal);
	}
	if (r < 0) {
		log_failed(restore, &refusal);
		tell_failed(restore->control, &refusal);
	} else {
		log_info(LOG_FIELDS(.guest = restore->wish->name, .message_id = LOG_ID_ATTACHED),
			 "Cloud Hypervisor at %s has its machine from %s%s; pages follow",
			 restore->wish->socket, restore->wish->directory,
			 restore->wish->is_paused ? ", paused" : "");
		(void)message_send(restore->control, &runs, -EBADF);
	}
	close(restore->stream.fd);
	restore->stream.fd = -EBADF;
	return NULL;
}

/* ---- pages ---- */

static void report(const struct delivery *delivery, int error)
{
	const struct journal *journal = delivery->journal;

	if (error)
		log_error(LOG_FIELDS(.guest = journal->name, .error = error,
				     .message_id = LOG_ID_STALLED),
			  "a page of %s cannot be had: the guest waits for it", journal->directory);
	else
		log_info(LOG_FIELDS(.guest = journal->name, .message_id = LOG_ID_RECOVERED),
			 "pages of %s can be had again", journal->directory);
}

static void serve(struct delivery *delivery)
{
	const struct journal *journal = delivery->journal;

	/* the rest is of the kernel, or may wait */
	(void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
	delivery_serve(delivery, report);
	if (journal->phase == JOURNAL_COMPLETE)
		log_info(LOG_FIELDS(.guest = journal->name, .message_id = LOG_ID_COMPLETED),
			 "all %llu pages are there: %s is not needed any more",
			 (unsigned long long)journal->n_pages, journal->directory);
	else if (journal->phase == JOURNAL_ENDED)
		log_info(LOG_FIELDS(.guest = journal->name, .message_id = LOG_ID_ENDED),
			 "Cloud Hypervisor has closed the connection with %llu of %llu pages there",
			 (unsigned long long)journal->n_delivered,
			 (unsigned long long)journal->n_pages);
}

static void restore_done(struct restore *restore)
{
	folder_close(&restore->folder);
	delivery_free(restore->delivery);
	closep(&restore->stream.fd);
	closep(&restore->bundle);
}

static void serve_all(struct restore *restore)
{
	struct delivery *delivery = restore->delivery;
	pthread_t thread;

	delivery->journal->phase = JOURNAL_SERVING;
	if (pthread_create(&thread, NULL, finish, restore)) {
		delivery->journal->phase = JOURNAL_FAILED;
		return;
	}
	serve(delivery);
	pthread_join(thread, NULL);
}

void restore_run(int control, const struct restore_wish *wish)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct restore restore = {
		.wish = wish,
		.control = control,
		.stream = { .fd = -EBADF, .idle_ns = ANSWER_SECONDS * NSEC_PER_SEC },
		.bundle = -EBADF,
	};
	int r;

	for (size_t i = 0; i < CH_MAX_MAPPINGS; i++)
		restore.folder.memories[i] = -EBADF;
	r = begin(&restore, &refusal);
	if (r == 0)
		serve_all(&restore);
	else if (restore.delivery)
		restore.delivery->journal->phase = JOURNAL_FAILED;
	if (r < 0) {
		if (r != -ECANCELED)
			refusal_set_errno(&refusal, r, "%s", strerror(-r));
		log_failed(&restore, &refusal);
		tell_failed(control, &refusal);
	}
	restore_done(&restore);
}

int restore_go_on(int bundle)
{
	_cleanup_(delivery_freep) struct delivery *delivery = NULL;
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n = 0;
	int r;

	r = bundle_read(bundle, handles, &n);
	if (r < 0)
		return r;
	r = delivery_adopt(&delivery, handles, n);
	bundle_close_handles(handles, n);
	if (r == 0)
		r = journal_claim(delivery->journal_fd);
	if (r < 0)
		return r;
	if (!journal_is_over(delivery->journal))
		serve(delivery);
	return 0;
}
