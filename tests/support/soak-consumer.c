/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A consumer of what a soak guest writes. */
#include "support/soak-consumer.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/pattern.h"
#include "support/soak-board.h"
#include "support/soak-memory.h"
#include "wire/varlink-client.h"

#define CALL_NS	 (10 * NSEC_PER_SEC)
#define RETRY_US 2000
#define PAUSE_US 20000

/* ---- calls ---- */

/* Made again until a daemon answers it. @parameters: consumed. */
static void call(const struct soak_consumer *consumer, const char *method, json_t *parameters,
		 struct varlink_answer *ret)
{
	if (!parameters)
		soak_give_up("out of memory", ENOMEM);
	for (;;) {
		_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
		int r = varlink_client_connect(&client, consumer->socket_path);

		if (r == 0)
			r = varlink_client_call(client, method, parameters, NULL, 0,
						clock_now_ns() + CALL_NS, ret);
		if (r == 0)
			break;
		varlink_answer_done(ret);
		*ret = (struct varlink_answer){};
		usleep(RETRY_US);
	}
	json_decref(parameters);
}

/* Nobody took the guest over, and it was handed over anew: what was told before is void. */
static bool is_forgotten(const struct varlink_answer *answer)
{
	return answer->error &&
	       (strstr(answer->error, ".NoSuchConsumer") || strstr(answer->error, ".NoSuchGuest"));
}

static void complain(const struct soak_consumer *consumer, const struct varlink_answer *answer)
{
	fprintf(stderr, "soak-guest %d: consumer of %s: %s: %s\n", getpid(), consumer->guest,
		answer->error,
		json_string_value(json_object_get(answer->parameters, "message")) ?: "");
	atomic_fetch_add(&consumer->board->n_wrong, 1);
}

/* ---- copying ---- */

static uint64_t number(const json_t *object, const char *field)
{
	return (uint64_t)json_integer_value(json_object_get(object, field));
}

static void copy_range(struct soak_consumer *consumer, uint64_t offset, uint64_t length)
{
	struct iovec to = { consumer->copy + offset, length };
	struct iovec from = { consumer->memory->bytes + offset, length };

	if (offset > consumer->memory->length_bytes ||
	    length > consumer->memory->length_bytes - offset)
		soak_give_up("a dirty range outside of the memory", ERANGE);
	/* by a system call: threads of ours write there meanwhile */
	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)length)
		soak_give_up("a dirty range that cannot be read", errno);
}

static void copy_memory(struct soak_consumer *consumer, const json_t *memory, int fd)
{
	uint64_t base = number(memory, "base_bytes"), at = number(memory, "fd_offset_bytes");
	json_t *ranges = json_object_get(memory, "ranges"), *range;
	size_t i;

	json_array_foreach(ranges, i, range) copy_range(
		consumer, number(range, "offset_bytes") - base, number(range, "length_bytes"));
	for (uint64_t n = number(memory, "n_ranges"); !json_is_array(ranges) && n; n--) {
		uint64_t pair[2];

		if (fd < 0 || pread(fd, pair, sizeof(pair), (off_t)at) != sizeof(pair))
			soak_give_up("dirty ranges that are not there", EIO);
		copy_range(consumer, pair[0] - base, pair[1]);
		at += sizeof(pair);
	}
}

static void copy_all(struct soak_consumer *consumer, const struct varlink_answer *answer)
{
	const json_t *fd = json_object_get(answer->parameters, "fd");
	json_t *memories = json_object_get(answer->parameters, "memories"), *memory;
	size_t i, index = (size_t)json_integer_value(fd);

	json_array_foreach(memories, i, memory)
		copy_memory(consumer, memory,
			    json_is_integer(fd) && index < answer->n_fds ? answer->fds[index] : -1);
	consumer->epoch = number(answer->parameters, "epoch");
	atomic_fetch_add(&consumer->board->n_epochs, 1);
}

static void read_epoch(struct soak_consumer *consumer)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	call(consumer, "io.ufd.dirty.Read",
	     json_pack("{s:s,s:s,s:I}", "name", consumer->guest, "consumer", "soak", "acknowledge",
		       (json_int_t)consumer->epoch),
	     &answer);
	if (is_forgotten(&answer))
		consumer->is_lost = true;
	else if (answer.error)
		complain(consumer, &answer);
	else
		copy_all(consumer, &answer);
}

/* ---- a round ---- */

static void *consumer_main(void *userdata)
{
	struct soak_consumer *consumer = userdata;

	while (!atomic_load(&consumer->must_end) && !consumer->is_lost) {
		read_epoch(consumer);
		usleep(PAUSE_US);
	}
	return NULL;
}

/* As the image has it. */
static char *first_copy(const struct soak_memory *memory)
{
	char *copy = malloc(memory->length_bytes);

	if (!copy)
		soak_give_up("out of memory", ENOMEM);
	for (uint64_t i = 0; i < memory->length_bytes / PATTERN_BLOCK_BYTES; i++)
		pattern_write(copy + i * PATTERN_BLOCK_BYTES, memory->seed, memory->first_block + i,
			      0);
	return copy;
}

void soak_consumer_start(struct soak_consumer *consumer, const char *guest, const char *socket_path,
			 struct soak_guest *board, const struct soak_memory *memory)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};

	*consumer = (struct soak_consumer){ .guest = guest,
					    .socket_path = socket_path,
					    .board = board,
					    .memory = memory,
					    .copy = first_copy(memory) };
	call(consumer, "io.ufd.dirty.Start",
	     json_pack("{s:s,s:s,s:s}", "name", guest, "consumer", "soak", "quiesce", "never"),
	     &answer);
	if (is_forgotten(&answer))
		consumer->is_lost = true;
	else if (answer.error && !strstr(answer.error, ".ConsumerExists"))
		complain(consumer, &answer);
	if (pthread_create(&consumer->thread, NULL, consumer_main, consumer))
		soak_give_up("thread", EAGAIN);
}

void soak_consumer_end(struct soak_consumer *consumer)
{
	const struct soak_memory *memory = consumer->memory;

	atomic_store(&consumer->must_end, true);
	pthread_join(consumer->thread, NULL);
	if (!consumer->is_lost)
		read_epoch(consumer);
	for (uint64_t page = 0; page < memory->n_pages && !consumer->is_lost; page++) {
		if (!soak_memory_is_copy_right(memory, page,
					       consumer->copy + page * memory->page_bytes))
			atomic_fetch_add(&consumer->board->n_wrong, 1);
		atomic_fetch_add(&consumer->board->n_copied, 1);
	}
	free(consumer->copy);
	consumer->copy = NULL;
}
