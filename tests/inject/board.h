/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which calls can fail, which were made, and which is to fail now.
 *
 * Theory of operation: the functions named in meson.build are wrapped by the linker. Each wrapper asks
 * board_verdict() first. A site is a function and the way to it: the innermost return addresses that
 * lie in this program, so that one line of lib/kernel reached by two ways is two sites. The sites stand
 * in shared memory, found by their key, which is the same in every process of one program. A plan
 * names one or two sites, each with the call that is to fail there and how. Without a plan the run
 * is a record of what there is to fail.
 *
 * Only threads that are not quiet can fail: a test is quiet, but for the calls it makes in LOUD().
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BOARD_SITES  4096
#define BOARD_DEPTH  3
#define BOARD_FAULTS 2

/* Errors beside errnos. */
enum {
	INJECT_PARTIAL = 1000, /* half of it is done, then EAGAIN */
};

/* In the order of call_names[]. */
enum board_call {
	CALL_NONE,
	CALL_MALLOC,
	CALL_CALLOC,
	CALL_REALLOC,
	CALL_REALLOCARRAY,
	CALL_STRDUP,
	CALL_STRNDUP,
	CALL_MMAP,
	CALL_IOCTL, /* detail: the request */
	CALL_OPEN,
	CALL_OPENAT,
	CALL_FOPEN,
	CALL_OPENDIR,
	CALL_MEMFD_CREATE,
	CALL_EVENTFD,
	CALL_FCNTL,   /* detail: the command */
	CALL_SYSCALL, /* detail: the number */
	CALL_PIDFD_OPEN,
	CALL_PIDFD_GETFD,
	CALL_SOCKET,
	CALL_TIMERFD_CREATE,
	CALL_EPOLL_CREATE1,
	CALL_EPOLL_CTL,
	CALL_FSTAT,
	CALL_FTRUNCATE,
	CALL_FALLOCATE,
	CALL_LSEEK,
	CALL_READ,
	CALL_PREAD,
	CALL_PREADV2,
	CALL_PWRITE,
	CALL_PROCESS_VM_WRITEV,
	CALL_SENDMSG,
	CALL_RECVMSG,
	CALL_PTHREAD_CREATE,
	CALL_URING_INIT,
	CALL_URING_GET_EVENTS,
	CALL_URING_WAIT,
	N_BOARD_CALLS,
};

struct board_fault {
	uint64_t key;
	uint32_t nth; /* from 1 */
	int error;
};

struct board_plan {
	struct board_fault faults[BOARD_FAULTS];
	unsigned int n_faults;
};

/* Readable. */
struct board_site {
	_Atomic uint64_t key;  /* 0: free */
	_Atomic bool is_known; /* all else is filled in */
	enum board_call call;
	uint32_t detail;
	uint32_t frames[BOARD_DEPTH]; /* addresses in the program, innermost first; 0: none */
	struct board_plan found_by;
	_Atomic uint32_t n_calls;
	_Atomic uint32_t n_failed;
};

struct board {
	_Atomic uint32_t n_sites;
	struct board_site sites[BOARD_SITES];
};

extern const char *const call_names[N_BOARD_CALLS];

/* The errors that @call may end with, up to a 0. */
const int *board_errors(enum board_call call, uint32_t detail);

/* A board in a memfd, which children inherit. Ends the program if there is no memory. */
struct board *board_new(int *ret_fd);

/* Use @board in this process, with @plan, from now on. Everything before was as if not wrapped. */
void board_arm(struct board *board, const struct board_plan *plan);
void board_disarm(void);

/* `KEY:NTH:ERROR[,KEY:NTH:ERROR]`, in hexadecimal, decimal, decimal. */
void board_print_plan(const struct board_plan *plan, char *buffer, unsigned int n_buffer);
bool board_parse_plan(const char *text, struct board_plan *ret);

/* For the wrappers. Return: 0 to go on, else the error. */
int board_verdict(enum board_call call, uint32_t detail, const void *caller);
/* Is this process armed, and this thread not quiet? */
bool board_is_loud(void);

/* Of the calling thread; threads begin loud. Return: what it was. */
bool board_quiet(bool is_quiet);

#define LOUD(call)                          \
	({                                  \
		bool _was = board_quiet(0); \
		__typeof__(call) _r = call; \
		board_quiet(_was);          \
		_r;                         \
	})
