/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Protected pages, and what is left of their protection. */
#include "probe/zap.h"

#include <stdio.h>
#include <unistd.h>

#define N_KINDS 3

struct zap zap_prepare(struct probe_run *run, enum lab_backing backing, size_t n_pages,
		       uint64_t features)
{
	bool is_anon = backing == LAB_ANON || backing == LAB_ANON_THP;
	bool is_private = backing == LAB_SHMEM_PRIVATE || backing == LAB_HUGETLB_PRIVATE;
	struct zap zap;
	int r;

	features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	if (!is_anon)
		features |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	zap.uffd = lab_uffd(run, features);
	zap.memory = lab_map(run, backing, n_pages);
	for (size_t i = 0; i < n_pages; i++) {
		if (is_private)
			lab_fill_file(run, &zap.memory, i, 0xf1);
		lab_fill(&zap.memory, i, 0xa1);
	}
	lab_register(run, zap.uffd, &zap.memory, UFFDIO_REGISTER_MODE_WP);
	r = lab_protect(zap.uffd, zap.memory.at, zap.memory.length_bytes,
			UFFDIO_WRITEPROTECT_MODE_WP);
	errno = -r;
	probe_must(run, r == 0, "protecting the pages");
	errno = 0;
	probe_must(run, lab_is_protected(run, zap.memory.at), "the mark of a protected page");
	return zap;
}

const char *zap_state(struct probe_run *run, const struct zap *zap, size_t i)
{
	uint8_t *page = lab_page(&zap->memory, i);
	bool is_marked = lab_is_protected(run, page), is_fault;
	struct lab_thread *writer = lab_start_write(run, page, 0x5e);
	struct uffd_msg message;

	is_fault = lab_raised(run, zap->uffd, writer, &message);
	if (is_fault) {
		probe_step(run, "a store: event 0x%x, flags 0x%llx", message.event,
			   (unsigned long long)message.arg.pagefault.flags);
		lab_protect(zap->uffd, page, zap->memory.page_bytes, 0);
	}
	lab_join(run, writer);
	probe_step(run, "%s: %s, a store %s, the byte behind it is 0x%02x",
		   lab_backing_name(zap->memory.backing), is_marked ? "marked" : "not marked",
		   is_fault ? "raised a fault" : "passed", page[1]);
	probe_detail(run, "the page was %s, a store %s, the byte behind it is 0x%02x",
		     is_marked ? "marked" : "not marked", is_fault ? "raised a fault" : "passed",
		     page[1]);
	if (is_marked)
		return is_fault ? "kept" : "kept, a store passes";
	return is_fault ? "lost, a store faults" : "lost";
}

void zap_register_anew(struct probe_run *run, struct zap *zap)
{
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	int old = zap->uffd; /* -EBADF if it is closed already */

	if (zap->memory.backing != LAB_ANON)
		features |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	zap->uffd = lab_uffd(run, features);
	if (old >= 0)
		close(old);
	lab_register(run, zap->uffd, &zap->memory, UFFDIO_REGISTER_MODE_WP);
}

static void answer(struct probe_run *run, const enum lab_backing *backings, size_t n,
		   const char *(*cell)(struct probe_run *run, enum lab_backing backing))
{
	const char *states[N_KINDS] = {};
	char all[256] = "";
	bool is_same = true;

	for (size_t i = 0; i < n; i++) {
		size_t at = strlen(all);

		states[i] = cell(run, backings[i]);
		is_same = is_same && !strcmp(states[i], states[0]);
		snprintf(all + at, sizeof(all) - at, "%s%s: %s", i ? "; " : "",
			 lab_backing_name(backings[i]), states[i]);
	}
	if (n > 1)
		probe_detail(run, "%s", all);
	probe_answer(run, "%s", is_same ? states[0] : all);
}

void zap_answer(struct probe_run *run, enum lab_backing backing,
		const char *(*cell)(struct probe_run *run, enum lab_backing backing))
{
	answer(run, &backing, 1, cell);
}

void zap_answer_small(struct probe_run *run,
		      const char *(*cell)(struct probe_run *run, enum lab_backing backing))
{
	static const enum lab_backing backings[] = { LAB_ANON, LAB_SHMEM, LAB_SHMEM_PRIVATE };

	answer(run, backings, 3, cell);
}

void zap_answer_huge(struct probe_run *run,
		     const char *(*cell)(struct probe_run *run, enum lab_backing backing))
{
	static const enum lab_backing backings[] = { LAB_HUGETLB, LAB_HUGETLB_PRIVATE };

	answer(run, backings, 2, cell);
}
