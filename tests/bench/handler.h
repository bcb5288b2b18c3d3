/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handler to compare with: a process of its own, forked before this one maps any memory that
 * is paged, so that they share nothing but the userfaultfd and the saved memory's page cache.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct image;
struct ram;

enum handler_loop {
	/* the barest loops there are: poll, read one message, one ioctl for one page */
	LOOP_RAW_COPY,	   /* COPY straight from a mapping of the saved memory */
	LOOP_RAW_CONTINUE, /* the bytes are in the backing */
	LOOP_RAW_ZERO,	   /* ZEROPAGE */
	LOOP_RAW_READ,	   /* pread() into a buffer, COPY from there */
	/* what a VMM's example handler does: drain the queue one message at a time, COPY 4 KiB */
	LOOP_PLAIN,
	/* fill everything, in pieces of 256 KiB; faults are not looked at */
	LOOP_BULK_COPY, /* COPY straight from the mapping */
	LOOP_BULK_READ, /* pread() into a buffer, COPY from there */
	/* what the machine itself can do */
	LOOP_PING_PONG, /* a byte by a pipe, and back by another */
	LOOP_MEMCPY,	/* 64 MiB, warm to warm */
};

struct handler;

/* Starts the process; it knows @image. Ends with this process. */
struct handler *handler_new(const struct image *image);
pid_t handler_pid(const struct handler *handler);

/*
 * Hand @ram over: a userfaultfd with what @loop needs and no more, registered. From then on faults
 * are served on @cpu.
 */
void handler_attach(struct handler *handler, enum handler_loop loop, const struct ram *ram,
		    int cpu);

/* End the loop, and the registration: pages that are absent read zero from then on. */
void handler_detach(struct handler *handler);

/* The median round trip, with the other end on @cpu. */
double handler_ping_pong_ns(struct handler *handler, unsigned int n, int cpu);

/* The time of 64 MiB on @cpu. */
double handler_memcpy_ns(struct handler *handler, int cpu);
