/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Admission: the guest one past each limit is refused by the limit's name, the last that fits is not. */
#include "store/admission.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "attach/plan.h"
#include "base/units.h"
#include "refusal.h"
#include "settings.h"
#include "store/store.h"
#include "support/unit.h"

#define HUGE_BYTES (2 * MIB)

/* Room for everything. */
static struct admission_room endless(void)
{
	return (struct admission_room){
		.stored_fds_max = UINT64_MAX,
		.name_bytes_max = UINT64_MAX,
		.open_fds_max = UINT64_MAX,
		.memory_bytes = UINT64_MAX,
		.cgroup_bytes = UINT64_MAX,
		.huge.sizes[0] = { HUGE_BYTES, UINT64_MAX },
	};
}

enum limit { FD_STORE, FD_NAMES, NOFILE, HUGETLB, HUGETLB_OTHERS, MEMORY, MEMORY_OTHERS, CGROUP };

static const struct {
	const char *name;
	enum limit limit;
} limits[] = {
	{ "fd-store", FD_STORE },    { "fd-names", FD_NAMES },	    { "nofile", NOFILE },
	{ "hugetlb", HUGETLB },	     { "hugetlb", HUGETLB_OTHERS }, { "memory", MEMORY },
	{ "memory", MEMORY_OTHERS }, { "memory", CGROUP },
};

/* A world in which one more guest of one memory just fits, or with @excess is one past the limit. */
static void make_world(enum limit limit, uint64_t excess, struct admission_room *room,
		       struct admission_need *need, struct admission_need *others)
{
	*room = endless();
	*need = (struct admission_need){ .filled_bytes = 10 * MIB };
	*others = (struct admission_need){};
	admission_add(&need->huge, HUGE_BYTES, 5 * HUGE_BYTES);
	switch (limit) {
	case FD_STORE:
		room->stored_fds_max = 100;
		room->stored_fds = 98 + excess;
		break;
	case FD_NAMES:
		room->name_bytes_max = 1000;
		room->name_bytes = 1000 - 12 + excess;
		break;
	case NOFILE:
		room->open_fds_max = 1024;
		room->open_fds = 1024 - 16 - 4 - 64 + excess;
		break;
	case HUGETLB:
		room->huge.sizes[0].n_bytes = (5 - excess) * HUGE_BYTES;
		break;
	case HUGETLB_OTHERS:
		room->huge.sizes[0].n_bytes = 12 * HUGE_BYTES;
		admission_add(&others->huge, HUGE_BYTES, (7 + excess) * HUGE_BYTES);
		break;
	case MEMORY:
		room->memory_bytes = 10 * MIB - excess;
		break;
	case MEMORY_OTHERS:
		room->memory_bytes = 30 * MIB;
		others->filled_bytes = 20 * MIB + excess;
		break;
	case CGROUP:
		room->cgroup_bytes = 10 * MIB - excess;
		break;
	}
}

START_TEST(the_last_that_fits_is_admitted)
{
	struct admission_need need, others;
	struct refusal refusal = {};
	struct admission_room room;

	make_world(limits[_i].limit, 0, &room, &need, &others);
	ck_assert_msg(admission_decide(&room, &need, &others, 1, "g", &refusal) == 0, "%s: %s",
		      limits[_i].name, refusal.error);
	ck_assert_ptr_null(refusal.parameters);
}
END_TEST

START_TEST(one_past_the_limit_is_refused_by_its_name)
{
	struct admission_need need, others;
	struct refusal refusal = {};
	struct admission_room room;
	const char *message;

	make_world(limits[_i].limit, 1, &room, &need, &others);
	ck_assert_int_eq(admission_decide(&room, &need, &others, 1, "the-guest", &refusal),
			 -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.manager.LimitReached");
	ck_assert_str_eq(json_string_value(json_object_get(refusal.parameters, "limit")),
			 limits[_i].name);
	message = json_string_value(json_object_get(refusal.parameters, "message"));
	ck_assert_msg(strstr(message, "the-guest"), "%s", message);
	refusal_done(&refusal);
}
END_TEST

START_TEST(a_guest_that_grows_needs_no_place_of_its_own)
{
	struct admission_need need, others;
	struct refusal refusal = {};
	struct admission_room room;

	make_world(FD_STORE, 1, &room, &need, &others);
	ck_assert_int_eq(admission_decide(&room, &need, &others, 0, "g", &refusal), 0);
	make_world(HUGETLB, 1, &room, &need, &others);
	ck_assert_int_eq(admission_decide(&room, &need, &others, 0, "g", &refusal), -ECANCELED);
	refusal_done(&refusal);
}
END_TEST

static const struct {
	const char *what;
	const char *spec;
	uint32_t kind;
	uint64_t page_bytes;
	bool has_backing;
	uint64_t background;
	uint64_t populated;
	uint64_t filled_bytes;
	uint64_t huge_bytes;
} needs[] = {
	{ "anonymous, from a file", "file:/x", UFD_MEMORY_ANON, 4096, false, 1,
	  UFD_POPULATED_REFUSE, 8 * MIB, 0 },
	{ "the same, only what is asked for", "file:/x", UFD_MEMORY_ANON, 4096, false, 0,
	  UFD_POPULATED_REFUSE, 0, 0 },
	{ "anonymous that may be there already", "file:/x", UFD_MEMORY_ANON, 4096, false, 1,
	  UFD_POPULATED_KEEP, 0, 0 },
	{ "a memfd of which 1 MiB is there", "file:/x", UFD_MEMORY_SHMEM, 4096, true, 1,
	  UFD_POPULATED_REFUSE, 7 * MIB, 0 },
	{ "zeros", "zero", UFD_MEMORY_SHMEM, 4096, true, 1, UFD_POPULATED_REFUSE, 0, 0 },
	{ "bytes that lie in the backing", "backing", UFD_MEMORY_SHMEM, 4096, true, 1,
	  UFD_POPULATED_KEEP, 0, 0 },
	{ "huge pages, whoever asks for them", "file:/x", UFD_MEMORY_HUGETLB, HUGE_BYTES, false, 0,
	  UFD_POPULATED_REFUSE, 0, 8 * MIB },
	{ "huge pages of zeros", "zero", UFD_MEMORY_HUGETLB, HUGE_BYTES, false, 0,
	  UFD_POPULATED_REFUSE, 0, 8 * MIB },
};

START_TEST(what_a_plan_needs)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);
	struct plan_memory memory = { .kind = needs[_i].kind,
				      .page_bytes = needs[_i].page_bytes,
				      .base_bytes = 4 * MIB,
				      .end_bytes = 12 * MIB,
				      .backing = needs[_i].has_backing ? fd : -EBADF,
				      .spec = needs[_i].spec };
	struct plan plan = { .memories = &memory, .n_memories = 1 };
	struct settings settings = settings_built_in();
	struct admission_need need;
	char block[4096];

	ck_assert_int_eq(ftruncate(fd, 12 * MIB), 0);
	memset(block, 1, sizeof(block));
	for (uint64_t at = 0; at < MIB; at += sizeof(block))
		ck_assert_int_eq(pwrite(fd, block, sizeof(block), (off_t)(4 * MIB + at)),
				 sizeof(block));
	settings.background = needs[_i].background;
	settings.populated = needs[_i].populated;
	need = admission_need_of(&plan, &settings);
	ck_assert_msg(need.filled_bytes == needs[_i].filled_bytes, "%s: %llu", needs[_i].what,
		      (unsigned long long)need.filled_bytes);
	ck_assert_uint_eq(admission_get(&need.huge, HUGE_BYTES), needs[_i].huge_bytes);
	close(fd);
}
END_TEST

START_TEST(what_there_is_is_read_from_the_kernel)
{
	_cleanup_(store_freep) struct store *store = NULL;
	struct admission_need need = { .filled_bytes = 1 };
	struct admission_room room;
	struct rlimit limit;
	uint64_t before;

	admission_add(&need.huge, HUGE_BYTES, HUGE_BYTES);
	ck_assert_int_eq(setenv("NOTIFY_SOCKET", "/nowhere", 1), 0);
	ck_assert_int_eq(setenv("UFD_FDSTORE_MAX", "8192", 1), 0);
	unsetenv("FDSTORE");
	ck_assert_int_eq(store_new(&store, NULL), 0);
	ck_assert(!store_offer(store, "varlink", -1));
	room = admission_look(store, getpid(), &need);
	before = room.open_fds;
	ck_assert_uint_eq(room.stored_fds_max, 8192);
	ck_assert_uint_eq(room.stored_fds, 0);
	ck_assert_uint_eq(room.name_bytes, strlen("varlink:"));
	ck_assert_uint_gt(room.name_bytes_max, 127 * KIB);
	ck_assert_uint_lt(room.name_bytes_max, 128 * KIB);
	ck_assert_uint_gt(room.memory_bytes, 0);
	ck_assert_uint_lt(room.memory_bytes, UINT64_C(1) << 60);
	ck_assert_uint_eq(room.huge.sizes[0].page_bytes, HUGE_BYTES);

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = 512;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	int fd = dup(STDOUT_FILENO);
	room = admission_look(store, getpid(), &need);
	ck_assert_uint_eq(room.open_fds, before + 1);
	ck_assert_uint_eq(room.open_fds_max, 512);
	admission_raise_limits();
	room = admission_look(store, getpid(), &need);
	ck_assert_uint_eq(room.open_fds_max, limit.rlim_max);
	close(fd);
}
END_TEST

int main(void)
{
	return unit_run("admission",
			(struct unit_test[]){
				UNIT_TABLE(the_last_that_fits_is_admitted, limits),
				UNIT_TABLE(one_past_the_limit_is_refused_by_its_name, limits),
				UNIT(a_guest_that_grows_needs_no_place_of_its_own),
				UNIT_TABLE(what_a_plan_needs, needs),
				UNIT(what_there_is_is_read_from_the_kernel),
				{},
			});
}
