/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Accesses to one page that the kernel makes for a system call. */
#include "probe/accesses.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_BYTES 4096

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

static int whole(ssize_t n)
{
	if (n < 0)
		return -errno;
	return n == PAGE_BYTES ? 0 : -EIO;
}

/* ---- through a pipe -------------------------------------------------------------------------- */

static void prepare_pipe(struct probe_run *run, struct access_tools *tools)
{
	probe_must(run, pipe2(tools->pipe, O_CLOEXEC | O_NONBLOCK) == 0, "pipe");
}

static int touch_write(struct access_tools *tools, uint8_t *page)
{
	int r = whole(write(tools->pipe[1], page, PAGE_BYTES));

	return r ? r : whole(read(tools->pipe[0], tools->own, PAGE_BYTES));
}

static int touch_read(struct access_tools *tools, uint8_t *page)
{
	int r = whole(write(tools->pipe[1], tools->own, PAGE_BYTES));

	return r ? r : whole(read(tools->pipe[0], page, PAGE_BYTES));
}

static int touch_vmsplice(struct access_tools *tools, uint8_t *page)
{
	struct iovec vector = { .iov_base = page, .iov_len = PAGE_BYTES };
	int r = whole(vmsplice(tools->pipe[1], &vector, 1, 0));

	return r ? r : whole(read(tools->pipe[0], tools->own, PAGE_BYTES));
}

const struct access access_write = { "write(2)", prepare_pipe, touch_write };
const struct access access_read = { "read(2)", prepare_pipe, touch_read };
const struct access access_vmsplice = { "vmsplice", prepare_pipe, touch_vmsplice };

/* ---- from another process, or as if ---------------------------------------------------------- */

static void prepare_vm(struct probe_run *run, struct access_tools *tools)
{
	struct iovec vector = { .iov_base = tools->own, .iov_len = 1 };

	if (process_vm_readv(getpid(), &vector, 1, &vector, 1, 0) < 0)
		probe_skip(run, "process_vm_readv is not allowed here: %s", strerror(errno));
}

static int touch_vm_readv(struct access_tools *tools, uint8_t *page)
{
	struct iovec own = { .iov_base = tools->own, .iov_len = PAGE_BYTES };
	struct iovec theirs = { .iov_base = page, .iov_len = PAGE_BYTES };

	return whole(process_vm_readv(getpid(), &own, 1, &theirs, 1, 0));
}

static int touch_vm_writev(struct access_tools *tools, uint8_t *page)
{
	struct iovec own = { .iov_base = tools->own, .iov_len = PAGE_BYTES };
	struct iovec theirs = { .iov_base = page, .iov_len = PAGE_BYTES };

	return whole(process_vm_writev(getpid(), &own, 1, &theirs, 1, 0));
}

static void prepare_mem(struct probe_run *run, struct access_tools *tools)
{
	tools->mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	if (tools->mem < 0)
		probe_skip(run, "/proc/self/mem cannot be opened: %s", strerror(errno));
}

static int touch_mem_read(struct access_tools *tools, uint8_t *page)
{
	return whole(pread(tools->mem, tools->own, PAGE_BYTES, (off_t)(uintptr_t)page));
}

static int touch_mem_write(struct access_tools *tools, uint8_t *page)
{
	return whole(pwrite(tools->mem, tools->own, PAGE_BYTES, (off_t)(uintptr_t)page));
}

const struct access access_vm_readv = { "process_vm_readv", prepare_vm, touch_vm_readv };
const struct access access_vm_writev = { "process_vm_writev", prepare_vm, touch_vm_writev };
const struct access access_mem_read = { "a read of /proc/self/mem", prepare_mem, touch_mem_read };
const struct access access_mem_write = { "a write of /proc/self/mem", prepare_mem,
					 touch_mem_write };

/* ---- by devices ------------------------------------------------------------------------------ */

static void prepare_disk(struct probe_run *run, struct access_tools *tools)
{
	struct lab_memory file = lab_map(run, LAB_FILE, 1);

	lab_fill_file(run, &file, 0, 0xd1);
	tools->disk = file.fd;
	if (fcntl(tools->disk, F_SETFL, O_DIRECT) < 0 ||
	    pread(tools->disk, tools->own, PAGE_BYTES, 0) != PAGE_BYTES)
		probe_skip(run, "the disk's file system has no O_DIRECT: %s", strerror(errno));
}

static int touch_direct_write(struct access_tools *tools, uint8_t *page)
{
	return whole(pwrite(tools->disk, page, PAGE_BYTES, 0));
}

static int touch_direct_read(struct access_tools *tools, uint8_t *page)
{
	return whole(pread(tools->disk, page, PAGE_BYTES, 0));
}

static void prepare_ring(struct probe_run *run, struct access_tools *tools)
{
	struct iovec vector = { .iov_base = tools->own, .iov_len = PAGE_BYTES };
	int r = io_uring_queue_init(4, &tools->ring, 0);

	if (r < 0)
		probe_skip(run, "io_uring is not to be had here: %s", strerror(-r));
	r = io_uring_register_buffers(&tools->ring, &vector, 1);
	if (r < 0)
		probe_skip(run, "no buffer of io_uring may be pinned here: %s", strerror(-r));
	io_uring_unregister_buffers(&tools->ring);
}

static int touch_pin(struct access_tools *tools, uint8_t *page)
{
	struct iovec vector = { .iov_base = page, .iov_len = PAGE_BYTES };
	int r = io_uring_register_buffers(&tools->ring, &vector, 1);

	if (r == 0)
		io_uring_unregister_buffers(&tools->ring);
	return r;
}

const struct access access_direct_write = { "an O_DIRECT write", prepare_disk, touch_direct_write };
const struct access access_direct_read = { "an O_DIRECT read", prepare_disk, touch_direct_read };
const struct access access_pin = { "a pin of io_uring", prepare_ring, touch_pin };

/* ---- by advice, locks and futexes ------------------------------------------------------------ */

static int touch_populate_read(struct access_tools *tools, uint8_t *page)
{
	return madvise(page, PAGE_BYTES, MADV_POPULATE_READ) < 0 ? -errno : 0;
}

static int touch_populate_write(struct access_tools *tools, uint8_t *page)
{
	return madvise(page, PAGE_BYTES, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

static int touch_willneed(struct access_tools *tools, uint8_t *page)
{
	return madvise(page, PAGE_BYTES, MADV_WILLNEED) < 0 ? -errno : 0;
}

static int touch_mincore(struct access_tools *tools, uint8_t *page)
{
	return mincore(page, PAGE_BYTES, tools->own) < 0 ? -errno : 0;
}

/* The call itself: that of a C library under a sanitizer does nothing. */
static int touch_mlock(struct access_tools *tools, uint8_t *page)
{
	if (syscall(SYS_mlock, page, PAGE_BYTES) < 0)
		return -errno;
	syscall(SYS_munlock, page, PAGE_BYTES);
	return 0;
}

static void prepare_mlock(struct probe_run *run, struct access_tools *tools)
{
	int r = touch_mlock(tools, tools->own);

	if (r)
		probe_skip(run, "no page may be locked here: %s", probe_errno(r));
}

/*
 * Nobody waits; but the second word is set, by an instruction of the kernel. Of a futex that
 * processes share the kernel looks up the page before, as one that it will write to.
 */
static int wake_op(struct access_tools *tools, uint8_t *page, int flags)
{
	int op = FUTEX_OP(FUTEX_OP_SET, 0x55, FUTEX_OP_CMP_EQ, 0);
	long r = syscall(SYS_futex, tools->own, FUTEX_WAKE_OP | flags, 1, NULL, page, op);

	return r < 0 ? -errno : 0;
}

static int touch_wake_op(struct access_tools *tools, uint8_t *page)
{
	return wake_op(tools, page, 0);
}

static int touch_wake_op_private(struct access_tools *tools, uint8_t *page)
{
	return wake_op(tools, page, FUTEX_PRIVATE_FLAG);
}

const struct access access_populate_read = { "MADV_POPULATE_READ", NULL, touch_populate_read };
const struct access access_populate_write = { "MADV_POPULATE_WRITE", NULL, touch_populate_write };
const struct access access_willneed = { "MADV_WILLNEED", NULL, touch_willneed };
const struct access access_mincore = { "mincore", NULL, touch_mincore };
const struct access access_mlock = { "mlock", prepare_mlock, touch_mlock };
const struct access access_wake_op = { "FUTEX_WAKE_OP", NULL, touch_wake_op };
const struct access access_wake_op_private = { "FUTEX_WAKE_OP of one process", NULL,
					       touch_wake_op_private };

/* ---- tried ----------------------------------------------------------------------------------- */

void access_prepare(struct probe_run *run, const struct access *access,
		    struct access_tools *ret_tools)
{
	struct access_tools tools = { .pipe = { -EBADF, -EBADF }, .mem = -EBADF, .disk = -EBADF };

	tools.own = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);
	probe_must(run, tools.own != MAP_FAILED, "mmap of a page");
	memset(tools.own, 0xa5, PAGE_BYTES);
	if (access->prepare)
		access->prepare(run, &tools);
	*ret_tools = tools;
}

struct touch {
	const struct access *access;
	struct access_tools *tools;
	uint8_t *page;
};

static intptr_t run_touch(void *argument)
{
	const struct touch *touch = argument;

	return touch->access->touch(touch->tools, touch->page);
}

static void answer_fault(struct probe_run *run, int uffd, const struct lab_memory *memory,
			 const struct uffd_msg *message, uint8_t byte)
{
	int r;

	if (message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
		r = lab_protect(uffd, memory->at, memory->page_bytes, 0);
	else
		r = lab_copy_byte(uffd, memory, 0, byte, 0);
	if (r)
		probe_break(run, "a fault could not be answered: %s", probe_errno(r));
}

unsigned int access_try(struct probe_run *run, const struct access *access,
			struct access_tools *tools, const struct lab_memory *memory, int uffd,
			uint8_t byte, int *ret_result)
{
	struct touch touch = { .access = access, .tools = tools, .page = memory->at };
	struct lab_thread *thread = lab_start(run, run_touch, &touch);
	struct uffd_msg message;
	unsigned int n_faults = 0;

	while (!lab_ended(thread, 1))
		while (lab_message(run, uffd, 0, &message)) {
			n_faults++;
			answer_fault(run, uffd, memory, &message, byte);
		}
	*ret_result = (int)lab_join(run, thread);
	if (!lab_is_silent(run, uffd))
		probe_break(run, "a message came after %s had ended", access->name);
	return n_faults;
}

/* ---- somebody to share pages with ------------------------------------------------------------ */

pid_t access_share(struct probe_run *run)
{
	pid_t child = fork();

	probe_must(run, child >= 0, "fork");
	if (child > 0)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
}

void access_unshare(struct probe_run *run, pid_t child)
{
	kill(child, SIGKILL);
	probe_must(run, waitpid(child, NULL, 0) == child, "waitpid of a child");
}
