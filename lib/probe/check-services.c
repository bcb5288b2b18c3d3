/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's release, and what ufdd stands on beside it: service manager, control groups, rings. */
#include "probe/lab.h"
#include "probe/table.h"

#include <fcntl.h>
#include <glob.h>
#include <linux/kvm.h>
#include <liburing.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/memcg.h"

/* ---- releases -------------------------------------------------------------------------------- */

/* The newest release that the table knows of and that is not newer than @kernel. */
static unsigned int nearest_known(unsigned int kernel)
{
	const struct probe_check *const *all;
	unsigned int nearest = 0;
	size_t n;

	all = probe_checks(&n);
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < sizeof(all[i]->known) / sizeof(all[i]->known[0]); j++)
			if (all[i]->known[j].since <= kernel && all[i]->known[j].since > nearest)
				nearest = all[i]->known[j].since;
	return nearest;
}

static void tell_kernel(struct probe_run *run)
{
	unsigned int kernel = probe_kernel(), nearest = nearest_known(kernel);
	struct utsname name;

	probe_must(run, uname(&name) == 0, "uname");
	probe_answer(run, "%u.%u", kernel >> 16, kernel & 0xffff);
	probe_detail(run, "%.64s on %.32s; answers are compared with those since Linux %u.%u",
		     name.release, name.machine, nearest >> 16, nearest & 0xffff);
}

/*
 * The manager and its tools come with a library whose file name is the release. To ask the manager
 * itself would take a bus that not everybody may use, and to run its program would start something.
 */
static unsigned int systemd_release(struct probe_run *run)
{
	static const char *const patterns[] = {
		"/usr/lib/systemd/libsystemd-shared-*.so",
		"/usr/lib/*/systemd/libsystemd-shared-*.so",
		"/usr/lib64/systemd/libsystemd-shared-*.so",
		"/lib/systemd/libsystemd-shared-*.so",
		"/lib/*/systemd/libsystemd-shared-*.so",
	};
	unsigned int newest = 0, release;
	glob_t found = {};

	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
		(void)glob(patterns[i], i ? GLOB_APPEND : 0, NULL, &found);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		const char *file = strrchr(found.gl_pathv[i], '/');

		probe_step(run, "%s", found.gl_pathv[i]);
		if (sscanf(file, "/libsystemd-shared-%u", &release) == 1 && release > newest)
			newest = release;
	}
	globfree(&found);
	return newest;
}

static void has_systemd(struct probe_run *run)
{
	unsigned int release = systemd_release(run);
	bool is_running = access("/run/systemd/system", F_OK) == 0;

	probe_answer(run, "%s", is_running ? "running" : "not running");
	if (release)
		probe_detail(run, "release %u is installed", release);
	else
		probe_detail(run, "no libsystemd-shared tells which release is installed");
}

static void has_since(struct probe_run *run, unsigned int since)
{
	unsigned int release = systemd_release(run);

	if (!release)
		probe_skip(run, "no systemd is installed that tells its release");
	probe_detail(run, "systemd %u; it came with %u", release, since);
	probe_answer(run, "%s", release >= since ? "yes" : "no");
}

static void has_store(struct probe_run *run)
{
	has_since(run,
		  239); /* FDPOLL=0, without which a uffd whose process ends would be dropped */
}

static void has_preserve(struct probe_run *run)
{
	has_since(run, 254);
}

/* ---- control groups -------------------------------------------------------------------------- */

static void has_memory_controller(struct probe_run *run)
{
	struct cgroup_tree tree = {};
	struct memcg_room room = {};
	int r = memcg_find_tree(&tree);

	if (r || !*tree.folder) {
		probe_answer(run, "absent");
		return;
	}
	r = memcg_room_of_process(&tree, getpid(), &room);
	probe_step(run, "%s: %s", tree.folder, probe_errno(r));
	if (r == 0 && room.limit_bytes != UINT64_MAX)
		probe_detail(run, "%.100s; %llu MiB of %llu are left to us", tree.folder,
			     (unsigned long long)room.hard_bytes >> 20,
			     (unsigned long long)room.limit_bytes >> 20);
	else
		probe_detail(run, "%.100s; no limit of our group is seen", tree.folder);
	probe_answer(run, "%s", tree.controller ? "version 1" : "version 2");
}

/* ---- rings and guests ------------------------------------------------------------------------ */

/* Return: 0 or -errno. */
static int try_ring(struct probe_run *run, unsigned int flags)
{
	struct io_uring_params params = { .flags = flags };
	struct io_uring ring;
	int r = io_uring_queue_init_params(4, &ring, &params);

	probe_step(run, "io_uring_setup with flags %#x: %s, features %#x", flags, probe_errno(r),
		   params.features);
	return r;
}

static void has_ring(struct probe_run *run)
{
	int r = try_ring(run, 0);

	probe_answer(run, "%s", r ? probe_errno(r) : "yes");
}

static void has_deferred_ring(struct probe_run *run)
{
	int r = try_ring(run, 0);

	if (r)
		probe_skip(run, "io_uring is not there for us: %s", probe_errno(r));
	r = try_ring(run, IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER |
				  IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
	probe_answer(run, "%s", r ? probe_errno(r) : "yes");
}

static void has_kvm(struct probe_run *run)
{
	_cleanup_(closep) int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		probe_skip(run, "/dev/kvm: %s", probe_errno(errno));
	probe_answer(run, "%d", ioctl(fd, KVM_GET_API_VERSION, 0));
}

static const struct probe_check checks[] = {
	{
		.id = "host.kernel",
		.group = PROBE_HOST,
		.title = "The kernel's release",
		.run = tell_kernel,
	},
	{
		.id = "host.io-uring",
		.group = PROBE_HOST,
		.title = "io_uring is there for us",
		.wanted = "yes",
		.is_of_host = true,
		.is_needed = true,
		.consequence = "ufdd as this user does not start: its threads wait by io_uring",
		.remedy = "sysctl kernel.io_uring_disabled=0, or 1 with ufdd's group as "
			  "kernel.io_uring_group; allow io_uring_setup in seccomp filters",
		.run = has_ring,
	},
	{
		.id = "host.io-uring-deferred",
		.group = PROBE_HOST,
		.title = "A ring may leave its completions to the thread that owns it",
		.wanted = "yes",
		.known = { { PROBE_KERNEL(5, 1), "EINVAL" }, { PROBE_KERNEL(6, 1), "yes" } },
		.consequence = "ufd takes an ordinary ring, whose completions interrupt its fills",
		.remedy = "run Linux 6.1 or newer",
		.run = has_deferred_ring,
	},
	{
		.id = "host.kvm",
		.group = PROBE_HOST,
		.title = "KVM is there for us, and of the interface that VMMs know",
		.wanted = "12",
		.consequence = "VMMs cannot run their guests by KVM",
		.run = has_kvm,
	},
	{
		.id = "host.systemd",
		.group = PROBE_HOST,
		.title = "systemd runs, which keeps guests' descriptors while ufdd is restarted",
		.wanted = "running",
		.is_of_host = true,
		.consequence = "ufdd keeps its ledgers in --state-dir and fetches the descriptors "
			       "from the guests' processes again",
		.run = has_systemd,
	},
	{
		.id = "host.fd-store",
		.group = PROBE_HOST,
		.title = "systemd keeps descriptors without polling them (FDPOLL=0)",
		.wanted = "yes",
		.is_of_host = true,
		.consequence =
			"the manager drops a guest's descriptors as soon as one of them hangs "
			"up, and ufdd fetches them again after a restart",
		.remedy = "run systemd 239 or newer",
		.run = has_store,
	},
	{
		.id = "host.fd-store-preserve",
		.group = PROBE_HOST,
		.title = "systemd can keep the descriptors of a stopped unit (release 254)",
		.wanted = "yes",
		.is_of_host = true,
		.consequence =
			"stopping the unit drops them; started again, ufdd finds its guests by "
			"the state directory, which the unit names",
		.remedy = "run systemd 254 or newer",
		.run = has_preserve,
	},
	{
		.id = "host.cgroup",
		.group = PROBE_HOST,
		.title = "Memory is limited by control groups of version 2",
		.wanted = "version 2",
		.is_of_host = true,
		.consequence = "MemoryMin= of the unit keeps nothing in memory: there is what ufdd "
			       "locks; limits of guests are seen with version 1, too",
		.remedy = "boot with systemd.unified_cgroup_hierarchy=1",
		.run = has_memory_controller,
	},
};

const struct probe_family probe_family_services = PROBE_FAMILY(checks);
