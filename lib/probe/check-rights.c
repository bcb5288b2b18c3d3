/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host lets this user do: capabilities, filters of system calls, devices. */
#include "probe/host.h"
#include "probe/lab.h"
#include "probe/table.h"

#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* ---- capabilities ---------------------------------------------------------------------------- */

static bool has_capability(struct probe_run *run, unsigned int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
	bool has;

	probe_must(run, syscall(SYS_capget, &header, sets) == 0, "capget");
	has = sets[capability / 32].effective >> capability % 32 & 1;
	probe_step(run, "capability %u: %s", capability, has ? "effective" : "not effective");
	return has;
}

#define CAPABILITY(function, capability)                                                 \
	static void function(struct probe_run *run)                                      \
	{                                                                                \
		probe_answer(run, "%s", has_capability(run, capability) ? "yes" : "no"); \
	}
CAPABILITY(may_trace, CAP_SYS_PTRACE)
CAPABILITY(may_search, CAP_DAC_READ_SEARCH)
CAPABILITY(may_checkpoint, CAP_CHECKPOINT_RESTORE)
CAPABILITY(may_administer, CAP_SYS_ADMIN)
CAPABILITY(may_lock, CAP_IPC_LOCK)
CAPABILITY(may_hurry, CAP_SYS_NICE)
CAPABILITY(may_exceed_limits, CAP_SYS_RESOURCE)

/* Either the two of Linux 5.8, or the one that held them before and still does. */
static void may_load_programs(struct probe_run *run)
{
	bool is_admin = has_capability(run, CAP_SYS_ADMIN);
	bool may_load = has_capability(run, CAP_BPF), may_trace = has_capability(run, CAP_PERFMON);

	probe_detail(run, "CAP_BPF: %s, CAP_PERFMON: %s, CAP_SYS_ADMIN: %s",
		     may_load ? "yes" : "no", may_trace ? "yes" : "no", is_admin ? "yes" : "no");
	probe_answer(run, "%s", is_admin || (may_load && may_trace) ? "yes" : "no");
}

/* ---- filters --------------------------------------------------------------------------------- */

static void is_filtered(struct probe_run *run)
{
	static const char *const modes[] = { "none", "strict", "a filter" };
	uint64_t mode, n_filters = 0;
	char text[4096];

	errno = -procfs_read("/proc/self/status", text, sizeof(text), NULL);
	probe_must(run, !errno, "reading /proc/self/status");
	if (!procfs_find_number(text, "Seccomp", &mode))
		probe_skip(run, "the kernel was built without seccomp");
	procfs_find_number(text, "Seccomp_filters", &n_filters);
	probe_step(run, "Seccomp: %llu, Seccomp_filters: %llu", (unsigned long long)mode,
		   (unsigned long long)n_filters);
	probe_detail(run, "%llu filters", (unsigned long long)n_filters);
	probe_answer(run, "%s", mode < sizeof(modes) / sizeof(modes[0]) ? modes[mode] : "unknown");
}

/*
 * Calls that containers and sandboxes are fond of refusing, made so that the kernel itself would say
 * what is wrong with their arguments. A filter says EPERM or ENOSYS instead, or kills.
 */
struct filtered_call {
	const char *name;
	long number;
	long arguments[6];
};

static int make_call(void *argument)
{
	const struct filtered_call *call = argument;
	const long *a = call->arguments;

	return syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]) < 0 ? errno : 0;
}

static void are_let_through(struct probe_run *run)
{
	struct filtered_call calls[] = {
		{ "userfaultfd", SYS_userfaultfd, { UFFD_USER_MODE_ONLY | 1L << 30 } },
		{ "io_uring_enter", SYS_io_uring_enter, { -1, 0, 0, 0, 0, 0 } },
		{ "pidfd_open", SYS_pidfd_open, { -1, 0 } },
		{ "pidfd_getfd", SYS_pidfd_getfd, { -1, -1, 0 } },
		{ "process_vm_readv", SYS_process_vm_readv, { getpid(), 0, 0, 0, 0, 0 } },
		{ "process_vm_writev", SYS_process_vm_writev, { getpid(), 0, 0, 0, 0, 0 } },
		{ "memfd_create", SYS_memfd_create, { 0, 0 } },
		{ "kcmp", SYS_kcmp, { getpid(), getpid(), KCMP_VM, 0, 0 } },
	};

	probe_answer(run, "all");
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		int status = lab_fork(run, make_call, &calls[i]);

		probe_step(run, "%s: %s", calls[i].name,
			   status < 0 ? strsignal(-status) : probe_errno(-status));
		if (status >= 0 && status != EPERM && status != EACCES && status != ENOSYS)
			continue;
		probe_answer(run, "not %s", calls[i].name);
		probe_detail(run, "%s: %s", calls[i].name,
			     status < 0 ? strsignal(-status) : probe_errno(-status));
		break;
	}
}

static void is_locked_down(struct probe_run *run)
{
	char line[128], *mode;
	int r = host_read_line("/sys/kernel/security/lockdown", line, sizeof(line));

	if (r)
		probe_skip(run, "/sys/kernel/security/lockdown: %s", probe_errno(r));
	probe_step(run, "lockdown: %s", line);
	mode = strchr(line, '[');
	probe_must(run, mode, "looking for the mode in use");
	mode++;
	mode[strcspn(mode, "]")] = '\0';
	probe_answer(run, "%.32s", mode);
}

/* ---- devices --------------------------------------------------------------------------------- */

static void who_opens_device(struct probe_run *run)
{
	struct stat stat_;

	if (stat("/dev/userfaultfd", &stat_) < 0) {
		probe_answer(run, "absent");
		probe_detail(run, "/dev/userfaultfd: %s", probe_errno(errno));
		return;
	}
	probe_detail(run, "/dev/userfaultfd has mode %04o, user %u, group %u",
		     (unsigned int)stat_.st_mode & 07777, stat_.st_uid, stat_.st_gid);
	if ((stat_.st_mode & 0006) == 0006)
		probe_answer(run, "everybody");
	else if ((stat_.st_mode & 0060) == 0060 && stat_.st_gid)
		probe_answer(run, "a group");
	else
		probe_answer(run, "root only");
}

static void may_everybody(struct probe_run *run)
{
	int64_t value;
	int r = host_read_number("/proc/sys/vm/unprivileged_userfaultfd", &value);

	if (r)
		probe_skip(run, "vm.unprivileged_userfaultfd: %s", probe_errno(r));
	probe_answer(run, "%lld", (long long)value);
}

static const struct probe_check checks[] = {
	{
		.id = "host.device",
		.group = PROBE_HOST,
		.title = "/dev/userfaultfd is open to a group",
		.wanted = "a group",
		.is_of_host = true,
		.consequence =
			"without it who runs VMMs that hand memory over needs CAP_SYS_PTRACE "
			"or the sysctl vm.unprivileged_userfaultfd",
		.remedy = "install 70-ufd.rules, add the users to its group, and run udevadm "
			  "trigger /dev/userfaultfd (the device came with Linux 6.1)",
		.run = who_opens_device,
	},
	{
		.id = "host.unprivileged",
		.group = PROBE_HOST,
		.title = "vm.unprivileged_userfaultfd: may everybody trap the kernel's accesses",
		.run = may_everybody,
	},
	{
		.id = "host.cap-ptrace",
		.group = PROBE_HOST,
		.title = "CAP_SYS_PTRACE: userfaultfd(2), and processes of other users",
		.wanted = "yes",
		.is_of_host = true,
		.consequence =
			"ufdd as this user can page, but cannot attach to processes of others",
		.remedy = "run it by ufdd.service, which has this capability",
		.run = may_trace,
	},
	{
		.id = "host.cap-search",
		.group = PROBE_HOST,
		.title = "CAP_DAC_READ_SEARCH: memory of processes of other users, sources",
		.wanted = "yes",
		.is_of_host = true,
		.consequence = "ufdd as this user reads sources that this user may read",
		.remedy = "run it by ufdd.service, which has this capability",
		.run = may_search,
	},
	{
		.id = "host.cap-checkpoint",
		.group = PROBE_HOST,
		.title = "CAP_CHECKPOINT_RESTORE: files behind mappings that have no descriptor",
		.wanted = "yes",
		.is_of_host = true,
		.consequence =
			"ufdd as this user refuses to attach to memory whose file its process "
			"has closed",
		.remedy = "run it by ufdd.service, which has this capability",
		.run = may_checkpoint,
	},
	{
		.id = "host.cap-admin",
		.group = PROBE_HOST,
		.title = "CAP_SYS_ADMIN: attaching to processes with a seccomp filter",
		.wanted = "yes",
		.is_of_host = true,
		.consequence = "attaching by pid to a process with a seccomp filter is refused by "
			       "ufdd as this user",
		.remedy = "give ufdd.service the drop-in seccomp-targets.conf, if it shall",
		.run = may_administer,
	},
	{
		.id = "host.cap-lock",
		.group = PROBE_HOST,
		.title = "CAP_IPC_LOCK: what answers faults stays in memory whatever the limit",
		.wanted = "yes",
		.is_of_host = true,
		.consequence = "ufdd as this user locks as much as RLIMIT_MEMLOCK allows",
		.remedy = "run it by ufdd.service, which has this capability",
		.run = may_lock,
	},
	{
		.id = "host.cap-nice",
		.group = PROBE_HOST,
		.title = "CAP_SYS_NICE: threads that answer faults go before others",
		.wanted = "yes",
		.is_of_host = true,
		.consequence =
			"threads of ufdd as this user answer faults at the ordinary priority",
		.remedy = "run it by ufdd.service, which has this capability",
		.run = may_hurry,
	},
	{
		.id = "host.cap-resource",
		.group = PROBE_HOST,
		.title = "CAP_SYS_RESOURCE: hard limits can be raised (ufd does not)",
		.run = may_exceed_limits,
	},
	{
		.id = "host.cap-bpf",
		.group = PROBE_HOST,
		.title = "CAP_BPF and CAP_PERFMON: tracing the kernel by BPF (ufd needs none)",
		.run = may_load_programs,
	},
	{
		.id = "host.seccomp",
		.group = PROBE_HOST,
		.title = "No seccomp filter is around this process",
		.wanted = "none",
		.is_of_host = true,
		.consequence = "started from here, ufdd could not attach to processes that have a "
			       "filter: only who has none may suspend another's",
		.remedy = "start it outside of the container or unit that has the filter",
		.run = is_filtered,
	},
	{
		.id = "host.calls",
		.group = PROBE_HOST,
		.title = "The system calls that ufd makes are let through",
		.wanted = "all",
		.is_of_host = true,
		.consequence = "started from here, ufdd or a VMM with libufd fails where it makes "
			       "that call",
		.remedy =
			"allow the call: SystemCallFilter= of the unit, the seccomp profile of the "
			"container",
		.run = are_let_through,
	},
	{
		.id = "host.lockdown",
		.group = PROBE_HOST,
		.title = "Kernel lockdown: integrity and confidentiality bar tracers, not ufd",
		.run = is_locked_down,
	},
};

const struct probe_family probe_family_rights = PROBE_FAMILY(checks);
