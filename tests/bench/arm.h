/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One arm: a memory is made, handed to whoever serves it, touched, and every page that was touched
 * or filled is compared with the image. What comes out is one number.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon.h"
#include "handler.h"
#include "image.h"
#include "ram.h"

/* What all arms share. */
struct bench {
	struct image image;
	struct handler *handler;
	struct bench_daemon *daemon;
	const char *firecracker; /* the program ufdd-firecracker */
	const char *folder;	 /* for sockets and logs */
	int cpus[2];		 /* of the VMM, and another */
	struct ram
		prefilled; /* what rows with the bytes in the backing map; kept from arm to arm */
	uint32_t *order;   /* in which pages are touched */
	uint32_t *latencies_ns;
	uint64_t seed;
};

/* Room for as many touches as an image has pages. @folder is kept. */
void bench_new(struct bench *bench, const char *ufdd, const char *folder, uint64_t image_bytes);

enum arm_server {
	SERVER_HANDLER,
	SERVER_UFDD,
	SERVER_ENGINE, /* of memory that is tracked: libufd-pager in this process */
	SERVER_CALLS,  /* the same: nothing but system calls */
	/* of memory that is handed over as Firecracker does it (handed.h) */
	SERVER_FIRECRACKER, /* ufdd-firecracker */
	SERVER_PLAIN,	    /* one page a fault, from a mapping of the file */
};

enum arm_source { FROM_IMAGE, FROM_BACKING, FROM_ZERO };

enum arm_result {
	RESULT_P50,	/* nanoseconds of a touch */
	RESULT_P99,	/* the same */
	RESULT_WALK,	/* nanoseconds from the first touch to the last */
	RESULT_FILL,	/* nanoseconds until everything is in the backing, without a touch */
	RESULT_FIRST,	/* nanoseconds from the connection to the end of the first touch */
	RESULT_FAULT,	/* median nanoseconds of a touch that had to wait */
	RESULT_HARVEST, /* of memory that is tracked: nanoseconds to learn what was written */
	/* of memory that is saved (saved.h) */
	RESULT_SAVE,	   /* nanoseconds for all of it */
	RESULT_PAUSE,	   /* nanoseconds that the writer stands still */
	RESULT_WRITES_P99, /* nanoseconds of a write meanwhile */
};

enum save_way {
	SAVE_NOT,	   /* it is tracked, and that is all */
	SAVE_STILL,	   /* the writer stands still until everything is copied */
	SAVE_ROUNDS,	   /* live, on a scan context */
	SAVE_BEFORE_WRITE, /* live, on a wp context */
	SAVE_PREAD_WRITE,  /* no engine: into a file of the same kind, in pieces of the same size */
	SAVE_MEMCPY,	   /* no engine: into memory that exists, what the machine can do */
};

struct arm {
	const char *name;
	enum arm_server server;
	enum handler_loop loop; /* of SERVER_HANDLER */
	enum ram_kind kind;
	enum arm_source source;
	enum arm_result result;
	uint64_t length_bytes;
	uint64_t n_touches;
	bool is_sequential;		 /* else in random order */
	bool only_absent;		 /* touch no page that is in the backing already */
	bool has_window, has_background; /* of SERVER_UFDD; the other of SERVER_FIRECRACKER, too */
	unsigned int background_mib_s;
	bool is_sync;	 /* of memory that is tracked: a message a write */
	uint64_t gap_ns; /* between two touches */
	enum save_way way;
	const char *codec; /* of an image: "none", "lz4", "zstd:1" */
};

/* The first @arm->n_touches of a shuffle of all pages, into bench->order; both arms of a round get the same. */
void bench_make_order(struct bench *bench, const struct arm *arm, uint64_t n_pages);

/* Sorts. */
double bench_percentile_ns(uint32_t *latencies_ns, uint64_t n, unsigned int percent);

/* What the arm's touches of @ram, which somebody serves, come to. */
double arm_measure(struct bench *bench, const struct arm *arm, const struct ram *ram);

/* Everything that was promised holds the image's bytes: what was touched, or all of it. */
void arm_verify(const struct bench *bench, const struct arm *arm, const struct ram *ram);

/* With the server on @cpu. */
double arm_run(struct bench *bench, const struct arm *arm, int cpu);
