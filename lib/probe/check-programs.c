/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which BPF programs the kernel takes from us; ufd works without any, tools that watch it do not. */
#include "probe/lab.h"
#include "probe/table.h"

#include <linux/bpf.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The least program there is: r0 = 0; exit. */
static void load_program(struct probe_run *run, enum bpf_prog_type type)
{
	struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attributes;
	int fd;

	memset(&attributes, 0, sizeof(attributes)); /* the kernel wants zeros to its end */
	attributes.prog_type = type;
	attributes.insn_cnt = sizeof(program) / sizeof(program[0]);
	attributes.insns = (uintptr_t)program;
	attributes.license = (uintptr_t) "GPL";
	fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes));
	probe_step(run, "BPF_PROG_LOAD of type %d: %s", type, fd < 0 ? probe_errno(errno) : "ok");
	if (fd < 0 && (errno == EPERM || errno == EACCES))
		probe_skip(run, "loading it is not allowed to us, which takes CAP_BPF and "
				"CAP_PERFMON");
	probe_answer(run, "%s", fd < 0 ? probe_errno(errno) : "yes");
}

static void loads_kprobe(struct probe_run *run)
{
	load_program(run, BPF_PROG_TYPE_KPROBE);
}

static void loads_tracepoint(struct probe_run *run)
{
	load_program(run, BPF_PROG_TYPE_TRACEPOINT);
}

static void loads_raw_tracepoint(struct probe_run *run)
{
	load_program(run, BPF_PROG_TYPE_RAW_TRACEPOINT);
}

static void loads_perf_event(struct probe_run *run)
{
	load_program(run, BPF_PROG_TYPE_PERF_EVENT);
}

static void has_types(struct probe_run *run)
{
	struct stat stat_;

	if (stat("/sys/kernel/btf/vmlinux", &stat_) < 0)
		probe_skip(run, "/sys/kernel/btf/vmlinux: %s", probe_errno(errno));
	probe_answer(run, "%s",
		     access("/sys/kernel/btf/vmlinux", R_OK) < 0 ? probe_errno(errno) : "yes");
	probe_detail(run, "%lld KiB", (long long)stat_.st_size / 1024);
}

static const struct probe_check checks[] = {
	{
		.id = "host.btf",
		.group = PROBE_HOST,
		.title = "The kernel tells its types (BTF), so that tracers fit it",
		.run = has_types,
	},
	{
		.id = "host.bpf-kprobe",
		.group = PROBE_HOST,
		.title = "A BPF program of type kprobe loads",
		.run = loads_kprobe,
	},
	{
		.id = "host.bpf-tracepoint",
		.group = PROBE_HOST,
		.title = "A BPF program of type tracepoint loads",
		.run = loads_tracepoint,
	},
	{
		.id = "host.bpf-raw-tracepoint",
		.group = PROBE_HOST,
		.title = "A BPF program of type raw tracepoint loads",
		.run = loads_raw_tracepoint,
	},
	{
		.id = "host.bpf-perf-event",
		.group = PROBE_HOST,
		.title = "A BPF program of type perf event loads",
		.run = loads_perf_event,
	},
};

const struct probe_family probe_family_programs = PROBE_FAMILY(checks);
