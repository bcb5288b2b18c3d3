/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The smallest guest on /dev/kvm: it stores words where it is told, and halts. */
#pragma once

#include <stdint.h>

struct dirty_vm;
struct dirty_vcpu;

/* At a guest-physical address. */
struct dirty_store {
	uint64_t address;
	uint64_t value;
};

/* @memory is at KVM_MEMORY_AT of its guest. For the process's life. Return: 0 or -errno (no KVM here). */
int dirty_vm_new(struct dirty_vm **ret, void *memory, uint64_t length);
int dirty_vcpu_new(struct dirty_vcpu **ret, struct dirty_vm *vm, unsigned int index);

/* By guest instructions, one after the other; at most GRANT_PAGES. Ends the process if the guest does anything else. */
void dirty_vcpu_run(struct dirty_vcpu *vcpu, const struct dirty_store *stores, unsigned int n);
