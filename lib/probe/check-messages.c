/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages of faults: to whom, how many, in which order. */
#include "probe/accesses.h"
#include "probe/table.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define BYTE 0x5a

/* Pages of anonymous memory that are missing. */
static struct lab_memory absent(struct probe_run *run, int uffd, size_t n_pages)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, n_pages);

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	return memory;
}

static void wait_readable(struct probe_run *run, int uffd)
{
	struct pollfd ready = { .fd = uffd, .events = POLLIN };

	errno = ETIMEDOUT;
	probe_must(run, poll(&ready, 1, 1000) == 1, "waiting for a message");
}

/* ---- how many -------------------------------------------------------------------------------- */

static void try_threads(struct probe_run *run)
{
	struct lab_thread *threads[4];
	int uffd = lab_uffd(run, 0);
	struct lab_memory memory = absent(run, uffd, 1);
	unsigned int n_woken = 0;

	for (size_t i = 0; i < 4; i++)
		threads[i] = lab_start_read(run, memory.at);
	for (size_t i = 0; i < 4; i++)
		lab_fault(run, uffd);
	lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	for (size_t i = 0; i < 4; i++)
		n_woken += lab_join(run, threads[i]) == BYTE;
	probe_answer(run, "%s, %u woken", lab_is_silent(run, uffd) ? "4 messages" : "more messages",
		     n_woken);
}

static void try_thread_id(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_THREAD_ID);
	struct lab_memory memory = absent(run, uffd, 1);
	struct lab_thread *thread = lab_start_read(run, memory.at);
	struct uffd_msg message = lab_fault(run, uffd);

	probe_answer(run, "%s",
		     message.arg.pagefault.feat.ptid == (uint32_t)lab_thread_id(thread)
			     ? "the thread"
			     : "another number");
	lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	lab_join(run, thread);
}

static void try_readers(struct probe_run *run)
{
	enum { N = 16 };
	int uffd = lab_uffd(run, 0);
	struct lab_memory memory = absent(run, uffd, N);
	const struct lab_faults *readers[2];
	struct lab_thread *threads[N];
	unsigned int n;

	for (size_t i = 0; i < 2; i++)
		readers[i] = lab_serve(run, uffd, &memory, BYTE);
	for (size_t i = 0; i < N; i++)
		threads[i] = lab_start_read(run, lab_page(&memory, i));
	for (size_t i = 0; i < N; i++)
		lab_join(run, threads[i]);
	/* the count of a fault follows its answer: both servers are through when all is counted */
	for (int tries = 0; tries < 1000; tries++) {
		n = __atomic_load_n(&readers[0]->n_missing, __ATOMIC_RELAXED) +
		    __atomic_load_n(&readers[1]->n_missing, __ATOMIC_RELAXED);
		if (n >= N)
			break;
		poll(NULL, 0, 1);
	}
	probe_answer(run, "%s", n == N ? "each once" : n < N ? "some lost" : "some twice");
	probe_detail(run, "two readers got %u and %u messages of %d faults",
		     __atomic_load_n(&readers[0]->n_missing, __ATOMIC_RELAXED),
		     __atomic_load_n(&readers[1]->n_missing, __ATOMIC_RELAXED), N);
}

/* ---- in which order -------------------------------------------------------------------------- */

static intptr_t discard(void *argument)
{
	const struct lab_memory *memory = argument;

	return madvise(memory->at, memory->page_bytes, MADV_DONTNEED) < 0 ? -errno : 0;
}

static void try_order(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_EVENT_REMOVE);
	struct lab_memory memory = absent(run, uffd, 2);
	struct uffd_msg first, second;

	lab_start(run, discard, &memory);
	wait_readable(run, uffd);
	/* the fault comes later than the event, but is read earlier */
	lab_start_read(run, lab_page(&memory, 1));
	while (lab_pending(run, uffd, NULL) == 0)
		poll(NULL, 0, 1);
	probe_must(run, lab_message(run, uffd, 1000, &first), "a first message");
	probe_must(run, lab_message(run, uffd, 1000, &second), "a second message");
	probe_answer(run, "%s",
		     first.event == UFFD_EVENT_PAGEFAULT && second.event == UFFD_EVENT_REMOVE
			     ? "fault first"
			     : "in order");
}

static void try_resolved(struct probe_run *run)
{
	int uffd = lab_uffd(run, 0);
	struct lab_memory memory = absent(run, uffd, 1);
	struct lab_thread *thread = lab_start_read(run, memory.at);

	wait_readable(run, uffd);
	lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	lab_join(run, thread);
	probe_answer(run, "%s", lab_is_silent(run, uffd) ? "withdrawn" : "still there");
}

/* ---- signals --------------------------------------------------------------------------------- */

static atomic_uint n_signals;

static void count_signal(int number)
{
	atomic_fetch_add(&n_signals, 1);
}

static void send_signal(struct probe_run *run, const struct lab_thread *thread)
{
	probe_must(run, syscall(SYS_tgkill, getpid(), lab_thread_id(thread), SIGUSR1) == 0,
		   "tgkill");
}

static void count_signals(void)
{
	struct sigaction action = { .sa_handler = count_signal };

	sigaction(SIGUSR1, &action, NULL);
}

static void try_signal_user(struct probe_run *run)
{
	int uffd = lab_uffd(run, 0);
	struct lab_memory memory = absent(run, uffd, 1);
	struct lab_thread *thread;

	count_signals();
	thread = lab_start_read(run, memory.at);
	lab_fault(run, uffd);
	send_signal(run, thread);
	lab_fault(run, uffd); /* the access is tried again, after the handler */
	probe_answer(run, "%s", n_signals ? "handled, faults anew" : "faults anew");
	lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	lab_join(run, thread);
}

/* Messages after which a thread goes round in circles, and the silence after which it does not. */
#define N_MANY	   32
#define SILENCE_MS 100

struct writer {
	int pipe[2];
	const uint8_t *from;
};

static intptr_t write_page(void *argument)
{
	const struct writer *writer = argument;

	return write(writer->pipe[1], writer->from, 4096) < 0 ? -errno : 0;
}

static void try_storm(struct probe_run *run)
{
	int uffd = lab_uffd_kernel(run, 0);
	struct lab_memory memory = absent(run, uffd, 1);
	struct writer writer = { .from = memory.at };
	struct lab_thread *thread;
	struct uffd_msg message;
	uint64_t start_ns;
	unsigned int n = 0;

	probe_must(run, pipe2(writer.pipe, O_CLOEXEC) == 0, "pipe");
	count_signals();
	thread = lab_start(run, write_page, &writer);
	lab_fault(run, uffd);
	send_signal(run, thread);
	start_ns = clock_now_ns();
	while (n < N_MANY && !lab_ended(thread, 0) && lab_message(run, uffd, SILENCE_MS, &message))
		n++;
	probe_answer(run, "%s", lab_ended(thread, 0) ? "returns" : n == N_MANY ? "storm" : "waits");
	probe_detail(run, "%u more messages within %.1f ms; the handler ran %d times", n,
		     (double)(clock_now_ns() - start_ns) / 1e6, (int)n_signals);
	lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	lab_join(run, thread);
}

#define EVENT .group = PROBE_EVENT

static const struct probe_check checks[] = {
	{ .id = "event.threads",
	  EVENT,
	  .title = "Each thread at a page sends a message, and one COPY wakes them all",
	  .wanted = "4 messages, 4 woken",
	  .consequence = "threads may wait for ever at a page that another one asked for",
	  .run = try_threads },
	{ .id = "event.thread-id",
	  EVENT,
	  .title = "A message names the thread that waits",
	  .wanted = "the thread",
	  .consequence = "ufdctl why cannot name the thread that waits",
	  .run = try_thread_id },
	{ .id = "event.readers",
	  EVENT,
	  .title = "Of two readers, each message goes to one",
	  .wanted = "each once",
	  .consequence = "a pager that takes over from another one loses faults, or serves them "
			 "twice",
	  .run = try_readers },
	{ .id = "event.order",
	  EVENT,
	  .title = "Messages come in the order in which they arose",
	  .wanted = "in order",
	  .known = { { PROBE_KERNEL(6, 1), "fault first" } },
	  .consequence = "faults overtake discards: ufd applies a batch's events before its faults",
	  .run = try_order },
	{ .id = "event.resolved",
	  EVENT,
	  .title = "A fault that is resolved before it is read is withdrawn",
	  .wanted = "withdrawn",
	  .consequence = "faults come for pages that are there: ufd takes EEXIST, and wakes",
	  .run = try_resolved },
	{ .id = "event.signal-user",
	  EVENT,
	  .title = "A thread at an absent page handles signals, and faults anew",
	  .wanted = "handled, faults anew",
	  .consequence = "signals wait until the page is there",
	  .run = try_signal_user },
	{ .id = "event.signal-kernel",
	  EVENT,
	  .title = "A thread that waits within a system call goes on waiting at a signal",
	  .wanted = "waits",
	  .known = { { PROBE_KERNEL(6, 1), "storm" } },
	  .consequence = "thousands of messages for one page: ufd drops duplicates without any "
			 "work",
	  .run = try_storm },
};

const struct probe_family probe_family_messages = PROBE_FAMILY(checks);
