/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VMM on /dev/kvm whose 64-bit guest checks and rewrites its memory, paged by ufdd. */

/*
 *	kvm-vmm --write-image FILE --mib N
 *	kvm-vmm --socket PATH --image FILE --mib N [--name S] [--source file|backing] [--memory
 *anon|shmem]
 *		[--vcpus N] [--step WORDS] [--no-client]
 *
 * All of guest memory is paged, its program and page tables too, so that faults come from loads and
 * stores of the guest and from KVM's own walks. A fault that is not served as one shows as an MMIO
 * exit inside memory: the guest would read garbage. Each vCPU visits its share of the pages in a
 * scattered order, compares all 512 words (or one in WORDS: a KVM that emulates every instruction
 * needs 20 us for each), and writes others; then everything is compared again.
 *
 * --no-client says READY PID and waits for a line on stdin, for somebody to attach it by pid.
 * Last comes one line of JSON. Exit status: 0, 1 for a wrong page or an MMIO exit, 2 if something
 * failed, 77 if there is no usable /dev/kvm.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <ufd/ufd.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define PAGE_WORDS 512
#define MIB	   (UINT64_C(1) << 20)
#define MAX_VCPUS  8

/* Guest-physical layout; identity-mapped by pages of 2 MiB. */
#define CODE_AT 0x1000
#define PML4_AT 0x2000
#define PDPT_AT 0x3000
#define PD_AT	0x4000
#define DATA_AT MIB

#define SEED	UINT64_C(0x5eed)
#define DELTA	UINT64_C(0x100000000) /* added to the key by a rewrite */
#define FACTOR	UINT64_C(0x9e3779b97f4a7c15)
#define STRIDE	UINT64_C(0x9e3779b1) /* odd: visits every page of a power of two once */

/*
 * The guest's program. In: rdi data, rsi number of pages, rdx seed, rcx stride, r8 words
 * from one compared to the next, r9 first visit, r10 visits between ours, rbp factor, rsp delta (0: compare only). Out: r11 wrong
 * pages. It has no stack and takes no interrupts.
 */
__asm__(".pushsection .rodata\n"
	".globl guest_program, guest_program_end\n"
	"guest_program:\n"
	"	xor %r11, %r11\n"
	"	mov %r9, %r12\n"
	"1:	cmp %rsi, %r12\n"
	"	jae 7f\n"
	"	mov %r12, %rax\n"
	"	imul %rcx, %rax\n"
	"	lea -1(%rsi), %r15\n"
	"	and %r15, %rax\n" /* the page */
	"	mov %rax, %rbx\n"
	"	shl $12, %rbx\n"
	"	add %rdi, %rbx\n" /* its address */
	"	shl $9, %rax\n"
	"	add %rdx, %rax\n" /* the key of its first word */
	"	xor %r13, %r13\n"
	"	xor %r14, %r14\n"
	"2:	lea (%rax, %r13), %r15\n"
	"	imul %rbp, %r15\n"
	"	xor (%rbx, %r13, 8), %r15\n"
	"	or %r15, %r14\n"
	"	add %r8, %r13\n"
	"	cmp $512, %r13\n"
	"	jb 2b\n"
	"	test %r14, %r14\n"
	"	jz 3f\n"
	"	inc %r11\n"
	"3:	test %rsp, %rsp\n"
	"	jz 5f\n"
	"	xor %r13, %r13\n"
	"4:	lea (%rax, %r13), %r15\n"
	"	add %rsp, %r15\n"
	"	imul %rbp, %r15\n"
	"	mov %r15, (%rbx, %r13, 8)\n"
	"	add %r8, %r13\n"
	"	cmp $512, %r13\n"
	"	jb 4b\n"
	"5:	add %r10, %r12\n"
	"	jmp 1b\n"
	"7:	hlt\n"
	"guest_program_end:\n"
	".popsection\n");
extern const char guest_program[], guest_program_end[];

struct options {
	const char *write_image;
	const char *image;
	const char *socket;
	const char *name;
	int is_backing; /* source: the bytes are in the memfd already */
	int is_anon;
	int has_client;
	uint64_t mib;
	uint64_t step; /* of words */
	unsigned int n_vcpus;
};

struct vmm {
	struct options options;
	uint64_t length_bytes;
	uint64_t n_pages; /* of data, a power of two */
	int backing;	  /* -1 for anonymous memory */
	char *memory;
	int vm;
	size_t run_bytes;
};

struct vcpu {
	struct vmm *vmm;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	uint64_t delta, seed; /* of the round */
	uint64_t n_wrong;
	uint64_t n_mmio;
};

static _Noreturn void give_up(const char *what, int error)
{
	fprintf(stderr, "kvm-vmm: %s: %s\n", what, strerror(error));
	exit(2);
}

static _Noreturn void skip(const char *what, int error)
{
	fprintf(stderr, "kvm-vmm: %s: %s\n", what, strerror(error));
	exit(77);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Data pages: as many as fit above DATA_AT, rounded down to a power of two. */
static uint64_t count_pages(uint64_t length_bytes)
{
	uint64_t n = 1;

	while (2 * n * PAGE_BYTES <= length_bytes - DATA_AT)
		n *= 2;
	return n;
}

/* The program, the page tables, and data: what the image and a backing hold at first. */
static void fill(char *bytes, uint64_t length_bytes)
{
	uint64_t *words;

	memcpy(bytes + CODE_AT, guest_program, guest_program_end - guest_program);
	*(uint64_t *)(bytes + PML4_AT) = PDPT_AT | 3;
	*(uint64_t *)(bytes + PDPT_AT) = PD_AT | 3;
	words = (uint64_t *)(bytes + PD_AT);
	for (uint64_t i = 0; i < PAGE_WORDS; i++)
		words[i] = (i * 2 * MIB) | 0x83;

	words = (uint64_t *)(bytes + DATA_AT);
	for (uint64_t i = 0; i < count_pages(length_bytes) * PAGE_WORDS; i++)
		words[i] = (SEED + i) * FACTOR;
}

static void fill_file(int fd, uint64_t length_bytes)
{
	char *bytes;

	if (ftruncate(fd, length_bytes) < 0)
		give_up("ftruncate", errno);
	bytes = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		give_up("mmap", errno);
	fill(bytes, length_bytes);
	munmap(bytes, length_bytes);
}

static void write_image(const struct options *options)
{
	int fd = open(options->write_image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		give_up(options->write_image, errno);
	fill_file(fd, options->mib * MIB);
	close(fd);
}

static void make_memory(struct vmm *vmm)
{
	vmm->length_bytes = vmm->options.mib * MIB;
	vmm->n_pages = count_pages(vmm->length_bytes);
	vmm->backing = -1;
	if (!vmm->options.is_anon) {
		vmm->backing = memfd_create("guest", MFD_CLOEXEC);
		if (vmm->backing < 0 || ftruncate(vmm->backing, vmm->length_bytes) < 0)
			give_up("memfd", errno);
		if (vmm->options.is_backing)
			fill_file(vmm->backing, vmm->length_bytes);
	}
	vmm->memory = mmap(NULL, vmm->length_bytes, PROT_READ | PROT_WRITE,
			   vmm->backing < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED,
			   vmm->backing, 0);
	if (vmm->memory == MAP_FAILED)
		give_up("mmap", errno);
}

/* ---- the daemon ------------------------------------------------------------------------------ */

static struct ufd_client *attach(const struct vmm *vmm)
{
	const struct options *options = &vmm->options;
	struct ufd_client *client = NULL;
	char source[4200] = "backing";
	const char *why = "";
	UFD_OPTS(ufd_client_opts, opts, .guest = options->name, .socket_path = options->socket,
		 .populated = options->is_backing ? UFD_CLIENT_POPULATED_KEEP : 0,
		 .background = UFD_CLIENT_OFF);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "ram", .source = source,
		 .address = vmm->memory, .length = vmm->length_bytes,
		 .backing = vmm->backing > 0 ? vmm->backing : 0);
	int r = ufd_client_new(&client, &opts, &why);

	if (r)
		give_up(why, -r);
	if (!options->is_backing)
		snprintf(source, sizeof(source), "file:%s", options->image);
	r = ufd_client_add_memory(client, &memory);
	if (!r)
		r = ufd_client_attach(client);
	if (r)
		give_up(ufd_client_error(client), -r);
	printf("ATTACHED %d\n", getpid());
	return client;
}

static void wait_for_line(void)
{
	char line[64];

	printf("READY %d\n", getpid());
	if (!fgets(line, sizeof(line), stdin))
		give_up("nobody said go on", ENODATA);
}

/* ---- the machine ----------------------------------------------------------------------------- */

static int machine_start(struct vmm *vmm)
{
	struct kvm_userspace_memory_region region = {};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		skip("/dev/kvm", errno);
	vmm->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vmm->vm < 0)
		skip("KVM_CREATE_VM", errno);
	vmm->run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	region.memory_size = vmm->length_bytes;
	region.userspace_addr = (uintptr_t)vmm->memory;
	if (ioctl(vmm->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		give_up("KVM_SET_USER_MEMORY_REGION", errno);
	return kvm;
}

/* 64-bit mode from the first instruction on, segments without descriptors in memory. */
static void set_long_mode(int vcpu)
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
		give_up("KVM_GET_SREGS", errno);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = PML4_AT;
	sregs.cr4 = 1 << 5;	       /* PAE */
	sregs.cr0 = 0x80000033;	       /* PG, NE, ET, MP, PE */
	sregs.efer = 1 << 10 | 1 << 8; /* LMA, LME */
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0)
		skip("KVM_SET_SREGS", errno);
}

static void vcpu_start(struct vcpu *vcpu)
{
	vcpu->fd = ioctl(vcpu->vmm->vm, KVM_CREATE_VCPU, vcpu->index);
	if (vcpu->fd < 0)
		skip("KVM_CREATE_VCPU", errno);
	vcpu->run = mmap(NULL, vcpu->vmm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd,
			 0);
	if (vcpu->run == MAP_FAILED)
		give_up("mmap of a vCPU", errno);
	set_long_mode(vcpu->fd);
}

static void set_registers(const struct vcpu *vcpu)
{
	const struct vmm *vmm = vcpu->vmm;
	struct kvm_regs regs = {
		.rip = CODE_AT,
		.rflags = 2,
		.rdi = DATA_AT,
		.rsi = vmm->n_pages,
		.rdx = vcpu->seed,
		.rcx = STRIDE,
		.r8 = vmm->options.step,
		.r9 = vcpu->index,
		.r10 = vmm->options.n_vcpus,
		.rbp = FACTOR,
		.rsp = vcpu->delta,
	};

	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		give_up("KVM_SET_REGS", errno);
}

/* Until the program halts. */
static void *run(void *argument)
{
	struct vcpu *vcpu = argument;
	struct kvm_regs regs;

	set_registers(vcpu);
	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			give_up("KVM_RUN", errno);
		}
		if (vcpu->run->exit_reason == KVM_EXIT_HLT)
			break;
		if (vcpu->run->exit_reason != KVM_EXIT_MMIO) {
			fprintf(stderr, "kvm-vmm: vCPU %u ends with exit %u\n", vcpu->index,
				vcpu->run->exit_reason);
			exit(2);
		}
		/* All the guest touches is memory: it was just given garbage. */
		vcpu->n_mmio++;
		if (vcpu->n_mmio == 1)
			fprintf(stderr, "kvm-vmm: MMIO exit at %#llx\n",
				(unsigned long long)vcpu->run->mmio.phys_addr);
	}
	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
		give_up("KVM_GET_REGS", errno);
	vcpu->n_wrong += regs.r11;
	return NULL;
}

static void run_round(struct vmm *vmm, struct vcpu *vcpus, uint64_t seed, uint64_t delta)
{
	for (unsigned int i = 0; i < vmm->options.n_vcpus; i++) {
		vcpus[i].seed = seed;
		vcpus[i].delta = delta;
		if (pthread_create(&vcpus[i].thread, NULL, run, &vcpus[i]))
			give_up("thread", errno);
	}
	for (unsigned int i = 0; i < vmm->options.n_vcpus; i++)
		pthread_join(vcpus[i].thread, NULL);
}

static int run_guest(const struct options *options)
{
	struct vmm vmm = { .options = *options };
	struct vcpu vcpus[MAX_VCPUS] = {};
	struct ufd_client *client = NULL;
	uint64_t n_wrong = 0, n_mmio = 0;

	make_memory(&vmm);
	machine_start(&vmm);
	for (unsigned int i = 0; i < options->n_vcpus; i++) {
		vcpus[i].vmm = &vmm;
		vcpus[i].index = i;
		vcpu_start(&vcpus[i]);
	}
	if (options->has_client)
		client = attach(&vmm);
	else
		wait_for_line();

	run_round(&vmm, vcpus, SEED, DELTA);
	run_round(&vmm, vcpus, SEED + DELTA, 0);
	for (unsigned int i = 0; i < options->n_vcpus; i++) {
		n_wrong += vcpus[i].n_wrong;
		n_mmio += vcpus[i].n_mmio;
	}
	printf("{\"ok\":%s,\"pages_checked\":%llu,\"wrong_pages\":%llu,\"mmio_exits\":%llu}\n",
	       n_wrong || n_mmio ? "false" : "true", (unsigned long long)(2 * vmm.n_pages),
	       (unsigned long long)n_wrong, (unsigned long long)n_mmio);
	ufd_client_free(client);
	return n_wrong || n_mmio ? 1 : 0;
}

static const struct option long_options[] = {
	{ "write-image", required_argument, NULL, 'W' },
	{ "image", required_argument, NULL, 'i' },
	{ "socket", required_argument, NULL, 's' },
	{ "name", required_argument, NULL, 'n' },
	{ "source", required_argument, NULL, 'S' },
	{ "memory", required_argument, NULL, 'm' },
	{ "mib", required_argument, NULL, 'M' },
	{ "vcpus", required_argument, NULL, 'v' },
	{ "step", required_argument, NULL, 't' },
	{ "no-client", no_argument, NULL, 'x' },
	{},
};

int main(int argc, char **argv)
{
	struct options options = {
		.name = "kvm", .has_client = 1, .mib = 64, .step = 1, .n_vcpus = 1
	};
	int option;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case 'W':
			options.write_image = optarg;
			break;
		case 'i':
			options.image = optarg;
			break;
		case 's':
			options.socket = optarg;
			break;
		case 'n':
			options.name = optarg;
			break;
		case 'S':
			options.is_backing = !strcmp(optarg, "backing");
			break;
		case 'm':
			options.is_anon = !strcmp(optarg, "anon");
			break;
		case 'M':
			options.mib = strtoull(optarg, NULL, 10);
			break;
		case 'v':
			options.n_vcpus = strtoul(optarg, NULL, 10);
			break;
		case 't':
			options.step = strtoull(optarg, NULL, 10);
			break;
		case 'x':
			options.has_client = 0;
			break;
		default:
			return 2;
		}
	}
	if (options.mib < 2 || options.mib > 1024 || options.n_vcpus < 1 || options.step < 1 ||
	    options.n_vcpus > MAX_VCPUS) {
		fprintf(stderr, "kvm-vmm: a number makes no sense\n");
		return 2;
	}

	if (options.write_image) {
		write_image(&options);
		return 0;
	}
	return run_guest(&options);
}
