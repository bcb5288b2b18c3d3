/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hazards of a guest's processes. */
#include "dirty/hazards.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/proc-fds.h"
#include "refusal.h"
#include "registry.h"

/* Where the processes of a guest map its memory. */
struct places {
	struct hva_range *ranges; /* owned */
	pid_t *pids;		  /* owned; of each range */
	size_t n;
};

static void places_done(struct places *places)
{
	free(places->ranges);
	free(places->pids);
}

static int find_places(struct registration *registration, struct places *ret,
		       struct refusal *refusal)
{
	struct ufd_pager_guest *guest = registration->paging.guest;
	UFD_OPTS(ufd_mapping_info, info);
	size_t n = 0;

	if (!guest)
		return refusal_set(refusal, "io.ufd.guest.NoSuchGuest",
				   json_pack("{s:s}", "name", registration->paging.name),
				   "guest `%s` has ended", registration->paging.name);
	while (ufd_pager_mapping_info(guest, (uint32_t)n, &info) == 0)
		n++;
	ret->ranges = calloc(n + 1, sizeof(*ret->ranges));
	ret->pids = calloc(n + 1, sizeof(*ret->pids));
	if (!ret->ranges || !ret->pids)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	for (; ret->n < n && ufd_pager_mapping_info(guest, (uint32_t)ret->n, &info) == 0;
	     ret->n++) {
		ret->pids[ret->n] = info.pid;
		ret->ranges[ret->n] = (struct hva_range){ { info.address }, info.length };
	}
	return 0;
}

static const char *lasting_words(uint32_t kind)
{
	switch (kind) {
	case PROC_HAZARD_FIXED_BUFFER:
		return "guest memory is registered with it as buffers, which the kernel writes to "
		       "without a fault";
	case PROC_HAZARD_RDMA:
		return "memory that is registered with it is written to by the network";
	default:
		return "the device behind it writes to memory that it has pinned";
	}
}

static int refuse_lasting(const struct registration *registration, pid_t pid,
			  const struct proc_hazards *found, struct refusal *refusal)
{
	const char *name = registration->paging.name;

	return refusal_set(refusal, "io.ufd.dirty.NotTrackable", json_pack("{s:s}", "name", name),
			   "guest `%s`: process %d has %s open (fd %d): %s, and no "
			   "write-protection sees that. Unplug the device to track the guest",
			   name, pid, found->target, found->fd, lasting_words(found->fd_kind));
}

static const char *brief_words(uint32_t kind)
{
	return kind == PROC_HAZARD_DIRECT_IO ? " with O_DIRECT" : "";
}

/* All ranges of one process, from @first on: they need not lie side by side. */
static int look_at(struct registration *registration, const struct places *places, size_t first,
		   struct hazards *hazards, struct refusal *refusal)
{
	pid_t pid = places->pids[first];
	struct proc_hazards found = {};
	struct hva_range *own;
	size_t n = 0;
	int r;

	own = calloc(places->n, sizeof(*own));
	if (!own)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	for (size_t i = first; i < places->n; i++)
		if (places->pids[i] == pid)
			own[n++] = places->ranges[i];
	r = proc_fds_look(pid, own, n, &found);
	free(own);
	if (r == -ESRCH)
		return 0; /* the engine will say that it has ended */
	if (r < 0) {
		hazards->is_unknown = true;
		snprintf(hazards->words, sizeof(hazards->words),
			 "the open files of process %d cannot be looked at (%s)", pid,
			 strerror(-r));
		return 0;
	}
	if (found.kinds & PROC_HAZARDS_LASTING)
		return refuse_lasting(registration, pid, &found, refusal);
	if (found.kinds && !hazards->kinds)
		snprintf(hazards->words, sizeof(hazards->words), "process %d has %s open%s (fd %d)",
			 pid, found.target, brief_words(found.fd_kind), found.fd);
	hazards->kinds |= found.kinds;
	return 0;
}

int hazards_look(struct registration *registration, struct hazards *ret, struct refusal *refusal)
{
	_cleanup_(places_done) struct places places = {};
	struct hazards hazards = {};
	int r;

	paging_lock(&registration->paging);
	r = find_places(registration, &places, refusal);
	paging_unlock(&registration->paging);
	for (size_t i = 0; r == 0 && i < places.n; i++) {
		bool is_first = true;

		for (size_t j = 0; j < i; j++)
			is_first &= places.pids[j] != places.pids[i];
		if (is_first)
			r = look_at(registration, &places, i, &hazards, refusal);
	}
	if (r == 0)
		*ret = hazards;
	return r;
}
