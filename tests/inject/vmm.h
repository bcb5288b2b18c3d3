/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with memories of every kind, which knows what each of its pages must hold. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define VMM_PAGES    48			 /* a memory of small pages */
#define VMM_STRIDE   (UINT64_C(8) << 20) /* between two memories in the source */
#define VMM_MEMORIES 5

enum vmm_memory_kind {
	VMM_ANON,
	VMM_SHMEM,
	VMM_MINOR, /* shmem whose bytes are in the file */
	VMM_PRIVATE,
	VMM_HUGETLB, /* not there without a pool */
};

/* What a page holds: the source's bytes, zeros, or what was written last. */
#define VMM_SOURCE 0
#define VMM_ZERO   255

/* Readable; shared with the process. */
struct vmm_memory {
	enum vmm_memory_kind kind;
	uint64_t address, length, page_bytes;
	uint64_t n_pages; /* 0: this machine has no such memory */
	int memfd;	  /* -1 for anonymous memory */
	_Atomic unsigned char expected[VMM_PAGES];
};

struct vmm_wrong {
	unsigned int memory;
	uint64_t page, word, got;
};

struct vmm {
	pid_t pid;
	int pidfd, uffd, socket;
	int source;   /* every memory's bytes, each at its number times VMM_STRIDE */
	bool is_owed; /* an order is not answered yet */
	struct vmm_shared *shared;
	struct vmm_memory *memories; /* VMM_MEMORIES, in @shared */
};

enum vmm_order_kind {
	VMM_CHECK,   /* compare, by two threads */
	VMM_WRITE,   /* whole pages, which hold @value then */
	VMM_DISCARD, /* by madvise(), as its kind wants it */
};

/* Ends the run without memory or userfaultfd. Before the board is armed. */
void vmm_start(struct vmm *ret, bool has_huge_pages);
void vmm_stop(struct vmm *vmm);

/* Have it done, and wait for @patience_ns. Return: false if it takes longer; vmm_wait() later. Ends the run at a wrong byte. */
bool vmm_order(struct vmm *vmm, enum vmm_order_kind kind, unsigned int memory, uint64_t first,
	       uint64_t count, unsigned char value, uint64_t patience_ns);
bool vmm_wait(struct vmm *vmm, uint64_t patience_ns);

/* Every page of every memory. Ends the run at a wrong byte, and at a page that does not come. */
void vmm_check_all(struct vmm *vmm, uint64_t patience_ns);
