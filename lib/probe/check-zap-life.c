/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The write-protect bit when mappings go or move, and when its uffd lets go of it. */
#include <sys/mman.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"
#include "probe/zap.h"

/* Mapped anew at the same address: nobody's any more. */
static const char *after_munmap(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);
	struct lab_memory *memory = &zap.memory;
	int flags = MAP_FIXED, r;
	void *at;

	flags |= backing == LAB_SHMEM || backing == LAB_HUGETLB ? MAP_SHARED : MAP_PRIVATE;
	if (memory->fd < 0)
		flags |= MAP_ANONYMOUS;
	r = munmap(memory->at, memory->length_bytes);
	probe_must(run, r == 0, "munmap()");
	at = mmap(memory->at, memory->length_bytes, PROT_READ | PROT_WRITE, flags,
		  memory->fd < 0 ? -1 : memory->fd, 0);
	probe_must(run, at == memory->at, "mmap() where it was");
	if (lab_is_protected(run, at))
		return "kept";
	return probe_errno(
		lab_protect(zap.uffd, at, memory->length_bytes, UFFDIO_WRITEPROTECT_MODE_WP));
}

ZAP_SMALL(after_munmap)
ZAP_HUGE(after_munmap)

/* A move of all of a mapping, and what it answered. */
struct move {
	struct lab_memory memory;
	uint8_t *to;
};

static intptr_t move_mapping(void *argument)
{
	const struct move *move = argument;
	void *at = mremap(move->memory.at, move->memory.length_bytes, move->memory.length_bytes,
			  MREMAP_MAYMOVE | MREMAP_FIXED, move->to);

	return at == MAP_FAILED ? -errno : 0;
}

static const char *after_remap(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);
	/* a place of the same alignment, and of the size of a huge page */
	struct move move = { zap.memory, lab_map(run, LAB_ANON, 512).at };
	intptr_t r = move_mapping(&move);

	if (r < 0)
		return probe_errno((int)r);
	zap.memory.at = move.to;
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(after_remap)
ZAP_HUGE(after_remap)

/* The mover waits until its message was read. */
static const char *after_remap_event(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, UFFD_FEATURE_EVENT_REMAP);
	struct move move = { zap.memory, lab_map(run, LAB_ANON, 512).at };
	struct lab_thread *mover = lab_start(run, move_mapping, &move);
	struct uffd_msg message;
	bool is_told = false;
	intptr_t r;

	while (lab_raised(run, zap.uffd, mover, &message)) {
		probe_step(run, "event 0x%x", message.event);
		is_told = is_told || (message.event == UFFD_EVENT_REMAP &&
				      message.arg.remap.to == (uintptr_t)move.to);
	}
	r = lab_join(run, mover);
	if (r < 0)
		return probe_errno((int)r);
	if (!is_told)
		return "no event";
	zap.memory.at = move.to;
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(after_remap_event)
ZAP_HUGE(after_remap_event)

static const char *after_unregister(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);
	int r = lab_unregister(zap.uffd, zap.memory.at, zap.memory.length_bytes);

	if (r)
		return probe_errno(r);
	zap_register_anew(run, &zap);
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(after_unregister)
ZAP_HUGE(after_unregister)

static const char *after_close(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	close(zap.uffd);
	zap.uffd = -EBADF;
	zap_register_anew(run, &zap);
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(after_close)
ZAP_HUGE(after_close)

#define NOT_FOLLOWED "ufd does not follow moves: who moves a mapping announces it by libufd"
#define STAYS_BEHIND "writers of a guest that ufd has let go wait for ever"

static const struct probe_check checks[] = {
	{
		.id = "zap.munmap",
		.group = PROBE_ZAP,
		.title = "What is mapped anew at an address is not protected, and cannot be",
		.wanted = "ENOENT",
		.consequence = NOT_FOLLOWED,
		.run = try_after_munmap_small,
	},
	{
		.id = "zap.munmap-hugetlb",
		.group = PROBE_ZAP,
		.title = "Huge pages mapped anew at an address are not protected, and cannot be",
		.wanted = "ENOENT",
		.consequence = NOT_FOLLOWED,
		.run = try_after_munmap_huge,
	},
	{
		.id = "zap.mremap",
		.group = PROBE_ZAP,
		.title = "mremap() without its event drops registration and protection",
		.wanted = "lost",
		.consequence = NOT_FOLLOWED,
		.run = try_after_remap_small,
	},
	{
		.id = "zap.mremap-hugetlb",
		.group = PROBE_ZAP,
		.title = "mremap() of huge pages without its event drops the protection",
		.wanted = "lost",
		.consequence = NOT_FOLLOWED,
		.run = try_after_remap_huge,
	},
	{
		.id = "zap.mremap-event",
		.group = PROBE_ZAP,
		.title = "mremap() with EVENT_REMAP keeps the protection at the new address",
		.wanted = "kept",
		.consequence = NOT_FOLLOWED,
		.run = try_after_remap_event_small,
	},
	{
		.id = "zap.mremap-event-hugetlb",
		.group = PROBE_ZAP,
		.title = "mremap() of huge pages with EVENT_REMAP keeps the protection",
		.wanted = "kept",
		.consequence = NOT_FOLLOWED,
		.run = try_after_remap_event_huge,
	},
	{
		.id = "zap.unregister",
		.group = PROBE_ZAP,
		.title = "UNREGISTER takes the protection off",
		.wanted = "lost",
		.is_needed = true,
		.consequence = STAYS_BEHIND,
		.run = try_after_unregister_small,
	},
	{
		.id = "zap.unregister-hugetlb",
		.group = PROBE_ZAP,
		.title = "UNREGISTER takes the protection of huge pages off",
		.wanted = "lost",
		.consequence = STAYS_BEHIND,
		.run = try_after_unregister_huge,
	},
	{
		.id = "zap.close",
		.group = PROBE_ZAP,
		.title = "The last close of a uffd takes the protection off",
		.wanted = "lost",
		.consequence = STAYS_BEHIND,
		.run = try_after_close_small,
	},
	{
		.id = "zap.close-hugetlb",
		.group = PROBE_ZAP,
		.title = "The last close of a uffd takes the protection of huge pages off",
		.wanted = "lost",
		.consequence = STAYS_BEHIND,
		.run = try_after_close_huge,
	},
};

const struct probe_family probe_family_zap_life = PROBE_FAMILY(checks);
