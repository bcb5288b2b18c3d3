/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A kernel that refuses, lies, hangs or kills where it should answer: the table's own experiments say
 * so. Linked with --wrap=ioctl, so that what stands between them and the kernel is ours.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/uapi.h"
#include "probe/probe.h"
#include "support/unit.h"

enum fault {
	NO_FAULT,
	REFUSES, /* with @error */
	LIES,	 /* says 0 and does nothing */
	HANGS,
	KILLS,
};

static struct {
	unsigned long request;
	enum fault fault;
	int error;
} kernel;

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request != kernel.request || kernel.fault == NO_FAULT)
		return __real_ioctl(fd, request, argument);
	switch (kernel.fault) {
	case HANGS:
		for (;;)
			pause();
	case KILLS:
		raise(SIGKILL);
		return 0;
	case LIES:
		return 0;
	default:
		errno = kernel.error;
		return -1;
	}
}

static const struct {
	const char *id;
	unsigned long request;
	enum fault fault;
	int error;
	enum probe_result result;
	const char *said; /* a part of the answer or the detail */
} rows[] = {
	/* as it is */
	{ "continue.shared", 0, NO_FAULT, 0, PROBE_OK, "" },
	{ "fill.copy-anon", 0, NO_FAULT, 0, PROBE_OK, "" },
	{ "trackable.shmem", 0, NO_FAULT, 0, PROBE_OK, "missing wp minor" },
	{ "zap.punch-shmem", 0, NO_FAULT, 0, PROBE_DIFFERS, "kept" },
	/* an answer of another kernel */
	{ "continue.hole", UFFDIO_CONTINUE, REFUSES, EEXIST, PROBE_DIFFERS, "EEXIST" },
	{ "trackable.anon", UFFDIO_REGISTER, REFUSES, EINVAL, PROBE_MISSING, "EINVAL" },
	{ "trackable.shmem", UFFDIO_REGISTER, REFUSES, EPERM, PROBE_MISSING, "EPERM" },
	/* the ground of an experiment gives way */
	{ "continue.hole", UFFDIO_REGISTER, REFUSES, ENOMEM, PROBE_FAILED, "did not work" },
	{ "fill.copy-anon", UFFDIO_REGISTER, REFUSES, EBUSY, PROBE_FAILED, "did not work" },
	{ "zap.punch-shmem", UFFDIO_REGISTER, REFUSES, EINVAL, PROBE_FAILED, "did not work" },
	/* it says that it did, and did not: who waits for it waits for ever */
	{ "fill.copy-anon", UFFDIO_COPY, LIES, 0, PROBE_MISSING, "not woken" },
	/* it does not come back, or not alive */
	{ "fill.copy-anon", UFFDIO_COPY, HANGS, 0, PROBE_FAILED, "and was killed" },
	{ "continue.shared", UFFDIO_CONTINUE, HANGS, 0, PROBE_FAILED, "and was killed" },
	{ "continue.shared", UFFDIO_CONTINUE, KILLS, 0, PROBE_FAILED, "signal 9 (SIGKILL)" },
	/* it has none */
	{ "fill.copy-anon", UFFDIO_API, REFUSES, EINVAL, PROBE_SKIPPED, "no userfaultfd" },
	{ "host.userfaultfd", UFFDIO_API, REFUSES, EINVAL, PROBE_MISSING, "EINVAL" },
	{ "host.pagemap-scan", PAGEMAP_SCAN, REFUSES, ENOTTY, PROBE_DIFFERS, "ENOTTY" },
};

struct seen {
	enum probe_result result;
	char text[1024];
};

static void keep(const struct probe_report *report, void *context)
{
	struct seen *seen = context;

	seen->result = report->result;
	snprintf(seen->text, sizeof(seen->text), "%s: %s", report->answer, report->detail);
}

START_TEST(what_the_kernel_does_wrong_is_reported)
{
	const struct probe_check *check = probe_find(rows[_i].id);
	int uffd = (int)syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY);
	struct seen seen = {};

	if (uffd < 0)
		unit_skip("there is no userfaultfd");
	close(uffd);
	ck_assert_msg(check != NULL, "there is no %s", rows[_i].id);
	kernel.request = rows[_i].request;
	kernel.fault = rows[_i].fault;
	kernel.error = rows[_i].error;
	/* one that hangs by the fault of its kernel is not waited for as long as one that is slow */
	ck_assert_int_eq(probe_run(&check, 1,
				   kernel.fault >= HANGS ? 300 * NSEC_PER_MSEC : PROBE_DEADLINE_NS,
				   keep, &seen),
			 0);
	ck_assert_msg(seen.result == rows[_i].result, "%s is %s, %s", rows[_i].id,
		      probe_result_name(seen.result), seen.text);
	ck_assert_msg(strstr(seen.text, rows[_i].said) != NULL, "%s", seen.text);
}
END_TEST

int main(void)
{
	return unit_run("probe-fake",
			(struct unit_test[]){
				UNIT_TABLE(what_the_kernel_does_wrong_is_reported, rows),
				{},
			});
}
