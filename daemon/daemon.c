/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The composition root: the loop, and who is wired to whom.
 *
 *	control  --calls-->  registry  --engine calls-->  libufd-pager
 *	   ^                    |
 *	   '------- events -----'
 */
#include "daemon.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adopt.h"
#include "base/clock.h"
#include "base/units.h"
#include "control/control.h"
#include "control/methods-upgrade.h"
#include "control/server.h"
#include "control/watch.h"
#include "ending.h"
#include "handoff/handoff.h"
#include "job.h"
#include "keeping.h"
#include "log-ids.h"
#include "log.h"
#include "offload/offloads.h"
#include "offload/receive.h"
#include "options.h"
#include "probing.h"
#include "registry.h"
#include "service.h"
#include "snapshots/abort.h"
#include "snapshots/stranger.h"
#include "store/admission.h"
#include "store/store.h"
#include "upgrade/reexec.h"
#include "upgrade/release.h"
#include "upgrade/upgrade.h"

#define N_SIGNALS      3
#define STATUS_SECONDS 5
#define EXTEND_NS      (3 * STATUS_SECONDS * NSEC_PER_SEC)
#define WIDE_FDS       16384 /* 16 for each of 1,024 guests: 130 KiB of the kernel's memory */

struct daemon {
	const struct options *options;
	struct config config;
	struct event_base *base;	  /* owned */
	struct event *signals[N_SIGNALS]; /* owned */
	struct event *status_timer;	  /* owned */
	struct jobs *jobs;		  /* owned */
	struct registry *registry;	  /* owned */
	struct keeping *keeping;	  /* owned */
	struct ending ending;
	struct adopted adopted;
	uint64_t started_ns;
	struct control *control;   /* owned */
	struct handoffs *handoffs; /* owned */
	struct offloads *offloads; /* owned */
	struct service *service;   /* owned */
	struct upgrade *upgrade;   /* owned; which program we are */
	bool has_sockets;	   /* from the service manager */
	bool is_stopping;
};

/* ---- what happens ---- */

static void apply_log(const struct config *config)
{
	log_set_level(config->log_level);
	log_set_switches(config->debug);
	log_set_prefix(config->log_prefix);
}

static void on_event(void *userdata, const struct registry_event *event)
{
	struct daemon *daemon = userdata;

	watch_tell(daemon->control->watch,
		   json_pack("{s:I, s:s, s:s, s:s*, s:I, s:s}", "time_ns",
			     (json_int_t)event->time_ns, "kind", event->kind, "guest", event->guest,
			     "memory", event->memory, "offset_bytes",
			     (json_int_t)event->offset_bytes, "message", event->message));
}

static void on_drained(void *userdata, size_t n_left)
{
	struct daemon *daemon = userdata;

	if (n_left)
		log_warning(LOG_FIELDS(), "%zu guests could not be filled in time", n_left);
	event_base_loopbreak(daemon->base); /* unlike an exit it needs no memory */
}

/*
 * Nobody may lose bytes by our end: who would not merely wait for a successor is filled first. With a
 * copy of the userfaultfd in every process there is nobody like that, and we go at once.
 */
static void on_stop(evutil_socket_t signal, short what, void *userdata)
{
	struct daemon *daemon = userdata;

	if (daemon->is_stopping)
		return;
	daemon->is_stopping = true;
	log_info(LOG_FIELDS(), "stopping: guests that would lose bytes are filled first");
	handoffs_stop(daemon->handoffs);
	service_stopping();
	service_extend(EXTEND_NS);
	service_status("filling the absent pages of guests that cannot wait");
	ending_drain(daemon->registry, &daemon->ending);
}

static void on_reload(evutil_socket_t signal, short what, void *userdata)
{
	struct daemon *daemon = userdata;
	struct config config;

	service_reloading();
	if (options_load_config(daemon->options, &config) == 0) {
		daemon->config = config;
		apply_log(&config);
		log_info(LOG_FIELDS(), "configuration read again");
	}
	service_ready();
}

static void on_status(evutil_socket_t fd, short what, void *userdata)
{
	struct daemon *daemon = userdata;
	struct registry_totals totals = registry_totals(daemon->registry);

	if (daemon->is_stopping)
		service_extend(EXTEND_NS);
	else
		service_status("serving %llu guests, %llu memories, %llu faults so far",
			       (unsigned long long)totals.n_guests,
			       (unsigned long long)totals.n_memories,
			       (unsigned long long)totals.n_faults);
}

/* ---- start and end ---- */

static int open_store(struct daemon *daemon)
{
	const struct options *options = daemon->options;
	const char *path = daemon->config.state_dir;
	int r = keeping_new(&daemon->keeping, daemon->registry, path);

	if (r == -EMEDIUMTYPE && options->is_user && !options->state_dir) {
		log_warning(LOG_FIELDS(), "%s is not on a tmpfs: guests do not outlive ufdd", path);
		r = keeping_new(&daemon->keeping, daemon->registry, NULL);
	}
	switch (r) {
	case 0:
		return 0;
	case -EMEDIUMTYPE:
		log_error(
			LOG_FIELDS(),
			"the state directory %s is not on a tmpfs: what is kept there is of no use "
			"after a reboot, and must not wait for a disk; take one below /run",
			path);
		break;
	case -EPERM:
		log_error(LOG_FIELDS(),
			  "the state directory %s is another user's, or everybody may write to it",
			  path);
		break;
	case -EBUSY:
		log_error(LOG_FIELDS(), "another ufdd uses the state directory %s", path);
		break;
	default:
		log_error(LOG_FIELDS(.error = r), "the state directory %s cannot be used", path);
	}
	return r;
}

/* See service_take_fds(). */
static int on_fd(void *userdata, const char *name, int fd)
{
	struct daemon *daemon = userdata;
	int r;

	if (upgrade_offer(daemon->upgrade, name, fd) ||
	    store_offer(keeping_store(daemon->keeping), name, fd) ||
	    handoff_offer(daemon->handoffs, name, fd) || offloads_offer(daemon->offloads, name, fd))
		return 1;
	if (strcmp(name, "own-lock") == 0) {
		server_keep_lock(daemon->control->server, fd);
		return 1;
	}
	if (strcmp(name, "varlink") != 0)
		return 0;
	r = server_listen(daemon->control->server, fd);
	if (r < 0)
		return r;
	daemon->has_sockets = true;
	return 1;
}

/* Guests that a former process left are served before anybody is told that we are there. */
static int daemon_adopt(struct daemon *daemon)
{
	struct adopted *adopted = &daemon->adopted;
	int r;

	r = adopt_all(keeping_store(daemon->keeping), daemon->registry, daemon->keeping, adopted);
	if (r < 0) {
		log_error(LOG_FIELDS(.error = r), "the guests that were left cannot be adopted");
		return r;
	}
	daemon->control->n_adopted = adopted->n_served;
	daemon->control->adopted_ns = clock_now_ns() - daemon->started_ns;
	if (adopted->n_served || adopted->n_left || adopted->n_dropped)
		log_info(LOG_FIELDS(.message_id = LOG_ID_ADOPTED),
			 "%zu guests are served again after %llu us, %zu are dropped, %zu are left "
			 "as they are",
			 adopted->n_served,
			 (unsigned long long)(daemon->control->adopted_ns / NSEC_PER_USEC),
			 adopted->n_dropped, adopted->n_left);
	snapshot_abort_adopted(daemon->registry);
	strangers_adopt(daemon->jobs, store_directory(keeping_store(daemon->keeping)));
	return 0;
}

static int daemon_listen(struct daemon *daemon)
{
	int r;

	if (daemon->has_sockets)
		return 0;
	r = server_listen_path(daemon->control->server, daemon->config.socket);
	if (r == -EADDRINUSE)
		log_error(LOG_FIELDS(), "another ufdd listens on %s", daemon->config.socket);
	else if (r < 0)
		log_error(LOG_FIELDS(.error = r), "cannot listen on %s", daemon->config.socket);
	return r;
}

/* Sockets, guests, and what a program before us left. */
static int daemon_take_over(struct daemon *daemon)
{
	int r = service_take_fds(on_fd, daemon);

	if (r < 0) {
		log_error(LOG_FIELDS(.error = r), "the activated sockets cannot be used");
		return r;
	}
	upgrade_settle(daemon->upgrade, keeping_store(daemon->keeping));
	store_set_min_reader(keeping_store(daemon->keeping), upgrade_min_reader(daemon->upgrade));
	r = daemon_adopt(daemon);
	if (r < 0)
		return r;
	handoffs_adopt(daemon->handoffs);
	offloads_adopt(daemon->offloads);
	return daemon_listen(daemon);
}

static int daemon_add_signals(struct daemon *daemon)
{
	static const struct {
		int signal;
		event_callback_fn on_signal;
	} table[N_SIGNALS] = {
		{ SIGTERM, on_stop },
		{ SIGINT, on_stop },
		{ SIGHUP, on_reload },
	};

	for (size_t i = 0; i < N_SIGNALS; i++) {
		daemon->signals[i] = evsignal_new(daemon->base, table[i].signal, table[i].on_signal,
						  daemon);
		if (!daemon->signals[i] || event_add(daemon->signals[i], NULL) < 0)
			return -ENOMEM;
	}
	reexec_unblock_signals();
	return 0;
}

/* epoll, for it alone tells of a client that goes away without reading what it sent. */
static struct event_base *base_new(void)
{
	struct event_config *settings = event_config_new();
	struct event_base *base = NULL;

	if (settings && event_config_require_features(settings, EV_FEATURE_EARLY_CLOSE) == 0)
		base = event_base_new_with_config(settings);
	if (settings)
		event_config_free(settings);
	return base;
}

/* Every thread that serves, and the loop, for it calls this. */
static int is_alive(void *userdata, const char **ret_guest)
{
	struct daemon *daemon = userdata;

	return ufd_pager_is_alive(registry_engine(daemon->registry)->pager, ret_guest);
}

static int daemon_wire(struct daemon *daemon)
{
	static const struct handoff_speaker *const speakers[] = { &offload_receiver, NULL };
	const struct timeval period = { .tv_sec = STATUS_SECONDS };
	int r;

	daemon->base = base_new();
	if (!daemon->base)
		return -ENOMEM;
	r = jobs_new(&daemon->jobs, daemon->base, (unsigned int)daemon->config.n_jobs);
	if (r < 0)
		return r;
	r = registry_new(&daemon->registry, daemon->base, daemon->config.n_guests);
	if (r < 0)
		return r;
	r = open_store(daemon);
	if (r < 0)
		return r;
	r = control_new(&daemon->control, daemon->base, &daemon->config, daemon->jobs,
			daemon->registry);
	if (r < 0)
		return r;
	r = handoffs_new(&daemon->handoffs, &(struct handoffs_needs){
						    .config = &daemon->config,
						    .base = daemon->base,
						    .jobs = daemon->jobs,
						    .registry = daemon->registry,
						    .store = keeping_store(daemon->keeping),
						    .speakers = speakers,
					    });
	if (r < 0)
		return r;
	r = offloads_new(&daemon->offloads, daemon->base);
	if (r < 0)
		return r;
	daemon->control->handoffs = daemon->handoffs;
	daemon->control->offloads = daemon->offloads;
	daemon->control->upgrade = daemon->upgrade;
	daemon->control->store = keeping_store(daemon->keeping);
	daemon->ending = (struct ending){
		.may_leave = keeping_may_leave,
		.keeping = daemon->keeping,
		.done = on_drained,
		.timeout_ns = daemon->config.stop_timeout_s * NSEC_PER_SEC,
		.userdata = daemon,
	};
	registry_set_listener(daemon->registry, on_event, daemon);
	daemon->status_timer = event_new(daemon->base, -1, EV_PERSIST, on_status, daemon);
	if (!daemon->status_timer || event_add(daemon->status_timer, &period) < 0)
		return -ENOMEM;
	r = service_new(&daemon->service, daemon->base, is_alive, daemon);
	if (r < 0)
		return r;
	return daemon_add_signals(daemon);
}

/*
 * The kernel doubles a table of file descriptors that is full, from 64 on, and where threads share it
 * the fd that did not fit waits for an RCU grace period: some 10 ms, in the middle of a recovery that
 * guests wait for. While we are alone it waits for nothing.
 */
static void widen_fd_table(void)
{
	rlim_t last = WIDE_FDS - 1;
	struct rlimit limit;
	int fd;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur && limit.rlim_cur <= last)
		last = limit.rlim_cur - 1;
	fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, (int)last);
	if (fd >= 0)
		close(fd);
}

int daemon_new(struct daemon **ret, const struct options *options, const struct config *config)
{
	_cleanup_(daemon_freep) struct daemon *daemon = calloc(1, sizeof(*daemon));
	int r;

	if (!daemon)
		return -ENOMEM;
	daemon->started_ns = clock_now_ns();
	daemon->options = options;
	daemon->config = *config;
	apply_log(config);
	admission_raise_limits();
	widen_fd_table(); /* before there are threads */
	signal(SIGPIPE, SIG_IGN);
	r = upgrade_new(&daemon->upgrade);
	if (r < 0)
		return r;
	r = daemon_wire(daemon);
	if (r < 0) {
		log_error(LOG_FIELDS(.error = r), "cannot start%s",
			  r == -ENOSYS ? ": this kernel has no userfaultfd or no io_uring" : "");
		return r;
	}
	r = daemon_take_over(daemon);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(daemon);
	return 0;
}

/* Return: 0; -EBUSY if some guests are neither filled nor fit to be left. */
static int daemon_leave(struct daemon *daemon)
{
	size_t n_left = ending_leave(daemon->registry, &daemon->ending,
				     keeping_store(daemon->keeping));

	if (n_left)
		log_error(LOG_FIELDS(),
			  "%zu guests still have absent pages: they are left as they are, and wait",
			  n_left);
	return n_left ? -EBUSY : 0;
}

int daemon_run(struct daemon *daemon)
{
	log_info(LOG_FIELDS(), "ufdd %s is ready", release_version);
	service_status("serving no guests");
	service_ready();
	upgrade_report(daemon->control);
	probing_start(daemon->base, daemon->jobs);
	if (event_base_dispatch(daemon->base) < 0)
		return -EIO;
	return daemon_leave(daemon);
}

struct daemon *daemon_free(struct daemon *daemon)
{
	if (!daemon)
		return NULL;
	handoffs_stop(daemon->handoffs);
	jobs_free(daemon->jobs);
	if (daemon->registry) {
		registry_set_listener(daemon->registry, NULL, NULL);
		registry_stop(daemon->registry);
	}
	control_free(daemon->control);
	offloads_free(daemon->offloads);
	handoffs_free(daemon->handoffs);
	registry_free(daemon->registry);
	keeping_free(daemon->keeping);
	for (size_t i = 0; i < N_SIGNALS; i++)
		if (daemon->signals[i])
			event_free(daemon->signals[i]);
	service_free(daemon->service);
	upgrade_free(daemon->upgrade);
	if (daemon->status_timer)
		event_free(daemon->status_timer);
	if (daemon->base)
		event_base_free(daemon->base);
	free(daemon);
	return NULL;
}
