/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory that is tracked by the engine in this process. */
#include "engine.h"

#include <errno.h>
#include <ufd/pager-dirty.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "machine.h"
#include "ram.h"

int engine_new_uffd(bool is_sync)
{
	int uffd = -EBADF;

	must(uffd_open(&uffd, features_get()->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE,
		       features_wanted(is_sync)),
	     "make a userfaultfd");
	return uffd;
}

void engine_start(struct engine *ret, const struct ram *ram, int uffd, bool is_sync, int cpu)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .populated = UFD_POPULATED_KEEP,
		 .other_mappers = UFD_OTHERS_IGNORE, .cpu = 1 + (uint32_t)cpu,
		 .track = is_sync ? UFD_TRACK_WP : UFD_TRACK_SCAN);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = ram->length_bytes,
		 .page_bytes = ram->page_bytes, .backing = ram->backing < 0 ? -1 : ram->backing,
		 .kind = ram->kind == RAM_ANON	  ? UFD_MEMORY_ANON
			 : ram->kind == RAM_SHMEM ? UFD_MEMORY_SHMEM
						  : UFD_MEMORY_HUGETLB);
	_cleanup_(closep) int pidfd = -EBADF;
	uint32_t mapper, id;

	must(pidfd_open_pid(&pidfd, getpid()), "open a pidfd");
	must(ufd_pager_new(&ret->pager, NULL), "make an engine");
	must(ufd_pager_guest_new(ret->pager, &ret->guest, "bench", &opts), "make a guest");
	must(ufd_pager_guest_add_mapper(ret->guest, uffd, pidfd, -1, &mapper), "add a mapper");
	must(ufd_source_open(&memory.source, "zero", -1, NULL), "open a source");
	must(ufd_pager_guest_add_memory(ret->guest, &memory, &id), "add a memory");
	ufd_source_unref(memory.source);
	must(ufd_pager_guest_add_mapping(ret->guest, mapper, id, (uintptr_t)ram->at,
					 ram->length_bytes, 0, NULL),
	     "add a mapping");
	must(ufd_pager_guest_start(ret->guest), "serve a guest");
	must(ufd_pager_guest_dirty_start(ret->guest, ENGINE_CONSUMER), "track");
}

void engine_stop(struct engine *engine)
{
	ufd_pager_free(engine->pager);
	*engine = (struct engine){};
}

uint64_t engine_read(const struct engine *engine, const char *consumer, uint64_t acknowledge,
		     uint64_t *ret_epoch)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);

	must(ufd_pager_guest_dirty_read(engine->guest, consumer, acknowledge, &epoch),
	     "read what is dirty");
	if (ret_epoch)
		*ret_epoch = epoch.epoch;
	return epoch.dirty_bytes;
}
