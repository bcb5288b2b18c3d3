/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who must not notice: a guest whose first touches are timed and whose every page is compared. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* Readable. */
struct bystander {
	pid_t pid;
	int socket;
	int uffd, pidfd, pagemap; /* what a careless VMM might have given away */
	uint64_t address;
};

/* What a round of touches showed. */
struct bystander_round {
	uint64_t p99_ns;
	uint64_t n_wrong; /* pages with other bytes than the source's */
};

/* A process of its own, attached. @cpu: it and its demand thread stay there. */
void bystander_start(struct bystander *bystander, const char *socket, int image, int cpu);
/* Touch the next @n_pages for the first time, some hundred microseconds each. */
struct bystander_round bystander_touch(const struct bystander *bystander, uint64_t n_pages);
/* Begin it, and hear of it later. */
void bystander_begin(const struct bystander *bystander, uint64_t n_pages);
struct bystander_round bystander_end(const struct bystander *bystander);
/* Compare every page, touched or not. Return: how many are wrong. */
uint64_t bystander_compare(const struct bystander *bystander);
void bystander_stop(struct bystander *bystander);
