/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Limits and pools of the host's memory and descriptors, against what ufd needs of them. */
#include "probe/host.h"
#include "probe/lab.h"
#include "probe/table.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/files.h"
#include "base/units.h"

/* What ufdd locks of itself with a few guests: its threads' pages and buffers. */
#define LOCKED_BYTES (64 * MIB)
/* Of a guest of two memories, and of the daemon; ufdd counts the same when it lets a guest in. */
#define GUEST_FDS    24
#define DAEMON_FDS   64
#define MANY_GUESTS  100
#define DEFAULT_MAPS 65530

/* ---- descriptors and locked memory ----------------------------------------------------------- */

static struct rlimit limit_of(struct probe_run *run, int resource)
{
	struct rlimit limit;

	probe_must(run, getrlimit(resource, &limit) == 0, "getrlimit");
	probe_step(run, "limit %d: soft %" PRIu64 ", hard %" PRIu64, resource,
		   (uint64_t)limit.rlim_cur, (uint64_t)limit.rlim_max);
	return limit;
}

/* ufdd raises the soft limit to the hard one. */
static void has_descriptors(struct probe_run *run)
{
	struct rlimit limit = limit_of(run, RLIMIT_NOFILE);
	uint64_t n_guests = limit.rlim_max > DAEMON_FDS ? (limit.rlim_max - DAEMON_FDS) / GUEST_FDS
							: 0;

	probe_detail(run,
		     "%" PRIu64 " descriptors: room for some %" PRIu64 " guests of two memories",
		     (uint64_t)limit.rlim_max, n_guests);
	probe_answer(run, "%s", n_guests >= MANY_GUESTS ? "enough" : "few");
}

/* Locked as it is touched, and it is not: this asks for the right only. */
static void has_locked_memory(struct probe_run *run)
{
	struct rlimit limit = limit_of(run, RLIMIT_MEMLOCK);
	void *memory = mmap(NULL, LOCKED_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r;

	probe_must(run, memory != MAP_FAILED, "mmap of 64 MiB");
	r = mlock2(memory, LOCKED_BYTES, MLOCK_ONFAULT) < 0 ? errno : 0;
	if (limit.rlim_cur == RLIM_INFINITY)
		probe_detail(run, "no limit; locking 64 MiB: %s", probe_errno(r));
	else
		probe_detail(run, "RLIMIT_MEMLOCK is %" PRIu64 " KiB; locking 64 MiB: %s",
			     (uint64_t)limit.rlim_cur / KIB, probe_errno(r));
	probe_answer(run, "%s", r ? "little" : "enough");
}

/* ---- huge pages ------------------------------------------------------------------------------ */

static int64_t pool_number(struct probe_run *run, const char *pool, const char *name)
{
	char path[512];
	int64_t number = 0;
	int r;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/%s/%s", pool, name);
	r = host_read_number(path, &number);
	errno = -r;
	probe_must(run, r == 0, path);
	return number;
}

static void tell_pools(struct probe_run *run)
{
	_cleanup_(closedirp) DIR *directory = opendir("/sys/kernel/mm/hugepages");
	const struct dirent *entry;
	char text[200] = "";
	size_t n = 0;
	int64_t n_all = 0;

	if (!directory)
		probe_skip(run, "the kernel was built without hugetlbfs");
	while ((entry = readdir(directory))) {
		int64_t n_pages, n_free, n_more;
		uint64_t kib;

		if (sscanf(entry->d_name, "hugepages-%" SCNu64 "kB", &kib) != 1)
			continue;
		n_pages = pool_number(run, entry->d_name, "nr_hugepages");
		n_free = pool_number(run, entry->d_name, "free_hugepages");
		n_more = pool_number(run, entry->d_name, "nr_overcommit_hugepages");
		probe_step(run, "%s: %lld, %lld free, %lld more may come", entry->d_name,
			   (long long)n_pages, (long long)n_free, (long long)n_more);
		n_all += n_pages + n_more;
		if ((n_pages || n_more) && n < sizeof(text))
			n += (size_t)snprintf(text + n, sizeof(text) - n,
					      "%s%" PRIu64 " MiB: %lld of %lld free", n ? ", " : "",
					      kib / KIB, (long long)n_free, (long long)n_pages);
	}
	if (!n_all)
		probe_skip(run, "no huge pages are set aside (vm.nr_hugepages=N does)");
	probe_answer(run, "%.63s", text);
}

/* ---- transparent huge pages ------------------------------------------------------------------ */

/* The word in brackets. */
static void read_choice(struct probe_run *run, const char *name, char *ret, size_t n_ret)
{
	char path[128], line[128], *choice;
	int r;

	snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/%s", name);
	r = host_read_line(path, line, sizeof(line));
	if (r)
		probe_skip(run, "the kernel was built without transparent huge pages (%s: %s)",
			   name, probe_errno(r));
	probe_step(run, "%s: %s", name, line);
	choice = strchr(line, '[');
	probe_must(run, choice, "looking for the choice");
	choice++;
	choice[strcspn(choice, "]")] = '\0';
	snprintf(ret, n_ret, "%.31s", choice);
}

static void tell_thp(struct probe_run *run)
{
	char choice[32];

	read_choice(run, "enabled", choice, sizeof(choice));
	probe_answer(run, "%s", choice);
}

static void tell_shmem_thp(struct probe_run *run)
{
	char choice[32];
	bool is_asked;

	read_choice(run, "shmem_enabled", choice, sizeof(choice));
	is_asked = !strcmp(choice, "never") || !strcmp(choice, "advise") || !strcmp(choice, "deny");
	probe_detail(run, "shmem_enabled is '%s'", choice);
	probe_answer(run, "%s", is_asked ? "on request" : "unasked");
}

/* ---- settings -------------------------------------------------------------------------------- */

static int64_t setting(struct probe_run *run, const char *path)
{
	int64_t value = 0;
	int r = host_read_number(path, &value);

	if (r)
		probe_skip(run, "%s: %s", path, probe_errno(r));
	probe_step(run, "%s: %lld", path, (long long)value);
	return value;
}

static void has_mappings(struct probe_run *run)
{
	int64_t most = setting(run, "/proc/sys/vm/max_map_count");

	probe_detail(run, "vm.max_map_count is %lld", (long long)most);
	probe_answer(run, "%s", most >= DEFAULT_MAPS ? "enough" : "few");
}

static void overcommits(struct probe_run *run)
{
	int64_t way = setting(run, "/proc/sys/vm/overcommit_memory");

	probe_detail(run, "vm.overcommit_memory is %lld", (long long)way);
	probe_answer(run, "%s", way == 2 ? "no" : "yes");
}

static void tell_swap(struct probe_run *run)
{
	uint64_t total_kib = 0, free_kib = 0;
	char text[8192];
	int r = procfs_read("/proc/meminfo", text, sizeof(text), NULL);

	errno = -r;
	probe_must(run, r == 0, "reading /proc/meminfo");
	if (!procfs_find_number(text, "SwapTotal", &total_kib) || !total_kib) {
		probe_answer(run, "none");
		return;
	}
	procfs_find_number(text, "SwapFree", &free_kib);
	probe_answer(run, "%" PRIu64 " of %" PRIu64 " MiB free", free_kib / KIB, total_kib / KIB);
}

static const struct probe_check checks[] = {
	{
		.id = "host.nofile",
		.group = PROBE_HOST,
		.title = "There are file descriptors for a hundred guests",
		.wanted = "enough",
		.is_of_host = true,
		.consequence =
			"ufdd under this limit refuses guests for which it has no descriptors",
		.remedy = "LimitNOFILE=524288 in the unit (ufdd.service has it), ulimit -Hn here",
		.run = has_descriptors,
	},
	{
		.id = "host.memlock",
		.group = PROBE_HOST,
		.title = "What answers faults can be locked in memory",
		.wanted = "enough",
		.is_of_host = true,
		.consequence = "ufdd under this limit locks less, and where there is swap its own "
			       "pages may have to come back first",
		.remedy = "LimitMEMLOCK=infinity in the unit (ufdd.service has it), ulimit -l here",
		.run = has_locked_memory,
	},
	{
		.id = "host.huge-pages",
		.group = PROBE_HOST,
		.title = "Pools of huge pages",
		.run = tell_pools,
	},
	{
		.id = "host.thp",
		.group = PROBE_HOST,
		.title = "Transparent huge pages of anonymous memory",
		.run = tell_thp,
	},
	{
		.id = "host.thp-shmem",
		.group = PROBE_HOST,
		.title = "Shared memory has transparent huge pages only on request",
		.wanted = "on request",
		.is_of_host = true,
		.consequence =
			"the tracker scan reports 2 MiB for a byte that a guest on a memfd wrote",
		.remedy = "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled",
		.run = tell_shmem_thp,
	},
	{
		.id = "host.max-map-count",
		.group = PROBE_HOST,
		.title = "Processes may have as many mappings as usual",
		.wanted = "enough",
		.is_of_host = true,
		.consequence = "memory of a process that has no mapping left to split cannot be "
			       "registered: ufd refuses it and says so",
		.remedy = "sysctl vm.max_map_count=65530, or more",
		.run = has_mappings,
	},
	{
		.id = "host.overcommit",
		.group = PROBE_HOST,
		.title = "Memory may be mapped beyond what there is",
		.wanted = "yes",
		.is_of_host = true,
		.consequence = "guests' private memory counts in full before it is filled, and "
			       "mapping it may be refused to VMMs and to ufdd (ENOMEM)",
		.remedy = "sysctl vm.overcommit_memory=0",
		.run = overcommits,
	},
	{
		.id = "host.swap",
		.group = PROBE_HOST,
		.title = "Swap space",
		.run = tell_swap,
	},
};

const struct probe_family probe_family_limits = PROBE_FAMILY(checks);
