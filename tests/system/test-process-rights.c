/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attaching to processes with fewer rights than ours, and with fewer rights than needed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/features.h"
#include "kernel/proc-maps.h"
#include "support/qemu.h"
#include "support/target-attach.h"
#include "support/target-busy.h"
#include "support/unit.h"

enum { NOBODY = 65534 };

static void become_nobody(void)
{
	if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(1);
}

static void become_nobody_with_device(void)
{
	if (open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) < 0)
		_exit(1);
	become_nobody();
}

static void run_out_of_fds(void)
{
	if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 0, 0 }) < 0)
		_exit(1);
}

static void run_out_of_fds_as_nobody(void)
{
	run_out_of_fds();
	become_nobody();
}

/* Only what a lone thread in ppoll() needs; anything else kills the process. */
static void allow_ppoll_only(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ppoll, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigprocmask, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_restart_syscall, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	become_nobody();
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		_exit(1);
}

/* The helper, being exec'ed by root, gets what the bounding set leaves. For this test's process
 * only. */
static void drop_for_helper(int capability)
{
	ck_assert_int_eq(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), 0);
}

static void need_root(void)
{
	if (geteuid() != 0)
		unit_skip("needs root");
}

static void need_device(void)
{
	if (!features_get()->may_device)
		unit_skip("/dev/userfaultfd cannot be opened: %s",
			  strerror(features_get()->device_errno));
}

static size_t count_maps(pid_t pid)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};

	ck_assert_int_eq(proc_maps_read(pid, &maps), 0);
	return maps.n_maps;
}

/* Attach and detach, ten times: beside the userfaultfd that is kept nothing changes. */
static void attach_and_compare(const struct busy *busy, const struct process_opts *opts)
{
	for (int i = 0; i < 10; i++) {
		_cleanup_(process_attachment_done) struct process_attachment attachment =
			PROCESS_ATTACHMENT_NONE;
		_cleanup_(freep) char *before = NULL, *with = NULL, *after = NULL;
		size_t n_before, n_with, n_after, n_maps = count_maps(busy->pid);

		before = list_fds_of(busy->pid, &n_before);
		attach_to(busy->pid, opts, &attachment);
		with = list_fds_of(busy->pid, &n_with);
		ck_assert_uint_eq(n_with, n_before + 1);
		ck_assert_ptr_nonnull(strstr(with, "[userfaultfd]"));
		ck_assert_uint_eq(count_maps(busy->pid), n_maps);
		detach_from(&attachment);
		after = list_fds_of(busy->pid, &n_after);
		ck_assert_str_eq(before, after);
	}
}

START_TEST(a_device_is_pushed_into_an_unprivileged_process)
{
	struct busy busy;

	need_root();
	need_device();
	busy_start(&busy, _i, false, become_nobody);
	attach_and_compare(&busy, &attach_opts);
	busy_done(&busy);
}
END_TEST

START_TEST(a_device_that_is_there_is_used)
{
	struct process_opts opts = attach_opts;
	struct busy busy;

	need_root();
	need_device();
	busy_start(&busy, BUSY_PPOLL, false, become_nobody_with_device);
	ck_assert_int_eq(process_find_device(busy.pid, &opts.remote_device), 0);
	attach_and_compare(&busy, &opts);
	busy_done(&busy);
}
END_TEST

START_TEST(another_file_is_not_taken_for_the_device)
{
	struct process_opts opts = attach_opts;
	struct busy busy;

	need_root();
	busy_start(&busy, BUSY_PPOLL, false, become_nobody);
	ck_assert_int_eq(process_find_device(busy.pid, &opts.remote_device), -ENOENT);
	opts.remote_device = 0;
	expect_refusal(busy.pid, &opts, "not /dev/userfaultfd");
	opts.remote_device = 12345;
	expect_refusal(busy.pid, &opts, "not /dev/userfaultfd");
	busy_done(&busy);
}
END_TEST

/* In a mount namespace of this test's own the device cannot be opened. */
START_TEST(without_the_device_the_remedy_is_named)
{
	struct busy busy;

	need_root();
	need_device();
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		unit_skip("no mount namespace of our own: %s", strerror(errno));
	ck_assert_int_eq(mount("/etc/passwd", "/dev/userfaultfd", NULL, MS_BIND, NULL), 0);
	ck_assert_int_eq(
		mount("none", "/dev/userfaultfd", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), 0);
	busy_start(&busy, BUSY_PPOLL, false, become_nobody);
	expect_refusal(busy.pid, &attach_opts, "vm.unprivileged_userfaultfd=1");
	busy_done(&busy);
}
END_TEST

static void (*const out_of_fds[])(void) = { run_out_of_fds, run_out_of_fds_as_nobody };

START_TEST(a_full_fd_table_is_named)
{
	struct busy busy;

	need_root();
	need_device();
	busy_start(&busy, BUSY_NANOSLEEP, true, out_of_fds[_i]);
	expect_refusal(busy.pid, &attach_opts, "RLIMIT_NOFILE");
	busy_done(&busy);
}
END_TEST

START_TEST(a_seccomp_filter_is_suspended)
{
	struct busy busy;

	need_root();
	need_device();
	busy_start(&busy, BUSY_PPOLL, true, allow_ppoll_only);
	attach_and_compare(&busy, &attach_opts);
	busy_done(&busy);
}
END_TEST

START_TEST(a_seccomp_filter_that_cannot_be_suspended_is_a_refusal)
{
	struct busy busy;

#ifdef __SANITIZE_THREAD__
	unit_skip("ThreadSanitizer has a thread of its own in the target, without the filter");
#endif
	need_root();
	busy_start(&busy, BUSY_PPOLL, true, allow_ppoll_only);
	drop_for_helper(CAP_SYS_ADMIN);
	for (int i = 0; i < 5; i++)
		expect_refusal(busy.pid, &attach_opts, "CAP_SYS_ADMIN");
	busy_done(&busy);
}
END_TEST

START_TEST(without_seccomp_that_right_is_not_needed)
{
	struct busy busy;

	need_root();
	need_device();
	busy_start(&busy, BUSY_PPOLL, false, become_nobody);
	drop_for_helper(CAP_SYS_ADMIN);
	attach_and_compare(&busy, &attach_opts);
	busy_done(&busy);
}
END_TEST

START_TEST(a_missing_right_to_trace_is_named)
{
	struct busy busy;

	need_root();
	busy_start(&busy, BUSY_PPOLL, false, become_nobody);
	drop_for_helper(CAP_SYS_PTRACE);
	expect_refusal(busy.pid, &attach_opts, "CAP_SYS_PTRACE");
	busy_done(&busy);
}
END_TEST

START_TEST(a_sandboxed_qemu_is_attached)
{
	static const char *const options[] = {
		"-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		NULL,
	};
	struct qemu qemu;

	need_root();
	qemu_start(&qemu, options);
	attach_cycles(qemu.pid, 10);
	ck_assert_int_eq(kill(qemu.pid, 0), 0);
	qemu_stop(&qemu);
}
END_TEST

int main(void)
{
	return unit_run("process-rights",
			(struct unit_test[]){
				{ "a_device_is_pushed_into_an_unprivileged_process",
				  a_device_is_pushed_into_an_unprivileged_process, _BUSY_N },
				UNIT(a_device_that_is_there_is_used),
				UNIT(another_file_is_not_taken_for_the_device),
				UNIT(without_the_device_the_remedy_is_named),
				UNIT_TABLE(a_full_fd_table_is_named, out_of_fds),
				UNIT(a_seccomp_filter_is_suspended),
				UNIT(a_seccomp_filter_that_cannot_be_suspended_is_a_refusal),
				UNIT(without_seccomp_that_right_is_not_needed),
				UNIT(a_missing_right_to_trace_is_named),
				UNIT(a_sandboxed_qemu_is_attached),
				{},
			});
}
