/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU of a toy guest: a thread that writes to one page after the other, and stands still when it is told to. */
#pragma once

#include <stdint.h>

struct ram;
struct writer;

struct writer_opts {
	const struct ram *ram;
	const uint32_t *order; /* pages, in which order; then from the beginning again */
	uint64_t n_order;
	uint64_t gap_ns;	/* from the end of a write to the next; it is awake meanwhile */
	uint32_t *latencies_ns; /* of its first writes; NULL: nobody wants to know */
	uint64_t n_latencies;	/* so many, then it stops */
	int cpu;
};

/* All borrowed until writer_stop(). */
struct writer *writer_start(const struct writer_opts *opts);

/* How much it wrote; frees it. It goes on first, if it stands still. */
uint64_t writer_stop(struct writer *writer);

/* It has written so often, or has stopped; polls. Return: how often it has. */
uint64_t writer_await(struct writer *writer, uint64_t n_writes);

/* When it returns no write is under way. Return: how often it has written. */
uint64_t writer_pause(struct writer *writer);
void writer_resume(struct writer *writer);

/* What it does to a page; twice is as if it were never done. */
void writer_toggle(const struct ram *ram, uint64_t page);
