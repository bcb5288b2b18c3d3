/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that were cut, torn, or damaged in a bit: the older content where the newer never was finished, else the newer
 * or a sentence; never other bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "image/image-reader.h"
#include "image/image-writer.h"
#include "support/unit.h"

#define PAGE	4096
#define N_PAGES 24

static uint64_t n_read_bytes;
static off_t cut_to; /* when somebody looks behind it; 0: never */

/* Counts what a search reads, and cuts what it looks at. */
ssize_t pread(int fd, void *buffer, size_t n_bytes, off_t offset)
{
	ssize_t n;

	if (cut_to && offset >= cut_to)
		ck_assert_int_eq(ftruncate(fd, cut_to), 0);
	n = syscall(SYS_pread64, fd, buffer, n_bytes, offset);
	n_read_bytes += n > 0 ? (uint64_t)n : 0;
	return n;
}

/* An image of two commits, and what it holds after each. */
static struct {
	int fd;
	uint64_t sizes[2];
	unsigned char contents[2][N_PAGES * PAGE];
	unsigned char *bytes; /* of the file */
} twice;

static void fill(unsigned char *content, unsigned int seed, enum image_codec codec)
{
	for (unsigned int i = 0; i < N_PAGES; i++) {
		if ((i + seed) % 5 == 0)
			memset(content + i * PAGE, 0, PAGE);
		else if ((i + seed) % 2)
			for (unsigned int j = 0; j < PAGE; j++)
				content[i * PAGE + j] = (unsigned char)(j / 64 + i * seed);
	}
	if (codec == IMAGE_RAW)
		memset(content, 0, (N_PAGES - 3) * PAGE); /* smaller: each byte is tried */
}

static void make_twice(enum image_codec codec)
{
	struct image_writer_opts opts = { .codec = codec };
	struct image_writer *writer = NULL;
	uint32_t memory;

	twice.fd = memfd_create("image", MFD_CLOEXEC);
	ck_assert_int_eq(image_writer_new(&writer, twice.fd, &opts), 0);
	ck_assert_int_eq(
		image_writer_add_memory(writer, "ram", N_PAGES * PAGE, PAGE, IMAGE_SHMEM, &memory),
		0);
	for (unsigned int i = 0; i < 2; i++) {
		if (i)
			memcpy(twice.contents[1], twice.contents[0], sizeof(twice.contents[0]));
		fill(twice.contents[i], i + 1, codec);
		ck_assert_int_eq(image_writer_pages(writer, memory, 0, twice.contents[i], N_PAGES),
				 0);
		ck_assert_int_eq(image_writer_commit(writer, NULL), 0);
		twice.sizes[i] = (uint64_t)lseek(twice.fd, 0, SEEK_END);
	}
	ck_assert(memcmp(twice.contents[0], twice.contents[1], sizeof(twice.contents[0])));
	image_writer_free(writer);
	twice.bytes = malloc(twice.sizes[1]);
	ck_assert_int_eq(pread(twice.fd, twice.bytes, twice.sizes[1], 0), twice.sizes[1]);
}

enum found { NOTHING, OLDER, NEWER, WRONG };

/* What somebody finds who opens it now, and reads all of it. */
static enum found look(const char **ret_error)
{
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = NULL;
	_cleanup_(image_unrefp) struct image *image = NULL;
	static unsigned char bytes[N_PAGES * PAGE];

	*ret_error = NULL;
	if (image_open(&image, "torn.ufdi", twice.fd, NULL, ret_error) < 0)
		return NOTHING;
	if (image_cursor_new(&cursor, image) < 0)
		return WRONG;
	if (image_n_memories(image) != 1 || image_memory(image, 0)->length_bytes != sizeof(bytes))
		return WRONG;
	if (image_read_pages(cursor, 0, 0, N_PAGES, bytes, ret_error) < 0)
		return NOTHING;
	if (!memcmp(bytes, twice.contents[1], sizeof(bytes)))
		return NEWER;
	return memcmp(bytes, twice.contents[0], sizeof(bytes)) ? WRONG : OLDER;
}

static const enum image_codec codecs[] = { IMAGE_RAW, IMAGE_LZ4, IMAGE_ZSTD };

START_TEST(cut_anywhere_it_is_the_older_or_the_newer_image_or_a_sentence)
{
	unsigned int n_wrong = 0;
	const char *error;

	make_twice(codecs[_i]);
	for (uint64_t size = twice.sizes[1]; size-- > 0;) {
		enum found expected = size < twice.sizes[0] ? NOTHING : OLDER;

		n_wrong += ftruncate(twice.fd, (off_t)size) != 0;
		n_wrong += look(&error) != expected ||
			   (expected == NOTHING && !strstr(error, "torn.ufdi"));
	}
	ck_assert_uint_eq(n_wrong, 0);
	free(twice.bytes);
	close(twice.fd);
}
END_TEST

/* The file is as long as it should be, but its last blocks never came to the disk. */
START_TEST(a_tail_of_zeros_is_the_older_image)
{
	static const unsigned char zeros[512];
	const char *error;

	make_twice(codecs[_i]);
	for (uint64_t at = align_down(twice.sizes[1] - 1, 512); at >= twice.sizes[0]; at -= 512) {
		ck_assert_int_gt(
			pwrite(twice.fd, zeros, min_u64(512, twice.sizes[1] - at), (off_t)at), 0);
		ck_assert_int_eq(look(&error), OLDER);
	}
	free(twice.bytes);
	close(twice.fd);
}
END_TEST

/* A flipped bit never makes it the older one, either. */
START_TEST(a_flipped_bit_anywhere_is_told_or_harmless)
{
	unsigned int n_wrong = 0, n_told = 0;
	const char *error;

	make_twice(codecs[_i]);
	for (uint64_t at = 0; at < twice.sizes[1]; at++) {
		unsigned char byte = twice.bytes[at] ^ (unsigned char)(1u << at % 8);
		enum found found;

		n_wrong += pwrite(twice.fd, &byte, 1, (off_t)at) != 1;
		found = look(&error);
		n_wrong += found != NEWER && (found != NOTHING || !strstr(error, "torn.ufdi"));
		n_told += found == NOTHING;
		n_wrong += pwrite(twice.fd, twice.bytes + at, 1, (off_t)at) != 1;
	}
	ck_assert_uint_eq(n_wrong, 0);
	ck_assert_uint_gt(n_told, 1000);
	ck_assert_int_eq(look(&error), NEWER);
	free(twice.bytes);
	close(twice.fd);
}
END_TEST

/* A guest may have the image of another one in its memory, or an older copy of this one: its bytes are no end. */
START_TEST(a_footer_among_the_guests_bytes_is_not_believed)
{
	struct image_writer_opts opts = {};
	struct image_writer *writer = NULL;
	const char *error;
	uint32_t memory;

	make_twice(IMAGE_RAW);
	ck_assert_int_eq(lseek(twice.fd, 0, SEEK_SET), 0);
	ck_assert_int_eq(image_writer_append(&writer, twice.fd, &opts, &error), 0);
	ck_assert_int_eq(
		image_writer_add_memory(writer, "disk", 16 * PAGE, PAGE, IMAGE_SHMEM, &memory), 0);
	/* its own footers, and everything else of it; then nobody finishes */
	for (unsigned int i = 0; (i + 1) * PAGE <= twice.sizes[1] && i < 16; i++)
		ck_assert_int_eq(image_writer_pages(writer, memory, i, twice.bytes + i * PAGE, 1),
				 0);
	ck_assert_int_eq(image_writer_pages(writer, memory, 0, twice.bytes, 1), 0);
	image_writer_free(writer);
	ck_assert_int_eq(pwrite(twice.fd, twice.bytes, twice.sizes[1], (off_t)twice.sizes[1]),
			 twice.sizes[1]);
	ck_assert_int_eq(look(&error), NEWER);
	free(twice.bytes);
	close(twice.fd);
}
END_TEST

/* An appender begins by cutting off what a crash has left. */
START_TEST(who_looks_while_the_tail_is_cut_finds_the_end)
{
	const char *error;

	make_twice(IMAGE_LZ4);
	ck_assert_int_eq(ftruncate(twice.fd, (off_t)twice.sizes[1] + 100 * PAGE), 0);
	cut_to = (off_t)twice.sizes[1];
	ck_assert_int_eq(look(&error), NEWER);
	free(twice.bytes);
	close(twice.fd);
}
END_TEST

/* ---- long ones ---- */

static void put_noise(struct image_writer *writer, uint32_t memory, uint64_t n_pages,
		      unsigned int seed)
{
	static unsigned char pages[64 * PAGE];

	for (uint64_t i = 0; i < n_pages; i += 64) {
		for (uint64_t j = 0; j < sizeof(pages); j += 4)
			*(uint32_t *)(void *)(pages + j) = seed = seed * 1664525 + 1013904223;
		ck_assert_int_eq(image_writer_pages(writer, memory, i, pages, 64), 0);
	}
}

START_TEST(the_end_is_found_in_a_stride_however_much_a_crash_left)
{
	struct image_writer_opts opts = {};
	struct image_writer *writer = NULL;
	struct image *image = NULL;
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint8_t digest[IMAGE_DIGEST_BYTES];
	const char *error = "";
	uint32_t memory;

	ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
	ck_assert_int_eq(
		image_writer_add_memory(writer, "ram", 16384 * PAGE, PAGE, IMAGE_SHMEM, &memory),
		0);
	put_noise(writer, memory, 9000, 1);
	ck_assert_int_eq(image_writer_commit(writer, digest), 0);
	put_noise(writer, memory, 16384, 2);
	image_writer_free(writer);

	n_read_bytes = 0;
	ck_assert_msg(image_open(&image, "x", fd, NULL, &error) == 0, "%s", error);
	ck_assert(!memcmp(image_digest(image), digest, sizeof(digest)));
	ck_assert_uint_lt(n_read_bytes, IMAGE_STRIDE + MIB);
	image_unref(image);

	/* and with the last mark in ruins */
	ck_assert_int_eq(
		pwrite(fd, &fd, sizeof(fd),
		       (off_t)align_down((uint64_t)lseek(fd, 0, SEEK_END) - 1, IMAGE_STRIDE) + 50),
		sizeof(fd));
	ck_assert_msg(image_open(&image, "x", fd, NULL, &error) == 0, "%s", error);
	ck_assert(!memcmp(image_digest(image), digest, sizeof(digest)));
	image_unref(image);
	close(fd);
}
END_TEST

/* Whoever passes such a file must not keep us busy for as long as it is. */
START_TEST(a_long_file_without_marks_is_not_searched_for_ever)
{
	struct image *image = NULL;
	const char *error = "";

	make_twice(IMAGE_LZ4);
	ck_assert_int_eq(ftruncate(twice.fd, (off_t)(100 * MIB)), 0);
	ck_assert_int_eq(look(&error), NEWER);
	ck_assert_int_eq(ftruncate(twice.fd, (off_t)(8 * GIB)), 0);
	n_read_bytes = 0;
	ck_assert_int_eq(image_open(&image, "x", twice.fd, NULL, &error), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(error, "no end"));
	ck_assert_uint_lt(n_read_bytes, 2 * GIB);
	free(twice.bytes);
	close(twice.fd);
}
END_TEST

/* Every second page of a layer is zero: runs of more than a stride. */
START_TEST(an_index_goes_on_behind_a_mark)
{
	const struct image_parent parent = { .digest = { 1 }, .hint = "nowhere" };
	const struct image_open_opts alone = { .without_chain = true };
	struct image_writer_opts opts = { .parent = &parent };
	const uint64_t n_pages = 2 * 1100000;
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct image_writer *writer = NULL;
	struct image *image = NULL;
	const char *error = "";
	uint32_t memory, n_wrong = 0;
	uint64_t n;

	ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
	ck_assert_int_eq(
		image_writer_add_memory(writer, "ram", n_pages * PAGE, PAGE, IMAGE_SHMEM, &memory),
		0);
	for (uint64_t i = 0; i < n_pages; i += 2)
		n_wrong += image_writer_zero(writer, memory, i, 1) != 0;
	ck_assert_int_eq(image_writer_commit(writer, NULL), 0);
	image_writer_free(writer);
	ck_assert_int_gt(lseek(fd, 0, SEEK_END), IMAGE_STRIDE);
	ck_assert_msg(image_open(&image, "x", fd, &alone, &error) == 0, "%s", error);
	for (uint64_t i = 0; i < n_pages; i++)
		n_wrong += image_extent(image, 0, i, 1, &n) !=
			   (i % 2 ? IMAGE_PLACE_ABSENT : IMAGE_PLACE_ZERO);
	ck_assert_uint_eq(n_wrong, 0);
	image_unref(image);
	close(fd);
}
END_TEST

START_TEST(what_is_no_image_is_told)
{
	char text[8192] = "hello";
	struct image *image = NULL;
	const char *error = "";
	int fd = memfd_create("image", MFD_CLOEXEC), ends[2];

	ck_assert_int_eq(image_open(&image, "x", fd, NULL, &error), -EBADMSG);
	ck_assert_int_eq(write(fd, text, sizeof(text)), sizeof(text));
	ck_assert_int_eq(image_open(&image, "x", fd, NULL, &error), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(error, "no .ufdi image"));
	ck_assert_int_eq(image_open(&image, "/nowhere", -1, NULL, &error), -ENOENT);
	ck_assert_ptr_nonnull(strstr(error, "/nowhere"));
	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_eq(image_open(&image, "x", ends[0], NULL, &error), -ESPIPE);
	ck_assert_ptr_null(image);
	close(ends[0]);
	close(ends[1]);
	close(fd);
}
END_TEST

START_TEST(a_newer_layout_is_refused_by_name)
{
	struct image_header *header;
	struct image *image = NULL;
	const char *error = "";

	make_twice(IMAGE_LZ4);
	header = (struct image_header *)twice.bytes;
	header->layout = header->min_reader = IMAGE_LAYOUT + 1;
	header->checksum = XXH3_64bits(header, offsetof(struct image_header, checksum));
	ck_assert_int_eq(pwrite(twice.fd, header, sizeof(*header), 0), sizeof(*header));
	ck_assert_int_eq(image_open(&image, "x", twice.fd, NULL, &error), -EPROTONOSUPPORT);
	ck_assert_ptr_nonnull(strstr(error, "newer release"));
	/* a newer writer whose images older readers understand */
	header->min_reader = IMAGE_LAYOUT;
	header->checksum = XXH3_64bits(header, offsetof(struct image_header, checksum));
	ck_assert_int_eq(pwrite(twice.fd, header, sizeof(*header), 0), sizeof(*header));
	ck_assert_int_eq(look(&error), NEWER);
	free(twice.bytes);
	close(twice.fd);
}
END_TEST

int main(void)
{
	return unit_run(
		"image-end",
		(struct unit_test[]){
			UNIT_TABLE(cut_anywhere_it_is_the_older_or_the_newer_image_or_a_sentence,
				   codecs),
			UNIT_TABLE(a_tail_of_zeros_is_the_older_image, codecs),
			UNIT_TABLE(a_flipped_bit_anywhere_is_told_or_harmless, codecs),
			UNIT(a_footer_among_the_guests_bytes_is_not_believed),
			UNIT(who_looks_while_the_tail_is_cut_finds_the_end),
			UNIT(the_end_is_found_in_a_stride_however_much_a_crash_left),
			UNIT(a_long_file_without_marks_is_not_searched_for_ever),
			UNIT(an_index_goes_on_behind_a_mark),
			UNIT(what_is_no_image_is_told),
			UNIT(a_newer_layout_is_refused_by_name),
			{},
		});
}
