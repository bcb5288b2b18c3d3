/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The arm that counts: the real ufdd, to which memory is handed over by libufd. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct image;
struct ram;

struct bench_daemon;

/* How a guest is served. */
struct service {
	int cpu;	 /* of the demand thread */
	bool is_minor;	 /* the bytes are in the backing; else in the image */
	bool is_zero;	 /* there are none: zeros */
	bool has_window; /* the default one; else none */
	bool has_background;
	unsigned int background_mib_s; /* 0: no limit */
};

/* Starts the program @path, and waits until it listens on a socket in @folder. Ends with this process. */
struct bench_daemon *bench_daemon_new(const char *path, const char *folder);

/* Hand @ram over; when it returns, faults are served. */
void bench_daemon_attach(struct bench_daemon *daemon, const struct ram *ram,
			 const struct image *image, const struct service *service);

/* Fill what is absent, and end paging. */
void bench_daemon_detach(struct bench_daemon *daemon);
