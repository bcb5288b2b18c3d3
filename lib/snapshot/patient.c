/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading a source with patience. */
#include "snapshot/patient.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "kernel/uring.h"
#include "source/source.h"

#define N_ENTRIES   8
#define PIECE_BYTES (256 * KIB) /* what a demand thread asks for at most, give or take */
#define WAIT_NS	    (100 * NSEC_PER_MSEC)

struct patient {
	struct uring *ring; /* owned */
	struct source_request request;
	sem_t done; /* of a source that completes elsewhere */
	int answer; /* before @done */
	unsigned char spare[SOURCE_SPARE_BYTES];
};

int patient_new(struct patient **ret)
{
	_cleanup_(freep) struct patient *patient = calloc(1, sizeof(*patient));
	int r;

	if (!patient)
		return -ENOMEM;
	r = uring_new(&patient->ring, N_ENTRIES);
	if (r)
		return r;
	sem_init(&patient->done, 0, 0);
	*ret = TAKE_PTR(patient);
	return 0;
}

struct patient *patient_free(struct patient *patient)
{
	if (!patient)
		return NULL;
	uring_free(patient->ring);
	sem_destroy(&patient->done);
	free(patient);
	return NULL;
}

static void on_complete(struct source_request *request, int answer)
{
	struct patient *patient = request->owner;

	patient->answer = answer;
	sem_post(&patient->done);
}

/* Until the ring says what became of the request. Return: as source_finish(). */
static int wait_for_ring(struct patient *patient, struct source *source)
{
	struct uring_completion completion;
	unsigned int n;
	int r;

	do {
		r = uring_wait(patient->ring, WAIT_NS, &completion, 1, &n);
		if (r < 0)
			return r;
	} while (n == 0);
	return source_finish(source, &patient->request, completion.result);
}

static int read_piece(struct patient *patient, struct source *source)
{
	int r = source_read(source, &patient->request);

	while (r == SOURCE_PENDING || r == SOURCE_FULL) {
		if (r == SOURCE_FULL) {
			r = source_read(source, &patient->request);
		} else if (patient->request.is_in_ring) {
			r = wait_for_ring(patient, source);
		} else {
			while (sem_wait(&patient->done) < 0)
				;
			r = patient->answer;
		}
	}
	return r;
}

int patient_read(struct patient *patient, struct source *source, uint64_t offset, void *buffer,
		 uint64_t length_bytes)
{
	char *to = buffer;

	while (length_bytes > 0) {
		uint64_t n = min_u64(length_bytes, PIECE_BYTES);
		int r;

		patient->request = (struct source_request){
			.offset = offset,
			.length_bytes = n,
			.buffer = to,
			.spare = patient->spare,
			.ring = patient->ring,
			.on_complete = on_complete,
			.owner = patient,
		};
		r = read_piece(patient, source);
		if (r == SOURCE_CHANGED)
			return -ESTALE;
		if (r == SOURCE_SHORT)
			return -ENODATA;
		if (r < 0)
			return r;
		if (r == SOURCE_ZERO)
			memset(to, 0, n);
		offset += n;
		to += n;
		length_bytes -= n;
	}
	return 0;
}
