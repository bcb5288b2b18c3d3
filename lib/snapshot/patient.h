/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading a source with patience: for those who may wait for its device. */
#pragma once

#include <stdint.h>

#include "base/cleanup.h"

struct patient;
struct source;

/* The thread that reads first is the one that reads. Return: 0 or -errno. */
int patient_new(struct patient **ret);
struct patient *patient_free(struct patient *patient);
DEFINE_CLEANUP(struct patient, patient_free)

/*
 * Fill @buffer; zeros are written, too. Context: bulk, job; blocks. Return: 0, -ESTALE (the source
 * is no longer what it was), -ENODATA (it is shorter), other -errno.
 */
int patient_read(struct patient *patient, struct source *source, uint64_t offset, void *buffer,
		 uint64_t length_bytes);
