/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source that answers when it is told to. */
#include "support/gate.h"

#include "support/paged-child.h"
#include "support/unit.h"

static void gate_fill(void *buffer, uint64_t offset, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += 4096)
		child_page((offset + at) / 4096, 4096, (char *)buffer + at);
}

static int gate_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		     struct ufd_read *read)
{
	struct gate *gate = userdata;
	int r = UFD_SOURCE_PENDING;

	gate->n_reads++;
	if (gate->error)
		return gate->error;
	pthread_mutex_lock(&gate->lock);
	if (gate->is_open) {
		gate_fill(buffer, offset, length);
		r = UFD_SOURCE_DATA;
	} else {
		ck_assert_uint_lt(gate->n, N_HELD);
		gate->held[gate->n++] = (struct held){ read, buffer, offset, length };
		pthread_cond_broadcast(&gate->changed);
	}
	pthread_mutex_unlock(&gate->lock);
	return r;
}

static int gate_extent(void *userdata, uint64_t offset, uint64_t length, uint64_t *ret_length)
{
	*ret_length = length;
	return ((struct gate *)userdata)->extent;
}

void gate_wait_held(struct gate *gate, unsigned int n)
{
	pthread_mutex_lock(&gate->lock);
	while (gate->n < n)
		pthread_cond_wait(&gate->changed, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

void gate_open(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	gate->is_open = true;
	for (unsigned int i = 0; i < gate->n; i++) {
		gate_fill(gate->held[i].buffer, gate->held[i].offset, gate->held[i].length);
		ufd_read_complete(gate->held[i].read, UFD_SOURCE_DATA);
	}
	gate->n = 0;
	pthread_mutex_unlock(&gate->lock);
}

struct ufd_source *gate_source(struct gate *gate, uint64_t length)
{
	UFD_OPTS(ufd_source_ops, ops, .length = length, .read = gate_read, .extent = gate_extent);
	struct ufd_source *source;

	pthread_mutex_init(&gate->lock, NULL);
	pthread_cond_init(&gate->changed, NULL);
	ck_assert_int_eq(ufd_source_new(&source, &ops, gate), 0);
	return source;
}
