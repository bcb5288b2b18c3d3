/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with memory and a userfaultfd of its own, that does what a test asks. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/units.h"

enum target_memory {
	TARGET_ANON,
	TARGET_SHMEM,	/* memfd, mapped shared */
	TARGET_HUGETLB, /* memfd of 2 MiB pages, mapped shared */
	TARGET_PRIVATE, /* memfd of base pages, mapped private */
};

/* Readable. The fds are owned and belong to the tester's process. */
struct target {
	enum target_memory kind;
	pid_t pid;
	int pidfd;
	int socket;
	int uffd;  /* of the target's address space; nothing is registered */
	int memfd; /* -EBADF for anonymous memory */
	struct hva_range memory;
	uint64_t page_bytes;
};

/**
 * target_start() - fork a process with @n_pages of fresh memory
 * @features: for its handshake
 *
 * It keeps its own fd of the uffd and dies with us. Ends the test if anything fails, or skips it
 * if userfaultfd is not allowed or huge pages are missing.
 */
void target_start(struct target *target, enum target_memory memory, uint64_t n_pages,
		  uint64_t features);

/* Register all of its memory with every mode that its kind allows. */
void target_register(struct target *target);

/* Kills it if need be; closes the fds. */
void target_done(struct target *target);

/* Done by the target, each in a thread of its own. The tester's program is the target's too. */
typedef uint64_t (*target_work)(struct hva at, uint64_t argument);

uint64_t target_load(struct hva at, uint64_t ignored); /* the byte there */
uint64_t target_store(struct hva at, uint64_t byte);
uint64_t target_discard(struct hva at, uint64_t length_bytes); /* its bytes; answers an errno */
uint64_t target_forget(struct hva at, uint64_t length_bytes);  /* its page table only; an errno */
uint64_t target_unmap(struct hva at, uint64_t length_bytes);   /* the same */

/* Begin; the answer comes later, and may come after those of later questions. */
void target_ask(struct target *target, target_work work, struct hva at, uint64_t argument);

/* Wait for the next answer, at most 20 seconds. */
uint64_t target_answer(struct target *target);

/* Is there an answer within @timeout_ms? */
int target_has_answered(struct target *target, int timeout_ms);

/* Both. */
uint64_t target_do(struct target *target, target_work work, struct hva at, uint64_t argument);

/* Wait until so many faults of the target are unread (by fdinfo), at most 20 seconds. */
void target_await_faults(struct target *target, uint64_t n_unread);

/* Kill it and wait for its end. */
void target_kill(struct target *target);

static inline struct hva target_page(const struct target *target, uint64_t index)
{
	return hva_add(target->memory.start, index * target->page_bytes);
}

static inline struct hva_range target_pages(const struct target *target, uint64_t first,
					    uint64_t n_pages)
{
	return (struct hva_range){ target_page(target, first), n_pages * target->page_bytes };
}
