/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the bytes of a frame are stored. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "image/format.h"

struct image_encoder;

/* @codec: IMAGE_RAW is none, and gives no encoder. Return: 0, -EINVAL (codec, level), -ENOMEM. */
int image_encoder_new(struct image_encoder **ret, enum image_codec codec, int level);
struct image_encoder *image_encoder_free(struct image_encoder *encoder);
DEFINE_CLEANUP(struct image_encoder, image_encoder_free)

/* Context: bulk. Return: how many bytes it took, at most @n_room; 0: it does not shrink into them. */
size_t image_encode(struct image_encoder *encoder, const void *bytes, size_t n_bytes, void *room,
		    size_t n_room);

struct image_decoder;

int image_decoder_new(struct image_decoder **ret);
struct image_decoder *image_decoder_free(struct image_decoder *decoder);
DEFINE_CLEANUP(struct image_decoder, image_decoder_free)

/*
 * Context: any, one thread at a time; demand, too: does not block, allocates nothing. Return: 0,
 * -EBADMSG: it does not give exactly @n_room bytes.
 */
int image_decode(struct image_decoder *decoder, enum image_codec codec, const void *stored,
		 size_t n_stored, void *room, size_t n_room);
