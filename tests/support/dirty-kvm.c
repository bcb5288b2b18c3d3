/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The smallest guest on /dev/kvm.
 *
 * Its program, page tables and lists are in a megabyte of their own, which nobody pages; the memory
 * that is paged and tracked holds nothing but what the guest stores there.
 */
#include "support/dirty-kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "support/dirty-writer.h"

#if defined(__x86_64__)

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* Guest-physical; identity-mapped by pages of 2 MiB. */
#define CODE_AT	   0x1000
#define PML4_AT	   0x2000
#define PDPT_AT	   0x3000
#define PD_AT	   0x4000
#define LIST_BYTES UINT64_C(0x1000)

/* rdi: list, rcx: how many. */
static const unsigned char program[] = {
	0x48, 0x8b, 0x1f,	/* 1: mov (%rdi), %rbx */
	0x48, 0x8b, 0x47, 0x08, /* mov 8(%rdi), %rax */
	0x48, 0x89, 0x03,	/* mov %rax, (%rbx) */
	0x48, 0x83, 0xc7, 0x10, /* add $16, %rdi */
	0x48, 0xff, 0xc9,	/* dec %rcx */
	0x75, 0xed,		/* jnz 1b */
	0xf4,			/* hlt */
};

struct dirty_vm {
	int fd;
	size_t run_bytes;
	char *low; /* the first megabyte */
};

struct dirty_vcpu {
	int fd;
	struct kvm_run *run;
	uint64_t list_at;
	char *list;
};

static int add_slot(int vm, uint32_t slot, uint64_t at, void *memory, uint64_t length)
{
	struct kvm_userspace_memory_region region = { .slot = slot,
						      .guest_phys_addr = at,
						      .memory_size = length,
						      .userspace_addr = (uintptr_t)memory };

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static void write_low(char *low)
{
	uint64_t *entries = (uint64_t *)(low + PD_AT);

	memcpy(low + CODE_AT, program, sizeof(program));
	*(uint64_t *)(low + PML4_AT) = PDPT_AT | 3;
	*(uint64_t *)(low + PDPT_AT) = PD_AT | 3;
	for (uint64_t i = 0; i < 512; i++)
		entries[i] = (i * 2 * MIB) | 0x83;
}

int dirty_vm_new(struct dirty_vm **ret, void *memory, uint64_t length)
{
	struct dirty_vm *vm = calloc(1, sizeof(*vm));
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), r;

	if (!vm || kvm < 0)
		return vm ? -errno : -ENOMEM;
	vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return -errno;
	vm->run_bytes = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm->low = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->low == MAP_FAILED)
		return -errno;
	write_low(vm->low);
	r = add_slot(vm->fd, 0, 0, vm->low, MIB);
	if (r == 0)
		r = add_slot(vm->fd, 1, KVM_MEMORY_AT, memory, length);
	if (r < 0)
		return r;
	*ret = vm;
	return 0;
}

/* 64-bit mode from the first instruction on, segments without descriptors in memory. */
static int set_long_mode(int vcpu)
{
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = { .limit = 0xffffffff,
				    .selector = 16,
				    .type = 3,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = PML4_AT;
	sregs.cr4 = 1 << 5;	       /* PAE */
	sregs.cr0 = 0x80000033;	       /* PG, NE, ET, MP, PE */
	sregs.efer = 1 << 10 | 1 << 8; /* LMA, LME */
	return ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 ? -errno : 0;
}

int dirty_vcpu_new(struct dirty_vcpu **ret, struct dirty_vm *vm, unsigned int index)
{
	struct dirty_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	int r;

	if (!vcpu)
		return -ENOMEM;
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		return -errno;
	vcpu->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		return -errno;
	r = set_long_mode(vcpu->fd);
	if (r < 0)
		return r;
	vcpu->list_at = KVM_LIST_AT + index * LIST_BYTES;
	vcpu->list = vm->low + vcpu->list_at;
	*ret = vcpu;
	return 0;
}

void dirty_vcpu_run(struct dirty_vcpu *vcpu, const struct dirty_store *stores, unsigned int n)
{
	struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2, .rdi = vcpu->list_at, .rcx = n };

	if (n == 0)
		return;
	memcpy(vcpu->list, stores, n * sizeof(stores[0]));
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		abort();
	while (ioctl(vcpu->fd, KVM_RUN, 0) < 0)
		if (errno != EINTR && errno != EAGAIN)
			abort();
	/* all that it touches is memory: anything else is garbage that it was given */
	if (vcpu->run->exit_reason != KVM_EXIT_HLT) {
		printf("# the guest ends with exit %u\n", vcpu->run->exit_reason);
		abort();
	}
}

#else

int dirty_vm_new(struct dirty_vm **ret, void *memory, uint64_t length)
{
	return -EOPNOTSUPP;
}

int dirty_vcpu_new(struct dirty_vcpu **ret, struct dirty_vm *vm, unsigned int index)
{
	return -EOPNOTSUPP;
}

void dirty_vcpu_run(struct dirty_vcpu *vcpu, const struct dirty_store *stores, unsigned int n)
{
	abort();
}

#endif
