/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A child that plays the VMM: its memory is paged by the test, its threads touch and compare. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The first of them as enum ufd_memory_kind; the last is anonymous memory of huge pages. */
enum child_memory { CHILD_ANON, CHILD_SHMEM, CHILD_HUGETLB, CHILD_PRIVATE, CHILD_ANON_HUGE };

/* Readable. */
struct paged_child {
	pid_t pid;
	int pidfd;
	int uffd;  /* the child's, received */
	int memfd; /* -1 for anonymous memory */
	int socket;
	uint64_t address;
	uint64_t length;
	uint64_t page_bytes;
};

enum child_order { CHILD_SEQUENTIAL, CHILD_RANDOM };

/* Words of page @page as the source has it; never zero. */
uint64_t child_word(uint64_t page, uint64_t index);
void child_page(uint64_t page, uint64_t page_bytes, void *ret);

/* Return: 0, or -errno of the uffd (skip) . The child ends with its parent. */
int child_start(struct paged_child *ret, enum child_memory kind, uint64_t length);

/* The same with a userfaultfd for the tracker wp, if @is_wp_sync. */
int child_start_tracked(struct paged_child *ret, enum child_memory kind, uint64_t length,
			bool is_wp_sync);

/*
 * Have the child call a function of this program, with a copy of @n_bytes (128 at most) at @argument. Return:
 * what it returns; UINT64_MAX if it has died.
 */
typedef uint64_t (*child_function)(const struct paged_child *self, const void *argument);
uint64_t child_call(const struct paged_child *child, child_function function, const void *argument,
		    size_t n_bytes);

/* Threads touch every page once and compare it with the source's. @ret_wrong: pages that differ. */
void child_check(const struct paged_child *child, unsigned int n_threads, enum child_order order,
		 bool with_writes, uint64_t *ret_wrong);

/* Begin child_check() without waiting; then child_result(). */
void child_begin(const struct paged_child *child, unsigned int n_threads, enum child_order order,
		 bool with_writes);
uint64_t child_result(const struct paged_child *child);

/*
 * Threads that read, write and discard at random, each in a part of its own, and know what every page
 * must hold; also from one call to the next. @advice: how they discard (MADV_DONTNEED, MADV_REMOVE), 0
 * not at all. child_result(): pages that were wrong.
 */
void child_begin_churn(const struct paged_child *child, unsigned int n_threads, uint64_t n_steps,
		       uint64_t seed, int advice);

/* madvise() of pages in the child; @advice as there. */
void child_advise(const struct paged_child *child, uint64_t first_page, uint64_t n_pages,
		  int advice);
/* Begin it without waiting; then child_result(), which is 0 or an errno. */
void child_begin_advise(const struct paged_child *child, uint64_t first_page, uint64_t n_pages,
			int advice);

/*
 * Another mapping of the child's whole memfd. Return: its address. Its pages may be named like others, by their
 * distance from the first mapping: (address - child->address) / child->page_bytes, which may wrap.
 */
uint64_t child_map_again(const struct paged_child *child);

/* The first word of a page, read by the child. */
uint64_t child_peek(const struct paged_child *child, uint64_t page);
void child_poke(const struct paged_child *child, uint64_t page, uint64_t word);
/* Begin it without waiting; then child_result(). */
void child_begin_poke(const struct paged_child *child, uint64_t page, uint64_t word);

/* Is there an answer within that time? */
bool child_has_result(const struct paged_child *child, int timeout_ms);

void child_stop(struct paged_child *child);
