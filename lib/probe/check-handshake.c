/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A userfaultfd before, at and after its handshake. */
#include "probe/lab.h"
#include "probe/table.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNKNOWN_FEATURE (UINT64_C(1) << 62)

/* One that nobody shook hands with; of user mode only, so that anybody may have it. */
static int raw_uffd(struct probe_run *run, int flags)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY | flags);

	if (uffd < 0)
		probe_skip(run, "the kernel refuses a uffd of user mode only: %s", strerror(errno));
	return uffd;
}

/* Return: 0 or -errno; *@ret_api is what the kernel left. */
static int shake_hands(int uffd, uint64_t features, struct uffdio_api *ret_api)
{
	*ret_api = (struct uffdio_api){ .api = UFFD_API, .features = features };
	return ioctl(uffd, UFFDIO_API, ret_api) < 0 ? -errno : 0;
}

static int poll_within(int uffd, int timeout_ms)
{
	struct pollfd ready = { .fd = uffd, .events = POLLIN };

	poll(&ready, 1, timeout_ms);
	return ready.revents;
}

static const char *poll_name(int events)
{
	return events & POLLERR ? "POLLERR" : events & POLLIN ? "POLLIN" : "nothing";
}

static void try_before(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = raw_uffd(run, O_NONBLOCK), registering, reading;
	struct uffd_msg message;

	registering = lab_try_register(uffd, memory.at, memory.length_bytes,
				       UFFDIO_REGISTER_MODE_MISSING, NULL);
	reading = read(uffd, &message, sizeof(message)) < 0 ? -errno : 0;
	probe_answer(run, "%s, %s, %s", probe_errno(registering), probe_errno(reading),
		     poll_name(poll_within(uffd, 0)));
	probe_detail(run, "REGISTER: %s; read: %s; poll: %s", probe_errno(registering),
		     probe_errno(reading), poll_name(poll_within(uffd, 0)));
}

static void try_unknown(struct probe_run *run)
{
	int uffd = raw_uffd(run, O_NONBLOCK), refused, again;
	struct uffdio_api api;

	refused = shake_hands(uffd, UNKNOWN_FEATURE, &api);
	probe_detail(run, "after the refusal the kernel left the features %#llx",
		     (unsigned long long)api.features);
	again = shake_hands(uffd, 0, &api);
	probe_answer(run, "%s, then %s", probe_errno(refused), probe_errno(again));
}

static void try_twice(struct probe_run *run)
{
	int uffd = raw_uffd(run, O_NONBLOCK), first, again;
	struct uffdio_api api;

	first = shake_hands(uffd, 0, &api);
	again = shake_hands(uffd, 0, &api);
	probe_answer(run, "%s, then %s", probe_errno(first), probe_errno(again));
}

static void try_blocking(struct probe_run *run)
{
	int uffd = raw_uffd(run, 0), before, after;
	struct uffdio_api api;

	probe_must(run, shake_hands(uffd, 0, &api) == 0, "UFFDIO_API");
	before = poll_within(uffd, 0);
	probe_must(run, fcntl(uffd, F_SETFL, O_NONBLOCK) == 0, "setting O_NONBLOCK");
	after = poll_within(uffd, 0);
	probe_answer(run, "%s, then %s", poll_name(before), poll_name(after));
	probe_detail(run, "poll of a blocking uffd: %s; once it is non-blocking: %s",
		     poll_name(before), poll_name(after));
}

/* Our process only: it ends soon. */
static void drop_ptrace_right(struct probe_run *run)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

	probe_must(run, syscall(SYS_capget, &header, sets) == 0, "capget");
	sets[CAP_TO_INDEX(CAP_SYS_PTRACE)].effective &= ~CAP_TO_MASK(CAP_SYS_PTRACE);
	probe_must(run, syscall(SYS_capset, &header, sets) == 0, "capset");
}

static void try_fork_right(struct probe_run *run)
{
	int uffd = raw_uffd(run, O_NONBLOCK);
	struct uffdio_api api;

	drop_ptrace_right(run);
	probe_answer(run, "%s", probe_errno(shake_hands(uffd, UFFD_FEATURE_EVENT_FORK, &api)));
}

static void try_fdinfo(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);
	int uffd = lab_uffd(run, 0);
	unsigned int pending, total;

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	lab_start_read(run, lab_page(&memory, 0));
	lab_fault(run, uffd);
	lab_start_read(run, lab_page(&memory, 1));
	probe_must(run, poll_within(uffd, 1000) & POLLIN, "waiting for a second fault");
	pending = lab_pending(run, uffd, &total);
	probe_answer(run, "pending %u, total %u", pending, total);
	probe_detail(run,
		     "one fault was read and is not resolved, one is not read: pending %u, "
		     "total %u",
		     pending, total);
}

#define EVENT .group = PROBE_EVENT

static const struct probe_check checks[] = {
	{ .id = "event.before-handshake",
	  EVENT,
	  .title = "Before its handshake a uffd does nothing",
	  .wanted = "EINVAL, EINVAL, POLLERR",
	  .consequence = "a uffd that no pager made ready looks like one that is",
	  .run = try_before },
	{ .id = "event.unknown-feature",
	  EVENT,
	  .title = "An unknown feature is refused, and the uffd may shake hands again",
	  .wanted = "EINVAL, then ok",
	  .consequence = "ufd asks only for features that a first, empty handshake reported",
	  .run = try_unknown },
	{ .id = "event.second-handshake",
	  EVENT,
	  .title = "A handshake is final",
	  .wanted = "ok, then EINVAL",
	  .consequence = "somebody else could change the features of a uffd that ufd serves",
	  .run = try_twice },
	{ .id = "event.blocking",
	  EVENT,
	  .title = "poll says error of a blocking uffd; O_NONBLOCK can be set later",
	  .wanted = "POLLERR, then nothing",
	  .consequence = "ufd refuses a uffd that is not O_NONBLOCK, whatever poll says of it",
	  .run = try_blocking },
	{ .id = "event.fork-right",
	  EVENT,
	  .title = "EVENT_FORK needs CAP_SYS_PTRACE",
	  .wanted = "EPERM",
	  .consequence = "none: ufd does not ask for this feature",
	  .run = try_fork_right },
	{ .id = "event.fdinfo",
	  EVENT,
	  .title = "fdinfo counts faults unread, and unread or unresolved",
	  .wanted = "pending 1, total 2",
	  .consequence = "how many threads wait cannot be looked up there; ufd counts itself",
	  .run = try_fdinfo },
};

const struct probe_family probe_family_handshake = PROBE_FAMILY(checks);
