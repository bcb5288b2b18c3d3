/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What we tell the service manager, and what it gives us. */
#include "service.h"

#include <errno.h>
#include <event2/event.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "log-ids.h"
#include "log.h"

#define MAX_STATUS   512
#define USEC_PER_SEC UINT64_C(1000000)

struct service {
	service_alive_fn is_alive;
	void *userdata;
	struct event *timer; /* owned; NULL if nobody watches us */
};

/* ---- what it gives us ---- */

int service_take_fds(service_take_fn take, void *userdata)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names);
	int r = 0;

	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		int taken = r < 0 ? 0 : take(userdata, names[i], fd);

		if (taken < 0)
			r = taken;
		else if (taken == 0) {
			if (r == 0)
				log_warning(LOG_FIELDS(),
					    "fd %d, named %s, is not ours and is closed", fd,
					    names[i]);
			close(fd);
		}
		free(names[i]);
	}
	free(names);
	return n < 0 ? n : r;
}

/* ---- the watchdog ---- */

static void on_watchdog(evutil_socket_t fd, short what, void *userdata)
{
	struct service *service = userdata;
	const char *guest = NULL;

	if (service->is_alive(service->userdata, &guest)) {
		sd_notify(0, "WATCHDOG=1");
		return;
	}
	log_error(LOG_FIELDS(.guest = guest, .message_id = LOG_ID_HUNG),
		  "a thread that serves a guest does not turn: the watchdog is not fed");
}

static int service_watch(struct service *service, struct event_base *base, uint64_t timeout_us)
{
	uint64_t period_us = timeout_us / 2;
	struct timeval period = {
		.tv_sec = (time_t)(period_us / USEC_PER_SEC),
		.tv_usec = (suseconds_t)(period_us % USEC_PER_SEC),
	};

	service->timer = event_new(base, -1, EV_PERSIST, on_watchdog, service);
	if (!service->timer || event_add(service->timer, &period) < 0)
		return -ENOMEM;
	return 0;
}

int service_new(struct service **ret, struct event_base *base, service_alive_fn is_alive,
		void *userdata)
{
	_cleanup_(service_freep) struct service *service = calloc(1, sizeof(*service));
	uint64_t timeout_us;
	int r;

	if (!service)
		return -ENOMEM;
	service->is_alive = is_alive;
	service->userdata = userdata;
	if (sd_watchdog_enabled(0, &timeout_us) > 0) {
		r = service_watch(service, base, timeout_us);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(service);
	return 0;
}

struct service *service_free(struct service *service)
{
	if (!service)
		return NULL;
	if (service->timer)
		event_free(service->timer);
	free(service);
	return NULL;
}

/* ---- what we tell it ---- */

/* The manager's time runs on when a program takes another one's place: half of it may have passed already. */
void service_ready(void)
{
	sd_notify(0, "READY=1\nWATCHDOG=1");
}

void service_status(const char *format, ...)
{
	char text[MAX_STATUS];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	sd_notifyf(0, "STATUS=%s", text);
}

/* The time is for Type=notify-reload, which wants it; the older managers ignore it. */
void service_reloading(void)
{
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
		   (unsigned long long)(clock_now_ns() / NSEC_PER_USEC));
}

void service_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void service_extend(uint64_t extend_ns)
{
	sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%llu", (unsigned long long)(extend_ns / NSEC_PER_USEC));
}
