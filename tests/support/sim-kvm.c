/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU of /dev/kvm that reads and sums up pages of guest memory; its program lies elsewhere. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/sim-vm.h"

#define CODE_AT	  0x1000
#define CODE_SLOT SIM_MAX_REGIONS
#define RAM_AT	  UINT64_C(0x10000000) /* guest-physical, of the file's first byte */
#define SUM_PORT  0x10
#define SUM_STEP  64 /* bytes: a KVM that emulates every instruction is slow */
#define MAX_SUMS  1024

/*
 *	xor eax, eax
 * 1:	rol eax, 5
 *	xor eax, [esi]
 *	add esi, 64
 *	dec ecx
 *	jnz 1b
 *	out 0x10, eax
 */
static const unsigned char program[] = { 0x31, 0xc0,	 0xc1, 0xc0, 0x05, 0x33, 0x06,	  0x83,
					 0xc6, SUM_STEP, 0x49, 0x75, 0xf5, 0xe7, SUM_PORT };

struct machine {
	int vm, vcpu;
	struct kvm_run *run;
};

static void set_slot(const struct machine *machine, unsigned int slot, uint64_t at, void *address,
		     uint64_t n_bytes)
{
	struct kvm_userspace_memory_region region = { .slot = slot,
						      .guest_phys_addr = at,
						      .memory_size = n_bytes,
						      .userspace_addr = (uintptr_t)address };

	if (ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		sim_fail(SIM_FAILED, "KVM_SET_USER_MEMORY_REGION", errno);
}

/* 32 bits, flat, without pages. */
static void set_mode(const struct machine *machine)
{
	struct kvm_segment code = { .limit = 0xffffffff,
				    .selector = 8,
				    .type = 11,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1 };
	struct kvm_segment data = code;
	struct kvm_sregs sregs;

	data.selector = 16;
	data.type = 3;
	if (ioctl(machine->vcpu, KVM_GET_SREGS, &sregs) < 0)
		sim_fail(SIM_FAILED, "KVM_GET_SREGS", errno);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 |= 1;
	if (ioctl(machine->vcpu, KVM_SET_SREGS, &sregs) < 0)
		sim_fail(SIM_SKIP, "KVM_SET_SREGS", errno);
}

static void machine_make(const struct sim *sim, struct machine *machine)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	unsigned char *code;
	int run_bytes;

	if (kvm < 0)
		sim_fail(SIM_SKIP, "/dev/kvm", errno);
	machine->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (machine->vm < 0 || run_bytes < 0)
		sim_fail(SIM_SKIP, "KVM_CREATE_VM", errno);
	code = mmap(NULL, SIM_BASE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (code == MAP_FAILED)
		sim_fail(SIM_FAILED, "mmap", errno);
	memcpy(code, program, sizeof(program));
	set_slot(machine, CODE_SLOT, CODE_AT, code, SIM_BASE_BYTES);
	for (unsigned int i = 0; i < sim->options.n_regions; i++)
		set_slot(machine, i, RAM_AT + sim->regions[i].offset_bytes, sim->regions[i].address,
			 sim->regions[i].plugged_bytes);
	machine->vcpu = ioctl(machine->vm, KVM_CREATE_VCPU, 0);
	if (machine->vcpu < 0)
		sim_fail(SIM_SKIP, "KVM_CREATE_VCPU", errno);
	machine->run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			    machine->vcpu, 0);
	if (machine->run == MAP_FAILED)
		sim_fail(SIM_FAILED, "mmap of a vCPU", errno);
	set_mode(machine);
	close(kvm);
}

/* What the guest finds on 4 KiB of its memory. */
static uint32_t sum_by_guest(const struct machine *machine, uint64_t offset)
{
	struct kvm_regs regs = { .rip = CODE_AT,
				 .rflags = 2,
				 .rsi = RAM_AT + offset,
				 .rcx = SIM_BASE_BYTES / SUM_STEP };
	uint32_t sum;

	if (ioctl(machine->vcpu, KVM_SET_REGS, &regs) < 0)
		sim_fail(SIM_FAILED, "KVM_SET_REGS", errno);
	while (ioctl(machine->vcpu, KVM_RUN, 0) < 0)
		if (errno != EINTR && errno != EAGAIN)
			sim_fail(SIM_FAILED, "KVM_RUN", errno);
	if (machine->run->exit_reason != KVM_EXIT_IO || machine->run->io.port != SUM_PORT)
		sim_fail(SIM_WRONG, "the vCPU left its program: a page was not there",
			 (int)machine->run->exit_reason);
	memcpy(&sum, (char *)machine->run + machine->run->io.data_offset, sizeof(sum));
	return sum;
}

static uint32_t sum_of_file(const struct sim *sim, uint64_t offset)
{
	uint32_t sum = 0, word;

	for (uint64_t at = 0; at < SIM_BASE_BYTES; at += SUM_STEP) {
		memcpy(&word, sim->file + offset + at, sizeof(word));
		sum = (sum << 5 | sum >> 27) ^ word;
	}
	return sum;
}

void sim_run_kvm(struct sim *sim)
{
	uint64_t random = sim->options.seed + 1, n_bases = sim->file_bytes / SIM_BASE_BYTES;
	struct machine machine;

	machine_make(sim, &machine);
	for (unsigned int i = 0; i < MAX_SUMS; i++) {
		uint64_t offset = sim_random(&random) % n_bases * SIM_BASE_BYTES;

		if (!sim_page(sim, offset / sim->options.page_bytes))
			continue;
		if (sum_by_guest(&machine, offset) != sum_of_file(sim, offset)) {
			sim->n_wrong++;
			sim->first_wrong = offset + 1;
		}
		sim->n_touched++;
	}
}
