/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images as sources: each byte, from the page cache or from the disk in any pieces; broken ones give none. */
#include "test-image.h"

static const int codecs[] = { -1, IMAGE_RAW, IMAGE_LZ4, IMAGE_ZSTD };

START_TEST(every_byte_arrives_warm_or_cold_in_any_pieces)
{
	struct source_counts counts;
	struct source *source;

	make_directory();
	make_chain(codecs[_i]);
	source = open_spec("image:%s,cache=128K", path_of("child2"));
	for (unsigned int cold = 0; cold < 4; cold++) {
		disk.cold_in = cold;
		disk.seed = cold;
		check_source(source, 300);
	}
	ck_assert_uint_gt(disk.n_cold, 100);
	ck_assert_uint_gt(disk.n_warm, 100);
	source_get_counts(source, &counts);
	ck_assert((counts.frames_unpacked > 0) == (codecs[_i] != IMAGE_RAW));
	ck_assert((counts.frames_cached > 0) == (codecs[_i] != IMAGE_RAW));
	source_unref(source);
	remove_directory();
}
END_TEST

/* What is asked for in pieces of a frame is unpacked once; a large cache is searched in part. */
static const char *const caches[] = { "4M", "16M" };

START_TEST(a_window_unpacks_a_frame_once)
{
	struct source_counts before, after;
	struct source *source;

	make_directory();
	make_chain(IMAGE_LZ4);
	source = open_spec("image:%s,cache=%s", path_of("child2"), caches[_i]);
	for (uint64_t i = 0; i < N_PAGES; i++)
		check_read(source, i, 1);
	source_get_counts(source, &before);
	ck_assert_uint_le(before.frames_unpacked, 3 * (N_PAGES / 16 + 1));
	for (uint64_t i = 0; i < N_PAGES; i++)
		check_read(source, i, 1);
	source_get_counts(source, &after);
	ck_assert_uint_eq(after.frames_unpacked, before.frames_unpacked);
	ck_assert_uint_gt(after.frames_cached, before.frames_cached);
	source_unref(source);
	remove_directory();
}
END_TEST

START_TEST(a_full_ring_is_told)
{
	struct source *source;

	make_directory();
	make_chain(IMAGE_ZSTD);
	source = open_spec("image:%s", path_of("child2"));
	disk.cold_in = 1;
	disk.is_full = true;
	ck_assert_int_eq(read_bytes(source, 0, BYTES), SOURCE_FULL);
	disk.is_full = false;
	check_source(source, 50);
	source_unref(source);
	remove_directory();
}
END_TEST

static const struct {
	const char *what;
	int codec;
	unsigned int cold_in;
} broken[] = {
	{ "raw, warm", IMAGE_RAW, 0 },	 { "raw, cold", IMAGE_RAW, 1 },
	{ "lz4, warm", IMAGE_LZ4, 0 },	 { "lz4, cold", IMAGE_LZ4, 1 },
	{ "zstd, warm", IMAGE_ZSTD, 0 }, { "zstd, cold", IMAGE_ZSTD, 1 },
};

/* One bit of each 4 KiB of the files flips while the source is open. */
START_TEST(a_broken_frame_gives_no_byte)
{
	unsigned int n_told = 0, n_sound = 0;
	struct source_where where;
	struct source *source;

	make_directory();
	make_chain(broken[_i].codec);
	source = open_spec("image:%s", path_of("child2"));
	for (unsigned int i = 0; i < 3; i++) {
		int fd = open(path_of(layers[i]), O_RDWR | O_CLOEXEC);
		off_t end = lseek(fd, 0, SEEK_END);

		for (off_t at = 4096 + 13; at < end; at += 4096) {
			unsigned char byte;

			ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
			byte ^= 0x10;
			ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
		}
		close(fd);
		disk.cold_in = broken[_i].cold_in;
		for (uint64_t page = 0; page < N_PAGES; page++) {
			int r = read_bytes(source, page * PAGE, PAGE);

			if (r != -EBADMSG) {
				check_read(source, page, 1);
				n_sound++;
				continue;
			}
			n_told++;
			ck_assert(source_where(source, page * PAGE, &where));
			ck_assert_ptr_nonnull(strstr(where.path, directory));
			ck_assert_uint_ge(where.offset, 4096);
		}
	}
	source_unref(source);
	ck_assert_uint_gt(n_told, 50);
	ck_assert_uint_gt(n_sound, 50);
	remove_directory();
}
END_TEST

START_TEST(a_file_that_was_cut_is_short)
{
	struct source *source;
	unsigned int n_short = 0;

	make_directory();
	make_chain(broken[_i].codec);
	source = open_spec("image:%s", path_of("child2"));
	ck_assert_int_eq(truncate(path_of("base"), 8192), 0);
	disk.cold_in = broken[_i].cold_in;
	for (uint64_t page = 0; page < N_PAGES; page++) {
		int r = read_bytes(source, page * PAGE, PAGE);

		if (r == SOURCE_SHORT)
			n_short++;
		else if (r != -EBADMSG) /* a frame that was cut within */
			check_read(source, page, 1);
	}
	ck_assert_uint_gt(n_short, 5);
	source_unref(source);
	remove_directory();
}
END_TEST

/* ---- other formats ---- */

START_TEST(differences_of_firecracker_lie_over_their_base)
{
	struct source *source;

	make_directory();
	write_diff("mem", true, 1);
	source = open_spec("firecracker:%s", path_of("mem"));
	check_source(source, 50);
	source_unref(source);
	write_diff("diff+1", false, 2);
	write_diff("diff2", false, 3);
	source = open_spec("firecracker:%s+%s/diff++1+%s", path_of("mem"), directory,
			   path_of("diff2"));
	disk.cold_in = 3;
	check_source(source, 200);
	ck_assert_uint_gt(disk.n_cold, 10);
	source_unref(source);
	remove_directory();
}
END_TEST

START_TEST(the_ranges_of_cloud_hypervisor_are_read_from_their_folder)
{
	struct source *source;

	make_directory();
	write_diff("memory-ranges", true, 4);
	source = open_spec("cloud-hypervisor:%s", directory);
	check_source(source, 50);
	source_unref(source);
	source = open_spec("cloud-hypervisor:%s", path_of("memory-ranges"));
	check_source(source, 50);
	source_unref(source);
	remove_directory();
}
END_TEST

/* They have no checksums, so a change is all that can be seen. */
START_TEST(another_format_that_changes_gives_no_more_bytes)
{
	struct source *source;

	make_directory();
	write_diff("mem", true, 1);
	write_diff("diff", false, 2);
	source = open_spec("firecracker:%s+%s", path_of("mem"), path_of("diff"));
	check_source(source, 5);
	ck_assert_int_eq(truncate(path_of("mem"), BYTES / 2), 0);
	disk.cold_in = 1;
	ck_assert_int_eq(read_bytes(source, 0, BYTES), SOURCE_CHANGED);
	disk.cold_in = 0;
	ck_assert_int_eq(read_bytes(source, 0, BYTES), SOURCE_CHANGED);
	source_unref(source);
	remove_directory();
}
END_TEST

int main(void)
{
	return unit_run("image-source",
			(struct unit_test[]){
				UNIT_TABLE(every_byte_arrives_warm_or_cold_in_any_pieces, codecs),
				UNIT_TABLE(a_window_unpacks_a_frame_once, caches),
				UNIT(a_full_ring_is_told),
				UNIT_TABLE(a_broken_frame_gives_no_byte, broken),
				UNIT_TABLE(a_file_that_was_cut_is_short, broken),
				UNIT(differences_of_firecracker_lie_over_their_base),
				UNIT(the_ranges_of_cloud_hypervisor_are_read_from_their_folder),
				UNIT(another_format_that_changes_gives_no_more_bytes),
				{},
			});
}
