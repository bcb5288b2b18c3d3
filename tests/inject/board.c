/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which calls can fail, which were made, and which is to fail now. */
#include "inject/board.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/uapi.h"

#define N_FRAMES 24

extern const char __executable_start[], etext[];

static struct board *board;
static struct board_plan plan;
static _Atomic uint32_t n_calls_of_fault[BOARD_FAULTS];
static _Thread_local bool is_quiet;
static _Thread_local bool is_inside;

const char *const call_names[N_BOARD_CALLS] = {
	"",
	"malloc",
	"calloc",
	"realloc",
	"reallocarray",
	"strdup",
	"strndup",
	"mmap",
	"ioctl",
	"open",
	"openat",
	"fopen",
	"opendir",
	"memfd_create",
	"eventfd",
	"fcntl",
	"syscall",
	"pidfd_open",
	"pidfd_getfd",
	"socket",
	"timerfd_create",
	"epoll_create1",
	"epoll_ctl",
	"fstat",
	"ftruncate",
	"fallocate",
	"lseek",
	"read",
	"pread",
	"preadv2",
	"pwrite",
	"process_vm_writev",
	"sendmsg",
	"recvmsg",
	"pthread_create",
	"io_uring_queue_init_params",
	"io_uring_submit_and_get_events",
	"io_uring_submit_and_wait_timeout",
};

/* ---- what may go wrong ---- */

static const int none[] = { 0 };

static const struct {
	uint32_t request;
	int errors[8];
} ioctl_errors[] = {
	{ UFFDIO_API, { EINVAL } },
	{ UFFDIO_REGISTER, { ENOMEM, EBUSY, EINVAL } },
	{ UFFDIO_UNREGISTER, { ENOMEM, EINVAL } },
	{ UFFDIO_WAKE, { EINVAL } },
	/* EEXIST is also an empty pool's, ENOENT a mapping's that changes as we look; ESRCH never lies */
	{ UFFDIO_COPY, { INJECT_PARTIAL, EAGAIN, EEXIST, ENOMEM, ENOENT, EFAULT } },
	{ UFFDIO_ZEROPAGE, { INJECT_PARTIAL, EAGAIN, EEXIST, ENOMEM, ENOENT } },
	{ UFFDIO_CONTINUE, { INJECT_PARTIAL, EAGAIN, EEXIST, ENOMEM, ENOENT, EFAULT } },
	{ UFFDIO_WRITEPROTECT, { EAGAIN, ENOENT } },
	{ UFFDIO_POISON, { EAGAIN, EEXIST, ENOMEM } },
	{ USERFAULTFD_IOC_NEW, { EMFILE, ENOMEM } },
	{ PAGEMAP_SCAN, { ENOMEM } },
};

static const int call_errors[N_BOARD_CALLS][6] = {
	[CALL_MALLOC] = { ENOMEM },
	[CALL_CALLOC] = { ENOMEM },
	[CALL_REALLOC] = { ENOMEM },
	[CALL_REALLOCARRAY] = { ENOMEM },
	[CALL_STRDUP] = { ENOMEM },
	[CALL_STRNDUP] = { ENOMEM },
	[CALL_MMAP] = { ENOMEM },
	[CALL_OPEN] = { EMFILE },
	[CALL_OPENAT] = { EMFILE },
	[CALL_FOPEN] = { EMFILE },
	[CALL_OPENDIR] = { EMFILE },
	[CALL_MEMFD_CREATE] = { EMFILE, ENOMEM, EINVAL },
	[CALL_EVENTFD] = { EMFILE },
	[CALL_PIDFD_OPEN] = { EMFILE, ESRCH },
	[CALL_PIDFD_GETFD] = { EMFILE, EPERM },
	[CALL_SOCKET] = { EMFILE },
	[CALL_TIMERFD_CREATE] = { EMFILE },
	[CALL_EPOLL_CREATE1] = { EMFILE },
	[CALL_EPOLL_CTL] = { ENOMEM },
	[CALL_FSTAT] = { EIO },
	[CALL_FTRUNCATE] = { ENOSPC },
	[CALL_FALLOCATE] = { ENOSPC },
	[CALL_LSEEK] = { EIO },
	[CALL_READ] = { EIO },
	[CALL_PREAD] = { EIO },
	[CALL_PREADV2] = { EIO, EAGAIN, EOPNOTSUPP },
	[CALL_PWRITE] = { ENOSPC, EINTR },
	[CALL_PROCESS_VM_WRITEV] = { EFAULT },
	[CALL_SENDMSG] = { ENOBUFS, ECONNRESET },
	[CALL_RECVMSG] = { ENOMEM, ECONNRESET },
	[CALL_PTHREAD_CREATE] = { EAGAIN },
	[CALL_URING_INIT] = { ENOMEM, EMFILE, EINVAL },
	[CALL_URING_GET_EVENTS] = { EAGAIN, EBUSY, EINTR, ENOMEM },
	[CALL_URING_WAIT] = { EAGAIN, EBUSY, EINTR, ETIME },
};

const int *board_errors(enum board_call call, uint32_t detail)
{
	static const int no_fd[] = { EMFILE, 0 }, refused[] = { EPERM, EMFILE, 0 },
			 no_memory[] = { ENOMEM, 0 }, unknown[] = { ENOTTY, 0 };

	if (call == CALL_FCNTL)
		return detail == F_DUPFD_CLOEXEC ? no_fd : none;
	if (call == CALL_SYSCALL && detail == SYS_userfaultfd)
		return refused;
	if (call == CALL_SYSCALL)
		return detail == SYS_io_uring_register ? no_memory : none;
	if (call != CALL_IOCTL)
		return call_errors[call];
	for (size_t i = 0; i < sizeof(ioctl_errors) / sizeof(ioctl_errors[0]); i++)
		if (ioctl_errors[i].request == detail)
			return ioctl_errors[i].errors;
	return unknown;
}

/* ---- sites ---- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static bool is_of_program(const void *address)
{
	return (const char *)address >= __executable_start && (const char *)address < etext;
}

/* From @caller outwards; what is called back by a library counts as called by who called that. */
static void find_frames(const void *caller, uint32_t frames[BOARD_DEPTH])
{
	void *stack[N_FRAMES];
	int n = backtrace(stack, N_FRAMES), first = 0, n_found = 0;

	memset(frames, 0, BOARD_DEPTH * sizeof(frames[0]));
	while (first < n && stack[first] != caller)
		first++;
	if (first == n) {
		frames[0] = is_of_program(caller)
				    ? (uint32_t)((const char *)caller - __executable_start)
				    : 0;
		return;
	}
	for (int i = first; i < n && n_found < BOARD_DEPTH; i++)
		if (is_of_program(stack[i]))
			frames[n_found++] = (uint32_t)((const char *)stack[i] - __executable_start);
}

static struct board_site *site_of(enum board_call call, uint32_t detail,
				  const uint32_t frames[BOARD_DEPTH])
{
	uint64_t key = mix((uint64_t)call << 32 | detail);
	uint64_t seen;

	for (unsigned int i = 0; i < BOARD_DEPTH; i++)
		key = mix(key + frames[i]);
	for (uint64_t i = key;; i++) {
		struct board_site *site = &board->sites[i % BOARD_SITES];

		seen = 0;
		if (atomic_compare_exchange_strong(&site->key, &seen, key)) {
			if (atomic_fetch_add(&board->n_sites, 1) > BOARD_SITES / 2)
				abort();
			site->call = call;
			site->detail = detail;
			memcpy(site->frames, frames, sizeof(site->frames));
			site->found_by = plan;
			atomic_store(&site->is_known, true); /* pairs with the load in rounds.c */
			return site;
		}
		if (seen == key)
			return site;
	}
}

bool board_is_loud(void)
{
	return board && !is_quiet && !is_inside;
}

int board_verdict(enum board_call call, uint32_t detail, const void *caller)
{
	uint32_t frames[BOARD_DEPTH];
	struct board_site *site;
	int saved = errno, error = 0;

	if (!board_is_loud() || !board_errors(call, detail)[0])
		return 0;
	is_inside = true; /* backtrace() may allocate */
	find_frames(caller, frames);
	site = site_of(call, detail, frames);
	atomic_fetch_add(&site->n_calls, 1);
	for (unsigned int i = 0; i < plan.n_faults; i++) {
		if (plan.faults[i].key != site->key ||
		    atomic_fetch_add(&n_calls_of_fault[i], 1) + 1 != plan.faults[i].nth)
			continue;
		error = plan.faults[i].error;
		atomic_fetch_add(&site->n_failed, 1);
	}
	is_inside = false;
	errno = saved;
	return error;
}

/* ---- life ---- */

struct board *board_new(int *ret_fd)
{
	int fd = memfd_create("board", MFD_CLOEXEC);
	void *start;

	if (fd < 0 || ftruncate(fd, sizeof(*board)) < 0)
		exit(EXIT_FAILURE);
	start = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (start == MAP_FAILED)
		exit(EXIT_FAILURE);
	*ret_fd = fd;
	return start;
}

void board_arm(struct board *shared, const struct board_plan *wanted)
{
	void *stack[1];

	(void)backtrace(stack, 1); /* loads what it needs, once */
	plan = *wanted;
	for (unsigned int i = 0; i < BOARD_FAULTS; i++)
		n_calls_of_fault[i] = 0;
	board = shared;
}

void board_disarm(void)
{
	board = NULL;
}

bool board_quiet(bool be_quiet)
{
	bool was = is_quiet;

	is_quiet = be_quiet;
	return was;
}

void board_print_plan(const struct board_plan *given, char *buffer, unsigned int n_buffer)
{
	unsigned int n = 0;

	buffer[0] = '\0';
	for (unsigned int i = 0; i < given->n_faults && n < n_buffer; i++)
		n += (unsigned int)snprintf(buffer + n, n_buffer - n, "%s%llx:%u:%d", i ? "," : "",
					    (unsigned long long)given->faults[i].key,
					    given->faults[i].nth, given->faults[i].error);
}

bool board_parse_plan(const char *text, struct board_plan *ret)
{
	struct board_plan parsed = {};

	while (*text) {
		unsigned long long key;
		unsigned int nth;
		int error, n;

		if (parsed.n_faults == BOARD_FAULTS ||
		    sscanf(text, "%llx:%u:%d%n", &key, &nth, &error, &n) != 3)
			return false;
		parsed.faults[parsed.n_faults++] = (struct board_fault){ key, nth, error };
		text += n;
		if (*text == ',')
			text++;
	}
	*ret = parsed;
	return true;
}
