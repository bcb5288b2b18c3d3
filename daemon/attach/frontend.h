/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Front ends of other people's making: how a VMM that knows nothing of ufd hands its memory over. One
 * file a dialect; ufd-handoff(7) says what each looks like on the wire.
 *
 * A dialect only reads: bytes and fds that came on a connection become an offer. Listening, deadlines,
 * the proof that the userfaultfd is the peer's, the answer and what the connection's end means are the
 * same for all (handoff/).
 *
 * Context of all: any; no I/O, no fd is closed here.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"

struct plan;
struct refusal;

/* What one hand-over may have; more is refused. */
#define FRONTEND_MAX_BYTES   (64 * KIB)
#define FRONTEND_MAX_REGIONS 64
#define FRONTEND_MAX_FDS     16

/* What has come so far, from the first byte of the message. Borrowed. */
struct frontend_input {
	const char *bytes;
	size_t n_bytes;
	const int *fds; /* in the order in which they came */
	size_t n_fds;
	bool is_ended; /* nothing more can come */
};

/* Readable. */
struct frontend_region {
	uint64_t address; /* in the VMM */
	uint64_t length_bytes;
	uint64_t page_bytes;   /* of the mapping */
	uint64_t offset_bytes; /* of its first byte in the memory, and so in the source */
};

/* Readable; what a whole message says. */
struct frontend_offer {
	struct frontend_region regions[FRONTEND_MAX_REGIONS];
	size_t n_regions;
	size_t n_bytes; /* of the input that the message took */
	int uffd;	/* index of the fd; -1: none, the one that came before is meant */
	int backing;	/* index of the file that all regions map shared; -1: anonymous memory */
	bool is_backing_unsaid; /* with -1: they may map a file shared after all; its maps tell */
	uint32_t modes;	   /* enum uffd_mode, what the VMM says it registered; 0: it does not say */
	pid_t claimed_pid; /* 0: it does not say */
	char version[48];  /* which of the dialect's versions speak so, for the log */
};

/*
 * What a look at the input says, beside -ECANCELED with a refusal. Never FRONTEND_MORE when the input
 * is ended.
 */
enum frontend_verdict {
	FRONTEND_WHOLE = 0, /* @ret is filled in */
	FRONTEND_MORE,	    /* a beginning, or nothing yet */
	FRONTEND_OTHER,	    /* another dialect */
};

/* What the end of the connection means. */
enum frontend_end {
	FRONTEND_END_LOOK,     /* the VMM may have ended: look at its pidfd. Or nothing at all */
	FRONTEND_END_REATTACH, /* it will connect again, with the same userfaultfd */
};

struct frontend {
	const char *name; /* as --dialect says it */

	/*
	 * Called with all that came whenever something came. io.ufd.handoff.BadMessage for what no
	 * version says, io.ufd.handoff.UnsupportedDialect (with `dialect`) for what is recognised and
	 * not spoken. It looks at every byte, each time.
	 */
	int (*read)(const struct frontend_input *input, struct frontend_offer *ret,
		    struct refusal *refusal);

	const char *ack; /* sent when it is served; NULL: nothing is */
	size_t n_ack;
	enum frontend_end end;
	bool has_more;	      /* memory that is added later comes on the same connection */
	bool is_experimental; /* only where a setting allows it */
};

extern const struct frontend frontend_firecracker;
extern const struct frontend frontend_cloud_hypervisor_uffd;

/* By name; NULL if there is none. */
const struct frontend *frontend_find(const char *name);

/**
 * frontend_recognise() - whose message is this
 *
 * Return: FRONTEND_WHOLE or FRONTEND_MORE with *ret set, FRONTEND_MORE with *ret NULL (too little to
 *	   tell), or -ECANCELED: BadMessage, UnsupportedDialect.
 */
int frontend_recognise(const struct frontend_input *input, const struct frontend **ret,
		       struct frontend_offer *offer, struct refusal *refusal);

/**
 * frontend_plan() - what is to be attached
 * @offer: checked for overlaps and alignment here, not against the process
 * @spec:  of the source, indexed as the memory is; borrowed
 *
 * One memory, `memory`, with a mapping a region: so its dirty pages and its file count alike. Should
 * regions differ in their pages, those of another size are a memory of their own, `memory-2048K`.
 * Return: 0 with @ret for plan_done(), or -ECANCELED with io.ufd.guest.BadRegion, BadFd (of the file).
 */
int frontend_plan(const struct frontend_offer *offer, const struct frontend_input *input,
		  const char *spec, int source_fd, struct plan *ret, struct refusal *refusal);
