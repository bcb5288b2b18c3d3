/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hand-offs: sockets at which VMMs leave their memory, each with a dialect and a source.
 *
 *	listener   a path (or a socket of the service manager), what is served there, how often
 *	visitor    a connection whose message is not whole yet; has a deadline
 *	guest	   a registration like any other; its connection is kept as long as the VMM keeps it
 *
 * A listener outlives us as guests do: its description and its socket lie in the store, so that who
 * connects meanwhile waits in its backlog. With a directory only, the description does, and the socket
 * is bound anew: who connects between the two is refused by the kernel. A visitor does not outlive
 * us: the VMM holds the userfaultfd, and nothing was promised to it yet. Nor does a guest's connection:
 * in all dialects its end means nothing, or that the VMM connects again with what we have already.
 *
 * Context of all, unless said otherwise: loop.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "handoff/wish.h"

struct config;
struct event_base;
struct handoffs;
struct job;
struct jobs;
struct listener;
struct refusal;
struct registry;
struct store;

/* How long a visitor may take for its message, and how many may be at it. */
#define HANDOFF_MESSAGE_SECONDS 5
#define HANDOFF_MAX_VISITORS	16 /* a listener */
#define HANDOFF_MAX_LISTENERS	64

/* ---- dialects that are conversations ---- */

/* Who connected, and to what end. Readable; everything is borrowed until run() returns. */
struct handoff_visit {
	int connection; /* a stream, O_NONBLOCK: poll() it with the job's deadline; not to be closed */
	pid_t pid;	/* the peer as it connected, */
	int pidfd;	/* which this names */
	uid_t uid;
	gid_t gid;
	const struct handoff_wish *wish; /* of the listener */
	const char *name; /* what the wish's `name` is for this visitor, its `%` replaced */
};

/*
 * A dialect that is no message but a conversation gets the connection as it was accepted, on a thread of
 * its own. What it refuses is told in the listener's name, and counted; so is what it has done.
 */
struct handoff_speaker {
	const char *dialect; /* as --dialect says it */
	uint64_t timeout_ns; /* for all of run(); 0: none */

	/*
	 * Is the wish one that can be served? Before it becomes a listener; NULL: any.
	 * Context: loop. Return: 0, or -ECANCELED: io.ufd.guest.BadSource, BadDialect.
	 */
	int (*check)(const struct handoff_wish *wish, struct refusal *refusal);

	/*
	 * Looks at job_is_cancelled() and job_deadline_ns() where it waits. One line of what was done
	 * into @said, for the log.
	 * Context: job; blocks. Return: 0, -ECANCELED with @refusal set, other -errno.
	 */
	int (*run)(struct job *job, const struct handoff_visit *visit, char *said, size_t n_said,
		   struct refusal *refusal);
};

/* ---- listeners ---- */

/* What listeners need. Borrowed; outlives them. */
struct handoffs_needs {
	const struct config *config;
	struct event_base *base;
	struct jobs *jobs;
	struct registry *registry;
	struct store *store;
	const struct handoff_speaker *const *speakers; /* NULL ends them; NULL: none */
};

int handoffs_new(struct handoffs **ret, const struct handoffs_needs *needs);

/*
 * Nobody is let in any more, and who has not arrived is let go. Before jobs_free(), after which nothing but
 * handoffs_free() may follow. Sockets stay where the store keeps them, or their description does.
 */
void handoffs_stop(struct handoffs *handoffs);
struct handoffs *handoffs_free(struct handoffs *handoffs);
DEFINE_CLEANUP(struct handoffs, handoffs_free)

/*
 * A listener comes into being in three steps, the second of which waits for others:
 *
 *	handoff_begin()	  is the wish one, and is its path free here; the path is taken from now on
 *	handoff_open()	  the socket, and its place in the store
 *	handoff_commit()  it listens; or
 *	handoff_abandon() it does not come after all
 */

/* @wish: copied. @socket: a listening one at the path, duplicated; -EBADF: none. Return: 0; -ECANCELED: io.ufd.handoff.Exists, BadPath, BadDialect,
 * io.ufd.guest.BadSource, io.ufd.manager.LimitReached, org.varlink.service.InvalidParameter. */
int handoff_begin(struct handoffs *handoffs, const struct handoff_wish *wish, int socket,
		  struct listener **ret, struct refusal *refusal);

/* Context: job; blocks. Return: 0; -ECANCELED: BadPath, SystemError. */
int handoff_open(struct listener *listener, struct refusal *refusal);
int handoff_commit(struct listener *listener, struct refusal *refusal);
void handoff_abandon(struct listener *listener);

/* By its path. NULL if there is none. Borrowed. */
const struct handoff_wish *handoff_find(const struct handoffs *handoffs, const char *path);

/* Its guests stay. Return: 0; -ECANCELED: io.ufd.handoff.NoSuchHandoff. */
int handoff_remove(struct handoffs *handoffs, const char *path, struct refusal *refusal);

/* Owned: an object, or an array of them: Handoff of the interface. */
json_t *handoff_json(const struct listener *listener);
json_t *handoffs_json(const struct handoffs *handoffs);

/*
 * A socket of a unit: `handoff-NAME` as the service manager calls it, which the configuration describes.
 * Return: true if it is one by its name; consumed then.
 */
#define HANDOFF_UNIT_PREFIX "handoff-"
bool handoff_offer(struct handoffs *handoffs, const char *name, int fd);

/* Listeners that a former process left. Context: main, before the loop runs; blocks. */
void handoffs_adopt(struct handoffs *handoffs);

/* Why nobody is let in meanwhile: who connects waits in the backlog. */
enum handoffs_pause {
	HANDOFFS_DRAINING = 1 << 0,
	HANDOFFS_UPGRADING = 1 << 1,
};
void handoffs_pause(struct handoffs *handoffs, enum handoffs_pause why, bool is_paused);

/* Is there a visitor? What it said would be lost with us. */
bool handoffs_are_busy(const struct handoffs *handoffs);

/* The sockets of units, for a successor that is exec()ed. @ret: HANDOFF_MAX_LISTENERS; borrowed. */
struct upgrade_fd;
size_t handoffs_fds(const struct handoffs *handoffs, struct upgrade_fd *ret);
