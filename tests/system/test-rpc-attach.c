/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attach of io.ufd.guest, spoken raw: what a good call does, and what each bad one gets. */
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

static void vmm_begin(struct vmm *vmm)
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

static void vmm_end(struct vmm *vmm)
{
	varlink_client_free(vmm->client);
	service_stop(&vmm->service); /* fills what is attached, so the memory must still be there */
	munmap(vmm->bytes, LENGTH);
	munmap(vmm->anonymous, LENGTH);
	for (int i = 0; i < N_FDS; i++)
		close(vmm->fds[i]);
}

static json_t *region(const struct vmm *vmm, uint64_t first, uint64_t n_pages)
{
	return json_pack("{s:s, s:I, s:I, s:i, s:I, s:s, s:i}", "memory", "ram", "address",
			 (json_int_t)(uintptr_t)vmm->bytes + (json_int_t)(first * PAGE),
			 "length_bytes", (json_int_t)(n_pages * PAGE), "backing_fd", FD_MEMORY,
			 "offset_bytes", (json_int_t)(first * PAGE), "source", "file:", "source_fd",
			 FD_SOURCE);
}

/* @regions is consumed. */
static json_t *attach_call(const char *name, json_t *regions)
{
	return json_pack("{s:s, s:i, s:i, s:o, s:{s:b}}", "name", name, "uffd", FD_UFFD, "pagemap",
			 FD_PAGEMAP, "regions", regions, "settings", "background", 0);
}

static json_t *good_call(const struct vmm *vmm)
{
	return attach_call("g", json_pack("[o]", region(vmm, 0, N_PAGES)));
}

static void attach_well(struct vmm *vmm)
{
	json_decref(
		service_ask(vmm->client, "io.ufd.guest.Attach", good_call(vmm), vmm->fds, N_FDS));
}

START_TEST(a_guest_is_served_shown_and_let_go)
{
	struct vmm vmm;
	json_t *reply, *memory;

	vmm_begin(&vmm);
	attach_well(&vmm);
	for (uint64_t i = 0; i < N_PAGES / 2; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE + (i * 7) % PAGE], i + 1);

	reply = service_ask(vmm.client, "io.ufd.guest.Show", json_pack("{s:s}", "name", "g"), NULL,
			    0);
	memory = json_array_get(json_object_get(reply, "memories"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(memory, "kind")), "shmem");
	ck_assert_str_eq(json_string_value(json_object_get(memory, "source")), "file:");
	ck_assert_int_eq(json_integer_value(json_object_get(memory, "present_bytes")) +
				 json_integer_value(json_object_get(memory, "absent_bytes")),
			 LENGTH);
	ck_assert_int_eq(json_integer_value(json_object_get(
				 json_array_get(json_object_get(memory, "mappings"), 0), "pid")),
			 getpid());
	ck_assert_int_gt(json_integer_value(json_object_get(json_object_get(reply, "counters"),
							    "pages_demand")),
			 0);
	ck_assert(json_is_false(json_object_get(json_object_get(reply, "settings"), "background")));
	json_decref(reply);

	/* let go: everything is filled first */
	json_decref(service_ask(vmm.client, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "g"),
				NULL, 0));
	for (uint64_t i = 0; i < N_PAGES; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE], i + 1);
	reply = service_ask(vmm.client, "io.ufd.guest.List", json_object(), NULL, 0);
	ck_assert_uint_eq(json_array_size(json_object_get(reply, "guests")), 0);
	json_decref(reply);
	vmm_end(&vmm);
}
END_TEST

/* @call is consumed. Every reply is right, and the last one says that all is there. */
static void prefetch(struct vmm *vmm, json_t *call, uint64_t total_bytes)
{
	struct varlink_answer answer;
	bool has_more = true;

	ck_assert_int_eq(varlink_client_send(vmm->client, "io.ufd.guest.Prefetch", call, NULL, 0,
					     VARLINK_MORE, SOON),
			 0);
	json_decref(call);
	while (has_more) {
		json_int_t done, total;
		int is_complete;

		ck_assert_int_eq(varlink_client_next(vmm->client, SOON, &answer), 0);
		ck_assert_ptr_null(answer.error);
		has_more = answer.has_more;
		ck_assert_int_eq(json_unpack(answer.parameters, "{s:I, s:I, s:b}", "done_bytes",
					     &done, "total_bytes", &total, "complete",
					     &is_complete),
				 0);
		ck_assert_int_eq(total, (json_int_t)total_bytes);
		ck_assert(is_complete == !has_more);
		ck_assert((done == total) == !has_more);
		varlink_answer_done(&answer);
	}
}

START_TEST(prefetch_tells_its_progress_until_all_is_there)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	prefetch(&vmm,
		 json_pack("{s:s, s:s, s:i, s:i}", "name", "g", "memory", "ram", "offset_bytes",
			   8 * PAGE, "length_bytes", 16 * PAGE),
		 16 * PAGE);
	prefetch(&vmm,
		 json_pack("{s:s, s:s, s:i}", "name", "g", "memory", "ram", "offset_bytes",
			   60 * PAGE),
		 4 * PAGE);
	prefetch(&vmm, json_pack("{s:s}", "name", "g"), LENGTH);
	service_expect(
		vmm.client, "not whole pages", "io.ufd.guest.Prefetch",
		json_pack("{s:s, s:s, s:i}", "name", "g", "memory", "ram", "offset_bytes", -1),
		NULL, 0, "org.varlink.service.InvalidParameter", "offset_bytes");
	service_expect(vmm.client, "no such memory", "io.ufd.guest.Prefetch",
		       json_pack("{s:s, s:s}", "name", "g", "memory", "rom"), NULL, 0,
		       "org.varlink.service.InvalidParameter", "memory");
	vmm_end(&vmm);
}
END_TEST

START_TEST(memory_is_added_noted_and_removed)
{
	unsigned char page[PAGE];
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	json_decref(service_ask(vmm.client, "io.ufd.guest.AddRegions",
				json_pack("{s:s, s:[{s:s, s:I, s:i, s:s}]}", "name", "g", "regions",
					  "memory", "more", "address",
					  (json_int_t)(uintptr_t)vmm.anonymous, "length_bytes",
					  (int)LENGTH, "source", "zero"),
				NULL, 0));
	ck_assert_uint_eq(vmm.anonymous[5 * PAGE], 0);

	/* a discard makes absent bytes zero; a write of ours makes them ours */
	json_decref(service_ask(vmm.client, "io.ufd.guest.NoteDiscard",
				json_pack("{s:s, s:s, s:i, s:i}", "name", "g", "memory", "ram",
					  "offset_bytes", 40 * PAGE, "length_bytes", PAGE),
				NULL, 0));
	ck_assert_uint_eq(vmm.bytes[40 * PAGE], 0);
	memset(page, 0xee, PAGE);
	ck_assert_int_eq(pwrite(vmm.fds[FD_MEMORY], page, PAGE, 41 * PAGE), PAGE);
	json_decref(service_ask(vmm.client, "io.ufd.guest.NoteWrite",
				json_pack("{s:s, s:s, s:i, s:i}", "name", "g", "memory", "ram",
					  "offset_bytes", 41 * PAGE, "length_bytes", PAGE),
				NULL, 0));
	ck_assert_uint_eq(vmm.bytes[41 * PAGE], 0xee);
	ck_assert_uint_eq(vmm.bytes[42 * PAGE], 43);
	service_expect(vmm.client, "beyond the memory", "io.ufd.guest.NoteDiscard",
		       json_pack("{s:s, s:s, s:I, s:i}", "name", "g", "memory", "ram",
				 "offset_bytes", (json_int_t)LENGTH, "length_bytes", PAGE),
		       NULL, 0, "org.varlink.service.InvalidParameter", "offset_bytes");

	json_decref(service_ask(vmm.client, "io.ufd.guest.RemoveRegion",
				json_pack("{s:s, s:I, s:i}", "name", "g", "address",
					  (json_int_t)(uintptr_t)vmm.anonymous, "length_bytes",
					  (int)LENGTH),
				NULL, 0));
	service_expect(vmm.client, "a region twice removed", "io.ufd.guest.RemoveRegion",
		       json_pack("{s:s, s:I, s:i}", "name", "g", "address",
				 (json_int_t)(uintptr_t)vmm.anonymous, "length_bytes", (int)LENGTH),
		       NULL, 0, "io.ufd.guest.BadRegion", NULL);
	vmm_end(&vmm);
}
END_TEST

START_TEST(detach_without_populate_wants_a_complete_guest)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	service_expect(vmm.client, "absent pages", "io.ufd.guest.Detach",
		       json_pack("{s:s, s:b}", "name", "g", "populate", 0), NULL, 0,
		       "io.ufd.guest.NotComplete", NULL);
	prefetch(&vmm, json_pack("{s:s}", "name", "g"), LENGTH);
	json_decref(service_ask(vmm.client, "io.ufd.guest.Detach",
				json_pack("{s:s, s:b}", "name", "g", "populate", 0), NULL, 0));
	vmm_end(&vmm);
}
END_TEST

/* A VMM that unmaps without a word: its pages can neither be filled nor missed. */
START_TEST(memory_that_vanished_holds_nobody_up)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	munmap(vmm.bytes, LENGTH);
	json_decref(service_ask(vmm.client, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "g"),
				NULL, 0));
	vmm_end(&vmm);
}
END_TEST

START_TEST(a_name_serves_one_guest)
{
	struct vmm vmm;

	vmm_begin(&vmm);
	attach_well(&vmm);
	service_expect(vmm.client, "the name again", "io.ufd.guest.Attach", good_call(&vmm),
		       vmm.fds, N_FDS, "io.ufd.guest.GuestExists", NULL);
	ck_assert_uint_eq(vmm.bytes[9 * PAGE], 10); /* and the one that is there is served */
	vmm_end(&vmm);
}
END_TEST

/* ---- bad calls ---- */

/* Each changes a good call, or an fd of it. */
static void set_region(json_t *call, const char *name, json_t *value)
{
	json_object_set_new(json_array_get(json_object_get(call, "regions"), 0), name, value);
}

static void swap_fd(struct vmm *vmm, int index, int fd)
{
	ck_assert_int_ge(fd, 0);
	close(vmm->fds[index]);
	vmm->fds[index] = fd;
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

/* ---- other processes ---- */

/* A child with the same mappings; it ends when the pipe closes. @ret_uffd: its own, if wanted. */
static pid_t fork_twin(const struct vmm *vmm, int *ret_pipe, bool wants_uffd, int *ret_uffd)
{
	int hold[2], pair[2];
	pid_t pid, parent = getpid();

	ck_assert_int_eq(pipe2(hold, O_CLOEXEC), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork();
	if (pid == 0) {
		union {
			struct cmsghdr header;
			char bytes[CMSG_SPACE(sizeof(int))];
		} control = {};
		struct iovec part = { "x", 1 };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
		int uffd = -1;
		char byte;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		close(hold[1]);
		if (wants_uffd && uffd_open(&uffd, UFFD_WAY_SYSCALL, features_wanted(false)) == 0) {
			control.header.cmsg_level = SOL_SOCKET;
			control.header.cmsg_type = SCM_RIGHTS;
			control.header.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.header), &uffd, sizeof(int));
			message.msg_control = &control;
			message.msg_controllen = sizeof(control);
		}
		sendmsg(pair[1], &message, 0);
		while (read(hold[0], &byte, 1) > 0)
			;
		_exit(0);
	} else {
		union {
			struct cmsghdr header;
			char bytes[CMSG_SPACE(sizeof(int))];
		} control = {};
		char byte;
		struct iovec part = { &byte, 1 };
		struct msghdr message = { .msg_iov = &part,
					  .msg_iovlen = 1,
					  .msg_control = &control,
					  .msg_controllen = sizeof(control) };

		ck_assert_int_eq(recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC), 1);
		if (wants_uffd)
			memcpy(ret_uffd, CMSG_DATA(&control.header), sizeof(int));
	}
	close(hold[0]);
	close(pair[0]);
	close(pair[1]);
	*ret_pipe = hold[1];
	return pid;
}

static void end_twin(pid_t pid, int pipe)
{
	close(pipe);
	waitpid(pid, NULL, 0);
}

START_TEST(a_userfaultfd_of_another_process_is_found_out)
{
	struct vmm vmm;
	pid_t twin;
	int hold, uffd = -1;

	vmm_begin(&vmm);
	twin = fork_twin(&vmm, &hold, true, &uffd);
	swap_fd(&vmm, FD_UFFD, uffd);
	service_expect(vmm.client, "a uffd of a child", "io.ufd.guest.Attach", good_call(&vmm),
		       vmm.fds, N_FDS, "io.ufd.guest.CannotAttach", NULL);
	end_twin(twin, hold);
	vmm_end(&vmm);
}
END_TEST

START_TEST(another_mapper_is_named_or_served)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	struct vmm vmm;
	json_t *call, *pids;
	pid_t twin;
	int hold;

	vmm_begin(&vmm);
	twin = fork_twin(&vmm, &hold, false, NULL);
	service_call(vmm.client, "io.ufd.guest.Attach", good_call(&vmm), vmm.fds, N_FDS, &answer);
	ck_assert_str_eq(answer.error, "io.ufd.guest.OtherMappers");
	pids = json_object_get(answer.parameters, "pids");
	ck_assert_uint_eq(json_array_size(pids), 1);
	ck_assert_int_eq(json_integer_value(json_array_get(pids, 0)), twin);

	/* eager: all bytes are there before the reply, whoever looks */
	call = good_call(&vmm);
	json_object_set_new(json_object_get(call, "settings"), "other_mappers",
			    json_string("eager"));
	json_decref(service_ask(vmm.client, "io.ufd.guest.Attach", call, vmm.fds, N_FDS));
	for (uint64_t i = 0; i < N_PAGES; i++) {
		unsigned char byte = 0;

		ck_assert_int_eq(pread(vmm.fds[FD_MEMORY], &byte, 1, (off_t)(i * PAGE)), 1);
		ck_assert_uint_eq(byte, i + 1);
	}
	end_twin(twin, hold);
	vmm_end(&vmm);
}
END_TEST

START_TEST(a_guest_outlives_its_connection)
{
	struct vmm vmm;
	json_t *reply;

	vmm_begin(&vmm);
	attach_well(&vmm);
	varlink_client_free(vmm.client);
	for (uint64_t i = 0; i < N_PAGES; i++)
		ck_assert_uint_eq(vmm.bytes[i * PAGE], i + 1);
	vmm.client = service_connect(&vmm.service);
	reply = service_ask(vmm.client, "io.ufd.guest.List", json_object(), NULL, 0);
	ck_assert_uint_eq(json_array_size(json_object_get(reply, "guests")), 1);
	json_decref(reply);
	vmm_end(&vmm);
}
END_TEST

START_TEST(events_are_told_as_they_happen)
{
	static const char *const kinds[] = { "attached", "completed", "graduated", "detached" };
	struct varlink_client *watcher;
	struct varlink_answer answer;
	struct vmm vmm;

	vmm_begin(&vmm);
	watcher = service_connect(&vmm.service);
	ck_assert_int_eq(varlink_client_send(watcher, "io.ufd.manager.WatchEvents", NULL, NULL, 0,
					     VARLINK_MORE, SOON),
			 0);
	ck_assert_int_eq(varlink_client_next(watcher, SOON, &answer), 0);
	ck_assert_ptr_null(json_object_get(answer.parameters, "event"));
	varlink_answer_done(&answer);
	attach_well(&vmm);
	for (size_t i = 0; i < 4; i++) {
		const json_t *event;

		if (i == 1)
			for (uint64_t page = 0; page < N_PAGES; page++)
				ck_assert_uint_eq(vmm.bytes[page * PAGE], page + 1);
		if (i == 3)
			json_decref(service_ask(vmm.client, "io.ufd.guest.Detach",
						json_pack("{s:s}", "name", "g"), NULL, 0));
		ck_assert_int_eq(varlink_client_next(watcher, SOON, &answer), 0);
		ck_assert(answer.has_more);
		event = json_object_get(answer.parameters, "event");
		ck_assert_str_eq(json_string_value(json_object_get(event, "kind")), kinds[i]);
		ck_assert_str_eq(json_string_value(json_object_get(event, "guest")), "g");
		varlink_answer_done(&answer);
	}
	varlink_client_free(watcher);
	vmm_end(&vmm);
}
END_TEST

int main(void)
{
	return unit_run("rpc-attach",
			(struct unit_test[]){
				UNIT(a_guest_is_served_shown_and_let_go),
				UNIT(prefetch_tells_its_progress_until_all_is_there),
				UNIT(memory_is_added_noted_and_removed),
				UNIT(detach_without_populate_wants_a_complete_guest),
				UNIT(memory_that_vanished_holds_nobody_up),
				UNIT(a_name_serves_one_guest),
				UNIT_TABLE(a_bad_call_gets_its_error_and_leaves_nothing, bad_calls),
				UNIT(a_bystander_does_not_notice_bad_calls),
				UNIT(a_userfaultfd_of_another_process_is_found_out),
				UNIT(another_mapper_is_named_or_served),
				UNIT(a_guest_outlives_its_connection),
				UNIT(events_are_told_as_they_happen),
				{},
			});
}
