/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is to be attached: memories, and where one process maps them. Every front end makes one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ufd/pager.h>

#include "base/cleanup.h"
#include "attach/paging.h"

struct refusal;

/* Readable. */
struct plan_memory {
	char name[UFD_NAME_BYTES];
	uint32_t kind; /* enum ufd_memory_kind */
	uint64_t page_bytes;
	uint64_t base_bytes; /* first offset that any mapping shows */
	uint64_t end_bytes;
	int backing;	  /* borrowed; -EBADF for anonymous memory */
	const char *spec; /* borrowed; NULL if the memory must be known already */
	int source_fd;	  /* borrowed; -EBADF: none */
};

/* Readable. */
struct plan_mapping {
	size_t memory; /* index */
	uint64_t address;
	uint64_t length_bytes;
	uint64_t offset_bytes; /* in the backing, or in the client's count */
};

/* Readable; zero is empty. Fds and texts are borrowed from whoever made it. */
struct plan {
	struct plan_memory *memories; /* owned */
	size_t n_memories;
	struct plan_mapping *mappings; /* owned */
	size_t n_mappings;
};

void plan_done(struct plan *plan);

/**
 * plan_check() - what can be said without asking the kernel
 *
 * Alignment, overflow, overlap within the plan, length of the backing.
 * Context: any. Return: 0, or -ECANCELED with io.ufd.guest.BadRegion.
 */
int plan_check(const struct plan *plan, struct refusal *refusal);

/* Only those who may open a file with our rights may name it. Return: 0, or -ECANCELED with
 * BadSource. */
int plan_check_spec(const char *spec, bool may_use_paths, struct refusal *refusal);

/*
 * Those who are not root or our own user pass only files that no FUSE server or network answers for:
 * he could hold up whoever reads, and our end. Context: job. Return: 0, or -ECANCELED with BadSource.
 */
int plan_check_sources(const struct plan *plan, struct refusal *refusal);

/**
 * plan_check_maps() - does the process really map what the plan says
 *
 * Context: job; reads /proc. Return: 0, or -ECANCELED with BadRegion or CannotAttach.
 */
int plan_check_maps(const struct plan *plan, pid_t pid, struct refusal *refusal);

/*
 * Why ufd_pager_guest_add_mapping() said @r, in words. @offset: in the memory as the plan counts, of
 * the page that is not empty. Return: always -ECANCELED.
 */
int plan_refuse_mapping(const struct plan_mapping *mapping, const char *memory, pid_t pid, int r,
			uint64_t offset, struct refusal *refusal);

/*
 * The range was registered by the uffd: does the process that it is said to be show it?
 * Context: job; reads /proc. Return: 0, or -ECANCELED with CannotAttach.
 */
int plan_prove_owner(const struct plan_mapping *mapping, pid_t pid, struct refusal *refusal);

/* Readable. The process whose mappings the plan lists. */
struct plan_mapper {
	pid_t pid;
	int pidfd;	      /* borrowed */
	int uffd;	      /* borrowed */
	int pagemap;	      /* borrowed; -1: opened when needed */
	bool may_be_unproved; /* smaps that we may not read are no reason to refuse */
};

/**
 * plan_apply() - register everything with the engine
 * @paging: its engine guest exists; memories and mappers are added to its lists, and kept (see struct
 *	    paging_keeper) before any mapping is registered
 * @mapper:       one that it has already is found by its pid
 *
 * The uffd is proved to be the process's: the first range registered by it must show in the
 * process's smaps. A failure leaves the engine's guest in need of being freed, or (of a guest that
 * runs) keeps the mappings that were added before.
 * Context: job, with the registry's lock held; blocks. Return: 0, or -ECANCELED with @refusal set.
 */
int plan_apply(const struct plan *plan, struct paging *paging, const struct plan_mapper *mapper,
	       struct refusal *refusal);
