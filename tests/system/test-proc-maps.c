/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who maps what. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kernel/backing.h"
#include "kernel/proc-maps.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/target.h"
#include "support/unit.h"

static const struct proc_map *find(const struct proc_maps *maps, struct hva address)
{
	for (size_t i = 0; i < maps->n_maps; i++)
		if (address.v - maps->maps[i].range.start.v < maps->maps[i].range.length_bytes)
			return &maps->maps[i];
	return NULL;
}

START_TEST(a_process_shows_its_mappings_in_order)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	_cleanup_(target_done) struct target target;
	const struct proc_map *map;
	struct backing_info info;

	target_start(&target, TARGET_SHMEM, 4, 0);
	ck_assert_int_eq(backing_inspect(target.memfd, &info), 0);
	ck_assert_int_eq(proc_maps_read(target.pid, &maps), 0);
	for (size_t i = 1; i < maps.n_maps; i++)
		ck_assert_uint_le(maps.maps[i - 1].range.start.v +
					  maps.maps[i - 1].range.length_bytes,
				  maps.maps[i].range.start.v);

	map = find(&maps, target.memory.start);
	ck_assert_ptr_nonnull(map);
	ck_assert_int_eq(map->pid, target.pid);
	ck_assert_uint_eq(map->range.start.v, target.memory.start.v);
	ck_assert_uint_eq(map->range.length_bytes, target.memory.length_bytes);
	ck_assert_uint_eq(map->file_offset_bytes, 0);
	ck_assert_uint_eq(map->inode, info.inode);
	ck_assert_uint_eq(map->device, info.device);
	ck_assert(map->is_shared && map->is_readable && map->is_writable);
	ck_assert_str_eq(map->name, "/memfd:target (deleted)");
}
END_TEST

START_TEST(anonymous_memory_has_no_file_and_many_mappings_fit)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	const struct proc_map *map;
	char *area = mmap(NULL, 400 * page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (uint64_t i = 1; i < 400; i += 2)
		ck_assert_int_eq(mprotect(area + i * page_bytes, page_bytes, PROT_READ), 0);
	ck_assert_int_eq(proc_maps_read(getpid(), &maps), 0);
	ck_assert_uint_gt(maps.n_maps, 398);
	map = find(&maps, (struct hva){ (uintptr_t)area + 5 * page_bytes });
	ck_assert_ptr_nonnull(map);
	ck_assert_uint_eq(map->range.length_bytes, page_bytes);
	ck_assert_uint_eq(map->inode, 0);
	ck_assert_uint_eq(map->device, 0);
	ck_assert(map->is_readable && !map->is_writable && !map->is_shared);
	ck_assert_str_eq(map->name, "");
}
END_TEST

START_TEST(an_ended_process_has_no_mappings)
{
	struct proc_maps maps = { .n_maps = 3 };
	struct proc_map_flags flags = { .page_bytes = 3 };
	_cleanup_(target_done) struct target target;
	pid_t pid;

	target_start(&target, TARGET_ANON, 1, 0);
	pid = target.pid;
	target_kill(&target);
	ck_assert_int_eq(proc_maps_read(pid, &maps), -ESRCH);
	ck_assert_uint_eq(maps.n_maps, 3);
	ck_assert_int_eq(proc_map_flags(pid, target.memory.start, &flags), -ESRCH);
	ck_assert_uint_eq(flags.page_bytes, 3);
}
END_TEST

START_TEST(every_process_that_maps_a_file_is_found)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	_cleanup_(target_done) struct target target;
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	const struct proc_map *map;
	struct backing_info info;
	void *window;

	target_start(&target, TARGET_SHMEM, 4, 0);
	ck_assert_int_eq(backing_inspect(target.memfd, &info), 0);
	ck_assert_int_eq(proc_maps_of_file(info.device, info.inode, &maps, NULL), 0);
	ck_assert_uint_eq(maps.n_maps, 1);
	ck_assert_int_eq(maps.maps[0].pid, target.pid);
	proc_maps_done(&maps);

	window = mmap(NULL, page_bytes, PROT_READ, MAP_PRIVATE, target.memfd,
		      (off_t)(2 * page_bytes));
	ck_assert_ptr_ne(window, MAP_FAILED);
	ck_assert_int_eq(proc_maps_of_file(info.device, info.inode, &maps, NULL), 0);
	ck_assert_uint_eq(maps.n_maps, 2);
	map = find(&maps, (struct hva){ (uintptr_t)window });
	ck_assert_ptr_nonnull(map);
	ck_assert_int_eq(map->pid, getpid());
	ck_assert_uint_eq(map->file_offset_bytes, 2 * page_bytes);
	ck_assert(!map->is_shared);
}
END_TEST

START_TEST(processes_that_may_not_be_read_are_counted)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	_cleanup_(target_done) struct target target;
	struct backing_info info;
	size_t n_hidden = 0;
	int r;

	if (geteuid() != 0)
		unit_skip("needs root to become somebody else");
	target_start(&target, TARGET_SHMEM, 1, 0);
	ck_assert_int_eq(backing_inspect(target.memfd, &info), 0);
	ck_assert_int_eq(setegid(65534), 0); /* groups do not count here */
	ck_assert_int_eq(seteuid(65534), 0);
	ck_assert_int_eq(proc_maps_of_file(info.device, info.inode, &maps, &n_hidden), 0);
	r = proc_maps_read(target.pid, &maps);
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(setegid(0), 0);
	ck_assert_uint_eq(maps.n_maps, 0);
	ck_assert_uint_gt(n_hidden, 0);
	ck_assert_int_eq(r, -EACCES);
}
END_TEST

static const struct {
	enum target_memory memory;
	unsigned int modes;
} registered[] = {
	{ TARGET_ANON, 0 },
	{ TARGET_ANON, UFFD_MODE_MISSING },
	{ TARGET_SHMEM, UFFD_MODE_MISSING | UFFD_MODE_MINOR },
	{ TARGET_SHMEM, UFFD_MODE_WP },
	{ TARGET_HUGETLB, UFFD_MODE_MISSING | UFFD_MODE_MINOR | UFFD_MODE_WP },
};

START_TEST(flags_show_the_registered_modes_and_the_page_size)
{
	_cleanup_(target_done) struct target target;
	unsigned int modes = registered[_i].modes;
	struct proc_map_flags flags;

	target_start(&target, registered[_i].memory, 3, 0);
	if (modes)
		ck_assert_int_eq(
			uffd_register(target.uffd, target_pages(&target, 1, 1), modes, NULL), 0);
	ck_assert_int_eq(proc_map_flags(target.pid, hva_add(target_page(&target, 1), 17), &flags),
			 0);
	ck_assert_int_eq(flags.is_uffd_missing, (modes & UFFD_MODE_MISSING) != 0);
	ck_assert_int_eq(flags.is_uffd_minor, (modes & UFFD_MODE_MINOR) != 0);
	ck_assert_int_eq(flags.is_uffd_wp, (modes & UFFD_MODE_WP) != 0);
	ck_assert_uint_eq(flags.page_bytes, target.page_bytes);

	ck_assert_int_eq(proc_map_flags(target.pid, target_page(&target, 2), &flags), 0);
	ck_assert(!flags.is_uffd_missing && !flags.is_uffd_minor && !flags.is_uffd_wp);
	target_do(&target, target_unmap, target_page(&target, 2), target.page_bytes);
	ck_assert_int_eq(proc_map_flags(target.pid, target_page(&target, 2), &flags), -ENOENT);
}
END_TEST

int main(void)
{
	hugepages_reserve(3);
	return unit_run(
		"proc-maps",
		(struct unit_test[]){
			UNIT(a_process_shows_its_mappings_in_order),
			UNIT(anonymous_memory_has_no_file_and_many_mappings_fit),
			UNIT(an_ended_process_has_no_mappings),
			UNIT(every_process_that_maps_a_file_is_found),
			UNIT(processes_that_may_not_be_read_are_counted),
			UNIT_TABLE(flags_show_the_registered_modes_and_the_page_size, registered),
			{},
		});
}
