/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Adoption as a whole: the ledger, its handles, and what both say together. See adoption.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/opts.h"
#include "kernel/pidfd.h"
#include "pager/adoption.h"
#include "pager/track.h"

void adoption_report(const struct adoption *adoption, const char *format, ...)
{
	char sentence[512];
	va_list args;

	if (!adoption->opts.report)
		return;
	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	adoption->opts.report(adoption->opts.userdata, sentence);
}

static const char *handle_kind_name(uint32_t kind)
{
	static const char *const names[] = {
		[UFD_HANDLE_UFFD] = "userfaultfd", [UFD_HANDLE_PIDFD] = "pidfd",
		[UFD_HANDLE_PAGEMAP] = "pagemap",  [UFD_HANDLE_BACKING] = "file",
		[UFD_HANDLE_SOURCE] = "source",
	};

	if (kind >= sizeof(names) / sizeof(names[0]) || !names[kind])
		return "handle of a kind that this release does not know";
	return names[kind];
}

int adoption_refetch(struct adoption *adoption, uint32_t kind, uint32_t id, handle_check check,
		     const char *what, int *ret_fd)
{
	_cleanup_(closep) int fd = -EBADF;
	const char *instead;
	int r;

	adoption->is_nowhere = false;
	if (!adoption->opts.refetch) {
		adoption_report(adoption, "The %s of %s was not kept.", handle_kind_name(kind),
				what);
		return -EBADF;
	}
	r = adoption->opts.refetch(adoption->opts.userdata, adoption->paged, kind, id, &fd);
	if (r < 0) {
		adoption_report(adoption, "The %s of %s was not kept, and was not found: %s.",
				handle_kind_name(kind), what, strerror(-r));
		adoption->is_nowhere = r == -ENOENT;
		return -EBADF;
	}
	instead = check(adoption, id, fd);
	if (instead) {
		adoption_report(adoption, "The %s of %s that was found %s.", handle_kind_name(kind),
				what, instead);
		return -EBADF;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int adoption_kept(struct adoption *adoption, uint32_t kind, uint32_t id, handle_check check,
		  const char *what, int *ret_fd)
{
	for (size_t i = 0; i < adoption->opts.n_handles; i++) {
		const struct ufd_handle *handle = &adoption->opts.handles[i];
		const char *instead;

		if (handle->kind != kind || handle->id != id)
			continue;
		adoption->are_used[i] = true;
		instead = check(adoption, id, handle->fd);
		if (!instead)
			return fd_duplicate(ret_fd, handle->fd);
		adoption_report(adoption, "The %s of %s that was kept %s.", handle_kind_name(kind),
				what, instead);
	}
	return -ENOENT;
}

int adoption_handle(struct adoption *adoption, uint32_t kind, uint32_t id, handle_check check,
		    const char *what, int *ret_fd)
{
	int r = adoption_kept(adoption, kind, id, check, what, ret_fd);

	if (r == -ENOENT)
		r = adoption_refetch(adoption, kind, id, check, what, ret_fd);
	return r;
}

/* What was kept, and belongs to nothing that is recorded: harmless, but somebody is mistaken. */
static void report_unused(const struct adoption *adoption)
{
	for (size_t i = 0; i < adoption->opts.n_handles; i++)
		if (!adoption->are_used[i])
			adoption_report(adoption,
					"A %s numbered %u was kept, and no record speaks of it.",
					handle_kind_name(adoption->opts.handles[i].kind),
					adoption->opts.handles[i].id);
}

/* Return: 0, -EBADMSG, -ESRCH, -E2BIG, -EOPNOTSUPP, -errno. */
static int adopt_guest(struct adoption *adoption)
{
	struct ufd_pager_guest *paged = adoption->paged;
	struct kept_guest kept;
	size_t cursor = 0, n_bytes;
	unsigned int n_damaged = 0;
	uint32_t tag, id;
	const void *data;
	bool has_records;
	int r;

	has_records = ledger_next_record(adoption->ledger, &cursor, &tag, &id, &data, &n_bytes,
					 &n_damaged);
	if (n_damaged) {
		/* what they were about cannot be told: it may be the one page that matters */
		adoption_report(adoption, "%u records of the ledger are damaged.", n_damaged);
		return -EBADMSG;
	}
	/* nothing is kept of it either: else its records were lost, and it waits for an administrator */
	if (!has_records && !adoption->opts.n_handles) {
		adoption_report(adoption, "The guest was being made, and had no process yet.");
		return -ESRCH;
	}
	r = kept_guest_get(adoption->ledger, &kept);
	if (r == 0)
		r = paged_load_opts(&paged->opts, &kept.opts);
	if (r == -EINVAL)
		r = LEDGER_DAMAGED;
	if (r == -ENOENT || r == LEDGER_DAMAGED) {
		adoption_report(adoption, "The record of the guest itself is %s.",
				r == -ENOENT ? "missing" : "damaged");
		return -EBADMSG;
	}
	if (r < 0) {
		adoption_report(adoption, "The guest has settings that do not work here: %s.",
				strerror(-r));
		return r == -E2BIG ? -EPROTONOSUPPORT : r;
	}
	paged->is_started = kept.is_started;
	paged->is_adopted = true;
	atomic_store(&paged->is_graduated, kept.is_graduated);
	return 0;
}

/* Return: 0, -EBADMSG, -errno. */
static int adopt_consumers(struct adoption *adoption)
{
	int r = track_adopt(adoption->paged);

	if (r != LEDGER_DAMAGED)
		return r;
	adoption_report(adoption, "The records of what was written are damaged.");
	return -EBADMSG;
}

static int adopt_all(struct adoption *adoption)
{
	int r = adopt_guest(adoption);

	if (r == 0)
		r = adopt_mappers(adoption);
	if (r == 0)
		r = adopt_memories(adoption);
	if (r == 0)
		r = adopt_mappings(adoption);
	if (r == 0)
		r = adopt_consumers(adoption);
	if (r == 0)
		report_unused(adoption);
	return r;
}

static bool is_name_taken(const struct ufd_pager *pager, const char *name)
{
	for (const struct ufd_pager_guest *paged = pager->guests; paged; paged = paged->next)
		if (strcmp(paged->guest->name, name) == 0)
			return true;
	return false;
}

/* Return: 0, -EBADMSG, -EPROTONOSUPPORT, -EEXIST, -errno. */
static int open_ledger(struct adoption *adoption, const struct ufd_pager *pager, int fd,
		       struct ledger **ret)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	int r = ledger_adopt(&ledger, fd);

	if (r == LEDGER_DAMAGED) {
		adoption_report(adoption, "This is no ledger, or its head is damaged.");
		return -EBADMSG;
	}
	if (r == LEDGER_TOO_NEW) {
		adoption_report(adoption, "The ledger was written by a newer release.");
		return -EPROTONOSUPPORT;
	}
	if (r < 0) {
		adoption_report(adoption, "The ledger cannot be opened: %s.", strerror(-r));
		return r;
	}
	if (!ledger_guest_name(ledger)[0]) {
		adoption_report(adoption, "The ledger names no guest.");
		return -EBADMSG;
	}
	if (is_name_taken(pager, ledger_guest_name(ledger)))
		return -EEXIST;
	*ret = TAKE_PTR(ledger);
	return 0;
}

/* While it was asked for what it had open, or mapped. */
static bool has_ended_meanwhile(const struct guest *guest)
{
	for (uint32_t i = 0; i < guest->n_mappers; i++)
		if (!guest->mappers[i].is_gone && pidfd_is_alive(guest->mappers[i].pidfd))
			return false;
	return guest->n_mappers > 0;
}

static int adopt_into(struct adoption *adoption, struct ufd_pager *pager, int ledger_fd)
{
	struct ufd_pager_guest *paged = adoption->paged;
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	int r;

	adoption->are_used = calloc(adoption->opts.n_handles + 1, sizeof(bool));
	if (!adoption->are_used)
		return -ENOMEM;
	r = open_ledger(adoption, pager, ledger_fd, &ledger);
	if (r == 0)
		r = guest_adopt(&paged->guest, ledger);
	if (r < 0)
		return r;
	adoption->ledger = TAKE_PTR(ledger);
	r = adopt_all(adoption);
	if (r == -EBADF && has_ended_meanwhile(paged->guest)) {
		adoption_report(adoption, "Every process of the guest has ended.");
		r = -ESRCH;
	}
	return r;
}

EXPORT int ufd_pager_guest_adopt(struct ufd_pager *pager, struct ufd_pager_guest **ret, int ledger,
				 const struct ufd_pager_adopt_opts *given, int *ret_was_started)
{
	struct adoption adoption = {};
	int r;

	r = opts_load(&adoption.opts, sizeof(adoption.opts), given);
	if (r < 0)
		return r;
	adoption.paged = calloc(1, sizeof(*adoption.paged));
	if (!adoption.paged)
		return -ENOMEM;
	adoption.paged->pager = pager;
	pthread_mutex_init(&adoption.paged->model_lock, NULL);

	r = adopt_into(&adoption, pager, ledger);
	free(adoption.are_used);
	if (r < 0) {
		paged_destroy(adoption.paged);
		return r;
	}
	paged_link(pager, adoption.paged);
	*ret_was_started = adoption.paged->is_started;
	*ret = adoption.paged;
	return 0;
}
