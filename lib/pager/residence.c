/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a fault runs through stays in memory: code that was dropped when memory was short would have to
 * be read from a disk while a guest waits, and the disk may be the guest's. The thread's own pages and
 * the ledger are locked where they are made (fault/demand.c, guest/ledger.c).
 *
 * Only what is touched is locked, and only as far as RLIMIT_MEMLOCK or CAP_IPC_LOCK allow.
 */
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pager/paged.h"

static int lock_object(struct dl_phdr_info *object, size_t n_bytes, void *userdata)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);

	for (int i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
		uint64_t start = align_down(object->dlpi_addr + segment->p_vaddr, page_bytes);
		uint64_t end = align_up(object->dlpi_addr + segment->p_vaddr + segment->p_memsz,
					page_bytes);

		if (segment->p_type == PT_LOAD && segment->p_flags & PF_X)
			(void)mlock2((void *)start, end - start, MLOCK_ONFAULT);
	}
	return 0;
}

static void lock_all(void)
{
	(void)dl_iterate_phdr(lock_object, NULL);
}

void residence_lock_code(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, lock_all);
}
