/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The smallest guest on /dev/kvm. */
#include "probe/lab-kvm.h"

#if defined(__x86_64__)

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* Guest-physical; the first GiB is mapped to itself by pages of 2 MiB. */
#define LOW_BYTES  0x10000
#define PML4_AT	   0x1000
#define PDPT_AT	   0x2000
#define PD_AT	   0x3000
#define LOADER_AT  0x4000
#define STORER_AT  0x5000
#define LIST_AT	   0x8000
#define MEMORY_AT  0x200000
#define PRESENT_RW 3
#define LARGE	   0x80

/* rdi: the list, rcx: how many words of it. */
static const unsigned char loader[] = {
	0x48, 0x8b, 0x1f,	/* mov (%rdi), %rbx */
	0x48, 0x8b, 0x03,	/* mov (%rbx), %rax */
	0x48, 0x89, 0x47, 0x08, /* mov %rax, 8(%rdi) */
	0x48, 0x83, 0xc7, 0x10, /* add $16, %rdi */
	0xe2, 0xf0,		/* loop, to the first */
	0xf4,			/* hlt */
};

static const unsigned char storer[] = {
	0x48, 0x8b, 0x1f,	/* mov (%rdi), %rbx */
	0x48, 0x8b, 0x47, 0x08, /* mov 8(%rdi), %rax */
	0x48, 0x89, 0x03,	/* mov %rax, (%rbx) */
	0x48, 0x83, 0xc7, 0x10, /* add $16, %rdi */
	0xe2, 0xf0,		/* loop, to the first */
	0xf4,			/* hlt */
};

/* The guest reads it, and a loader writes it. */
struct word {
	uint64_t address;
	uint64_t value;
};

struct lab_vm {
	int vcpu;
	struct kvm_run *state;
	uint8_t *low;
	size_t page_bytes;
	size_t n_pages; /* of the memory */
};

static struct word *list_of(const struct lab_vm *vm)
{
	return (struct word *)(vm->low + LIST_AT);
}

static void write_low(uint8_t *low)
{
	uint64_t *pd = (uint64_t *)(low + PD_AT);

	*(uint64_t *)(low + PML4_AT) = PDPT_AT | PRESENT_RW;
	*(uint64_t *)(low + PDPT_AT) = PD_AT | PRESENT_RW;
	for (uint64_t i = 0; i < 512; i++)
		pd[i] = i << 21 | LARGE | PRESENT_RW;
	memcpy(low + LOADER_AT, loader, sizeof(loader));
	memcpy(low + STORER_AT, storer, sizeof(storer));
}

/* 64-bit mode from the first instruction on. */
static void set_long_mode(struct probe_run *run, int vcpu)
{
	struct kvm_segment code = { .limit = UINT32_MAX, .selector = 8 };
	struct kvm_segment data = { .limit = UINT32_MAX, .selector = 16 };
	struct kvm_sregs sregs;

	code.present = code.s = code.l = code.g = 1;
	code.type = 11; /* code, readable, accessed */
	data.present = data.s = data.db = data.g = 1;
	data.type = 3; /* data, writable, accessed */
	probe_must(run, ioctl(vcpu, KVM_GET_SREGS, &sregs) == 0, "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = PML4_AT;
	sregs.cr4 = 1 << 5;		      /* PAE */
	sregs.cr0 = UINT32_C(1) << 31 | 0x33; /* paging, protection, and what goes with it */
	sregs.efer = 1 << 10 | 1 << 8;	      /* long mode, active */
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0)
		probe_skip(run, "this KVM starts no guest in 64-bit mode: %s", strerror(errno));
}

static void add_memory(struct probe_run *run, int machine, uint32_t slot, uint64_t at,
		       const void *memory, uint64_t length_bytes)
{
	struct kvm_userspace_memory_region region = { .slot = slot,
						      .guest_phys_addr = at,
						      .memory_size = length_bytes,
						      .userspace_addr = (uintptr_t)memory };

	probe_must(run, ioctl(machine, KVM_SET_USER_MEMORY_REGION, &region) == 0,
		   "KVM_SET_USER_MEMORY_REGION");
}

/* The machine's and its vCPU's fds stay open as long as the process lives. */
struct lab_vm *lab_vm_new(struct probe_run *run, const struct lab_memory *memory)
{
	struct lab_vm *vm = calloc(1, sizeof(*vm));
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), machine, state_bytes;

	probe_must(run, vm, "calloc()");
	if (kvm < 0)
		probe_skip(run, "/dev/kvm cannot be opened: %s", strerror(errno));
	machine = ioctl(kvm, KVM_CREATE_VM, 0);
	if (machine < 0)
		probe_skip(run, "KVM makes no guest here: %s", strerror(errno));
	vm->low = mmap(NULL, LOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	probe_must(run, vm->low != MAP_FAILED, "mmap of 64 KiB");
	write_low(vm->low);
	add_memory(run, machine, 0, 0, vm->low, LOW_BYTES);
	add_memory(run, machine, 1, MEMORY_AT, memory->at, memory->length_bytes);
	vm->page_bytes = memory->page_bytes;
	vm->n_pages = memory->length_bytes / memory->page_bytes;

	vm->vcpu = ioctl(machine, KVM_CREATE_VCPU, 0);
	probe_must(run, vm->vcpu >= 0, "KVM_CREATE_VCPU");
	state_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm->state = mmap(NULL, (size_t)state_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu,
			 0);
	probe_must(run, vm->state != MAP_FAILED, "mmap of a vCPU");
	set_long_mode(run, vm->vcpu);
	return vm;
}

static intptr_t run_vcpu(void *argument)
{
	const struct lab_vm *vm = argument;

	if (ioctl(vm->vcpu, KVM_RUN, 0) < 0)
		return errno == EINTR	 ? LAB_EXIT_SIGNAL
		       : errno == EFAULT ? LAB_EXIT_EFAULT
					 : LAB_EXIT_OTHER;
	switch (vm->state->exit_reason) {
	case KVM_EXIT_HLT:
		return LAB_EXIT_HALT;
	case KVM_EXIT_MMIO:
		return LAB_EXIT_MMIO;
	default:
		return LAB_EXIT_OTHER;
	}
}

static struct lab_thread *start(struct probe_run *run, struct lab_vm *vm, uint64_t program,
				size_t first, size_t n_pages, size_t step, uint64_t value)
{
	struct kvm_regs regs = { .rip = program, .rflags = 2, .rdi = LIST_AT };
	struct word *list = list_of(vm);

	if (first + n_pages > vm->n_pages || n_pages > LAB_VM_PAGES)
		probe_break(run, "a guest was told pages that it does not have");
	for (size_t i = first; i < first + n_pages; i += step)
		list[regs.rcx++] = (struct word){ MEMORY_AT + i * vm->page_bytes, value };
	probe_must(run, ioctl(vm->vcpu, KVM_SET_REGS, &regs) == 0, "KVM_SET_REGS");
	return lab_start(run, run_vcpu, vm);
}

struct lab_thread *lab_vm_load(struct probe_run *run, struct lab_vm *vm, size_t first,
			       size_t n_pages, size_t step)
{
	return start(run, vm, LOADER_AT, first, n_pages, step, 0);
}

struct lab_thread *lab_vm_store(struct probe_run *run, struct lab_vm *vm, size_t first,
				size_t n_pages, size_t step, uint64_t value)
{
	return start(run, vm, STORER_AT, first, n_pages, step, value);
}

uint64_t lab_vm_loaded(const struct lab_vm *vm, size_t i)
{
	return list_of(vm)[i].value;
}

#else

struct lab_vm *lab_vm_new(struct probe_run *run, const struct lab_memory *memory)
{
	probe_skip(run, "there is no guest program for this architecture");
}

struct lab_thread *lab_vm_load(struct probe_run *run, struct lab_vm *vm, size_t first,
			       size_t n_pages, size_t step)
{
	probe_break(run, "a guest that cannot be");
}

struct lab_thread *lab_vm_store(struct probe_run *run, struct lab_vm *vm, size_t first,
				size_t n_pages, size_t step, uint64_t value)
{
	probe_break(run, "a guest that cannot be");
}

uint64_t lab_vm_loaded(const struct lab_vm *vm, size_t i)
{
	return 0;
}

#endif
