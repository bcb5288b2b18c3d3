/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes that cannot be attached, and the reason that is given. */
#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernel/pidfd.h"
#include "refusal.h"
#include "support/target-attach.h"
#include "support/target-busy.h"
#include "support/unit.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON	     1
#endif
#ifndef PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
#endif

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(ourselves)
{
	expect_refusal(getpid(), &attach_opts, "ufdd itself");
}
END_TEST

START_TEST(a_number_that_is_no_pid)
{
	expect_refusal(0, &attach_opts, "not the pid");
	expect_refusal(-5, &attach_opts, "not the pid");
}
END_TEST

START_TEST(a_kernel_thread)
{
	char text[32] = "";
	int fd = open("/proc/2/comm", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0 || strcmp(text, "kthreadd\n") != 0)
		unit_skip("kernel threads are not visible here");
	close(fd);
	expect_refusal(2, &attach_opts, "kernel thread");
}
END_TEST

START_TEST(a_zombie_and_then_nobody)
{
	struct pollfd waited = { .events = POLLIN };
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	ck_assert_int_eq(pidfd_open_pid(&waited.fd, pid), 0);
	ck_assert_int_eq(poll(&waited, 1, 20000), 1);
	close(waited.fd);
	expect_refusal(pid, &attach_opts, "zombie");
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	expect_refusal(pid, &attach_opts, "no process");
}
END_TEST

/* The pid is one process's, the pidfd another's: as when the number was used again. */
START_TEST(a_pid_of_another_process_than_meant)
{
	struct process_opts opts = attach_opts;
	struct busy busy, other;

	busy_start(&busy, BUSY_PPOLL, true, NULL);
	busy_start(&other, BUSY_PPOLL, true, NULL);
	ck_assert_int_eq(pidfd_open_pid(&opts.pidfd, other.pid), 0);
	expect_refusal(busy.pid, &opts, "ended");
	closep(&opts.pidfd);
	busy_done(&other);
	busy_done(&busy);
}
END_TEST

START_TEST(what_somebody_traces_until_he_leaves)
{
	struct busy busy;
	char words[64];
	int ready[2];
	pid_t tracer;
	char byte;

	busy_start(&busy, BUSY_PPOLL, false, NULL);
	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	tracer = fork();
	if (tracer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "debugger");
		if (ptrace(PTRACE_SEIZE, busy.pid, NULL, NULL) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	snprintf(words, sizeof(words), "traced by process %d (debugger)", tracer);
	expect_refusal(busy.pid, &attach_opts, words);
	end(tracer);
	attach_cycles(busy.pid, 3);
	busy_done(&busy);
}
END_TEST

/* A 32-bit program of twelve bytes: pause(2), again and again. */
static int write_32_bit_program(void)
{
	static const unsigned char code[] = {
		0xb8, 29,   0, 0, 0, /* mov $29, %eax */
		0xcd, 0x80,	     /* int $0x80 */
		0xeb, 0xf7,	     /* jmp to the start */
	};
	const Elf32_Addr base = 0x10000;
	const struct {
		Elf32_Ehdr header;
		Elf32_Phdr segment;
	} head = {
		.header = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, 1 },
			.e_type = ET_EXEC,
			.e_machine = EM_386,
			.e_version = 1,
			.e_entry = base + sizeof(head),
			.e_phoff = sizeof(head.header),
			.e_ehsize = sizeof(head.header),
			.e_phentsize = sizeof(head.segment),
			.e_phnum = 1,
		},
		.segment = {
			.p_type = PT_LOAD,
			.p_vaddr = base,
			.p_filesz = sizeof(head) + sizeof(code),
			.p_memsz = sizeof(head) + sizeof(code),
			.p_flags = PF_R | PF_X,
			.p_align = 4096,
		},
	};
	int fd = memfd_create("program", MFD_CLOEXEC);

	ck_assert_int_eq(write(fd, &head, sizeof(head)), sizeof(head));
	ck_assert_int_eq(write(fd, code, sizeof(code)), sizeof(code));
	return fd;
}

/* Waits until the child runs the program. Skips if it cannot. */
static void await_exec(pid_t pid)
{
	uint64_t deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
	char path[32], link[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	do {
		ssize_t n = readlink(path, link, sizeof(link) - 1);

		if (waitpid(pid, NULL, WNOHANG) == pid)
			unit_skip("this kernel runs no 32-bit programs");
		ck_assert_uint_lt(clock_now_ns(), deadline_ns);
		link[n < 0 ? 0 : n] = '\0';
	} while (strncmp(link, "/memfd:program", 14) != 0);
}

START_TEST(a_32_bit_process)
{
	int program = write_32_bit_program();
	pid_t pid = fork();

	if (pid == 0) {
		char *const arguments[] = { "program", NULL };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fexecve(program, arguments, (char *const[]){ NULL });
		_exit(1);
	}
	close(program);
	await_exec(pid);
	expect_refusal(pid, &attach_opts, "64-bit");
	ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), 0);
	end(pid);
}
END_TEST

static char dispatch_selector; /* SYSCALL_DISPATCH_FILTER_ALLOW */

static void intercept_calls(void)
{
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &dispatch_selector) < 0)
		_exit(1);
}

/* The kernel says so only of a process that is traced and stopped. */
static bool can_tell_who_intercepts(void)
{
	uint64_t config[4];
	pid_t pid = fork();
	bool can_tell;

	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	can_tell = ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, pid, sizeof(config), config) ==
		   0;
	end(pid);
	return can_tell;
}

START_TEST(a_process_that_intercepts_its_calls)
{
	struct busy busy;

	if (!can_tell_who_intercepts())
		unit_skip("needs PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG (Linux 6.4)");
	busy_start(&busy, BUSY_PPOLL, true, intercept_calls);
	expect_refusal(busy.pid, &attach_opts, "syscall user dispatch");
	busy_done(&busy);
}
END_TEST

START_TEST(a_helper_that_is_missing_is_named)
{
	_cleanup_(process_attachment_done) struct process_attachment attachment =
		PROCESS_ATTACHMENT_NONE;
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct process_opts opts = attach_opts;
	struct busy busy;

	opts.helper = "/nonexistent/ufdd-attach";
	busy_start(&busy, BUSY_PPOLL, true, NULL);
	ck_assert_int_eq(process_attach(busy.pid, &opts, &attachment, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.manager.SystemError");
	ck_assert_ptr_nonnull(strstr(
		json_string_value(json_object_get(refusal.parameters, "message")), opts.helper));
	busy_done(&busy);
}
END_TEST

int main(void)
{
	return unit_run("process-refuse", (struct unit_test[]){
						  UNIT(ourselves),
						  UNIT(a_number_that_is_no_pid),
						  UNIT(a_kernel_thread),
						  UNIT(a_zombie_and_then_nobody),
						  UNIT(a_pid_of_another_process_than_meant),
						  UNIT(what_somebody_traces_until_he_leaves),
						  UNIT(a_32_bit_process),
						  UNIT(a_process_that_intercepts_its_calls),
						  UNIT(a_helper_that_is_missing_is_named),
						  {},
					  });
}
