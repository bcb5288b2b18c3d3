/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The smallest guest on /dev/kvm: it loads from or stores to the pages it is told, and halts.
 *
 * Its program, page tables and list are in memory of their own, which nobody pages; so every fault on
 * the laboratory's memory is one of the accesses that were asked for.
 *
 * Context: the experiment's process.
 */
#pragma once

#include "probe/lab.h"

#define LAB_VM_PAGES 256 /* the most of one run */

/* How a run ended. */
enum lab_exit {
	LAB_EXIT_HALT,
	LAB_EXIT_MMIO,	 /* an access of the guest was taken for one of a device's registers */
	LAB_EXIT_EFAULT, /* KVM_RUN says that memory cannot be had */
	LAB_EXIT_SIGNAL, /* KVM_RUN was interrupted */
	LAB_EXIT_OTHER,
};

struct lab_vm;

/* A guest of one vCPU with @memory; skips where none runs. */
struct lab_vm *lab_vm_new(struct probe_run *run, const struct lab_memory *memory);

/*
 * The vCPU's thread: it loads from, or stores to, the first word of each of @n_pages from @first on,
 * every @step-th; its result is an enum lab_exit. One at a time.
 */
struct lab_thread *lab_vm_load(struct probe_run *run, struct lab_vm *vm, size_t first,
			       size_t n_pages, size_t step);
struct lab_thread *lab_vm_store(struct probe_run *run, struct lab_vm *vm, size_t first,
				size_t n_pages, size_t step, uint64_t value);
/* What the @i-th load of the run before read. */
uint64_t lab_vm_loaded(const struct lab_vm *vm, size_t i);
