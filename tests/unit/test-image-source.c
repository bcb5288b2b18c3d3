/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images as sources: each byte, from the page cache or from the disk in any pieces; broken ones give none. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/units.h"
#include "image/image-foreign.h"
#include "image/image-source.h"
#include "image/image-writer.h"
#include "kernel/uring.h"
#include "support/unit.h"

#define PAGE	4096
#define N_PAGES 300
#define BYTES	(N_PAGES * PAGE)

/* ---- a disk of our own ---- */

static struct {
	unsigned int cold_in; /* one read in so many is cold; 0: none */
	unsigned int seed;
	int fd; /* of the read under way */
	void *buffer;
	uint32_t length_bytes;
	uint64_t offset, token;
	unsigned int n_cold, n_warm;
	bool is_full; /* the ring has no room */
} disk;

ssize_t preadv2(int fd, const struct iovec *pieces, int n_pieces, off_t offset, int flags)
{
	ck_assert_int_eq(flags, RWF_NOWAIT);
	ck_assert_int_eq(n_pieces, 1);
	if (disk.cold_in && rand_r(&disk.seed) % disk.cold_in == 0) {
		size_t n = (size_t)rand_r(&disk.seed) % pieces->iov_len;

		/* some of it is at hand */
		if (rand_r(&disk.seed) % 2 && n)
			return pread(fd, pieces->iov_base, n, offset);
		errno = EAGAIN;
		return -1;
	}
	disk.n_warm++;
	return pread(fd, pieces->iov_base, pieces->iov_len, offset);
}

bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, bool may_wait, uint64_t token)
{
	if (disk.is_full)
		return false;
	disk.fd = fd;
	disk.buffer = buffer;
	disk.length_bytes = length_bytes;
	disk.offset = offset;
	disk.token = token;
	disk.n_cold++;
	return true;
}

/* Some of what is under way comes. */
static int32_t disk_complete(void)
{
	uint32_t n = 1 + (uint32_t)rand_r(&disk.seed) % disk.length_bytes;
	ssize_t n_read = pread(disk.fd, disk.buffer, rand_r(&disk.seed) % 2 ? n : disk.length_bytes,
			       (off_t)disk.offset);

	return n_read < 0 ? -errno : (int32_t)n_read;
}

static unsigned char request_buffer[BYTES + 64], request_spare[SOURCE_SPARE_BYTES];

/* One read, as the demand thread does it. */
static int read_bytes(struct source *source, uint64_t offset, uint64_t length)
{
	struct source_request request = { .offset = offset,
					  .length_bytes = length,
					  .buffer = request_buffer,
					  .spare = request_spare };
	int r;

	memset(request_buffer, 0xee, length + 64);
	memset(request_spare, 0xdd, sizeof(request_spare));
	r = source_read(source, &request);
	while (r == SOURCE_PENDING) {
		ck_assert(request.is_in_ring && disk.token == (uintptr_t)&request);
		r = source_finish(source, &request, disk_complete());
	}
	for (unsigned int i = 0; i < 64; i++)
		ck_assert_int_eq(request_buffer[length + i], 0xee);
	return r;
}

/* ---- a chain of images ---- */

static char directory[64];
static unsigned char content[BYTES];

static const char *path_of(const char *name)
{
	static char paths[4][128];
	static unsigned int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static void make_directory(void)
{
	strcpy(directory, "/tmp/test-image-source-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	memset(content, 0, sizeof(content));
}

static void remove_directory(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", directory);
	ck_assert_int_eq(system(command), 0);
}

static void change_content(struct image_writer *writer, uint32_t memory, unsigned int seed)
{
	for (uint64_t i = 0; i < N_PAGES; i++) {
		unsigned char *page = content + i * PAGE;
		int kind = rand_r(&seed) % 5;

		if (kind == 0)
			memset(page, 0, PAGE);
		else if (kind == 1)
			memset(page, rand_r(&seed), PAGE);
		else if (kind == 2)
			for (unsigned int j = 0; j < PAGE; j++)
				page[j] = (unsigned char)rand_r(&seed);
		if (kind < 3)
			ck_assert_int_eq(image_writer_pages(writer, memory, i, page, 1), 0);
	}
}

static const char *const layers[] = { "base", "child,1", "child2" };

/* Three layers, each of another codec if @codec is -1. */
static void make_chain(int codec)
{
	struct image_parent parent = {};

	for (unsigned int i = 0; i < 3; i++) {
		struct image_writer_opts opts = { .codec = codec < 0 ? i : (unsigned int)codec,
						  .parent = i ? &parent : NULL };
		int fd = open(path_of(layers[i]), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		struct image_writer *writer = NULL;
		uint32_t memory;

		ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
		ck_assert_int_eq(
			image_writer_add_memory(writer, "ram", BYTES, PAGE, IMAGE_SHMEM, &memory),
			0);
		change_content(writer, memory, i + 1);
		ck_assert_int_eq(image_writer_commit(writer, parent.digest), 0);
		image_writer_free(writer);
		close(fd);
		parent.hint = layers[i];
	}
}

static struct source *open_spec(const char *format, ...)
{
	struct source *source = NULL;
	const char *error = "";
	char spec[512];
	va_list args;

	va_start(args, format);
	vsnprintf(spec, sizeof(spec), format, args);
	va_end(args);
	ck_assert_msg(image_source_open(&source, spec, -1, &error) == 0, "%s: %s", spec, error);
	ck_assert_uint_eq(source_length(source), BYTES);
	return source;
}

static void check_read(struct source *source, uint64_t first, uint64_t n)
{
	static const unsigned char zeros[BYTES];
	int r = read_bytes(source, first * PAGE, n * PAGE);
	const unsigned char *bytes = r == SOURCE_ZERO ? zeros : request_buffer;

	ck_assert(r == 0 || r == SOURCE_ZERO);
	ck_assert_msg(!memcmp(bytes, content + first * PAGE, n * PAGE), "%zu pages from %zu on",
		      (size_t)n, (size_t)first);
}

static void check_source(struct source *source, unsigned int n_reads)
{
	uint64_t length = 0;

	for (unsigned int i = 0; i < n_reads; i++) {
		uint64_t first = (uint64_t)rand_r(&disk.seed) % N_PAGES;

		check_read(source, first,
			   1 + (uint64_t)rand_r(&disk.seed) % min_u64(N_PAGES - first, 64));
	}
	check_read(source, 0, N_PAGES);
	for (uint64_t at = 0; at < BYTES; at += length) {
		int kind = source_extent(source, at, BYTES - at, &length);

		ck_assert(is_aligned(length, PAGE) && length > 0);
		for (uint64_t i = at; kind == SOURCE_ZERO && i < at + length; i++)
			ck_assert_int_eq(content[i], 0);
	}
}

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

/* What is asked for in pieces of a frame is unpacked once. */
START_TEST(a_window_unpacks_a_frame_once)
{
	struct source_counts before, after;
	struct source *source;

	make_directory();
	make_chain(IMAGE_LZ4);
	source = open_spec("image:%s", path_of("child2"));
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

static void write_diff(const char *name, bool is_base, unsigned int seed)
{
	int fd = open(path_of(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	ck_assert_int_eq(ftruncate(fd, BYTES), 0);
	for (uint64_t i = 0; i < N_PAGES; i++) {
		if (rand_r(&seed) % 3 == 0)
			continue;
		if (!is_base && rand_r(&seed) % 4)
			continue;
		memset(content + i * PAGE, rand_r(&seed) % 3 ? rand_r(&seed) : 0, PAGE);
		ck_assert_int_eq(pwrite(fd, content + i * PAGE, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	close(fd);
}

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

/* ---- SPECs ---- */

/* DIR is the directory. */
static const struct {
	const char *spec;
	int result;
	const char *mentions;
} specs[] = {
	{ "image:DIR/child2", 0, NULL },
	{ "image:DIR/child,,1,memory=ram", 0, NULL },
	{ "image:DIR/child2,cache=1M,memory=ram", 0, NULL },
	{ "firecracker:DIR/mem", 0, NULL },
	{ "image:DIR/none", -ENOENT, "/none" },
	{ "image:DIR", -ESPIPE, "no regular file" },
	{ "image:DIR/mem", -EBADMSG, "no .ufdi image" },
	{ "image:", -EINVAL, "open file" },
	{ "image:DIR/child2,memory=rom", -EINVAL, "the memories ram" },
	{ "image:DIR/child2,memory=", -EINVAL, "name" },
	{ "image:DIR/child2,cache=0", -EINVAL, "cache" },
	{ "image:DIR/child2,offset=1", -EINVAL, "'offset=1'" },
	{ "image:DIR/child2,digest=12", -EINVAL, "digest" },
	{ "image:DIR/child2,digest=00112233445566778899aabbccddeeff", -ESTALE, "another image" },
	{ "firecracker:DIR/mem,memory=ram", -EINVAL, "'memory=ram'" },
	{ "firecracker:DIR/mem+", -EINVAL, "empty" },
	{ "firecracker:+DIR/mem", -EINVAL, "name the files" },
	{ "firecracker:DIR/mem+DIR/odd", -EINVAL, "no multiple" },
	{ "firecracker:DIR/mem+DIR/short", -EINVAL, "different lengths" },
	{ "cloud-hypervisor:DIR", -ENOENT, "memory-ranges" },
};

static void name_directory(const char *spec, char text[512])
{
	size_t n = 0;

	for (; *spec; spec++) {
		if (strncmp(spec, "DIR", 3)) {
			text[n++] = *spec;
			continue;
		}
		n += (size_t)sprintf(text + n, "%s", directory);
		spec += 2;
	}
	text[n] = '\0';
}

START_TEST(a_spec_opens_an_image_or_says_what_is_wrong)
{
	struct source *source = NULL;
	const char *error = "";
	char spec[512];
	int r;

	make_directory();
	make_chain(IMAGE_LZ4);
	write_diff("mem", true, 1);
	write_diff("odd", true, 1);
	write_diff("short", true, 1);
	ck_assert_int_eq(truncate(path_of("odd"), BYTES - 1), 0);
	ck_assert_int_eq(truncate(path_of("short"), BYTES - PAGE), 0);
	name_directory(specs[_i].spec, spec);
	ck_assert(image_spec_is(spec));
	r = image_source_open(&source, spec, -1, &error);
	ck_assert_msg(r == specs[_i].result, "%s: %d (%s)", spec, r, error);
	ck_assert((source != NULL) == (r == 0));
	if (r)
		ck_assert_msg(strstr(error, specs[_i].mentions), "%s: %s", spec, error);
	source_unref(source);
	remove_directory();
}
END_TEST

/* As a successor does it: by what is kept, and the open file. */
START_TEST(a_source_is_opened_again_whatever_was_appended)
{
	struct source_identity before, after;
	struct source *source, *again = NULL;
	struct image_writer_opts opts = {};
	struct image_writer *writer = NULL;
	const char *error = "";
	static const unsigned char page[PAGE] = "new";
	int fd;

	make_directory();
	make_chain(IMAGE_LZ4);
	source = open_spec("image:%s", path_of("child2"));
	fd = open(path_of("child2"), O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(image_writer_append(&writer, fd, &opts, &error), 0);
	ck_assert_int_eq(image_writer_pages(writer, 0, 7, page, 1), 0);
	ck_assert_int_eq(image_writer_commit(writer, NULL), 0);
	image_writer_free(writer);
	ck_assert_msg(image_source_reopen(&again, source_spec(source), fd, &error) == 0, "%s",
		      error);
	ck_assert_int_ge(source_file(source, &before), 0);
	ck_assert_int_ge(source_file(again, &after), 0);
	ck_assert(source_is_same_file(&before, &after));
	check_source(again, 50);
	source_unref(again);
	source_unref(source);

	source = open_spec("image:%s", path_of("child2"));
	source_file(source, &after);
	ck_assert(!source_is_same_file(&before, &after));
	source_unref(source);
	close(fd);
	remove_directory();
}
END_TEST

START_TEST(layers_of_firecracker_are_opened_again_if_none_has_changed)
{
	struct source_identity before, after;
	struct source *source, *again = NULL;
	const char *error = "";
	int fd;

	make_directory();
	write_diff("mem", true, 1);
	write_diff("diff", false, 2);
	source = open_spec("firecracker:%s+%s", path_of("mem"), path_of("diff"));
	fd = source_file(source, &before);
	ck_assert_msg(image_source_reopen(&again, source_spec(source), fd, &error) == 0, "%s",
		      error);
	source_file(again, &after);
	ck_assert(source_is_same_file(&before, &after));
	check_source(again, 20);
	again = source_unref(again);
	/* the base is another file by now */
	ck_assert_int_eq(unlink(path_of("mem")), 0);
	write_diff("mem", true, 1);
	ck_assert_msg(image_source_reopen(&again, source_spec(source), fd, &error) == 0, "%s",
		      error);
	source_file(again, &after);
	ck_assert(!source_is_same_file(&before, &after));
	source_unref(again);
	source_unref(source);
	remove_directory();
}
END_TEST

/* Who passes an open file may not have others opened for him. */
START_TEST(an_open_file_with_parents_is_refused)
{
	struct source *source = NULL;
	const char *error = "";
	int fd;

	make_directory();
	make_chain(IMAGE_LZ4);
	fd = open(path_of("child2"), O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(image_source_open(&source, "image:", fd, &error), -EXDEV);
	ck_assert_ptr_nonnull(strstr(error, "flatten"));
	close(fd);
	fd = open(path_of("base"), O_RDONLY | O_CLOEXEC);
	ck_assert_msg(image_source_open(&source, "image:", fd, &error) == 0, "%s", error);
	/* and is found by its path later */
	ck_assert_ptr_nonnull(strstr(source_spec(source), path_of("base")));
	source_unref(source);
	close(fd);
	remove_directory();
}
END_TEST

START_TEST(what_is_passed_on_is_an_open_file_or_a_path_from_the_root)
{
	const char *error = "";
	char *spec = NULL, given[512];
	int fd = -EBADF;

	make_directory();
	make_chain(IMAGE_LZ4);
	write_diff("mem", true, 1);
	write_diff("diff", false, 2);
	ck_assert_int_eq(chdir(directory), 0);
	ck_assert_int_eq(image_spec_pass("image:base,memory=ram", &spec, &fd, &error), 0);
	ck_assert_str_eq(spec, "image:,memory=ram");
	ck_assert_int_ge(fd, 0);
	close(fd);
	free(spec);
	ck_assert_int_eq(image_spec_pass("image:child,,1,cache=1M", &spec, &fd, &error), 0);
	name_directory("image:DIR/child,,1,cache=1M", given);
	ck_assert_str_eq(spec, given);
	ck_assert_int_eq(fd, -EBADF);
	free(spec);
	ck_assert_int_eq(image_spec_pass("firecracker:mem+diff", &spec, &fd, &error), 0);
	name_directory("firecracker:DIR/mem+DIR/diff", given);
	ck_assert_str_eq(spec, given);
	free(spec);
	ck_assert_int_eq(image_spec_pass("firecracker:mem+none", &spec, &fd, &error), -ENOENT);
	ck_assert_int_eq(chdir("/"), 0);
	remove_directory();
}
END_TEST

int main(void)
{
	return unit_run("image-source",
			(struct unit_test[]){
				UNIT_TABLE(every_byte_arrives_warm_or_cold_in_any_pieces, codecs),
				UNIT(a_window_unpacks_a_frame_once),
				UNIT(a_full_ring_is_told),
				UNIT_TABLE(a_broken_frame_gives_no_byte, broken),
				UNIT_TABLE(a_file_that_was_cut_is_short, broken),
				UNIT(differences_of_firecracker_lie_over_their_base),
				UNIT(the_ranges_of_cloud_hypervisor_are_read_from_their_folder),
				UNIT(another_format_that_changes_gives_no_more_bytes),
				UNIT_TABLE(a_spec_opens_an_image_or_says_what_is_wrong, specs),
				UNIT(a_source_is_opened_again_whatever_was_appended),
				UNIT(layers_of_firecracker_are_opened_again_if_none_has_changed),
				UNIT(an_open_file_with_parents_is_refused),
				UNIT(what_is_passed_on_is_an_open_file_or_a_path_from_the_root),
				{},
			});
}
