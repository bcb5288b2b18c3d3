/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The index and the footer of an image. */
#include "image/image-draft.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/units.h"

void image_draft_done(struct image_draft *draft)
{
	for (uint32_t i = 0; i < draft->n_maps; i++)
		image_map_done(&draft->maps[i]);
	image_frames_done(&draft->frames);
	image_stream_done(&draft->stream);
	free(draft->hint);
}

/* Readable. An index that is being written. */
struct commit {
	struct image_draft *draft;
	struct image_index_head head;
	struct image_memory_entry memories[IMAGE_MAX_MEMORIES];
	uint32_t *numbers;  /* owned; of the draft's frames in the index, or UINT32_MAX */
	XXH3_state_t *hash; /* owned */
	uint64_t n_bytes;
};

static void commit_done(struct commit *commit)
{
	free(commit->numbers);
	XXH3_freeState(commit->hash);
}

/* Which frames are in use, and how many runs there are. Return: 0, -EFBIG, -ENOMEM. */
static int commit_count(struct commit *commit)
{
	const struct image_frames *frames = &commit->draft->frames;

	commit->numbers = malloc(max_u64(frames->n_frames, 1) * sizeof(*commit->numbers));
	commit->hash = XXH3_createState();
	if (!commit->numbers || !commit->hash)
		return -ENOMEM;
	XXH3_128bits_reset(commit->hash);
	memset(commit->numbers, 0xff, frames->n_frames * sizeof(*commit->numbers));
	for (uint32_t i = 0; i < commit->head.n_memories; i++) {
		struct image_map *map = &commit->draft->maps[i];
		struct image_run_entry run;
		uint64_t block = 0;

		commit->memories[i] = map->entry;
		commit->memories[i].first_run = commit->head.n_runs;
		while (image_map_next_run(map, &block, &run)) {
			commit->memories[i].n_runs++;
			if (run.frame != IMAGE_ZERO_FRAME)
				commit->numbers[run.frame] = 0;
		}
		commit->head.n_runs += commit->memories[i].n_runs;
	}
	for (uint64_t i = 0; i < frames->n_frames; i++)
		if (commit->numbers[i] == 0) {
			commit->numbers[i] = commit->head.n_frames++;
			commit->head.n_checksums += image_frame_n_checksums(&frames->frames[i]);
		}
	/* what no reader would take is no image */
	return commit->head.n_frames * sizeof(struct image_frame_entry) +
				       commit->head.n_checksums * sizeof(uint64_t) +
				       commit->head.n_runs * sizeof(struct image_run_entry) >
			       IMAGE_MAX_INDEX - 2 * IMAGE_MAX_HINT - sizeof(commit->memories)
		       ? -EFBIG
		       : 0;
}

static int commit_put(struct commit *commit, const void *bytes, size_t n_bytes)
{
	commit->n_bytes += n_bytes;
	XXH3_128bits_update(commit->hash, bytes, n_bytes);
	return image_stream_put(&commit->draft->stream, bytes, n_bytes);
}

static int commit_put_head(struct commit *commit)
{
	static const char zeros[8];
	const char *hint = commit->draft->hint ?: "";
	int r;

	r = commit_put(commit, &commit->head, sizeof(commit->head));
	if (r == 0)
		r = commit_put(commit, hint, commit->head.hint_bytes);
	if (r == 0)
		r = commit_put(commit, zeros, -commit->head.hint_bytes & 7);
	if (r == 0)
		r = commit_put(commit, commit->memories,
			       commit->head.n_memories * sizeof(commit->memories[0]));
	return r;
}

static int commit_put_frames(struct commit *commit)
{
	const struct image_frames *frames = &commit->draft->frames;
	uint64_t n_checksums = 0;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < frames->n_frames; i++) {
		struct image_frame_entry frame = frames->frames[i];

		if (commit->numbers[i] == UINT32_MAX)
			continue;
		frame.first_checksum = n_checksums;
		n_checksums += image_frame_n_checksums(&frame);
		r = commit_put(commit, &frame, sizeof(frame));
	}
	for (uint64_t i = 0; r == 0 && i < frames->n_frames; i++) {
		const struct image_frame_entry *frame = &frames->frames[i];

		if (commit->numbers[i] != UINT32_MAX)
			r = commit_put(commit, frames->checksums + frame->first_checksum,
				       image_frame_n_checksums(frame) * sizeof(uint64_t));
	}
	return r;
}

static int commit_put_runs(struct commit *commit)
{
	struct image_run_entry run;
	int r = 0;

	for (uint32_t i = 0; i < commit->head.n_memories; i++) {
		uint64_t block = 0;

		while (r == 0 && image_map_next_run(&commit->draft->maps[i], &block, &run)) {
			if (run.frame != IMAGE_ZERO_FRAME)
				run.frame = commit->numbers[run.frame];
			r = commit_put(commit, &run, sizeof(run));
		}
	}
	return r;
}

/* The index is on the disk before its footer is: a footer never speaks of what is not there. */
static int commit_put_footer(struct commit *commit, struct image_footer *footer)
{
	struct image_stream *stream = &commit->draft->stream;
	XXH128_canonical_t digest;
	void *room;
	int r;

	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(commit->hash));
	memcpy(footer->digest, digest.digest, IMAGE_DIGEST_BYTES);
	footer->index_bytes = commit->n_bytes;
	r = image_stream_room(stream, sizeof(*footer), IMAGE_ALIGN, &room);
	if (r < 0)
		return r;
	footer->offset = stream->offset;
	footer->checksum = XXH3_64bits(footer, offsetof(struct image_footer, checksum));
	r = image_stream_sync(stream);
	if (r == 0)
		r = image_stream_room(stream, sizeof(*footer), IMAGE_ALIGN, &room);
	if (r < 0)
		return r;
	memcpy(room, footer, sizeof(*footer));
	image_stream_use(stream, sizeof(*footer));
	r = image_stream_sync(stream);
	if (r == 0)
		stream->footer = footer->offset;
	return r;
}

int image_draft_commit(struct image_draft *draft, uint8_t ret_digest[IMAGE_DIGEST_BYTES])
{
	struct image_footer footer = { .magic = IMAGE_FOOTER_MAGIC,
				       .generation = draft->generation + 1,
				       .previous = draft->stream.footer };
	_cleanup_(commit_done) struct commit commit = {
		.draft = draft,
		.head = { .generation = draft->generation + 1,
			  .n_memories = draft->n_maps,
			  .hint_bytes = draft->hint ? (uint32_t)strlen(draft->hint) : 0 },
	};
	void *room;
	int r;

	memcpy(footer.id, draft->stream.id, sizeof(footer.id));
	memcpy(commit.head.id, draft->stream.id, sizeof(commit.head.id));
	memcpy(commit.head.parent, draft->parent, IMAGE_DIGEST_BYTES);
	r = commit_count(&commit);
	if (r == 0)
		r = image_stream_room(&draft->stream, IMAGE_ALIGN, IMAGE_ALIGN, &room);
	footer.index_offset = draft->stream.offset;
	if (r == 0)
		r = commit_put_head(&commit);
	if (r == 0)
		r = commit_put_frames(&commit);
	if (r == 0)
		r = commit_put_runs(&commit);
	if (r == 0)
		r = commit_put_footer(&commit, &footer);
	if (r < 0)
		return r;
	draft->generation++;
	if (ret_digest)
		memcpy(ret_digest, footer.digest, IMAGE_DIGEST_BYTES);
	return 0;
}
