/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The machine that is measured on: its CPUs, its warm memory, and what others do meanwhile. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A measurement that cannot be made ends the program: a sentence, and exit status 1. */
_Noreturn void die(const char *what, ...) __attribute__((format(printf, 1, 2)));

/* The same, unless @r is 0; -errno, or an outcome that is none here. */
void must(int r, const char *what);

/* May this process make one? */
bool machine_has_userfaultfd(void);

/* The first two CPUs we may run on. Return: false if there is only one. */
bool machine_cpus(int ret_cpus[2]);

/* The calling thread stays on @cpu from now on. */
void machine_pin(int cpu);

/* Before other programs, where we may; for this process and those it starts, so for every arm. */
void machine_come_first(void);

/*
 * Touch @bytes and give them back. Memory that the host has taken away costs faults that this
 * machine does not see; what was freed a moment ago is still backed.
 */
void machine_warm(uint64_t bytes);

/* CPU time since boot, of all and of our own processes. */
struct load {
	uint64_t at_ns;
	uint64_t busy_ns;
	uint64_t own_ns;
};

#define N_OWN_PROCESSES 4

/* Processes that count as ours beside this one, and those that it has waited for. */
void machine_own(pid_t pid);
struct load machine_load(void);

/* The share of the machine's CPU time that others took between two moments, 0 to 1. */
double machine_load_of_others(struct load from, struct load to);
