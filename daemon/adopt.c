/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a former process left is served again. */
#include "adopt.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/units.h"
#include "dirty/pause.h"
#include "guest/ledger.h"
#include "keeping.h"
#include "kernel/pidfd.h"
#include "log-ids.h"
#include "log.h"
#include "registry.h"
#include "store/bundle.h"
#include "store/record.h"
#include "store/refetch.h"
#include "store/store.h"

#define MAX_MEMORIES 64 /* no guest has more */

/* One guest on its way. */
struct candidate {
	struct stored *stored;	    /* borrowed */
	struct ufd_handle *handles; /* owned, and so are their fds */
	size_t n_handles;
	bool is_waited_for; /* a thread of it waits for a page, and nobody has heard it */
	char label[96];	    /* what to call it while its name is not known */
};

struct adoption {
	struct store *store;	   /* borrowed */
	struct registry *registry; /* borrowed */
	struct keeping *keeping;   /* borrowed */
	struct adopted *counts;
	struct registration **served; /* owned array; borrowed members */
	size_t n_served;
};

static void candidate_done(struct candidate *candidate)
{
	bundle_close_handles(candidate->handles, candidate->n_handles);
	free(candidate->handles);
	candidate->handles = NULL;
	candidate->n_handles = 0;
}

static void report(void *userdata, const char *sentence)
{
	const struct candidate *candidate = userdata;

	log_warning(LOG_FIELDS(.message_id = LOG_ID_STORE_ODD), "stored guest %s: %s",
		    candidate->label, sentence);
}

static void report_store(void *userdata, const char *sentence)
{
	log_warning(LOG_FIELDS(.message_id = LOG_ID_STORE_ODD), "%s", sentence);
}

/* ---- describing ---- */

static int handle_of(const struct ufd_handle *handles, size_t n, uint32_t kind, uint32_t id)
{
	for (size_t i = 0; i < n; i++)
		if (handles[i].kind == kind && handles[i].id == id)
			return handles[i].fd;
	return -EBADF;
}

static void describe_mapper(struct registration *registration, struct paging_mapper *mapper,
			    int uffd, int pidfd)
{
	struct ufd_pager_guest *guest = registration->paging.guest;
	struct record_mapper record = { .remote_fd = -1 };

	/* a guest that was killed on its way to its first mapping may have none yet */
	(void)pidfd_get_pid(pidfd, &record.pid);
	(void)record_find_mapper(guest, mapper->number, record.pid, &record);
	mapper->pid = record.pid;
	mapper->uffd_inode = record.uffd_inode;
	mapper->has_duplicate = record.has_duplicate;
	mapper->copy_fd = record.copy_fd;
	mapper->attachment = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
	if (record.remote_fd >= 0) {
		mapper->attachment.pid = record.pid;
		mapper->attachment.remote_fd = record.remote_fd;
		(void)fd_duplicate(&mapper->attachment.pidfd, pidfd);
		(void)fd_duplicate(&mapper->attachment.uffd, uffd);
	}
	if (record.pid == registration->pid && registration->pidfd < 0)
		(void)fd_duplicate(&registration->pidfd, pidfd);
}

static int describe_mappers(struct registration *registration)
{
	struct paging *paging = &registration->paging;
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n = 0;
	int r;

	r = ufd_pager_guest_handles(paging->guest, handles, UFD_MAX_HANDLES, &n);
	if (r < 0)
		return r;
	paging->mappers = calloc(n + 1, sizeof(*paging->mappers));
	if (!paging->mappers)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct paging_mapper *mapper = &paging->mappers[paging->n_mappers];

		if (handles[i].kind != UFD_HANDLE_UFFD)
			continue;
		mapper->number = handles[i].id;
		paging->n_mappers++;
		describe_mapper(registration, mapper, handles[i].fd,
				handle_of(handles, n, UFD_HANDLE_PIDFD, handles[i].id));
	}
	return 0;
}

static int describe_memory(struct paging *paging, uint32_t number)
{
	struct paging_memory *memory = &paging->memories[paging->n_memories];
	UFD_OPTS(ufd_memory_stats, stats);
	UFD_OPTS(ufd_handle_info, info);
	int r;

	r = ufd_pager_memory_stats(paging->guest, number, &stats);
	if (r == 0)
		r = ufd_pager_handle_info(paging->guest, UFD_HANDLE_SOURCE, number, &info);
	if (r == -ENOENT)
		return 0; /* it was forgotten with its last mapping */
	if (r < 0)
		return r;
	*memory = (struct paging_memory){
		.source = strdup(info.spec ? info.spec : ""),
		.length_bytes = stats.length_bytes,
		.page_bytes = stats.page_bytes,
		.kind = stats.kind,
		.number = number,
	};
	if (!memory->source)
		return -ENOMEM;
	snprintf(memory->name, sizeof(memory->name), "%s", stats.name);
	(void)record_get_base(paging->guest, number, &memory->base_bytes);
	paging->n_memories++;
	return 0;
}

static int describe_memories(struct paging *paging)
{
	UFD_OPTS(ufd_guest_stats, stats);
	int r;

	r = ufd_pager_guest_stats(paging->guest, &stats);
	if (r < 0)
		return r;
	/* numbers that are free again lie between those in use */
	paging->memories = calloc(MAX_MEMORIES, sizeof(*paging->memories));
	if (!paging->memories)
		return -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < MAX_MEMORIES; i++)
		r = describe_memory(paging, i);
	return r;
}

/*
 * The process that was being attached to when we were killed. Its copy was told of before it became
 * its own, so it may have gone again; what is not found needs no closing.
 */
static void describe_arriving(struct paging *paging)
{
	struct process_attachment *arriving = &paging->arriving;
	struct record_mapper record;

	if (record_get_attaching(paging->guest, &record) < 0 || record.remote_fd < 0)
		return;
	for (size_t i = 0; i < paging->n_mappers; i++)
		if (paging->mappers[i].pid == record.pid)
			return;
	if (pidfd_open_pid(&arriving->pidfd, record.pid) < 0)
		return;
	arriving->remote_fd = record.remote_fd;
	if (refetch_uffd(record.pid, arriving->pidfd, record.uffd_inode, &arriving->remote_fd,
			 &arriving->uffd) < 0) {
		process_attachment_done(arriving);
		return;
	}
	arriving->pid = record.pid;
}

static int describe(struct registration *registration)
{
	int r = describe_mappers(registration);

	if (r == 0)
		r = describe_memories(&registration->paging);
	if (r == 0)
		describe_arriving(&registration->paging);
	return r;
}

/* ---- one guest ---- */

static void drop(struct adoption *adoption, const struct candidate *candidate, const char *why)
{
	log_info(LOG_FIELDS(.message_id = LOG_ID_DROPPED), "stored guest %s is dropped: %s",
		 candidate->label, why);
	store_discard(adoption->store, candidate->stored);
	adoption->counts->n_dropped++;
}

static const char *reason_of(int r)
{
	switch (r) {
	case -EEXIST:
		return "another stored guest has its name";
	case -EBADMSG:
		return "its ledger is damaged";
	case -EPROTONOSUPPORT:
		return "its ledger was written by a newer release";
	case -EBADF:
		return "a file descriptor of it is missing, and was not found again";
	case -ENOTUNIQ:
		return "its file has another name than it would give it: a copy, and perhaps old";
	case -ESTALE:
		return "a source is no longer what it was";
	default:
		return strerror(-r);
	}
}

static void leave_stored(struct adoption *adoption, const struct candidate *candidate, int r)
{
	log_error(LOG_FIELDS(.error = r, .message_id = LOG_ID_NOT_ADOPTED),
		  "stored guest %s cannot be adopted, and is left where it is: %s",
		  candidate->label, reason_of(r));
	store_leave(adoption->store, candidate->stored->number);
	adoption->counts->n_left++;
}

static int adopt_engine_guest(struct adoption *adoption, struct candidate *candidate,
			      struct ufd_pager_guest **ret, int *ret_was_started)
{
	UFD_OPTS(ufd_pager_adopt_opts, opts, .handles = candidate->handles,
		 .n_handles = candidate->n_handles, .refetch = refetch, .report = report,
		 .userdata = candidate);

	return ufd_pager_guest_adopt(registry_engine(adoption->registry)->pager, ret,
				     candidate->stored->ledger, &opts, ret_was_started);
}

/* At once, not after the others have been adopted: somebody may be waiting for a page. */
static void start_one(struct adoption *adoption, struct registration *registration)
{
	int r = ufd_pager_guest_start(registration->paging.guest);

	if (r < 0) {
		log_error(LOG_FIELDS(.guest = registration->paging.name, .error = r,
				     .message_id = LOG_ID_NOT_ADOPTED),
			  "the guest cannot be served again, and is left where it is");
		store_leave(adoption->store, registration->number);
		registration_leave(registration);
		adoption->n_served--;
		adoption->counts->n_left++;
		return;
	}
	adoption->counts->n_served++;
	pause_adopt(registration);
	pause_settle(registration);
}

/* It has a name and a place among the guests, and is served. */
static int adopt_registration(struct adoption *adoption, struct candidate *candidate,
			      struct ufd_pager_guest *guest, bool was_started)
{
	struct record_guest record = { .settings = settings_built_in() };
	struct registration *registration;
	int r;

	r = record_get_guest(guest, &record);
	if (r < 0 && was_started) {
		ufd_pager_guest_leave(guest);
		return -EBADMSG;
	}
	r = registry_adopt(adoption->registry, guest, &record, &registration);
	if (r < 0)
		return r;
	memcpy(registration->number, candidate->stored->number, sizeof(registration->number));
	r = describe(registration);
	if (r < 0) {
		registration_leave(registration);
		return r;
	}
	if (!was_started || record.is_leaving) {
		log_info(LOG_FIELDS(.guest = registration->paging.name,
				    .message_id = LOG_ID_DROPPED),
			 "a guest that was %s is taken down", was_started ? "leaving" : "arriving");
		adoption->counts->n_dropped++;
		registration->paging.is_to_be_left = !was_started &&
						     paging_may_run_already(&registration->paging);
		registration_retire(registration, "dropped", NULL, NULL);
		return 0;
	}
	adoption->served[adoption->n_served++] = registration;
	start_one(adoption, registration);
	return 0;
}

/* Somebody's copy: of a guest as it was when it was made. */
static bool is_misnamed(const struct stored *stored)
{
	char name[LEDGER_NAME_BYTES], file_name[LEDGER_FILE_NAME_BYTES];
	const char *slash = stored->path ? strrchr(stored->path, '/') : NULL;

	if (!slash || stored->number[0] || ledger_fd_guest_name(stored->ledger, name))
		return false;
	ledger_file_name(name, file_name);
	return strcmp(slash + 1, file_name);
}

static void adopt_one(struct adoption *adoption, struct candidate *candidate)
{
	struct ufd_pager_guest *guest = NULL;
	bool is_copy = store_is_systemd(adoption->store) && !candidate->stored->number[0];
	int was_started = 0, r;

	/* it may be older than what the manager kept, and would show pages as they were then */
	if (is_copy && store_has_left(adoption->store, candidate->stored->ledger))
		r = -EEXIST;
	else if (is_misnamed(candidate->stored))
		r = -ENOTUNIQ;
	else
		r = adopt_engine_guest(adoption, candidate, &guest, &was_started);
	candidate_done(candidate);
	if (r == -EEXIST && is_copy &&
	    !store_has_left(adoption->store, candidate->stored->ledger)) {
		drop(adoption, candidate, "an older copy of a guest that the service manager kept");
		return;
	}
	if (r == -ESRCH) {
		drop(adoption, candidate, "its processes have ended");
		return;
	}
	if (r == 0)
		r = adopt_registration(adoption, candidate, guest, was_started);
	if (r < 0)
		leave_stored(adoption, candidate, r);
}

/* ---- all of them ---- */

static void read_bundle(struct candidate *candidate)
{
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n = 0;
	int r;

	if (candidate->stored->bundle < 0)
		return;
	r = bundle_read(candidate->stored->bundle, handles, &n);
	if (r == -ENODATA)
		report(candidate, "its bundle is empty");
	else if (r < 0)
		report(candidate,
		       "its bundle cannot be read: the handles are looked for elsewhere");
	if (n == 0)
		return;
	candidate->handles = malloc(n * sizeof(*handles));
	if (!candidate->handles) {
		bundle_close_handles(handles, n);
		return;
	}
	memcpy(candidate->handles, handles, n * sizeof(*handles));
	candidate->n_handles = n;
}

/* Of whom a userfaultfd can be read, somebody waits. */
static void find_waited_for(struct candidate *candidates, size_t n_candidates)
{
	_cleanup_(freep) struct pollfd *waited = NULL;
	size_t n_handles = 0, n = 0;

	for (size_t i = 0; i < n_candidates; i++)
		n_handles += candidates[i].n_handles;
	waited = calloc(n_handles + 1, sizeof(*waited));
	if (!waited)
		return; /* any order is right */
	for (size_t i = 0; i < n_candidates; i++)
		for (size_t j = 0; j < candidates[i].n_handles; j++)
			if (candidates[i].handles[j].kind == UFD_HANDLE_UFFD)
				waited[n++] = (struct pollfd){
					.fd = candidates[i].handles[j].fd,
					.events = POLLIN,
				};
	if (poll(waited, n, 0) <= 0)
		return;
	n = 0;
	for (size_t i = 0; i < n_candidates; i++)
		for (size_t j = 0; j < candidates[i].n_handles; j++)
			if (candidates[i].handles[j].kind == UFD_HANDLE_UFFD)
				candidates[i].is_waited_for |= waited[n++].revents & POLLIN;
}

/*
 * Each is served before the next one is looked at. Its fds are closed meanwhile, too: near the limit
 * that admission keeps, those of all guests twice would be too many.
 */
static void adopt_those(struct adoption *adoption, struct candidate *candidates,
			size_t n_candidates, bool is_waited_for)
{
	for (size_t i = 0; i < n_candidates; i++) {
		if (candidates[i].is_waited_for != is_waited_for)
			continue;
		adopt_one(adoption, &candidates[i]);
		stored_close(candidates[i].stored);
	}
}

static int adopt_stored(struct adoption *adoption, struct stored *stored, size_t n_stored)
{
	_cleanup_(freep) struct candidate *candidates = calloc(n_stored + 1, sizeof(*candidates));

	if (!candidates)
		return -ENOMEM;
	for (size_t i = 0; i < n_stored; i++) {
		const char *path = stored[i].path ? strrchr(stored[i].path, '/') : NULL;

		candidates[i].stored = &stored[i];
		snprintf(candidates[i].label, sizeof(candidates[i].label), "%.*s",
			 (int)sizeof(candidates[i].label) - 1, path ? path + 1 : stored[i].number);
		read_bundle(&candidates[i]);
	}
	find_waited_for(candidates, n_stored);
	adopt_those(adoption, candidates, n_stored, true);
	adopt_those(adoption, candidates, n_stored, false);
	return 0;
}

/* What a successor of ours will need is complete again. */
static void keep_all(struct adoption *adoption)
{
	for (size_t i = 0; i < adoption->n_served; i++) {
		struct registration *registration = adoption->served[i];
		int r;

		r = keeping_write(adoption->keeping, registration);
		if (r < 0)
			log_error(LOG_FIELDS(.guest = registration->paging.name, .error = r,
					     .message_id = LOG_ID_NOT_KEPT),
				  "the guest is served, but would not outlive another restart");
		registration_announce(registration, "adopted");
	}
}

int adopt_all(struct store *store, struct registry *registry, struct keeping *keeping,
	      struct adopted *ret)
{
	struct adoption adoption = {
		.store = store, .registry = registry, .keeping = keeping, .counts = ret
	};
	uint64_t start_ns = clock_now_ns();
	struct stored *stored = NULL;
	size_t n_stored = 0;
	int r;

	*ret = (struct adopted){};
	r = store_take(store, &stored, &n_stored, report_store, NULL);
	if (r < 0)
		return r;
	adoption.served = calloc(n_stored + 1, sizeof(*adoption.served));
	r = adoption.served ? 0 : -ENOMEM;
	if (r == 0) {
		r = adopt_stored(&adoption, stored, n_stored);
		keep_all(&adoption);
	}
	stored_free(stored, n_stored);
	free(adoption.served);
	ret->took_ns = clock_now_ns() - start_ns;
	return r;
}
