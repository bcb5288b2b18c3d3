/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads of an experiment: somebody who touches memory, and somebody who answers the faults.
 *
 * A thread says that it has ended through an eventfd, so that whoever waits for it needs no lock that
 * a thread stuck in a fault might hold.
 */
#include "probe/lab.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define JOIN_TIMEOUT_MS 2000

struct lab_thread {
	intptr_t (*work)(void *argument);
	void *argument;
	intptr_t result; /* valid once `ended` is readable */
	pid_t id;	 /* valid once `started` is readable */
	int started, ended;
};

static void tell(int fd)
{
	const uint64_t one = 1;
	ssize_t n = write(fd, &one, sizeof(one));

	(void)n; /* an eventfd that was never read takes it */
}

static void *run_thread(void *argument)
{
	struct lab_thread *thread = argument;

	__atomic_store_n(&thread->id, gettid(), __ATOMIC_RELAXED);
	tell(thread->started);
	/* whoever is told of the end sees what the thread did; pairs with the acquire in lab_ended() */
	__atomic_store_n(&thread->result, thread->work(thread->argument), __ATOMIC_RELEASE);
	tell(thread->ended);
	return NULL;
}

static bool is_told(int fd, int timeout_ms)
{
	struct pollfd told = { .fd = fd, .events = POLLIN };
	int n;

	do
		n = poll(&told, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	return n > 0;
}

struct lab_thread *lab_start(struct probe_run *run, intptr_t (*work)(void *argument),
			     void *argument)
{
	struct lab_thread *thread = malloc(sizeof(*thread));
	pthread_t self;
	int r;

	probe_must(run, thread, "malloc()");
	*thread = (struct lab_thread){
		.work = work,
		.argument = argument,
		.started = eventfd(0, EFD_CLOEXEC),
		.ended = eventfd(0, EFD_CLOEXEC),
	};
	probe_must(run, thread->started >= 0 && thread->ended >= 0, "eventfd()");
	r = pthread_create(&self, NULL, run_thread, thread);
	errno = r;
	probe_must(run, r == 0, "pthread_create()");
	pthread_detach(self); /* nobody joins it: it may be stuck for ever */
	is_told(thread->started, -1);
	return thread;
}

bool lab_ended(struct lab_thread *thread, int timeout_ms)
{
	if (!is_told(thread->ended, timeout_ms))
		return false;
	(void)__atomic_load_n(&thread->result, __ATOMIC_ACQUIRE);
	return true;
}

intptr_t lab_join(struct probe_run *run, struct lab_thread *thread)
{
	errno = ETIMEDOUT;
	probe_must(run, lab_ended(thread, JOIN_TIMEOUT_MS), "waiting for a thread to end");
	return thread->result;
}

pid_t lab_thread_id(const struct lab_thread *thread)
{
	return __atomic_load_n(&thread->id, __ATOMIC_RELAXED);
}

/* One byte that a thread writes. */
struct store {
	volatile uint8_t *at;
	uint8_t byte;
};

static intptr_t read_byte(void *at)
{
	return *(const volatile uint8_t *)at;
}

static intptr_t write_byte(void *argument)
{
	const struct store *store = argument;

	*store->at = store->byte;
	return 0;
}

struct lab_thread *lab_start_read(struct probe_run *run, const void *at)
{
	return lab_start(run, read_byte, (void *)(uintptr_t)at);
}

struct lab_thread *lab_start_write(struct probe_run *run, void *at, uint8_t byte)
{
	struct store *store = malloc(sizeof(*store));

	probe_must(run, store, "malloc()");
	*store = (struct store){ .at = at, .byte = byte };
	return lab_start(run, write_byte, store);
}

/* ---- who answers the faults ---- */

struct server {
	struct probe_run *run;
	int uffd;
	const struct lab_memory *memory;
	uint8_t byte;
	struct lab_faults faults;
};

/* EEXIST wakes nobody, and neither does EAGAIN: whoever waits tries again, and says so anew. */
static void answer_fault(struct server *server, const struct uffd_msg *message)
{
	const struct lab_memory *memory = server->memory;
	size_t i = (message->arg.pagefault.address - (uintptr_t)memory->at) / memory->page_bytes;
	uint64_t flags = message->arg.pagefault.flags;
	unsigned int *count = &server->faults.n_missing;
	int r;

	/* before whoever waits can go on, and look at it */
	if (flags & UFFD_PAGEFAULT_FLAG_WP)
		count = &server->faults.n_wp;
	else if (flags & UFFD_PAGEFAULT_FLAG_MINOR)
		count = &server->faults.n_minor;
	__atomic_fetch_add(count, 1, __ATOMIC_RELAXED);

	if (count == &server->faults.n_wp)
		r = lab_protect(server->uffd, lab_page(memory, i), memory->page_bytes, 0);
	else if (count == &server->faults.n_minor)
		r = lab_continue(server->uffd, lab_page(memory, i), memory->page_bytes, 0, NULL);
	else
		r = lab_copy_byte(server->uffd, memory, i, server->byte, 0);
	if (r < 0)
		lab_wake(server->uffd, lab_page(memory, i), memory->page_bytes);
}

static intptr_t serve(void *argument)
{
	struct server *server = argument;
	struct uffd_msg message;

	for (;;)
		if (lab_message(server->run, server->uffd, 1000, &message) &&
		    message.event == UFFD_EVENT_PAGEFAULT)
			answer_fault(server, &message);
	return 0;
}

const struct lab_faults *lab_serve(struct probe_run *run, int uffd, const struct lab_memory *memory,
				   uint8_t byte)
{
	struct server *server = malloc(sizeof(*server));

	probe_must(run, server, "malloc()");
	*server = (struct server){ .run = run, .uffd = uffd, .memory = memory, .byte = byte };
	lab_start(run, serve, server);
	return &server->faults;
}

/* ---- accesses that end by a signal ---- */

static __thread sigjmp_buf back;
static __thread int signal_code;

static void jump_back(int number, siginfo_t *info, void *context)
{
	(void)context;
	signal_code = info->si_code;
	siglongjmp(back, number);
}

/* The access happens in here, so that sigsetjmp() has a frame to come back to. */
static int signal_of_access(volatile uint8_t *at, const uint8_t *byte, int *ret_code)
{
	struct sigaction action = { .sa_sigaction = jump_back, .sa_flags = SA_SIGINFO };
	struct sigaction old_bus, old_segv;
	int number;

	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, &old_bus);
	sigaction(SIGSEGV, &action, &old_segv);
	number = sigsetjmp(back, 1);
	if (!number && byte)
		*at = *byte;
	else if (!number)
		(void)*at;
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	if (number && ret_code)
		*ret_code = signal_code;
	return number;
}

int lab_signal_of_read(const void *at, int *ret_code)
{
	return signal_of_access((uint8_t *)(uintptr_t)at, NULL, ret_code);
}

int lab_signal_of_write(void *at, uint8_t byte, int *ret_code)
{
	return signal_of_access(at, &byte, ret_code);
}
