/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the bytes of a frame are stored: lz4 blocks and zstd frames. */
#include "image/image-codec.h"

#include <errno.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "image/image-writer.h"

#define WINDOW_LOG_MAX 17 /* a frame has 64 KiB: more window would only be memory */

struct image_encoder {
	enum image_codec codec;
	ZSTD_CCtx *zstd; /* owned; NULL unless it is zstd */
};

struct image_decoder {
	ZSTD_DCtx *zstd; /* owned */
};

static int encoder_make_zstd(struct image_encoder *encoder, int level)
{
	if (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel())
		return -EINVAL;
	encoder->zstd = ZSTD_createCCtx();
	if (!encoder->zstd)
		return -ENOMEM;
	ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_compressionLevel, level);
	ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_windowLog, WINDOW_LOG_MAX);
	return 0;
}

int image_encoder_new(struct image_encoder **ret, enum image_codec codec, int level)
{
	_cleanup_(image_encoder_freep) struct image_encoder *encoder = NULL;
	int r = 0;

	if (codec != IMAGE_LZ4 && codec != IMAGE_ZSTD)
		return -EINVAL;
	encoder = calloc(1, sizeof(*encoder));
	if (!encoder)
		return -ENOMEM;
	encoder->codec = codec;
	if (codec == IMAGE_ZSTD)
		r = encoder_make_zstd(encoder, level);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(encoder);
	return 0;
}

struct image_encoder *image_encoder_free(struct image_encoder *encoder)
{
	if (encoder)
		ZSTD_freeCCtx(encoder->zstd);
	free(encoder);
	return NULL;
}

size_t image_encode(struct image_encoder *encoder, const void *bytes, size_t n_bytes, void *room,
		    size_t n_room)
{
	size_t n;
	int n_lz4;

	if (encoder->codec == IMAGE_ZSTD) {
		n = ZSTD_compress2(encoder->zstd, room, n_room, bytes, n_bytes);
		return ZSTD_isError(n) ? 0 : n;
	}
	n_lz4 = LZ4_compress_default(bytes, room, (int)n_bytes, (int)n_room);
	return n_lz4 > 0 ? (size_t)n_lz4 : 0;
}

int image_decoder_new(struct image_decoder **ret)
{
	_cleanup_(image_decoder_freep) struct image_decoder *decoder = NULL;

	decoder = calloc(1, sizeof(*decoder));
	if (!decoder)
		return -ENOMEM;
	decoder->zstd = ZSTD_createDCtx();
	if (!decoder->zstd)
		return -ENOMEM;
	*ret = TAKE_PTR(decoder);
	return 0;
}

struct image_decoder *image_decoder_free(struct image_decoder *decoder)
{
	if (decoder)
		ZSTD_freeDCtx(decoder->zstd);
	free(decoder);
	return NULL;
}

int image_decode(struct image_decoder *decoder, enum image_codec codec, const void *stored,
		 size_t n_stored, void *room, size_t n_room)
{
	size_t n = 0;
	int n_lz4;

	if (codec == IMAGE_ZSTD) {
		n = ZSTD_decompressDCtx(decoder->zstd, room, n_room, stored, n_stored);
	} else if (codec == IMAGE_LZ4) {
		n_lz4 = LZ4_decompress_safe(stored, room, (int)n_stored, (int)n_room);
		n = n_lz4 < 0 ? 0 : (size_t)n_lz4;
	}
	return n == n_room ? 0 : -EBADMSG;
}

/* ---- names ---- */

const char *image_codec_name(enum image_codec codec)
{
	static const char *const names[] = { "none", "lz4", "zstd" };

	return names[codec];
}

int image_codec_parse(const char *text, enum image_codec *ret_codec, int *ret_level)
{
	const char *number;
	char *end;
	long level;

	for (enum image_codec codec = IMAGE_RAW; codec <= IMAGE_ZSTD; codec++)
		if (strcmp(text, image_codec_name(codec)) == 0) {
			*ret_codec = codec;
			*ret_level = 0;
			return 0;
		}
	if (strncmp(text, "zstd:", 5))
		return -EINVAL;
	number = text + 5;
	if (*number != '-' && (*number < '0' || *number > '9'))
		return -EINVAL;
	errno = 0;
	level = strtol(number, &end, 10);
	if (errno || *end || end == number || level < ZSTD_minCLevel() || level > ZSTD_maxCLevel())
		return -EINVAL;
	*ret_codec = IMAGE_ZSTD;
	*ret_level = (int)level;
	return 0;
}
