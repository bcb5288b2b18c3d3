/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libufd and ufdd together: every byte of a paged memory, whatever its VMM does to it. */
#include "test-client.h"

START_TEST(every_byte_of_a_paged_memory_is_right)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	struct vcpus vcpus;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	start_vcpus(&vcpus, &ram);
	join_vcpus(&scene, &vcpus);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	expect_all(&ram);
	ck_assert_str_eq(scene.heard, "");
}
END_TEST

START_TEST(bytes_that_are_in_the_file_already_are_only_mapped)
{
	_cleanup_(ram_done) struct ram ram = map_ram(SHMEM);
	_cleanup_(scene_done) struct scene scene;
	struct vcpus vcpus;
	char block[BLOCK];

	scene_init(&scene);
	for (uint64_t i = 0; i < ram_n_blocks(&ram); i++) {
		pattern_write(block, SEED, i, 0);
		ck_assert_int_eq(pwrite(ram.backing, block, BLOCK, (off_t)(i * BLOCK)), BLOCK);
	}
	describe(&scene, &ram, "ram", "backing");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	start_vcpus(&vcpus, &ram);
	join_vcpus(&scene, &vcpus);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

START_TEST(memory_is_added_while_threads_fault)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]), more = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	struct vcpus vcpus, more_vcpus;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	start_vcpus(&vcpus, &ram);
	loop_until(&scene, are_at_work, &vcpus);
	describe(&scene, &more, "more", "file:");
	start_vcpus(&more_vcpus, &more);
	join_vcpus(&scene, &vcpus);
	join_vcpus(&scene, &more_vcpus);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	expect_all(&more);
}
END_TEST

START_TEST(a_removed_mapping_is_no_longer_paged_and_the_rest_is)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]), more = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	describe(&scene, &more, "more", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	expect_block(&more, 0, 0);
	EXPECT_OK(&scene, ufd_client_remove_region(scene.client, more.bytes, more.length));
	expect_zero(&more, more.length / 2, more.page_bytes);
	ck_assert_int_eq(ufd_client_note_discard(scene.client, "more", 0, more.page_bytes),
			 -ENOENT);
	expect_all(&ram);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

START_TEST(a_memory_that_comes_back_under_its_name_is_a_new_one)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]), dimm = map_ram(kinds[_i]);
	_cleanup_(ram_done) struct ram next = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	describe(&scene, &dimm, "dimm", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	expect_all(&dimm);
	EXPECT_OK(&scene, ufd_client_remove_region(scene.client, dimm.bytes, dimm.length));
	describe(&scene, &next, "dimm", "file:");
	expect_all(&next);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

START_TEST(discarded_bytes_are_zero_whether_they_were_fetched_or_not)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	uint64_t page = ram.page_bytes;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	expect_block(&ram, page / BLOCK, 0); /* fetched; the next page is not */
	discard(&scene, &ram, page, 2 * page);
	expect_zero(&ram, page, 2 * page);
	expect_block(&ram, 0, 0);
	expect_block(&ram, 3 * page / BLOCK, 0);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	expect_zero(&ram, page, 2 * page);
	expect_block(&ram, ram_n_blocks(&ram) - 1, 0);
}
END_TEST

START_TEST(bytes_written_to_the_file_are_kept)
{
	_cleanup_(ram_done) struct ram ram = map_ram(SHMEM);
	_cleanup_(scene_done) struct scene scene;
	char block[BLOCK];

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	pattern_write(block, SEED, 5, 1);
	ck_assert_int_eq(pwrite(ram.backing, block, BLOCK, 5 * BLOCK), BLOCK);
	EXPECT_OK(&scene, ufd_client_note_write(scene.client, "ram", 5 * BLOCK, BLOCK));
	expect_block(&ram, 5, 1);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	expect_block(&ram, 5, 1);
}
END_TEST

START_TEST(a_detached_guest_attaches_again_as_it_is)
{
	_cleanup_(ram_done) struct ram ram = map_ram(kinds[_i]);
	_cleanup_(scene_done) struct scene scene;
	uint64_t page = ram.page_bytes;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "file:");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	/* Nobody needs to be told of what is discarded now. */
	if (ram.kind == ANON)
		ck_assert_int_eq(madvise(ram.bytes, page, MADV_DONTNEED), 0);
	else
		ck_assert_int_eq(fallocate(ram.backing, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					   0, (off_t)page),
				 0);
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	expect_zero(&ram, 0, page);
	for (uint64_t i = page / BLOCK; i < ram_n_blocks(&ram); i++)
		expect_block(&ram, i, 0);
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
}
END_TEST

START_TEST(a_name_is_given_once)
{
	_cleanup_(ram_done) struct ram ram = map_ram(ANON), other = map_ram(ANON);
	_cleanup_(ufd_client_freep) struct ufd_client *second = NULL;
	_cleanup_(scene_done) struct scene scene;

	scene_init(&scene);
	describe(&scene, &ram, "ram", "zero");
	EXPECT_OK(&scene, ufd_client_attach(scene.client));
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .socket_path = scene.socket,
		 .flags = UFD_CLIENT_USER_MODE);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "ram", .source = "zero",
		 .address = other.bytes, .length = other.length);
	ck_assert_int_eq(ufd_client_new(&second, &opts, NULL), 0);
	ck_assert_int_eq(ufd_client_add_memory(second, &memory), 0);
	ck_assert_int_eq(ufd_client_attach(second), -EEXIST);
	ck_assert_msg(strstr(ufd_client_error(second), "GuestExists") != NULL, "%s",
		      ufd_client_error(second));
	EXPECT_OK(&scene, ufd_client_detach(scene.client, NULL));
	ck_assert_msg(ufd_client_attach(second) == 0, "%s", ufd_client_error(second));
	ck_assert_msg(ufd_client_detach(second, NULL) == 0, "%s", ufd_client_error(second));
}
END_TEST

int main(void)
{
	hugepages_reserve(N_POOL);
	return unit_run(
		"client",
		(struct unit_test[]){
			UNIT_TABLE(every_byte_of_a_paged_memory_is_right, kinds),
			UNIT(bytes_that_are_in_the_file_already_are_only_mapped),
			UNIT_TABLE(memory_is_added_while_threads_fault, kinds),
			UNIT_TABLE(a_removed_mapping_is_no_longer_paged_and_the_rest_is, kinds),
			UNIT_TABLE(a_memory_that_comes_back_under_its_name_is_a_new_one, kinds),
			UNIT_TABLE(discarded_bytes_are_zero_whether_they_were_fetched_or_not,
				   kinds),
			UNIT(bytes_written_to_the_file_are_kept),
			UNIT_TABLE(a_detached_guest_attaches_again_as_it_is, kinds),
			UNIT(a_name_is_given_once),
			{},
		});
}
