/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images that were written once are read for ever: tests/compat. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "image/image-foreign.h"
#include "image/image-info.h"
#include "support/unit.h"

#define PAGE	4096
#define N_PAGES 20

static unsigned char before[N_PAGES * PAGE], after[N_PAGES * PAGE];

static const char *path_of(const char *name)
{
	static char paths[8][4096];
	static unsigned int next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/tests/compat/%s", getenv("SOURCE_ROOT"), name);
	return path;
}

static void read_file(const char *name, unsigned char *bytes, size_t n_bytes)
{
	_cleanup_(closep) int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);

	ck_assert_msg(fd >= 0, "%s: %m", path_of(name));
	ck_assert_int_eq(read(fd, bytes, n_bytes), n_bytes);
}

/* What the memories are, as the files without any format say. */
static void read_memories(void)
{
	read_file("firecracker-1/memory", before, sizeof(before));
	read_file("cloud-hypervisor-1/memory-ranges", after, sizeof(after));
	ck_assert(memcmp(before, after, sizeof(before)));
}

static void check(struct image *image, const char *name, const unsigned char *expected)
{
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = NULL;
	static unsigned char bytes[N_PAGES * PAGE];
	const char *why = "";
	uint32_t memory;

	ck_assert(image_find_memory(image, name, &memory));
	ck_assert_uint_eq(image_memory(image, memory)->length_bytes, sizeof(bytes));
	ck_assert_int_eq(image_cursor_new(&cursor, image), 0);
	ck_assert_msg(image_read_pages(cursor, memory, 0, N_PAGES, bytes, &why) == 0, "%s", why);
	ck_assert(!memcmp(bytes, expected, sizeof(bytes)));
}

static const struct {
	const char *file, *memory, *digest;
	bool is_after;
	uint32_t n_layers;
} images[] = {
	{ "image-1/none.ufdi", "memory", "e733cfb6527ea27e8b5d656420191e1c", false, 1 },
	{ "image-1/lz4.ufdi", "memory", "eb0b7a272b0efe4d0f1125529fdd0d3d", false, 1 },
	{ "image-1/zstd.ufdi", "memory", "f422d4cbc7a26ac1f0a54be6cd8f9c6b", false, 1 },
	{ "image-1/layer.ufdi", "memory", "c84cdca9aec7ef014904b53bb059bf48", true, 2 },
	{ "image-1/twice.ufdi", "ram0", "88abe11fd586f35866b8ea9b9d9b4cff", true, 1 },
};

START_TEST(an_image_of_layout_1_is_read)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	char digest[IMAGE_DIGEST_TEXT];
	const char *why = "";

	read_memories();
	ck_assert_msg(image_open(&image, path_of(images[_i].file), -1, NULL, &why) == 0, "%s", why);
	image_digest_text(image_digest(image), digest);
	ck_assert_str_eq(digest, images[_i].digest);
	ck_assert_uint_eq(image_n_layers(image), images[_i].n_layers);
	check(image, images[_i].memory, images[_i].is_after ? after : before);
}
END_TEST

START_TEST(an_older_commit_is_read_by_its_digest)
{
	_cleanup_(image_unrefp) struct image *image = NULL, *older = NULL;
	struct image_open_opts opts = {};
	struct image_layer_info info;
	uint8_t digest[IMAGE_DIGEST_BYTES];
	const char *why = "";
	uint32_t memory;

	read_memories();
	ck_assert_int_eq(image_open(&image, path_of("image-1/twice.ufdi"), -1, NULL, &why), 0);
	image_get_layer(image, 0, &info);
	ck_assert_uint_eq(info.generation, 2);
	ck_assert(image_find_memory(image, "huge", &memory));
	ck_assert_uint_eq(image_memory(image, memory)->page_bytes, 2 << 20);
	ck_assert_int_eq(image_memory(image, memory)->kind, IMAGE_HUGETLB);
	ck_assert(image_digest_parse("9c81dbc76f19226f74dcdda23838183c", digest));
	opts.digest = digest;
	ck_assert_msg(image_open(&older, path_of("image-1/twice.ufdi"), -1, &opts, &why) == 0, "%s",
		      why);
	image_get_layer(older, 0, &info);
	ck_assert_uint_eq(info.generation, 1);
	check(older, "ram0", before);
	check(image, "ram0", after);
}
END_TEST

/* The difference as a sparse file; a clone would not have kept its holes. */
static void make_difference(char path[64])
{
	_cleanup_(fclosep) FILE *numbers = fopen(path_of("firecracker-1/changed.pages"), "re");
	_cleanup_(closep) int in = open(path_of("firecracker-1/changed"), O_RDONLY | O_CLOEXEC);
	unsigned char page[PAGE];
	unsigned int number;
	int fd;

	strcpy(path, "/tmp/test-image-compat-XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	ck_assert(numbers && in >= 0 && fd >= 0);
	ck_assert_int_eq(ftruncate(fd, sizeof(before)), 0);
	while (fscanf(numbers, "%u", &number) == 1) {
		ck_assert_int_eq(read(in, page, PAGE), PAGE);
		ck_assert_int_eq(pwrite(fd, page, PAGE, (off_t)number * PAGE), PAGE);
	}
	close(fd);
}

START_TEST(files_of_firecracker_are_read_in_layers)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	char difference[64];
	const char *paths[] = { path_of("firecracker-1/memory"), difference };
	const char *why = "";

	read_memories();
	make_difference(difference);
	ck_assert_msg(image_open_foreign(&image, IMAGE_FIRECRACKER, paths, 2, -1, &why) == 0, "%s",
		      why);
	check(image, "memory", after);
	image = image_unref(image);
	ck_assert_int_eq(image_open_foreign(&image, IMAGE_FIRECRACKER, paths, 1, -1, &why), 0);
	check(image, "memory", before);
	ck_assert_int_eq(unlink(difference), 0);
}
END_TEST

START_TEST(memory_ranges_of_cloud_hypervisor_are_read)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	const char *path = path_of("cloud-hypervisor-1"), *why = "";

	read_memories();
	ck_assert_msg(image_open_foreign(&image, IMAGE_CLOUD_HYPERVISOR, &path, 1, -1, &why) == 0,
		      "%s", why);
	check(image, "memory", after);
}
END_TEST

int main(void)
{
	return unit_run("image-compat", (struct unit_test[]){
						UNIT_TABLE(an_image_of_layout_1_is_read, images),
						UNIT(an_older_commit_is_read_by_its_digest),
						UNIT(files_of_firecracker_are_read_in_layers),
						UNIT(memory_ranges_of_cloud_hypervisor_are_read),
						{},
					});
}
