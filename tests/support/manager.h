/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A service manager for tests: it starts ufdd, hears what it says on $NOTIFY_SOCKET, keeps the fds
 * that it is given, and gives them to the next ufdd, as systemd does: the socket first, then what
 * was stored, in reverse order of storing.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

struct manager_fd {
	char name[64];
	int fd;
};

/* Readable; change the first group before manager_start(). */
struct manager {
	const char *store_max; /* FileDescriptorStoreMax, told by UFD_FDSTORE_MAX; NULL: no store */
	const char *state_dir; /* NULL: none */
	rlim_t n_files;	       /* RLIMIT_NOFILE, soft and hard; 0: as here */
	bool is_deaf;	       /* does not answer barriers */
	const char *option;    /* one more of the command line; NULL: none */
	bool has_no_socket;    /* passes none: ufdd listens where $UFD_SOCKET says */

	char folder[64];
	char socket[96];
	pid_t pid;

	/* under lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct manager_fd *fds;
	size_t n_fds;
	unsigned int n_stored; /* messages with FDSTORE=1 */
	unsigned int n_polled; /* of those without FDPOLL=0 */
	unsigned int n_ready;
	char status[128];

	/* private */
	char notify[96];
	int listener, notify_fd, stop_fd;
	pthread_t thread;
};

/* A folder, the sockets, the thread that listens. Fails the test if it cannot. */
void manager_init(struct manager *manager);
void manager_done(struct manager *manager);

/* Start ufdd, and return when it is ready; or at once. */
void manager_start(struct manager *manager);
void manager_start_only(struct manager *manager);
void manager_await_ready(struct manager *manager, unsigned int n_ready);

void manager_kill(struct manager *manager);

/* SIGTERM. Return: the wait status. */
int manager_stop(struct manager *manager);

/* Is there an fd of this name? */
bool manager_has(struct manager *manager, const char *name);
/* How many there are. */
size_t manager_n_fds(struct manager *manager);
/* Wait until it is forgotten: the daemon says so without waiting. */
void manager_await_lack(struct manager *manager, const char *name);
/* Forget one, as if it had never been stored. */
void manager_forget(struct manager *manager, const char *name);
/* What the daemon has written so far; owned by the caller. */
char *manager_log(struct manager *manager);
