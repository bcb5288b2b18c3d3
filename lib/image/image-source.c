/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A memory of an image as a source.
 *
 * A request is served piece by piece, as its blocks lie: zeros at once; raw blocks straight into
 * the request's buffer; packed ones from the cache, or into the request's spare, checked, and
 * unpacked there. What is not in the page cache is read by the ring, and its completion goes on
 * where the request was.
 *
 * Nothing unpacked is believed before its checksum fits. Other formats have none: there, as with a
 * raw image, a change of the file is looked for on each read that goes to the disk.
 */
#include "image/image-source.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "image/image-cache.h"
#include "image/image-chain.h"
#include "image/image-codec.h"
#include "kernel/uring.h"

#define N_DECODERS  4  /* threads that may unpack at once */
#define MAX_LOOK_UP 16 /* places in one extent */

static_assert(SOURCE_SPARE_BYTES >= 2 * IMAGE_FRAME_BYTES, "packed and unpacked");

struct image_source {
	struct source source;
	struct image *image; /* a reference */
	uint32_t memory;
	_Atomic bool is_changed;		    /* for ever */
	struct image_cache *cache;		    /* owned; NULL: nothing is packed */
	_Atomic uint32_t n_taken;		    /* a bit for each decoder in use */
	struct image_decoder *decoders[N_DECODERS]; /* owned */
};

static struct image_source *image_of(struct source *source)
{
	return (struct image_source *)source;
}

static uint64_t image_length(struct source *source)
{
	return image_of(source)->image->memories[image_of(source)->memory].length_bytes;
}

/* ---- pieces ---- */

/* What the request is at. */
static void request_locate(struct image_source *image, const struct source_request *request,
			   struct image_place *place)
{
	uint64_t at = request->offset + request->n_done_bytes;

	image_locate(image->image, image->memory, at / IMAGE_BLOCK_BYTES,
		     (request->length_bytes - request->n_done_bytes) / IMAGE_BLOCK_BYTES, place);
}

static void *request_at(const struct source_request *request)
{
	return (unsigned char *)request->buffer + request->n_done_bytes;
}

static void *request_room(const struct source_request *request, const struct image_place *place)
{
	return place->codec == IMAGE_RAW ? request_at(request) : request->spare;
}

static bool has_changed(struct image_source *image, const struct image_layer *layer)
{
	if (layer->is_flat && image_layer_has_changed(layer))
		atomic_store_explicit(&image->is_changed, true, memory_order_relaxed);
	return atomic_load_explicit(&image->is_changed, memory_order_relaxed);
}

/* The file ended where it had bytes at open. */
static int answer_end(struct image_source *image, const struct image_layer *layer)
{
	return has_changed(image, layer) ? SOURCE_CHANGED : SOURCE_SHORT;
}

/* Return: SOURCE_PENDING, SOURCE_FULL, SOURCE_CHANGED. */
static int read_cold(struct image_source *image, struct source_request *request,
		     const struct image_place *place)
{
	unsigned char *room = request_room(request, place);

	if (has_changed(image, place->layer))
		return SOURCE_CHANGED;
	request->is_in_ring = uring_add_read(
		request->ring, place->layer->fd, room + request->n_part_bytes,
		place->stored_bytes - request->n_part_bytes, place->offset + request->n_part_bytes,
		place->layer->is_remote, (uintptr_t)request);
	return request->is_in_ring ? SOURCE_PENDING : SOURCE_FULL;
}

/* All of the place's bytes that are at hand. Return: 0, an outcome, -errno. */
static int read_warm(struct image_source *image, struct source_request *request,
		     const struct image_place *place)
{
	struct iovec piece = { request_room(request, place), place->stored_bytes };
	ssize_t n = preadv2(place->layer->fd, &piece, 1, (off_t)place->offset, RWF_NOWAIT);

	if (n == (ssize_t)place->stored_bytes)
		return 0;
	if (n == 0)
		return answer_end(image, place->layer);
	/* EOPNOTSUPP: this file system cannot say what it has cached */
	if (n < 0 && errno != EAGAIN && errno != EOPNOTSUPP && errno != EINTR)
		return -errno;
	request->n_part_bytes = n < 0 ? 0 : (uint32_t)n;
	return read_cold(image, request, place);
}

/* One that nobody else uses; NULL: all are in use. */
static struct image_decoder *take_decoder(struct image_source *image, uint32_t *ret_bit)
{
	for (uint32_t i = 0; i < N_DECODERS; i++) {
		uint32_t bit = UINT32_C(1) << i;

		/* acquire: what the thread before did in it; pairs with release below */
		if (atomic_fetch_or_explicit(&image->n_taken, bit, memory_order_acquire) & bit)
			continue;
		*ret_bit = bit;
		return image->decoders[i];
	}
	return NULL;
}

/* The frame in the request's spare. Return: 0, SOURCE_FULL, -EBADMSG. */
static int unpack(struct image_source *image, struct source_request *request,
		  const struct image_place *place)
{
	unsigned char *frame = (unsigned char *)request->spare + IMAGE_FRAME_BYTES;
	struct image_decoder *decoder;
	uint32_t bit;
	int r;

	decoder = take_decoder(image, &bit);
	if (!decoder)
		return SOURCE_FULL;
	r = image_decode(decoder, place->codec, request->spare, place->stored_bytes, frame,
			 (size_t)place->frame_blocks * IMAGE_BLOCK_BYTES);
	atomic_fetch_and_explicit(&image->n_taken, ~bit, memory_order_release);
	if (r < 0)
		return r;
	memcpy(request_at(request), frame + (size_t)place->frame_block * IMAGE_BLOCK_BYTES,
	       place->n_blocks * IMAGE_BLOCK_BYTES);
	image_cache_put(image->cache, place, frame);
	return 0;
}

/* All stored bytes of the place are there. Return: 0, SOURCE_FULL, -EBADMSG. */
static int take_piece(struct image_source *image, struct source_request *request,
		      const struct image_place *place)
{
	uint64_t wrong;
	int r = 0;

	if (!image_place_is_sound(place, request_room(request, place), &wrong))
		return -EBADMSG;
	if (place->codec != IMAGE_RAW)
		r = unpack(image, request, place);
	if (r)
		return r;
	request->n_done_bytes += place->n_blocks * IMAGE_BLOCK_BYTES;
	request->n_part_bytes = 0;
	return 0;
}

/* Return: 0: the piece is done; an outcome, -errno. */
static int read_piece(struct image_source *image, struct source_request *request,
		      const struct image_place *place)
{
	int r;

	if (place->kind == IMAGE_PLACE_ZERO) {
		memset(request_at(request), 0, place->n_blocks * IMAGE_BLOCK_BYTES);
		request->n_done_bytes += place->n_blocks * IMAGE_BLOCK_BYTES;
		return 0;
	}
	if (place->codec != IMAGE_RAW &&
	    image_cache_get(image->cache, place, request_at(request))) {
		request->n_done_bytes += place->n_blocks * IMAGE_BLOCK_BYTES;
		return 0;
	}
	r = read_warm(image, request, place);
	return r ? r : take_piece(image, request, place);
}

static int go_on(struct image_source *image, struct source_request *request)
{
	struct image_place place;
	int r = 0;

	while (r == 0 && request->n_done_bytes < request->length_bytes) {
		request_locate(image, request, &place);
		if (place.kind == IMAGE_PLACE_ZERO &&
		    place.n_blocks * IMAGE_BLOCK_BYTES == request->length_bytes)
			return SOURCE_ZERO;
		r = read_piece(image, request, &place);
	}
	return r;
}

/* ---- the source ---- */

static int image_read(struct source *source, struct source_request *request)
{
	struct image_source *image = image_of(source);

	if (!is_aligned(request->offset | request->length_bytes, IMAGE_BLOCK_BYTES) ||
	    (image->cache && !request->spare))
		return -EINVAL;
	if (atomic_load_explicit(&image->is_changed, memory_order_relaxed))
		return SOURCE_CHANGED;
	return go_on(image, request);
}

static int image_finish(struct source *source, struct source_request *request, int32_t result)
{
	struct image_source *image = image_of(source);
	struct image_place place;
	int r;

	request->is_in_ring = false;
	request_locate(image, request, &place);
	if (result == 0 || result == -ENXIO)
		return answer_end(image, place.layer);
	if (result < 0)
		return has_changed(image, place.layer) ? SOURCE_CHANGED : result;
	request->n_part_bytes += (uint32_t)result;
	if (request->n_part_bytes < place.stored_bytes)
		return read_cold(image, request, &place);
	if (has_changed(image, place.layer))
		return SOURCE_CHANGED;
	r = take_piece(image, request, &place);
	return r ? r : go_on(image, request);
}

/* An extent of data ends with a packed frame: so nobody unpacks more than one at a time. */
static int image_extent_of(struct source *source, uint64_t offset, uint64_t length,
			   uint64_t *ret_length)
{
	struct image_source *image = image_of(source);
	uint64_t block = offset / IMAGE_BLOCK_BYTES, n_blocks = 0;
	uint64_t end = align_up(offset + length, IMAGE_BLOCK_BYTES) / IMAGE_BLOCK_BYTES;
	enum image_place_kind kind = IMAGE_PLACE_ZERO;

	for (unsigned int i = 0; i < MAX_LOOK_UP && block + n_blocks < end; i++) {
		struct image_place place;

		image_locate(image->image, image->memory, block + n_blocks, end - block - n_blocks,
			     &place);
		if (i == 0)
			kind = place.kind;
		if (place.kind != kind || (i && place.codec != IMAGE_RAW))
			break;
		n_blocks += place.n_blocks;
		if (kind == IMAGE_PLACE_DATA && place.codec != IMAGE_RAW)
			break;
	}
	*ret_length = (block + n_blocks) * IMAGE_BLOCK_BYTES - offset;
	return kind == IMAGE_PLACE_ZERO ? SOURCE_ZERO : _SOURCE_DATA;
}

static void image_free(struct source *source)
{
	struct image_source *image = image_of(source);

	for (unsigned int i = 0; i < N_DECODERS; i++)
		image_decoder_free(image->decoders[i]);
	image_cache_free(image->cache);
	image_unref(image->image);
	free(image);
}

/*
 * Of an image the digest says what it is, whatever was appended to the file or noted beside it
 * since. Of other formats all files must be as they were.
 */
static int image_file(struct source *source, struct source_identity *ret)
{
	const struct image *image = image_of(source)->image;
	const struct image_layer *top = image->layers[0];

	if (!ret)
		return top->fd;
	*ret = top->identity;
	if (!top->is_flat) {
		ret->length_bytes = top->end_bytes;
		ret->modified_ns = ret->changed_ns = 0;
		memcpy(&ret->modified_s, top->digest, sizeof(ret->modified_s));
		memcpy(&ret->changed_s, top->digest + 8, sizeof(ret->changed_s));
	}
	for (uint32_t i = 1; top->is_flat && i < image->n_layers; i++) {
		struct source_identity both[2];

		memset(both, 0, sizeof(both));
		both[0] = *ret;
		both[1] = image->layers[i]->identity;
		ret->changed_s = (int64_t)XXH3_64bits(both, sizeof(both));
	}
	return top->fd;
}

static bool image_where(struct source *source, uint64_t offset, struct source_where *ret)
{
	struct image_source *image = image_of(source);
	struct image_place place;

	image_locate(image->image, image->memory, offset / IMAGE_BLOCK_BYTES, 1, &place);
	if (place.kind != IMAGE_PLACE_DATA)
		return false;
	ret->path = place.layer->path;
	ret->offset = place.offset;
	return true;
}

static void image_counts(struct source *source, struct source_counts *ret)
{
	if (image_of(source)->cache)
		image_cache_get_counts(image_of(source)->cache, &ret->frames_cached,
				       &ret->frames_unpacked);
}

static const struct source_ops image_ops = {
	.kind = "image",
	.length = image_length,
	.read = image_read,
	.finish = image_finish,
	.extent = image_extent_of,
	.free = image_free,
	.file = image_file,
	.where = image_where,
	.counts = image_counts,
};

static bool is_packed(const struct image *image)
{
	for (uint32_t i = 0; i < image->n_layers; i++) {
		const struct image_index *index = &image->layers[i]->index;

		for (uint32_t j = 0; j < index->head->n_frames; j++)
			if (index->frames[j].codec != IMAGE_RAW)
				return true;
	}
	return false;
}

/* A fault must not wait for our own swap. As far as RLIMIT_MEMLOCK goes. */
static void lock_bytes(void *bytes, uint64_t n_bytes)
{
	uint64_t start = align_up((uintptr_t)bytes, IMAGE_BLOCK_BYTES);
	uint64_t end = align_down((uintptr_t)bytes + n_bytes, IMAGE_BLOCK_BYTES);

	if (end > start)
		(void)mlock2((void *)(uintptr_t)start, end - start, MLOCK_ONFAULT);
}

int image_source_new(struct source **ret, struct image *image, uint32_t memory,
		     uint64_t cache_bytes)
{
	_cleanup_(source_unrefp) struct source *made = NULL;
	struct image_source *source = calloc(1, sizeof(*source));
	int r = 0;

	if (!source)
		return -ENOMEM;
	source->source.ops = &image_ops;
	source->source.n_refs = 1;
	source->image = image_ref(image);
	source->memory = memory;
	made = &source->source;
	for (uint32_t i = 0; i < image->n_layers; i++)
		lock_bytes(image->layers[i]->index.bytes, image->layers[i]->index.n_bytes);
	if (is_packed(image)) {
		r = image_cache_new(&source->cache, cache_bytes ?: IMAGE_CACHE_BYTES);
		for (unsigned int i = 0; r == 0 && i < N_DECODERS; i++)
			r = image_decoder_new(&source->decoders[i]);
	}
	if (r < 0)
		return r;
	*ret = TAKE_PTR(made);
	return 0;
}
