/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attach of io.ufd.guest, spoken raw: what each bad call gets, and that nobody else notices. */
#include "test-rpc-vmm.h"

#include <sys/syscall.h>

/* Each changes a good call, or an fd of it. */
static void set_region(json_t *call, const char *name, json_t *value)
{
	json_object_set_new(json_array_get(json_object_get(call, "regions"), 0), name, value);
}

static void no_such_index(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "uffd", json_integer(N_FDS));
}
static void negative_index(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "uffd", json_integer(-1));
}
static void no_uffd(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "uffd", json_integer(FD_SPARE));
}
static void uffd_without_handshake(struct vmm *vmm, json_t *call)
{
	swap_fd(vmm, FD_UFFD, (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
}
static void blocking_uffd(struct vmm *vmm, json_t *call)
{
	fcntl(vmm->fds[FD_UFFD], F_SETFL, 0);
}
static void no_pagemap(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "pagemap", json_integer(FD_SPARE));
}
static void backing_is_a_device(struct vmm *vmm, json_t *call)
{
	set_region(call, "backing_fd", json_integer(FD_SPARE));
}
static void backing_is_a_pipe(struct vmm *vmm, json_t *call)
{
	int ends[2];

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	close(ends[1]);
	swap_fd(vmm, FD_SPARE, ends[0]);
	set_region(call, "backing_fd", json_integer(FD_SPARE));
}
static void backing_is_missing(struct vmm *vmm, json_t *call)
{
	set_region(call, "backing_fd", json_integer(200));
}
static void backing_is_read_only(struct vmm *vmm, json_t *call)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", vmm->fds[FD_MEMORY]);
	swap_fd(vmm, FD_MEMORY, open(path, O_RDONLY | O_CLOEXEC));
}
static void backing_is_another_file(struct vmm *vmm, json_t *call)
{
	int fd = memfd_create("other", MFD_CLOEXEC);

	ck_assert_int_eq(ftruncate(fd, LENGTH), 0);
	swap_fd(vmm, FD_MEMORY, fd);
}
static void backing_is_short(struct vmm *vmm, json_t *call)
{
	set_region(call, "length_bytes", json_integer(LENGTH + PAGE));
}
static void anonymous_with_a_file(struct vmm *vmm, json_t *call)
{
	set_region(call, "address", json_integer((json_int_t)(uintptr_t)vmm->anonymous));
}
static void file_as_anonymous(struct vmm *vmm, json_t *call)
{
	json_object_del(json_array_get(json_object_get(call, "regions"), 0), "backing_fd");
}
static void shared_as_private(struct vmm *vmm, json_t *call)
{
	set_region(call, "private", json_true());
}
static void address_unaligned(struct vmm *vmm, json_t *call)
{
	set_region(call, "address", json_integer((json_int_t)(uintptr_t)vmm->bytes + 1));
}
static void length_unaligned(struct vmm *vmm, json_t *call)
{
	set_region(call, "length_bytes", json_integer(LENGTH - 1));
}
static void no_length(struct vmm *vmm, json_t *call)
{
	set_region(call, "length_bytes", json_integer(0));
}
static void address_negative(struct vmm *vmm, json_t *call)
{
	set_region(call, "address", json_integer(-PAGE));
}
static void address_enormous(struct vmm *vmm, json_t *call)
{
	set_region(call, "address", json_integer(INT64_MAX - PAGE + 1));
}
static void offset_overflows(struct vmm *vmm, json_t *call)
{
	set_region(call, "offset_bytes", json_integer(INT64_MAX - PAGE + 1));
}
static void offset_wrong(struct vmm *vmm, json_t *call)
{
	set_region(call, "length_bytes", json_integer(LENGTH - PAGE));
	set_region(call, "offset_bytes", json_integer(PAGE));
}
static void address_unmapped(struct vmm *vmm, json_t *call)
{
	set_region(call, "address", json_integer(PAGE * 16));
}
static void page_size_wrong(struct vmm *vmm, json_t *call)
{
	set_region(call, "page_bytes", json_integer(2 * MIB));
}
static void overlapping(struct vmm *vmm, json_t *call)
{
	json_array_append_new(json_object_get(call, "regions"), region(vmm, 3, 2));
}
static void no_regions(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "regions", json_array());
}
static void memory_without_name(struct vmm *vmm, json_t *call)
{
	set_region(call, "memory", json_string(""));
}
static void no_source(struct vmm *vmm, json_t *call)
{
	set_region(call, "source", json_null());
}
static void unknown_source(struct vmm *vmm, json_t *call)
{
	set_region(call, "source", json_string("magic"));
}
static void source_is_short(struct vmm *vmm, json_t *call)
{
	ck_assert_int_eq(ftruncate(vmm->fds[FD_SOURCE], LENGTH - PAGE), 0);
}
static void source_fd_missing(struct vmm *vmm, json_t *call)
{
	set_region(call, "source_fd", json_integer(77));
}
static void populated(struct vmm *vmm, json_t *call)
{
	vmm->bytes[3 * PAGE] = 1;
}
static void name_empty(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "name", json_string(""));
}
static void name_with_slash(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "name", json_string("../g"));
}
static void setting_unknown(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "settings", json_pack("{s:i}", "polcy", 1));
}
static void setting_impossible(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "settings", json_pack("{s:s}", "policy", "panic"));
}
static void field_unknown(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "pid", json_integer(1));
}
static void field_missing(struct vmm *vmm, json_t *call)
{
	json_object_del(call, "regions");
}
static void field_of_wrong_type(struct vmm *vmm, json_t *call)
{
	json_object_set_new(call, "uffd", json_string("0"));
}

/* More than any machine has, of which nothing exists yet. */
static void map_enormous(struct vmm *vmm, json_t *call, int fd, uint64_t length)
{
	void *start;

#ifdef __SANITIZE_THREAD__
	unit_skip("ThreadSanitizer leaves no room for a mapping this large");
#endif
	swap_fd(vmm, FD_MEMORY, fd);
	ck_assert_int_eq(ftruncate(fd, (off_t)length), 0);
	ck_assert_int_eq(ftruncate(vmm->fds[FD_SOURCE], (off_t)length), 0);
	start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	ck_assert_ptr_ne(start, MAP_FAILED);
	set_region(call, "address", json_integer((json_int_t)(uintptr_t)start));
	set_region(call, "length_bytes", json_integer((json_int_t)length));
	json_object_set_new(call, "settings", json_pack("{s:b}", "background", 1));
}
static void more_than_the_host_has(struct vmm *vmm, json_t *call)
{
	map_enormous(vmm, call, memfd_create("large", MFD_CLOEXEC), 4096 * GIB);
}
static void more_than_the_pool_has(struct vmm *vmm, json_t *call)
{
	map_enormous(vmm, call, memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB), 4096 * GIB);
}

static const struct {
	const char *what;
	void (*spoil)(struct vmm *vmm, json_t *call);
	const char *error;
	const char *parameter;
} bad_calls[] = {
	{ "an index beyond the fds", no_such_index, "io.ufd.guest.BadFd", NULL },
	{ "a negative index", negative_index, "io.ufd.guest.BadFd", NULL },
	{ "no userfaultfd", no_uffd, "io.ufd.guest.BadFd", NULL },
	{ "a userfaultfd before UFFDIO_API", uffd_without_handshake, "io.ufd.guest.BadFd", NULL },
	{ "a blocking userfaultfd", blocking_uffd, "io.ufd.guest.BadFd", NULL },
	{ "no pagemap", no_pagemap, "io.ufd.guest.BadFd", NULL },
	{ "a device for a backing", backing_is_a_device, "io.ufd.guest.BadFd", NULL },
	{ "a pipe for a backing", backing_is_a_pipe, "io.ufd.guest.BadFd", NULL },
	{ "a backing that did not come", backing_is_missing, "io.ufd.guest.BadFd", NULL },
	{ "a backing that cannot be written", backing_is_read_only, "io.ufd.guest.BadFd", NULL },
	{ "another file than the one mapped", backing_is_another_file, "io.ufd.guest.BadRegion",
	  NULL },
	{ "a file smaller than its memory", backing_is_short, "io.ufd.guest.BadRegion", NULL },
	{ "a file for anonymous memory", anonymous_with_a_file, "io.ufd.guest.BadRegion", NULL },
	{ "no file for a file's mapping", file_as_anonymous, "io.ufd.guest.BadRegion", NULL },
	{ "a shared mapping as private", shared_as_private, "io.ufd.guest.BadRegion", NULL },
	{ "an unaligned address", address_unaligned, "io.ufd.guest.BadRegion", NULL },
	{ "an unaligned length", length_unaligned, "io.ufd.guest.BadRegion", NULL },
	{ "a region of no length", no_length, "io.ufd.guest.BadRegion", NULL },
	{ "a negative address", address_negative, "io.ufd.guest.BadRegion", NULL },
	{ "a region that ends beyond 2^63", address_enormous, "io.ufd.guest.BadRegion", NULL },
	{ "an offset that ends beyond 2^63", offset_overflows, "io.ufd.guest.BadRegion", NULL },
	{ "an offset the process does not map there", offset_wrong, "io.ufd.guest.BadRegion",
	  NULL },
	{ "an address the process does not map", address_unmapped, "io.ufd.guest.BadRegion", NULL },
	{ "another page size", page_size_wrong, "io.ufd.guest.BadRegion", NULL },
	{ "overlapping regions", overlapping, "io.ufd.guest.BadRegion", NULL },
	{ "no regions", no_regions, "io.ufd.guest.BadRegion", NULL },
	{ "a memory without a name", memory_without_name, "io.ufd.guest.BadRegion", NULL },
	{ "no source", no_source, "io.ufd.guest.BadSource", NULL },
	{ "an unknown source", unknown_source, "io.ufd.guest.BadSource", NULL },
	{ "a source shorter than its memory", source_is_short, "io.ufd.guest.BadSource", NULL },
	{ "a source that did not come", source_fd_missing, "io.ufd.guest.BadFd", NULL },
	{ "a page where absence is declared", populated, "io.ufd.guest.NotEmpty", NULL },
	{ "memory that the host does not have", more_than_the_host_has,
	  "io.ufd.manager.LimitReached", "memory" },
	{ "huge pages that the pool does not have", more_than_the_pool_has,
	  "io.ufd.manager.LimitReached", "hugetlb" },
	{ "an empty name", name_empty, "org.varlink.service.InvalidParameter", "name" },
	{ "a name like a path", name_with_slash, "org.varlink.service.InvalidParameter", "name" },
	{ "an unknown setting", setting_unknown, "org.varlink.service.InvalidParameter",
	  "settings" },
	{ "an impossible setting", setting_impossible, "org.varlink.service.InvalidParameter",
	  "policy" },
	{ "an unknown field", field_unknown, "org.varlink.service.InvalidParameter", "pid" },
	{ "a missing field", field_missing, "org.varlink.service.InvalidParameter", "regions" },
	{ "a field of another type", field_of_wrong_type, "org.varlink.service.InvalidParameter",
	  "uffd" },
};

/* Named, on a connection that lives on; nothing stays behind; and a good call works afterwards. */
START_TEST(a_bad_call_gets_its_error_and_leaves_nothing)
{
	unsigned int n_fds;
	struct vmm vmm;
	json_t *call;

	vmm_begin(&vmm);
	json_decref(service_ask(vmm.client, "io.ufd.guest.List", json_object(), NULL, 0));
	n_fds = service_n_fds(&vmm.service);
	call = good_call(&vmm);
	bad_calls[_i].spoil(&vmm, call);
	service_expect(vmm.client, bad_calls[_i].what, "io.ufd.guest.Attach", call, vmm.fds, N_FDS,
		       bad_calls[_i].error, bad_calls[_i].parameter);
	json_decref(service_ask(vmm.client, "io.ufd.guest.List", json_object(), NULL, 0));
	ck_assert_uint_eq(service_n_fds(&vmm.service), n_fds);

	vmm.bytes[3 * PAGE] = 0; /* nothing is registered: nobody must fill it */
	vmm_end(&vmm);
}
END_TEST

START_TEST(a_bystander_does_not_notice_bad_calls)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	for (size_t i = 0; i < 16; i++) {
		json_t *call = attach_call("other", json_pack("[o]", region(&vmm, i, 2)));

		service_expect(vmm.client, "memory that is attached", "io.ufd.guest.Attach", call,
			       vmm.fds, N_FDS, "io.ufd.guest.BadRegion", NULL);
	}
	for (uint64_t i = 0; i < N_PAGES; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE], i + 1);
	vmm_end(&vmm);
}
END_TEST

int main(void)
{
	return unit_run("rpc-refuse",
			(struct unit_test[]){
				UNIT_TABLE(a_bad_call_gets_its_error_and_leaves_nothing, bad_calls),
				UNIT(a_bystander_does_not_notice_bad_calls),
				{},
			});
}
