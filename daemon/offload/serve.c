/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests, pages and answers of one fault connection; see delivery.h for why each step is where it is. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "offload/delivery.h"
#include "refusal.h"

#define REQUEST_BYTES (2 * CH_HEAD_BYTES)
#define AHEAD_BYTES   (256 * KIB) /* of files, while nobody waits: most faults come in sequence */
#define AHEAD_PIECE   (64 * KIB)
#define RETRY_MS      500

struct serving {
	struct delivery *delivery;
	void (*report)(const struct delivery *delivery, int error);
	bool is_told; /* that bytes cannot be had */
	/* What is filled ahead. */
	size_t ahead_index;
	uint64_t ahead_at, ahead_end;
};

enum { ENDED = 1 };

static size_t bytes_in(int pipe)
{
	int n = 0;

	return ioctl(pipe, FIONREAD, &n) == 0 && n > 0 ? (size_t)n : 0;
}

static void empty(int pipe)
{
	char bytes[4096];

	while (read(pipe, bytes, sizeof(bytes)) > 0)
		;
}

static bool is_page_aligned(const struct ch_range *range)
{
	return range->length_bytes > 0 && range->length_bytes <= CH_MAX_FAULT &&
	       (range->address | range->length_bytes) % CH_PAGE_BYTES == 0;
}

/* ---- pages ---- */

/* The rest of a page that the guest gave back: zeros, and it exists. */
static int put_zeros(int memory, uint64_t offset, uint64_t n_bytes)
{
	static const char zeros[CH_PAGE_BYTES];

	for (uint64_t at = 0; at < n_bytes; at += sizeof(zeros))
		if (pwrite(memory, zeros, sizeof(zeros), (off_t)(offset + at)) !=
		    (ssize_t)sizeof(zeros))
			return -ENOSPC;
	return 0;
}

static int put_bytes(int memory, uint64_t offset, int source, uint64_t source_offset,
		     uint64_t n_bytes)
{
	off_t from = (off_t)source_offset;

	if (lseek(memory, (off_t)offset, SEEK_SET) < 0)
		return -errno;
	while (n_bytes > 0) {
		ssize_t n = sendfile(memory, source, &from, n_bytes);

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (n == 0)
			return -ENODATA; /* the file was cut */
		n_bytes -= n > 0 ? (uint64_t)n : 0;
	}
	return 0;
}

static int put_run(const struct delivery *delivery, size_t index, uint64_t start, uint64_t end,
		   bool is_zero)
{
	uint64_t base = delivery->journal->layout.mappings[index].file_offset_bytes;

	if (is_zero)
		return put_zeros(delivery->memories[index], base + start, end - start);
	return put_bytes(delivery->memories[index], base + start, delivery->sources[index], start,
			 end - start);
}

/* Only what does not exist. */
static int put_holes(const struct delivery *delivery, size_t index, uint64_t start, uint64_t end,
		     bool is_zero)
{
	uint64_t base = delivery->journal->layout.mappings[index].file_offset_bytes;
	int memory = delivery->memories[index];

	while (start < end) {
		off_t hole = lseek(memory, (off_t)(base + start), SEEK_HOLE);
		uint64_t run_end = end;
		off_t data;
		int r;

		if (hole < 0)
			return -errno;
		start = (uint64_t)hole - base;
		if (start >= end)
			break;
		data = lseek(memory, hole, SEEK_DATA);
		if (data > hole)
			run_end = min_u64(end, (uint64_t)data - base);
		r = put_run(delivery, index, start, run_end, is_zero);
		if (r < 0)
			return r;
		start = run_end;
	}
	return 0;
}

static void note(struct journal *journal, size_t index, uint64_t start, uint64_t end)
{
	journal->noted_end = 0;
	journal->noted_index = index;
	journal->noted_start = start;
	journal->noted_end = end;
}

static int deliver_run(struct delivery *delivery, size_t index, uint64_t start, uint64_t end)
{
	struct journal *journal = delivery->journal;
	int r;

	note(journal, index, start, end);
	r = put_run(delivery, index, start, end, false);
	if (r < 0)
		return r;
	journal_deliver(journal, index, start, end - start);
	journal->noted_end = 0;
	return 0;
}

/* Every page of it is there afterwards. Offsets in the mapping. */
static int fill(struct delivery *delivery, size_t index, uint64_t start, uint64_t end)
{
	struct journal *journal = delivery->journal;

	while (start < end) {
		bool was_there = journal_is_delivered(journal, index, start);
		uint64_t run_end = start + CH_PAGE_BYTES;
		int r;

		while (run_end < end && journal_is_delivered(journal, index, run_end) == was_there)
			run_end += CH_PAGE_BYTES;
		r = was_there ? put_holes(delivery, index, start, run_end, true)
			      : deliver_run(delivery, index, start, run_end);
		if (r < 0)
			return r;
		start = run_end;
	}
	return 0;
}

/* What the one before us was about to write. */
static int settle(struct delivery *delivery)
{
	struct journal *journal = delivery->journal;
	uint64_t index = journal->noted_index, start = journal->noted_start;
	uint64_t end = journal->noted_end;
	int r;

	if (end == 0)
		return 0;
	if (index >= journal->layout.n_mappings || start >= end ||
	    end > journal->layout.mappings[index].length_bytes)
		return -EBADMSG;
	r = put_holes(delivery, index, start, end, false);
	if (r < 0)
		return r;
	journal_deliver(journal, index, start, end - start);
	journal->noted_end = 0;
	return 0;
}

static void fill_ahead(struct serving *serving)
{
	uint64_t end = min_u64(serving->ahead_at + AHEAD_PIECE, serving->ahead_end);

	/* who asks for a page next will see the same error, and wait */
	if (settle(serving->delivery) < 0 ||
	    fill(serving->delivery, serving->ahead_index, serving->ahead_at, end) < 0)
		end = serving->ahead_end;
	serving->ahead_at = end;
}

static int read_source(const struct delivery *delivery, size_t index, uint64_t offset,
		       uint64_t n_bytes)
{
	uint64_t n_done = 0;

	while (n_done < n_bytes) {
		ssize_t n = pread(delivery->sources[index], delivery->buffer + n_done,
				  n_bytes - n_done, (off_t)(offset + n_done));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ENODATA;
		n_done += n > 0 ? (uint64_t)n : 0;
	}
	return 0;
}

/* ---- answers ---- */

/* Whole, in the pipe, which was empty. */
static int put_answer(const struct delivery *delivery, bool is_ok, uint64_t n_bytes)
{
	const struct ch_response response = { .is_ok = is_ok, .n_payload = n_bytes };
	uint8_t head[CH_HEAD_BYTES];
	struct iovec parts[] = {
		{ .iov_base = head, .iov_len = sizeof(head) },
		{ .iov_base = delivery->buffer, .iov_len = n_bytes },
	};

	ch_response_write(&response, head);
	return writev(delivery->answer[1], parts, 2) == (ssize_t)(sizeof(head) + n_bytes) ? 0
											  : -EIO;
}

/* What is in the pipe. Return: 0, ENDED. */
static int send_answer(const struct delivery *delivery)
{
	size_t n_bytes;

	while ((n_bytes = bytes_in(delivery->answer[0])) > 0) {
		struct pollfd fd = { .fd = delivery->connection, .events = POLLOUT };

		if (splice(delivery->answer[0], NULL, delivery->connection, NULL, n_bytes,
			   SPLICE_F_NONBLOCK) >= 0)
			continue;
		if (errno != EAGAIN && errno != EINTR)
			return ENDED;
		(void)poll(&fd, 1, -1);
	}
	return 0;
}

/* Return: 0 with an answer in the pipe; -errno of bytes that cannot be had. */
static int answer(struct serving *serving, const struct ch_range *range)
{
	struct delivery *delivery = serving->delivery;
	struct journal *journal = delivery->journal;
	int index = ch_layout_find(&journal->layout, range);
	uint64_t offset;
	int r;

	if (index < 0 || !is_page_aligned(range) ||
	    (journal->is_inline && range->length_bytes + CH_PAGE_BYTES > delivery->n_buffer))
		return put_answer(delivery, false, 0);
	offset = range->address - journal->layout.mappings[index].address;
	if (journal->is_inline) {
		r = read_source(delivery, (size_t)index, offset, range->length_bytes);
		return r < 0 ? r : put_answer(delivery, true, range->length_bytes);
	}
	r = fill(delivery, (size_t)index, offset, offset + range->length_bytes);
	if (r < 0)
		return r;
	serving->ahead_index = (size_t)index;
	serving->ahead_at = offset + range->length_bytes;
	serving->ahead_end = min_u64(serving->ahead_at + AHEAD_BYTES,
				     journal->layout.mappings[index].length_bytes);
	return put_answer(delivery, true, 0);
}

/*
 * Somebody waits for this page, and there is nothing else to give him. What was begun is finished first: a
 * part of it may be in use. Return: 0, ENDED.
 */
static int answer_at_last(struct serving *serving, const struct ch_range *range)
{
	struct delivery *delivery = serving->delivery;
	struct pollfd fd = { .fd = delivery->connection, .events = POLLRDHUP };

	for (;;) {
		int r = settle(delivery);

		if (r == 0)
			r = answer(serving, range);
		if (r == 0)
			break;
		empty(delivery->answer[0]);
		delivery->journal->n_retries++;
		if (!serving->is_told)
			serving->report(delivery, r);
		serving->is_told = true;
		if (poll(&fd, 1, RETRY_MS) > 0)
			return ENDED;
	}
	if (serving->is_told)
		serving->report(delivery, 0);
	serving->is_told = false;
	return 0;
}

/* ---- requests ---- */

/* Return: 0 with a whole request in its pipe, ENDED, -EAGAIN. */
static int take_request(const struct delivery *delivery)
{
	size_t n_have = bytes_in(delivery->request[0]);

	while (n_have < REQUEST_BYTES) {
		ssize_t n = splice(delivery->connection, NULL, delivery->request[1], NULL,
				   REQUEST_BYTES - n_have, SPLICE_F_NONBLOCK);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return ENDED;
		if (n < 0)
			return -EAGAIN;
		n_have += (size_t)n;
	}
	return 0;
}

/* A look that leaves it where it is. */
static int look_at_request(const struct delivery *delivery, struct ch_range *ret,
			   bool *ret_is_sound)
{
	uint8_t bytes[REQUEST_BYTES];
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct ch_request request;

	if (tee(delivery->request[0], delivery->look[1], sizeof(bytes), SPLICE_F_NONBLOCK) !=
		    (ssize_t)sizeof(bytes) ||
	    read(delivery->look[0], bytes, sizeof(bytes)) != (ssize_t)sizeof(bytes))
		return -EIO;
	*ret_is_sound = ch_request_read(bytes, sizeof(bytes), &request, &refusal) == 0 &&
			request.command == CH_PAGE_FAULT;
	*ret = ch_range_read(bytes + CH_HEAD_BYTES);
	return 0;
}

/*
 * Nobody knows where the next request begins. An error ends the machine; the end of the connection would
 * let it run on without its pages.
 */
static int serve_nonsense(const struct delivery *delivery)
{
	struct pollfd fd = { .fd = delivery->connection, .events = POLLRDHUP };

	empty(delivery->request[0]);
	delivery->journal->phase = JOURNAL_FAILED;
	if (put_answer(delivery, false, 0) == 0 && send_answer(delivery) == 0)
		while (poll(&fd, 1, -1) < 0 && errno == EINTR)
			;
	return ENDED;
}

static void count(struct delivery *delivery, const struct ch_range *range)
{
	struct journal *journal = delivery->journal;
	int index = ch_layout_find(&journal->layout, range);

	journal->n_faults++;
	if (journal->is_inline && index >= 0 && is_page_aligned(range))
		journal_deliver(journal, (size_t)index,
				range->address - journal->layout.mappings[index].address,
				range->length_bytes);
}

static int serve_one(struct serving *serving)
{
	struct delivery *delivery = serving->delivery;
	uint8_t bytes[REQUEST_BYTES];
	struct ch_range range;
	bool is_sound;
	int r;

	r = look_at_request(delivery, &range, &is_sound);
	if (r < 0)
		return r;
	if (!is_sound)
		return serve_nonsense(delivery);
	r = answer_at_last(serving, &range);
	if (r != 0)
		return r;
	/* the answer counts from here on */
	if (read(delivery->request[0], bytes, sizeof(bytes)) != (ssize_t)sizeof(bytes))
		return -EIO;
	r = send_answer(delivery);
	if (r == 0)
		count(delivery, &range);
	return r;
}

/* Where the one before us was killed, or we met an error of our own. */
static int go_on(const struct delivery *delivery)
{
	if (bytes_in(delivery->request[0]) == REQUEST_BYTES)
		empty(delivery->answer[0]); /* perhaps a part */
	return send_answer(delivery);
}

/* Return: ENDED, -errno. */
static int serve(struct serving *serving)
{
	struct delivery *delivery = serving->delivery;
	struct pollfd fd = { .fd = delivery->connection, .events = POLLIN };
	int r = go_on(delivery);

	while (r == 0) {
		r = take_request(delivery);
		if (r == 0)
			r = serve_one(serving);
		else if (r == -EAGAIN && serving->ahead_at < serving->ahead_end) {
			fill_ahead(serving);
			r = 0;
		} else if (r == -EAGAIN)
			r = poll(&fd, 1, -1) < 0 && errno != EINTR ? -errno : 0;
	}
	return r;
}

void delivery_serve(struct delivery *delivery,
		    void (*report)(const struct delivery *delivery, int error))
{
	struct serving serving = { .delivery = delivery, .report = report };
	struct pollfd fd = { .fd = delivery->connection, .events = POLLRDHUP };
	struct journal *journal = delivery->journal;
	int r;

	/* We may not end before the connection does. */
	while ((r = serve(&serving)) < 0) {
		report(delivery, r);
		if (poll(&fd, 1, RETRY_MS) > 0)
			break;
	}
	if (!journal_is_over(journal))
		journal->phase = journal->n_delivered == journal->n_pages ? JOURNAL_COMPLETE
									  : JOURNAL_ENDED;
}
