/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd: ioctls and the meaning of their errnos.
 *
 * Theory of operation
 *
 * Every fill ioctl answers twice: by errno, and by a result field in its argument. A positive field
 * is progress, whatever errno says; with EAGAIN it means "so much was done, then something went
 * wrong that is not told". So a fill advances past the progress and calls again: the repeated call
 * then starts at the troublesome page and returns the real errno. A call that is refused before
 * the kernel looked at the page tables leaves the field as it was, hence it is set to 0 first; that
 * also tells our own mistakes (EINVAL, EFAULT with the field untouched) from the kernel's findings.
 *
 * Each round makes progress or ends the loop, so no fill can spin.
 */
#include "kernel/uffd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/features.h"
#include "kernel/procfs.h"
#include "kernel/uapi.h"

/* Set by the kernel in a context's features once the handshake is done; shown in fdinfo. */
#define FEATURES_INITIALIZED (UINT64_C(1) << 31)

static int open_by_device(unsigned int flags)
{
	_cleanup_(closep) int device = -EBADF;
	int fd;

	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -errno;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
	return fd < 0 ? -errno : fd;
}

static int open_by_syscall(unsigned int flags)
{
	long fd = syscall(SYS_userfaultfd, flags);

	return fd < 0 ? -errno : (int)fd;
}

int uffd_open(int *ret_fd, enum uffd_way way, uint64_t features)
{
	_cleanup_(closep) int fd = -EBADF;
	int r;

	if (way == UFFD_WAY_DEVICE)
		fd = open_by_device(O_CLOEXEC | O_NONBLOCK);
	else if (way == UFFD_WAY_USER_MODE)
		fd = open_by_syscall(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	else
		fd = open_by_syscall(O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return fd;

	r = uffd_handshake(fd, features);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int uffd_handshake(int fd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

static int is_userfaultfd(int fd)
{
	char path[40], target[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return errno == ENOENT ? -EBADF : -errno;
	target[n] = '\0';
	return strcmp(target, "anon_inode:[userfaultfd]") ? -EBADFD : 0;
}

/* What fdinfo says of a uffd; a context before its handshake shows no features at all. */
struct uffd_status {
	uint64_t unread;
	uint64_t unresolved;
	uint64_t features;
};

static int read_status(int fd, struct uffd_status *ret)
{
	struct uffd_status status = {};
	char path[48], text[1024];
	const char *line;
	int r;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	r = procfs_read(path, text, sizeof(text), NULL);
	if (r < 0)
		return r == -ENOENT ? -EBADF : r;

	line = strstr(text, "pending:");
	if (!line || sscanf(line, "pending: %" SCNu64 " total: %" SCNu64 " API: %*x:%" SCNx64,
			    &status.unread, &status.unresolved, &status.features) != 3)
		return -EBADFD;
	*ret = status;
	return 0;
}

bool uffd_is_same(int a, int b)
{
	pid_t self = getpid();

	return syscall(SYS_kcmp, self, self, KCMP_FILE, a, b) == 0;
}

int uffd_inspect(int fd, uint64_t *ret_features)
{
	struct uffd_status status;
	int flags, r;

	r = is_userfaultfd(fd);
	if (r < 0)
		return r;
	r = read_status(fd, &status);
	if (r < 0)
		return r;
	if (!(status.features & FEATURES_INITIALIZED))
		return -EPROTO;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	if (!(flags & O_NONBLOCK))
		return -EWOULDBLOCK;
	*ret_features = status.features & ~FEATURES_INITIALIZED;
	return 0;
}

int uffd_pending(int fd, uint64_t *ret_unread, uint64_t *ret_unresolved)
{
	struct uffd_status status;
	int r;

	r = read_status(fd, &status);
	if (r < 0)
		return r;
	*ret_unread = status.unread;
	*ret_unresolved = status.unresolved;
	return 0;
}

static struct uffdio_range range_of(struct hva_range range)
{
	return (struct uffdio_range){ .start = range.start.v, .len = range.length_bytes };
}

/* A COPY that cannot succeed, since its source is unreadable: only a dead mm says ESRCH. */
int uffd_is_gone(int fd, struct hva address, bool *ret_is_gone)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	struct uffdio_copy copy = { .dst = address.v, .len = page_bytes };
	void *unreadable = mmap(NULL, page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (unreadable == MAP_FAILED)
		return -errno;
	copy.src = (uintptr_t)unreadable;
	*ret_is_gone = ioctl(fd, UFFDIO_COPY, &copy) < 0 && errno == ESRCH;
	munmap(unreadable, page_bytes);
	return 0;
}

/*
 * REGISTER and UNREGISTER say ENOMEM when the process has ended, and when it has too many
 * mappings to split one more. To take the second for the first would give up a living guest.
 */
static int gone_or_no_memory(int fd, struct hva_range range)
{
	bool is_gone = false;
	int r = uffd_is_gone(fd, range.start, &is_gone);

	return r < 0 ? r : is_gone ? UFFD_GONE : -ENOMEM;
}

int uffd_register(int fd, struct hva_range range, unsigned int modes, uint64_t *ret_ioctls)
{
	struct uffdio_register registration = { .range = range_of(range), .mode = modes };

	static_assert((unsigned int)UFFD_MODE_MISSING == UFFDIO_REGISTER_MODE_MISSING,
		      "the same bits");
	static_assert((unsigned int)UFFD_MODE_WP == UFFDIO_REGISTER_MODE_WP, "the same bits");
	static_assert((unsigned int)UFFD_MODE_MINOR == UFFDIO_REGISTER_MODE_MINOR, "the same bits");

	if (ioctl(fd, UFFDIO_REGISTER, &registration) < 0) {
		switch (errno) {
		case EBUSY:
			return UFFD_BUSY;
		case EPERM:
		case EINVAL:
			return UFFD_REFUSED;
		case ENOMEM:
			return gone_or_no_memory(fd, range);
		default:
			return -errno;
		}
	}
	if (ret_ioctls)
		*ret_ioctls = registration.ioctls;
	return 0;
}

int uffd_unregister(int fd, struct hva_range range)
{
	struct uffdio_range argument = range_of(range);
	int r = 0, woken;

	if (ioctl(fd, UFFDIO_UNREGISTER, &argument) < 0) {
		if (errno == EINVAL)
			r = UFFD_UNMAPPED;
		else if (errno == ENOMEM)
			r = gone_or_no_memory(fd, range);
		else
			r = -errno;
	}

	/* Whatever came of it: nobody may go on waiting for a range that we leave. */
	woken = uffd_wake(fd, range);
	return r ? r : woken;
}

/* What the errno of a fill means that the four fills agree on. */
static int common_outcome(int error)
{
	switch (error) {
	case EEXIST:
		return UFFD_PRESENT;
	case EAGAIN:
		return UFFD_CHANGING;
	case ENOENT:
		return UFFD_UNMAPPED;
	case ENOMEM:
		return UFFD_NO_MEMORY;
	case ESRCH:
		return UFFD_GONE;
	default:
		return -error;
	}
}

/* COPY, ZEROPAGE, POISON: the source of a copy is ours and readable, so EFAULT is the file's end.
 */
static int fill_outcome(int error, int64_t field)
{
	if (error == EFAULT && field == -EFAULT)
		return UFFD_PAST_END;
	return common_outcome(error);
}

static int continue_outcome(int error, int64_t field)
{
	if (error == EFAULT && field == -EFAULT)
		return UFFD_NO_PAGE;
	if (error == EINVAL && field == -EINVAL)
		return UFFD_PAST_END;
	if (error == EIO)
		return UFFD_POISONED;
	return common_outcome(error);
}

int uffd_copy(int fd, struct hva to, const void *from, uint64_t length_bytes, unsigned int flags,
	      uint64_t *ret_done_bytes)
{
	uint64_t mode = (flags & UFFD_FILL_WP ? UFFDIO_COPY_MODE_WP : 0) |
			(flags & UFFD_FILL_NO_WAKE ? UFFDIO_COPY_MODE_DONTWAKE : 0);
	uint64_t done = 0;
	int r = 0;

	while (done < length_bytes && r == 0) {
		struct uffdio_copy copy = {
			.dst = to.v + done,
			.src = (uintptr_t)from + done,
			.len = length_bytes - done,
			.mode = mode,
		};

		if (ioctl(fd, UFFDIO_COPY, &copy) < 0 && copy.copy <= 0)
			r = fill_outcome(errno, copy.copy);
		else
			done += (uint64_t)copy.copy;
	}
	*ret_done_bytes = done;
	return r;
}

int uffd_zeropage(int fd, struct hva_range range, unsigned int flags, uint64_t *ret_done_bytes)
{
	uint64_t mode = flags & UFFD_FILL_NO_WAKE ? UFFDIO_ZEROPAGE_MODE_DONTWAKE : 0;
	uint64_t done = 0;
	int r = 0;

	assert(!(flags & UFFD_FILL_WP));
	while (done < range.length_bytes && r == 0) {
		struct uffdio_zeropage zero = {
			.range = { .start = range.start.v + done,
				   .len = range.length_bytes - done },
			.mode = mode,
		};

		if (ioctl(fd, UFFDIO_ZEROPAGE, &zero) < 0 && zero.zeropage <= 0)
			r = fill_outcome(errno, zero.zeropage);
		else
			done += (uint64_t)zero.zeropage;
	}
	*ret_done_bytes = done;
	return r;
}

int uffd_continue(int fd, struct hva_range range, unsigned int flags, uint64_t *ret_done_bytes)
{
	uint64_t mode = (flags & UFFD_FILL_WP ? UFFDIO_CONTINUE_MODE_WP : 0) |
			(flags & UFFD_FILL_NO_WAKE ? UFFDIO_CONTINUE_MODE_DONTWAKE : 0);
	uint64_t done = 0;
	int r = 0;

	if (flags & UFFD_FILL_WP && !features_get()->has_continue_wp)
		return -EINVAL; /* as the kernel says, also where it is made to look older */
	while (done < range.length_bytes && r == 0) {
		struct uffdio_continue cont = {
			.range = { .start = range.start.v + done,
				   .len = range.length_bytes - done },
			.mode = mode,
		};

		if (ioctl(fd, UFFDIO_CONTINUE, &cont) < 0 && cont.mapped <= 0)
			r = continue_outcome(errno, cont.mapped);
		else
			done += (uint64_t)cont.mapped;
	}
	*ret_done_bytes = done;
	return r;
}

int uffd_poison(int fd, struct hva_range range, uint64_t *ret_done_bytes)
{
	uint64_t done = 0;
	int r = 0;

	*ret_done_bytes = 0;
	if (!(features_get()->uffd & UFFD_FEATURE_POISON))
		return -EOPNOTSUPP;

	while (done < range.length_bytes && r == 0) {
		struct uffdio_poison poison = {
			.range = { .start = range.start.v + done,
				   .len = range.length_bytes - done },
		};

		if (ioctl(fd, UFFDIO_POISON, &poison) < 0 && poison.updated <= 0)
			r = fill_outcome(errno, poison.updated);
		else
			done += (uint64_t)poison.updated;
	}
	*ret_done_bytes = done;
	return r;
}

int uffd_write_protect(int fd, struct hva_range range, bool protect)
{
	struct uffdio_writeprotect argument = {
		.range = range_of(range),
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	if (ioctl(fd, UFFDIO_WRITEPROTECT, &argument) == 0)
		return 0;
	switch (errno) {
	case EAGAIN:
		return UFFD_CHANGING;
	case ENOENT:
		return UFFD_UNMAPPED;
	case ESRCH:
		return UFFD_GONE;
	default:
		return -errno;
	}
}

int uffd_wake(int fd, struct hva_range range)
{
	struct uffdio_range argument = range_of(range);

	return ioctl(fd, UFFDIO_WAKE, &argument) < 0 ? -errno : 0;
}

bool uffd_is_changing(int fd)
{
	struct uffdio_zeropage nothing = {};

	/* EAGAIN comes before a look at the range, which is none (EINVAL) */
	return ioctl(fd, UFFDIO_ZEROPAGE, &nothing) < 0 && errno == EAGAIN;
}

/* A uffd that is not O_NONBLOCK says POLLERR; it may become so again before the read. */
static ssize_t read_as_it_is(int fd, struct uffd_msg *buffer, size_t n_bytes)
{
	struct pollfd state = { .fd = fd, .events = POLLIN };

	if (poll(&state, 1, 0) == 1 && state.revents & POLLERR)
		(void)uffd_make_nonblocking(fd);
	return read(fd, buffer, n_bytes);
}

int uffd_read(int fd, struct uffd_msg *buffer, unsigned int n_buffer, unsigned int *ret_n)
{
	struct iovec piece = { buffer, n_buffer * sizeof(*buffer) };
	ssize_t n;

	/*
	 * O_NONBLOCK belongs to the open file, which the process that we page shares: taken off after
	 * we looked, a plain read would hold us for as long as it likes. Kernels before 6.9 know no other.
	 */
	n = preadv2(fd, &piece, 1, -1, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP)
		n = read_as_it_is(fd, buffer, n_buffer * sizeof(*buffer));
	if (n < 0 && errno != EAGAIN)
		return -errno;
	*ret_n = n < 0 ? 0 : (unsigned int)((size_t)n / sizeof(*buffer));
	return 0;
}

int uffd_make_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}
