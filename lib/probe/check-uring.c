/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring on a userfaultfd: reads and polls that wait for a fault.
 *
 * Whether the kernel hands an operation to a thread of its own shows in our list of threads: such a
 * worker is one of this process's. There is no operation for the ioctls that fill pages.
 */
#include "probe/lab.h"
#include "probe/table.h"

#include <dirent.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "kernel/uring.h"

#define BYTE		  0x5a
#define N_PAGES		  5
#define TIMEOUT_S	  1
#define OP_READ_MULTISHOT 49 /* not in the headers of Linux 6.1 */
#define GROUP		  7
#define N_BUFFERS	  8 /* a power of two */

/* Memory whose pages are missing, its uffd, and a ring. */
struct ringed {
	struct lab_memory memory;
	int uffd;
	struct io_uring ring;
};

static void open_ring(struct probe_run *run, struct io_uring *ring)
{
	int r = io_uring_queue_init(16, ring, 0);

	if (r == -EPERM || r == -ENOSYS || r == -EACCES)
		probe_skip(run, "io_uring is not there for us: %s", probe_errno(r));
	errno = -r;
	probe_must(run, r == 0, "io_uring_setup");
}

static void prepare(struct probe_run *run, struct ringed *ringed, uint64_t features)
{
	ringed->uffd = lab_uffd(run, features);
	ringed->memory = lab_map(run, LAB_ANON, N_PAGES);
	lab_register(run, ringed->uffd, &ringed->memory, UFFDIO_REGISTER_MODE_MISSING);
	open_ring(run, &ringed->ring);
}

static struct io_uring_sqe *entry_of(struct probe_run *run, struct io_uring *ring)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(ring);

	probe_must(run, entry, "a free entry of the ring");
	return entry;
}

static void submit(struct probe_run *run, struct io_uring *ring)
{
	int n = io_uring_submit(ring);

	errno = n < 0 ? -n : 0;
	probe_must(run, n == 1, "io_uring_submit");
}

/* Has something completed by now? */
static bool is_pending(struct io_uring *ring)
{
	struct io_uring_cqe *completion;

	return io_uring_peek_cqe(ring, &completion) == -EAGAIN;
}

/* The next completion; breaks if none comes. */
static struct io_uring_cqe next(struct probe_run *run, struct io_uring *ring)
{
	struct __kernel_timespec timeout = { .tv_sec = TIMEOUT_S };
	struct io_uring_cqe *completion, copy;
	int r;

	do
		r = io_uring_wait_cqe_timeout(ring, &completion, &timeout);
	while (r == -EINTR);
	errno = -r;
	probe_must(run, r == 0, "waiting for a completion");
	copy = *completion;
	io_uring_cqe_seen(ring, completion);
	probe_step(run, "completion: %d, flags %#x", copy.res, copy.flags);
	return copy;
}

static unsigned int count_workers(struct probe_run *run)
{
	_cleanup_(closedirp) DIR *directory = opendir("/proc/self/task");
	const struct dirent *entry;
	unsigned int n = 0;

	probe_must(run, directory, "opening /proc/self/task");
	while ((entry = readdir(directory))) {
		char path[300], name[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strncmp(name, "iou-wrk", 7))
			n++;
		fclose(file);
	}
	return n;
}

/* ---- one read -------------------------------------------------------------------------------- */

static void submit_read(struct probe_run *run, struct io_uring *ring, int uffd,
			struct uffd_msg *message)
{
	io_uring_prep_read(entry_of(run, ring), uffd, message, sizeof(*message), 0);
	submit(run, ring);
}

/* Answers the fault that @message tells of, and ends @reader. */
static void resolve(struct probe_run *run, const struct ringed *ringed, struct lab_thread *reader)
{
	lab_copy_byte(ringed->uffd, &ringed->memory, 0, BYTE, 0);
	lab_join(run, reader);
}

static void try_read(struct probe_run *run)
{
	struct uffd_msg message = {};
	struct ringed ringed;
	struct lab_thread *reader;
	struct io_uring_cqe completion;
	bool is_early;

	prepare(run, &ringed, 0);
	submit_read(run, &ringed.ring, ringed.uffd, &message);
	is_early = !is_pending(&ringed.ring);
	if (is_early) {
		probe_answer(run, "%s", probe_errno(next(run, &ringed.ring).res));
		return;
	}
	reader = lab_start_read(run, ringed.memory.at);
	completion = next(run, &ringed.ring);
	probe_answer(run, "%s",
		     completion.res == sizeof(message) && message.event == UFFD_EVENT_PAGEFAULT
			     ? "message"
			     : probe_errno(completion.res));
	resolve(run, &ringed, reader);
}

static void try_read_worker(struct probe_run *run)
{
	struct uffd_msg message = {};
	struct ringed ringed;
	struct lab_thread *reader;
	unsigned int before, after;

	prepare(run, &ringed, 0);
	submit_read(run, &ringed.ring, ringed.uffd, &message);
	before = count_workers(run);
	reader = lab_start_read(run, ringed.memory.at);
	next(run, &ringed.ring);
	after = count_workers(run);
	probe_detail(run, "%u while it waited, %u after it", before, after);
	probe_answer(run, "%s", before || after ? "a worker" : "no worker");
	resolve(run, &ringed, reader);
}

static void try_read_blocking(struct probe_run *run)
{
	struct uffd_msg message = {};
	struct ringed ringed;
	struct lab_thread *reader;
	struct io_uring_cqe completion;

	prepare(run, &ringed, 0);
	probe_must(run, fcntl(ringed.uffd, F_SETFL, 0) == 0, "making the uffd blocking");
	submit_read(run, &ringed.ring, ringed.uffd, &message);
	reader = lab_start_read(run, ringed.memory.at);
	completion = next(run, &ringed.ring);
	probe_detail(run, "%u workers", count_workers(run));
	probe_answer(run, "%s", completion.res > 0 ? "message" : probe_errno(completion.res));
	resolve(run, &ringed, reader);
}

/* ---- polls ----------------------------------------------------------------------------------- */

/* As ufd waits for faults: a ring of lib/kernel, with all that it asks for. */
static void try_poll(struct probe_run *run)
{
	struct uring_completion completion = {};
	struct lab_thread *reader;
	struct uring *ring = NULL;
	struct ringed ringed;
	unsigned int n = 0;
	int r;

	prepare(run, &ringed, 0);
	errno = -uring_new(&ring, 4);
	probe_must(run, ring, "a ring");
	probe_must(run, uring_add_poll(ring, ringed.uffd, 1), "room for a poll");
	r = uring_wait(ring, 0, &completion, 1, &n);
	probe_step(run, "a look before the fault: %s, %u completions", probe_errno(r), n);
	reader = lab_start_read(run, ringed.memory.at);
	while (r == 0 && n == 0)
		r = uring_wait(ring, UINT64_C(1000000000), &completion, 1, &n);
	probe_step(run, "the poll says %#x", completion.result);
	probe_answer(run, "%s",
		     r == 0 && completion.result == POLLIN ? "readable" : probe_errno(r));
	lab_fault(run, ringed.uffd);
	resolve(run, &ringed, reader);
}

/* A fault of page @i, which the kernel is to tell by one completion; the page is filled then. */
static struct io_uring_cqe fault_once(struct probe_run *run, struct ringed *ringed, size_t i,
				      bool is_read_here)
{
	struct lab_thread *reader = lab_start_read(run, lab_page(&ringed->memory, i));
	struct io_uring_cqe completion = next(run, &ringed->ring);

	if (is_read_here)
		lab_fault(run, ringed->uffd);
	lab_copy_byte(ringed->uffd, &ringed->memory, i, BYTE, 0);
	lab_join(run, reader);
	return completion;
}

static void try_poll_multishot(struct probe_run *run)
{
	struct io_uring_cqe completion;
	struct ringed ringed;
	unsigned int n = 0;

	prepare(run, &ringed, 0);
	io_uring_prep_poll_multishot(entry_of(run, &ringed.ring), ringed.uffd, POLLIN);
	submit(run, &ringed.ring);
	do
		completion = fault_once(run, &ringed, n++, true);
	while (n < N_PAGES && completion.flags & IORING_CQE_F_MORE);
	probe_detail(run, "%u faults, the last completion says %#x, flags %#x; %u workers", n,
		     completion.res, completion.flags, count_workers(run));
	probe_answer(run, "%s", completion.flags & IORING_CQE_F_MORE ? "goes on" : "ends");
}

/* The kernel holds the file of a poll in flight: closing the fd frees nobody. */
static void try_poll_holds(struct probe_run *run)
{
	struct lab_thread *reader;
	struct ringed ringed;

	prepare(run, &ringed, 0);
	io_uring_prep_poll_add(entry_of(run, &ringed.ring), ringed.uffd, POLLERR);
	submit(run, &ringed.ring);
	reader = lab_start_read(run, ringed.memory.at);
	lab_fault(run, ringed.uffd);
	close(ringed.uffd);
	probe_answer(run, "%s", lab_sleeps(reader) ? "held" : "closed");
}

/* ---- a read for many messages ---------------------------------------------------------------- */

/* Skips before Linux 6.7. */
static void expect_operation(struct probe_run *run, struct io_uring *ring)
{
	struct io_uring_probe *known = io_uring_get_probe_ring(ring);

	probe_must(run, known, "asking for the operations");
	if (!io_uring_opcode_supported(known, OP_READ_MULTISHOT))
		probe_skip(run, "the kernel lacks IORING_OP_READ_MULTISHOT (Linux 6.7)");
	io_uring_free_probe(known);
}

static void provide_buffers(struct probe_run *run, struct io_uring *ring, struct uffd_msg *messages)
{
	size_t n_bytes = N_BUFFERS * sizeof(struct io_uring_buf);
	struct io_uring_buf_ring *buffers = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct io_uring_buf_reg registration = {
		.ring_addr = (uintptr_t)buffers,
		.ring_entries = N_BUFFERS,
		.bgid = GROUP,
	};
	int r;

	probe_must(run, buffers != MAP_FAILED, "mmap of a ring of buffers");
	r = io_uring_register_buf_ring(ring, &registration, 0);
	errno = -r;
	probe_must(run, r == 0, "registering a ring of buffers");
	io_uring_buf_ring_init(buffers);
	for (int i = 0; i < N_BUFFERS; i++)
		io_uring_buf_ring_add(buffers, &messages[i], sizeof(messages[i]), (unsigned short)i,
				      io_uring_buf_ring_mask(N_BUFFERS), i);
	io_uring_buf_ring_advance(buffers, N_BUFFERS);
}

static void try_read_multishot(struct probe_run *run)
{
	static struct uffd_msg messages[N_BUFFERS];
	struct io_uring_cqe completion;
	struct io_uring_sqe *entry;
	struct ringed ringed;
	unsigned int n = 0;

	prepare(run, &ringed, 0);
	expect_operation(run, &ringed.ring);
	provide_buffers(run, &ringed.ring, messages);
	entry = entry_of(run, &ringed.ring);
	io_uring_prep_rw(OP_READ_MULTISHOT, entry, ringed.uffd, NULL, 0, 0);
	entry->flags |= IOSQE_BUFFER_SELECT;
	entry->buf_group = GROUP;
	submit(run, &ringed.ring);
	do
		completion = fault_once(run, &ringed, n++, false);
	while (n < N_PAGES && completion.flags & IORING_CQE_F_MORE);
	probe_detail(run, "%u faults, the last completion says %d, flags %#x; %u workers", n,
		     completion.res, completion.flags, count_workers(run));
	if (completion.res != sizeof(messages[0]))
		probe_answer(run, "%s", probe_errno(completion.res));
	else
		probe_answer(run, "%s", completion.flags & IORING_CQE_F_MORE ? "goes on" : "ends");
}

/* ---- the uffd of a child --------------------------------------------------------------------- */

struct birth {
	struct lab_memory memory;
	pid_t child;
};

/* The child reads the first page. This thread stays until it has ended, as PDEATHSIG needs. */
static intptr_t fork_reader(void *argument)
{
	const struct birth *birth = argument;
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(*(volatile uint8_t *)birth->memory.at == BYTE ? 0 : 1);
	}
	if (child < 0)
		return -errno;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return status;
}

static void try_child(struct probe_run *run)
{
	struct uffd_msg message = {}, fault = {};
	struct lab_thread *parent;
	struct io_uring_cqe completion;
	struct ringed ringed;
	struct birth birth;

	prepare(run, &ringed, UFFD_FEATURE_EVENT_FORK);
	birth.memory = ringed.memory;
	parent = lab_start(run, fork_reader, &birth);
	probe_must(run, lab_message(run, ringed.uffd, 1000, &message), "the fork's message");
	probe_must(run, message.event == UFFD_EVENT_FORK, "a message of the fork");
	ringed.uffd = (int)message.arg.fork.ufd;
	submit_read(run, &ringed.ring, ringed.uffd, &fault);
	completion = next(run, &ringed.ring);
	probe_detail(run, "%u workers, file flags %#x", count_workers(run),
		     (unsigned int)fcntl(ringed.uffd, F_GETFL));
	probe_answer(run, "%s",
		     completion.res == sizeof(fault) && fault.event == UFFD_EVENT_PAGEFAULT
			     ? "message"
			     : probe_errno(completion.res));
	lab_copy_byte(ringed.uffd, &ringed.memory, 0, BYTE, 0);
	probe_must(run, lab_join(run, parent) == 0, "the child's read");
}

static const struct probe_check checks[] = {
	{
		.id = "uring.poll",
		.group = PROBE_URING,
		.title = "A poll on a ring tells of a fault",
		.wanted = "readable",
		.is_needed = true,
		.consequence = "ufd, which waits for faults this way, does not hear of any",
		.run = try_poll,
	},
	{
		.id = "uring.poll-multishot",
		.group = PROBE_URING,
		.title = "One poll tells of each fault",
		.wanted = "goes on",
		.consequence = "none: ufd polls anew after each look",
		.run = try_poll_multishot,
	},
	{
		.id = "uring.poll-holds",
		.group = PROBE_URING,
		.title = "A poll in flight holds its uffd open when every fd is closed",
		.wanted = "held",
		.consequence = "none: ufd ends its polls before it lets go of a uffd",
		.run = try_poll_holds,
	},
	{
		.id = "uring.read",
		.group = PROBE_URING,
		.title = "A read on a ring waits for a fault and brings its message",
		.wanted = "message",
		.consequence = "none: ufd polls by the ring and reads by read(2)",
		.run = try_read,
	},
	{
		.id = "uring.read-worker",
		.group = PROBE_URING,
		.title = "Such a read waits without a thread of the kernel's",
		.wanted = "no worker",
		.consequence = "none: ufd polls by the ring and reads by read(2)",
		.run = try_read_worker,
	},
	{
		.id = "uring.read-blocking",
		.group = PROBE_URING,
		.title = "A read of a blocking uffd waits, too",
		.wanted = "message",
		.known = { { PROBE_KERNEL(6, 1), "message" }, { PROBE_KERNEL(6, 18), "EINTR" } },
		.consequence = "a blocking uffd is refused at attach, and ufd makes none",
		.run = try_read_blocking,
	},
	{
		.id = "uring.read-multishot",
		.group = PROBE_URING,
		.title = "One read brings the messages of many faults",
		.wanted = "goes on",
		.consequence = "none: ufd polls by the ring and reads by read(2)",
		.run = try_read_multishot,
	},
	{
		.id = "uring.read-child",
		.group = PROBE_URING,
		.title = "The uffd of a child is read by a ring as well",
		.wanted = "message",
		.consequence = "none: ufd does not ask for uffds of children",
		.run = try_child,
	},
};

const struct probe_family probe_family_uring = PROBE_FAMILY(checks);
