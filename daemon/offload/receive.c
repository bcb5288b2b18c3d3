/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A snapshot that Cloud Hypervisor sends. */
#include "offload/receive.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "attach/cloud-hypervisor.h"
#include "base/clock.h"
#include "job.h"
#include "offload/copy.h"
#include "offload/folder.h"
#include "offload/stream.h"
#include "refusal.h"

#define BAD_MESSAGE "io.ufd.handoff.BadMessage"

/* Between two messages Cloud Hypervisor pauses its devices, and in front of a wide network it waits for it. */
#define IDLE_SECONDS	60
#define TIMEOUT_SECONDS (UINT64_C(4) * 3600)
#define PIECE_BYTES	MIB

/* One conversation. */
struct receive {
	struct job *job;
	const struct handoff_wish *wish;
	const char *name; /* of the snapshot, if nobody has it */
	struct stream stream;
	struct folder_draft draft;
	struct ch_layout layout; /* empty until Config */
	struct {
		uint32_t slot;
		int fd;		  /* owned */
	} files[CH_MAX_MAPPINGS]; /* as they came */
	size_t n_files;
	int memories[CH_MAX_MAPPINGS]; /* owned; of the draft, by the layout */
	char *config;		       /* owned; NULL until it came */
	size_t n_config;
	char *state; /* owned; NULL until it came */
	size_t n_state;
	bool is_started;
	bool has_inline;  /* memory came as bytes */
	uint64_t n_bytes; /* of memory that were no zeros */
	bool is_over;
	const char *end; /* what was done; NULL: nothing is left of it */
};

static bool is_cancelled(void *userdata)
{
	const struct receive *receive = userdata;
	uint64_t deadline_ns = job_deadline_ns(receive->job);

	return job_is_cancelled(receive->job) || (deadline_ns && clock_now_ns() >= deadline_ns);
}

static void receive_done(struct receive *receive)
{
	for (size_t i = 0; i < receive->n_files; i++)
		closep(&receive->files[i].fd);
	for (size_t i = 0; i < CH_MAX_MAPPINGS; i++)
		closep(&receive->memories[i]);
	free(receive->config);
	free(receive->state);
	folder_draft_done(&receive->draft);
}

static int refuse(struct refusal *refusal, const char *message)
{
	return refusal_set(refusal, BAD_MESSAGE, NULL, "%s", message);
}

/* ---- what comes ---- */

static int take_text(struct receive *receive, uint64_t n_text, char **ret, size_t *ret_n,
		     struct refusal *refusal)
{
	_cleanup_(freep) char *text = malloc(n_text + 1);
	int r;

	if (!text)
		return -ENOMEM;
	r = stream_receive(&receive->stream, text, n_text, NULL);
	if (r != 0)
		return stream_refuse(r, "receiving a snapshot", refusal);
	text[n_text] = '\0';
	*ret = TAKE_PTR(text);
	*ret_n = n_text;
	return 0;
}

/* Each mapping has its file from here on. */
static int take_config(struct receive *receive, uint64_t n_text, struct refusal *refusal)
{
	int r;

	if (receive->config)
		return refuse(refusal, "Config came twice");
	r = take_text(receive, n_text, &receive->config, &receive->n_config, refusal);
	if (r == 0)
		r = ch_layout_read(receive->config, receive->n_config, &receive->layout, refusal);
	for (size_t i = 0; r == 0 && i < receive->layout.n_mappings; i++)
		r = folder_draft_memory(&receive->draft, &receive->layout.mappings[i],
					&receive->memories[i], refusal);
	return r;
}

static int take_state(struct receive *receive, uint64_t n_text, struct refusal *refusal)
{
	if (receive->state)
		return refuse(refusal, "State came twice");
	return take_text(receive, n_text, &receive->state, &receive->n_state, refusal);
}

/* A file whose reads end, whatever its owner does: none of a file system that he serves himself. */
static bool is_memory_file(int fd)
{
	struct stat info;
	struct statfs system;

	return fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && fstatfs(fd, &system) == 0 &&
	       system.f_type != FUSE_SUPER_MAGIC && system.f_type != NFS_SUPER_MAGIC;
}

static int take_file(struct receive *receive, struct refusal *refusal)
{
	_cleanup_(closep) int fd = -EBADF;
	uint8_t bytes[CH_SLOT_BYTES];
	uint32_t slot;
	int r;

	r = stream_receive(&receive->stream, bytes, sizeof(bytes), &fd);
	if (r != 0)
		return stream_refuse(r, "receiving a snapshot", refusal);
	slot = ch_slot_read(bytes);
	if (fd < 0)
		return refuse(refusal, "MemoryFd came without a file descriptor");
	if (!is_memory_file(fd))
		return refuse(refusal, "the file of a MemoryFd is no local file");
	for (size_t i = 0; i < receive->n_files; i++)
		if (receive->files[i].slot == slot)
			return refuse(refusal, "two MemoryFds are for the same slot");
	if (receive->n_files == CH_MAX_MAPPINGS)
		return refuse(refusal, "too many MemoryFds");
	receive->files[receive->n_files].slot = slot;
	receive->files[receive->n_files++].fd = TAKE_FD(fd);
	return 0;
}

/* A range may come again, with what was written meanwhile. */
static int take_bytes(struct receive *receive, const struct ch_range *range, char *buffer,
		      struct refusal *refusal)
{
	int index = ch_layout_find(&receive->layout, range);
	uint64_t at = 0;

	if (index < 0 || range->length_bytes == 0)
		return refuse(refusal, "Memory of a range that is in no mapping");
	while (at < range->length_bytes) {
		uint64_t n = min_u64(PIECE_BYTES, range->length_bytes - at);
		uint64_t offset = range->address - receive->layout.mappings[index].address + at;
		int r = stream_receive(&receive->stream, buffer, n, NULL);

		if (r != 0)
			return stream_refuse(r, "receiving memory", refusal);
		r = copy_put(receive->memories[index], offset, buffer, n, &receive->n_bytes);
		if (r < 0)
			return refusal_set_errno(refusal, r, "the snapshot cannot be written: %s",
						 strerror(-r));
		at += n;
	}
	return 0;
}

static int take_memory(struct receive *receive, uint64_t n_table, struct refusal *refusal)
{
	_cleanup_(freep) uint8_t *table = malloc(n_table + 1);
	_cleanup_(freep) char *buffer = malloc(PIECE_BYTES);
	int r;

	if (!table || !buffer)
		return -ENOMEM;
	if (!receive->config)
		return refuse(refusal, "Memory came before Config");
	r = stream_receive(&receive->stream, table, n_table, NULL);
	if (r != 0)
		return stream_refuse(r, "receiving memory", refusal);
	for (uint64_t at = 0; r == 0 && at < n_table; at += CH_HEAD_BYTES) {
		struct ch_range range = ch_range_read(table + at);

		r = take_bytes(receive, &range, buffer, refusal);
	}
	receive->has_inline = true;
	return r;
}

/* ---- the end ---- */

static int file_of(const struct receive *receive, uint32_t slot)
{
	for (size_t i = 0; i < receive->n_files; i++)
		if (receive->files[i].slot == slot)
			return receive->files[i].fd;
	return -EBADF;
}

static int copy_mapping(struct receive *receive, size_t i, struct refusal *refusal)
{
	const struct ch_mapping *mapping = &receive->layout.mappings[i];
	const struct copy copy = {
		.from = file_of(receive, mapping->slot),
		.from_offset = mapping->file_offset_bytes,
		.to = receive->memories[i],
		.length_bytes = mapping->length_bytes,
		.is_cancelled = is_cancelled,
		.userdata = receive,
	};
	uint64_t n_bytes = 0;
	int r;

	if (copy.from < 0)
		return refusal_set(refusal, BAD_MESSAGE, NULL,
				   "no MemoryFd came for slot %u, which Config names",
				   mapping->slot);
	r = copy_run(&copy, &n_bytes);
	if (r == -ENODATA)
		return refusal_set(refusal, BAD_MESSAGE, NULL,
				   "the file of slot %u is shorter than Config says",
				   mapping->slot);
	if (r < 0)
		return refusal_set(refusal, "io.ufd.handoff.OffloadFailed", NULL,
				   "the memory of slot %u cannot be copied: %s", mapping->slot,
				   strerror(-r));
	receive->n_bytes += n_bytes;
	return 0;
}

static int complete(struct receive *receive, struct refusal *refusal)
{
	int r = 0;

	if (!receive->config || !receive->state)
		return refuse(refusal, "Complete came before Config and State");
	if (!receive->has_inline && receive->n_files == 0)
		return refuse(refusal, "Complete came, and no memory: shared=on is needed");
	if (receive->has_inline && receive->n_files)
		return refuse(refusal, "memory came as files and as bytes");
	for (size_t i = 0; r == 0 && receive->n_files && i < receive->layout.n_mappings; i++)
		r = copy_mapping(receive, i, refusal);
	if (r == 0)
		r = folder_draft_publish(&receive->draft, &receive->layout, receive->memories,
					 receive->config, receive->n_config, receive->state,
					 receive->n_state, refusal);
	if (r < 0)
		return r;
	receive->is_over = true;
	receive->end = "is a snapshot";
	return 0;
}

/* ---- the conversation ---- */

/* A name that nobody has, nor is about to; two may arrive together. */
static int begin(struct receive *receive, struct refusal *refusal)
{
	bool is_numbered = strchr(receive->wish->name, '%');
	char name[UFD_NAME_BYTES];
	uint64_t number = 0;
	int r;

	snprintf(name, sizeof(name), "%s", receive->name);
	for (;;) {
		r = folder_draft_begin(&receive->draft, receive->wish->source, name, refusal);
		if (r != FOLDER_TAKEN || !is_numbered || is_cancelled(receive))
			break;
		wish_guest_name(receive->wish, number++, name);
	}
	if (r == FOLDER_TAKEN)
		return refusal_set(
			refusal, "io.ufd.guest.BadSnapshot",
			json_pack("{s:s}", "directory", receive->wish->source),
			"%s/%s is there already; a `%%` in the hand-off's name becomes a "
			"number",
			receive->wish->source, name);
	if (r < 0)
		return r;
	receive->is_started = true;
	receive->stream.idle_ns = IDLE_SECONDS * NSEC_PER_SEC;
	return 0;
}

static int receive_one(struct receive *receive, const struct ch_request *request,
		       struct refusal *refusal)
{
	if (receive->is_started == (request->command == CH_START))
		return refuse(refusal, receive->is_started ? "Start came twice"
							   : "the first message is no Start");
	switch (request->command) {
	case CH_START:
		return begin(receive, refusal);
	case CH_CONFIG:
		return take_config(receive, request->n_payload, refusal);
	case CH_STATE:
		return take_state(receive, request->n_payload, refusal);
	case CH_MEMORY:
		return take_memory(receive, request->n_payload, refusal);
	case CH_MEMORY_FD:
		return take_file(receive, refusal);
	case CH_COMPLETE:
	case CH_COMPLETE_PAUSED:
		return complete(receive, refusal);
	case CH_ABANDON:
		receive->is_over = true;
		receive->end = "was abandoned by Cloud Hypervisor";
		return 0;
	case CH_PAGE_FAULT:
		break;
	}
	return refuse(refusal, "PageFault from one who sends a snapshot");
}

static int converse(struct receive *receive, struct refusal *refusal)
{
	while (!receive->is_over) {
		struct ch_request request;
		int r = stream_receive_request(&receive->stream, &request, refusal);

		if (r == STREAM_ENDED)
			return stream_refuse(r, "no whole snapshot came", refusal);
		if (r == 0)
			r = receive_one(receive, &request, refusal);
		/* Who sent something else has the reason in our log; who has gone does not mind. */
		if (r < 0) {
			(void)stream_answer(&receive->stream, false);
			return r;
		}
		/* Not our loss: it is on disk. */
		(void)stream_answer(&receive->stream, true);
	}
	return 0;
}

static int receive_run(struct job *job, const struct handoff_visit *visit, char *said,
		       size_t n_said, struct refusal *refusal)
{
	struct receive receive = {
		.job = job,
		.wish = visit->wish,
		.name = visit->name,
		.stream = { .fd = visit->connection,
			    .idle_ns = HANDOFF_MESSAGE_SECONDS * NSEC_PER_SEC,
			    .is_cancelled = is_cancelled,
			    .userdata = &receive },
		.draft = FOLDER_DRAFT_NONE,
	};
	int r;

	for (size_t i = 0; i < CH_MAX_MAPPINGS; i++)
		receive.memories[i] = -EBADF;
	r = converse(&receive, refusal);
	if (r == 0)
		snprintf(said, n_said, "%s/%s %s: %llu bytes of guest memory", visit->wish->source,
			 receive.draft.name, receive.end, (unsigned long long)receive.n_bytes);
	receive_done(&receive);
	return r;
}

static int receive_check(const struct handoff_wish *wish, struct refusal *refusal)
{
	struct stat info;

	if (!wish->source || wish->source[0] != '/')
		return refusal_set(
			refusal, "io.ufd.guest.BadSource",
			json_pack("{s:s}", "source", wish->source ? wish->source : ""),
			"the source of cloud-hypervisor is the absolute path of a folder "
			"for snapshots");
	if (stat(wish->source, &info) < 0 || !S_ISDIR(info.st_mode))
		return refusal_set(refusal, "io.ufd.guest.BadSource",
				   json_pack("{s:s}", "source", wish->source),
				   "%s is no folder that snapshots can go to", wish->source);
	return 0;
}

const struct handoff_speaker offload_receiver = {
	.dialect = "cloud-hypervisor",
	.timeout_ns = TIMEOUT_SECONDS * NSEC_PER_SEC,
	.check = receive_check,
	.run = receive_run,
};
