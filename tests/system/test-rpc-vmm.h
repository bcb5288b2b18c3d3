/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The test program as a VMM: a memory, an image it was saved to, and the call that hands it over. */
#pragma once

#include "test-rpc.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/uffd.h"

#define PAGE	4096
#define N_PAGES UINT64_C(64)
#define LENGTH	(N_PAGES * PAGE)

/* What a call carries; each fd has its index. */
enum { FD_UFFD, FD_MEMORY, FD_SOURCE, FD_PAGEMAP, FD_SPARE, N_FDS };

struct vmm {
	struct service service;
	struct varlink_client *client;
	int fds[N_FDS];
	unsigned char *bytes;	  /* LENGTH, shared, of FD_MEMORY */
	unsigned char *anonymous; /* LENGTH */
};

static inline void vmm_begin(struct vmm *vmm)
{
	unsigned char page[PAGE];

	if (!features_get()->may_syscall)
		unit_skip("userfaultfd(2) is not permitted here");
	service_start(&vmm->service);
	vmm->client = service_connect(&vmm->service);
	ck_assert_int_eq(uffd_open(&vmm->fds[FD_UFFD], UFFD_WAY_SYSCALL, features_wanted(false)),
			 0);
	ck_assert_int_eq(backing_create(&vmm->fds[FD_MEMORY], "ram", LENGTH, 0), 0);
	vmm->fds[FD_SOURCE] = memfd_create("image", MFD_CLOEXEC);
	for (uint64_t i = 0; i < N_PAGES; i++) {
		memset(page, (int)i + 1, PAGE);
		ck_assert_int_eq(pwrite(vmm->fds[FD_SOURCE], page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	vmm->fds[FD_PAGEMAP] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	vmm->fds[FD_SPARE] = open("/dev/null", O_RDWR | O_CLOEXEC);
	vmm->bytes = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, vmm->fds[FD_MEMORY], 0);
	vmm->anonymous = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			      0);
	ck_assert_ptr_ne(vmm->bytes, MAP_FAILED);
	ck_assert_ptr_ne(vmm->anonymous, MAP_FAILED);
}

static inline void vmm_end_with(struct vmm *vmm, int status)
{
	varlink_client_free(vmm->client);
	/* it fills what is attached, so the memory must still be there */
	service_end(&vmm->service, status);
	munmap(vmm->bytes, LENGTH);
	munmap(vmm->anonymous, LENGTH);
	for (int i = 0; i < N_FDS; i++)
		close(vmm->fds[i]);
}

static inline void vmm_end(struct vmm *vmm)
{
	vmm_end_with(vmm, 0);
}

static inline json_t *region(const struct vmm *vmm, uint64_t first, uint64_t n_pages)
{
	return json_pack("{s:s, s:I, s:I, s:i, s:I, s:s, s:i}", "memory", "ram", "address",
			 (json_int_t)(uintptr_t)vmm->bytes + (json_int_t)(first * PAGE),
			 "length_bytes", (json_int_t)(n_pages * PAGE), "backing_fd", FD_MEMORY,
			 "offset_bytes", (json_int_t)(first * PAGE), "source", "file:", "source_fd",
			 FD_SOURCE);
}

/* @regions is consumed. */
static inline json_t *attach_call(const char *name, json_t *regions)
{
	return json_pack("{s:s, s:i, s:i, s:o, s:{s:b}}", "name", name, "uffd", FD_UFFD, "pagemap",
			 FD_PAGEMAP, "regions", regions, "settings", "background", 0);
}

static inline json_t *good_call(const struct vmm *vmm)
{
	return attach_call("g", json_pack("[o]", region(vmm, 0, N_PAGES)));
}

static inline void attach_well(struct vmm *vmm)
{
	json_decref(
		service_ask(vmm->client, "io.ufd.guest.Attach", good_call(vmm), vmm->fds, N_FDS));
}

static inline void swap_fd(struct vmm *vmm, int index, int fd)
{
	ck_assert_int_ge(fd, 0);
	close(vmm->fds[index]);
	vmm->fds[index] = fd;
}
