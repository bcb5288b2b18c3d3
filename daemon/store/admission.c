/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Would one more guest still fit? */
#include "store/admission.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "attach/plan.h"
#include "base/files.h"
#include "base/units.h"
#include "kernel/memcg.h"
#include "refusal.h"
#include "settings.h"
#include "store/store.h"

#define NAMES_MAX_BYTES (128 * KIB - sizeof("LISTEN_FDNAMES=")) /* one string of the environment */
#define NAME_BYTES	6					/* `l`, four digits, a `:` */
#define FDS_OF_GUEST	16 /* ledger, rings, events, processes, what a call has in hand */
#define FDS_OF_MEMORY	4  /* backing and source, twice */
#define FDS_RESERVED	64 /* for connections, helpers and /proc */

void admission_add(struct admission_bytes *bytes, uint64_t page_bytes, uint64_t n_bytes)
{
	for (size_t i = 0; i < ADMISSION_N_SIZES; i++) {
		if (bytes->sizes[i].page_bytes && bytes->sizes[i].page_bytes != page_bytes)
			continue;
		bytes->sizes[i].page_bytes = page_bytes;
		bytes->sizes[i].n_bytes += n_bytes;
		return;
	}
}

uint64_t admission_get(const struct admission_bytes *bytes, uint64_t page_bytes)
{
	for (size_t i = 0; i < ADMISSION_N_SIZES; i++)
		if (bytes->sizes[i].page_bytes == page_bytes)
			return bytes->sizes[i].n_bytes;
	return 0;
}

/* ---- what is needed ---- */

/* Pages that are there already need no room. */
static uint64_t absent_bytes(const struct plan_memory *memory)
{
	uint64_t length = memory->end_bytes - memory->base_bytes, allocated;
	struct stat info;

	if (memory->backing < 0 || memory->kind == UFD_MEMORY_PRIVATE ||
	    fstat(memory->backing, &info) < 0)
		return length;
	allocated = (uint64_t)info.st_blocks * 512;
	return allocated < length ? length - allocated : 0;
}

/*
 * What will be asked of the host. Pages whose bytes are in the backing already, and zeros, cost nothing;
 * of anonymous memory that may be populated nobody knows without a walk through it.
 */
static bool is_free(const struct plan_memory *memory, const struct settings *settings)
{
	if (!memory->spec || strcmp(memory->spec, "backing") == 0)
		return true;
	return memory->page_bytes <= 64 * KIB &&
	       (strcmp(memory->spec, "zero") == 0 ||
		(settings->populated == UFD_POPULATED_KEEP && memory->kind == UFD_MEMORY_ANON));
}

static bool is_huge(const struct plan_memory *memory)
{
	return memory->page_bytes > (uint64_t)sysconf(_SC_PAGESIZE);
}

struct admission_need admission_need_of(const struct plan *plan, const struct settings *settings)
{
	struct admission_need need = {};

	for (size_t i = 0; i < plan->n_memories; i++) {
		const struct plan_memory *memory = &plan->memories[i];

		if (is_free(memory, settings))
			continue;
		if (is_huge(memory))
			admission_add(&need.huge, memory->page_bytes, absent_bytes(memory));
		else if (settings->background)
			need.filled_bytes += absent_bytes(memory);
	}
	return need;
}

/* ---- what there is ---- */

static uint64_t read_number(const char *path)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[32];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return UINT64_MAX;
	text[n] = '\0';
	return strtoull(text, NULL, 10);
}

static uint64_t read_pool(uint64_t page_bytes, const char *what)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/%s",
		 page_bytes / KIB, what);
	return read_number(path);
}

static uint64_t pool_bytes(uint64_t page_bytes)
{
	uint64_t n_free = read_pool(page_bytes, "free_hugepages");
	uint64_t n_more = read_pool(page_bytes, "nr_overcommit_hugepages");
	uint64_t n_surplus = read_pool(page_bytes, "surplus_hugepages");

	if (n_free == UINT64_MAX || n_more == UINT64_MAX || n_surplus == UINT64_MAX)
		return UINT64_MAX;
	return (n_free + (n_more > n_surplus ? n_more - n_surplus : 0)) * page_bytes;
}

static uint64_t meminfo_bytes(const char *text, const char *name)
{
	const char *line = strstr(text, name);

	return line ? strtoull(line + strlen(name), NULL, 10) * KIB : 0;
}

static uint64_t host_bytes(void)
{
	_cleanup_(closep) int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	char text[4096];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return UINT64_MAX;
	text[n] = '\0';
	return meminfo_bytes(text, "\nMemAvailable:") + meminfo_bytes(text, "\nSwapFree:");
}

static uint64_t cgroup_bytes(pid_t pid)
{
	struct memcg_room room;
	struct cgroup_tree tree;

	if (memcg_find_tree(&tree) < 0 || !tree.folder[0] ||
	    memcg_room_of_process(&tree, pid, &room) < 0)
		return UINT64_MAX;
	return room.hard_bytes;
}

/* Since Linux 6.2 the folder's length says it. */
static uint64_t count_open_fds(void)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct stat info;
	uint64_t n = 0;

	if (stat("/proc/self/fd", &info) == 0 && info.st_size > 0)
		return (uint64_t)info.st_size;
	dir = opendir("/proc/self/fd");
	while (dir && readdir(dir))
		n++;
	return n;
}

struct admission_room admission_look(const struct store *store, pid_t pid,
				     const struct admission_need *need)
{
	struct admission_room room = {
		.stored_fds_max = UINT64_MAX,
		.name_bytes_max = UINT64_MAX,
		.open_fds = count_open_fds(),
		.open_fds_max = UINT64_MAX,
		.memory_bytes = UINT64_MAX,
		.cgroup_bytes = UINT64_MAX,
	};
	size_t n_fds, n_bytes;
	struct rlimit limit;

	store_count(store, &n_fds, &n_bytes);
	room.stored_fds = n_fds;
	room.name_bytes = n_bytes;
	if (store_is_systemd(store)) {
		room.stored_fds_max = store_most_fds(store);
		room.name_bytes_max = NAMES_MAX_BYTES;
	}
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
		room.open_fds_max = limit.rlim_cur;
	if (need->filled_bytes) {
		room.memory_bytes = host_bytes();
		room.cgroup_bytes = cgroup_bytes(pid);
	}
	for (size_t i = 0; i < ADMISSION_N_SIZES && need->huge.sizes[i].page_bytes; i++)
		admission_add(&room.huge, need->huge.sizes[i].page_bytes,
			      pool_bytes(need->huge.sizes[i].page_bytes));
	return room;
}

/* ---- the decision ---- */

#define LIMIT(refusal, limit, ...)                                                              \
	refusal_set(refusal, "io.ufd.manager.LimitReached", json_pack("{s:s}", "limit", limit), \
		    __VA_ARGS__)

static unsigned long long mib(uint64_t n_bytes)
{
	return n_bytes / MIB;
}

static int decide_fds(const struct admission_room *room, size_t n_memories, const char *guest_name,
		      struct refusal *refusal)
{
	uint64_t n_fds = FDS_OF_GUEST + n_memories * FDS_OF_MEMORY + FDS_RESERVED;

	if (room->stored_fds + 2 > room->stored_fds_max)
		return LIMIT(
			refusal, "fd-store",
			"guest `%s` would not survive a restart: the service manager keeps %llu "
			"file descriptors, two a guest; raise FileDescriptorStoreMax= (and "
			"UFD_FDSTORE_MAX) of the unit",
			guest_name, (unsigned long long)room->stored_fds_max);
	if (room->name_bytes + 2 * NAME_BYTES > room->name_bytes_max)
		return LIMIT(refusal, "fd-names",
			     "guest `%s` would not survive a restart: the names of all stored file "
			     "descriptors must fit %llu bytes; run a second ufdd@ instance",
			     guest_name, (unsigned long long)room->name_bytes_max);
	if (room->open_fds + n_fds > room->open_fds_max)
		return LIMIT(refusal, "nofile",
			     "guest `%s` needs %llu file descriptors, and %llu of %llu are in use: "
			     "raise LimitNOFILE= of the unit (ulimit -n)",
			     guest_name, (unsigned long long)n_fds,
			     (unsigned long long)room->open_fds,
			     (unsigned long long)room->open_fds_max);
	return 0;
}

static int decide_huge(const struct admission_room *room, const struct admission_need *need,
		       const struct admission_need *others, const char *guest_name,
		       struct refusal *refusal)
{
	for (size_t i = 0; i < ADMISSION_N_SIZES && need->huge.sizes[i].page_bytes; i++) {
		uint64_t page_bytes = need->huge.sizes[i].page_bytes;
		uint64_t wanted = need->huge.sizes[i].n_bytes;
		uint64_t promised = admission_get(&others->huge, page_bytes);
		uint64_t there = admission_get(&room->huge, page_bytes);

		if (wanted == 0 || there == UINT64_MAX || wanted + promised <= there)
			continue;
		return LIMIT(
			refusal, "hugetlb",
			"guest `%s` still needs %llu huge pages of %llu KiB, other guests %llu, "
			"and the pool has %llu: raise nr_hugepages",
			guest_name, (unsigned long long)(wanted / page_bytes),
			(unsigned long long)(page_bytes / KIB),
			(unsigned long long)(promised / page_bytes),
			(unsigned long long)(there / page_bytes));
	}
	return 0;
}

static int decide_memory(const struct admission_room *room, const struct admission_need *need,
			 const struct admission_need *others, const char *guest_name,
			 struct refusal *refusal)
{
	if (need->filled_bytes > room->cgroup_bytes)
		return LIMIT(
			refusal, "memory",
			"guest `%s` is to be filled with %llu MiB, and the memory limit of its "
			"control group leaves %llu MiB: raise that, or attach with background=no",
			guest_name, mib(need->filled_bytes), mib(room->cgroup_bytes));
	if (need->filled_bytes && room->memory_bytes != UINT64_MAX &&
	    need->filled_bytes + others->filled_bytes > room->memory_bytes)
		return LIMIT(
			refusal, "memory",
			"guest `%s` is to be filled with %llu MiB, other guests with %llu MiB, "
			"and the host has %llu MiB left with swap: attach with background=no",
			guest_name, mib(need->filled_bytes), mib(others->filled_bytes),
			mib(room->memory_bytes));
	return 0;
}

int admission_decide(const struct admission_room *room, const struct admission_need *need,
		     const struct admission_need *others, size_t n_memories, const char *guest_name,
		     struct refusal *refusal)
{
	int r = 0;

	if (n_memories)
		r = decide_fds(room, n_memories, guest_name, refusal);
	if (r == 0)
		r = decide_huge(room, need, others, guest_name, refusal);
	if (r == 0)
		r = decide_memory(room, need, others, guest_name, refusal);
	return r;
}

void admission_raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}
