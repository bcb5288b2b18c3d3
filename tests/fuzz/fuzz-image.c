/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz target: images, and memory files of others. The first byte says what the rest is:
 *
 *	f	a .ufdi file, byte for byte
 *	i	an index (ufd-image(5)), which gets a file, a footer and checksums that fit
 *	s	what follows `image:,` in a SPEC
 *	r	a base and a difference: offset and length in pages, a byte each, in turn
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "fuzz/fuzz.h"
#include "image/image-foreign.h"
#include "image/image-info.h"
#include "image/image-source.h"

#define PAGE	    4096
#define MOST_BLOCKS (UINT64_C(1) << 20) /* looked at in each memory */
#define DATA_BYTES  (64 * 1024)
#define N_PAGES	    256

static const struct image_open_opts alone = { .without_chain = true };

static int new_file(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	FUZZ_ASSERT(fd >= 0);
	return fd;
}

/* Every place is within what it says, and everything can be read or is refused by a sentence. */
static void look_memory(struct image *image, uint32_t number, struct image_cursor *cursor)
{
	const struct image_memory *memory = image_memory(image, number);
	uint64_t n_blocks = memory->length_bytes / IMAGE_BLOCK_BYTES;
	static unsigned char page[2 * MIB];
	struct image_place place;
	const char *why;

	FUZZ_ASSERT(memory->name[0] && strlen(memory->name) < IMAGE_NAME_BYTES);
	n_blocks = min_u64(n_blocks, MOST_BLOCKS);
	for (uint64_t block = 0; block < n_blocks; block += place.n_blocks) {
		image_locate(image, number, block, n_blocks - block, &place);
		FUZZ_ASSERT(place.n_blocks > 0 && place.n_blocks <= n_blocks - block);
		if (place.kind != IMAGE_PLACE_DATA)
			continue;
		FUZZ_ASSERT(place.frame_block + place.n_blocks <= place.frame_blocks);
		FUZZ_ASSERT(place.stored_bytes <= (uint64_t)place.frame_blocks * PAGE);
		if (memory->page_bytes > sizeof(page))
			continue;
		why = NULL;
		if (image_read_pages(cursor, number, block * PAGE / memory->page_bytes, 1, page,
				     &why) < 0)
			FUZZ_ASSERT(why && why[0]);
	}
}

static void look(struct image *image)
{
	struct image_cursor *cursor = NULL;
	struct image_layer_info info;
	uint32_t found;

	FUZZ_ASSERT(image_cursor_new(&cursor, image) == 0);
	for (uint32_t i = 0; i < image_n_memories(image); i++) {
		look_memory(image, i, cursor);
		FUZZ_ASSERT(image_find_memory(image, image_memory(image, i)->name, &found) &&
			    found == i);
	}
	for (uint32_t i = 0; i < image_n_layers(image); i++)
		image_get_layer(image, i, &info);
	image_cursor_free(cursor);
}

static void look_file(int fd)
{
	struct image *image = NULL;
	const char *why = NULL;

	if (image_open(&image, "fuzzed", fd, &alone, &why) < 0) {
		FUZZ_ASSERT(!image && why && strstr(why, "fuzzed"));
		return;
	}
	look(image);
	image_unref(image);
}

/* ---- an index ---- */

static void put(int fd, const void *bytes, uint64_t n_bytes, uint64_t offset)
{
	if (n_bytes)
		FUZZ_ASSERT(pwrite(fd, bytes, n_bytes, (off_t)offset) == (ssize_t)n_bytes);
}

static void put_index(int fd, const uint8_t *bytes, size_t n_bytes)
{
	struct image_header header = { .magic = IMAGE_MAGIC,
				       .layout = IMAGE_LAYOUT,
				       .min_reader = IMAGE_LAYOUT };
	struct image_footer footer = { .magic = IMAGE_FOOTER_MAGIC, .index_bytes = n_bytes };
	const struct image_index_head *head = (const void *)bytes;
	static unsigned char data[DATA_BYTES];
	XXH128_canonical_t digest;

	if (n_bytes >= sizeof(*head)) {
		memcpy(header.id, head->id, sizeof(header.id));
		footer.generation = head->generation;
	}
	memcpy(footer.id, header.id, sizeof(header.id));
	header.checksum = XXH3_64bits(&header, offsetof(struct image_header, checksum));
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)(i / 7);
	footer.index_offset = IMAGE_HEADER_BYTES + sizeof(data);
	footer.offset = align_up(footer.index_offset + n_bytes, IMAGE_ALIGN);
	XXH128_canonicalFromHash(&digest, XXH3_128bits(bytes, n_bytes));
	memcpy(footer.digest, digest.digest, sizeof(footer.digest));
	footer.checksum = XXH3_64bits(&footer, offsetof(struct image_footer, checksum));
	put(fd, &header, sizeof(header), 0);
	put(fd, data, sizeof(data), IMAGE_HEADER_BYTES);
	put(fd, bytes, n_bytes, footer.index_offset);
	put(fd, &footer, sizeof(footer), footer.offset);
}

static void run_index(const uint8_t *bytes, size_t n_bytes)
{
	/* in a copy: the structs of an index are aligned */
	uint8_t *copy = malloc(n_bytes + 1);
	int fd = new_file();

	FUZZ_ASSERT(copy);
	memcpy(copy, bytes, n_bytes);
	put_index(fd, copy, n_bytes);
	look_file(fd);
	free(copy);
	close(fd);
}

/* ---- a SPEC ---- */

static void run_spec(const uint8_t *bytes, size_t n_bytes)
{
	struct source *source = NULL;
	const char *why = NULL;
	int fd = new_file();
	char *spec;

	FUZZ_ASSERT(asprintf(&spec, "image:,%.*s", (int)n_bytes, (const char *)bytes) > 0);
	FUZZ_ASSERT(image_source_open(&source, spec, fd, &why) < 0 && why && !source);
	free(spec);
	close(fd);
}

/* ---- a base and a difference ---- */

static void run_layers(const uint8_t *bytes, size_t n_bytes)
{
	static unsigned char model[N_PAGES * PAGE], read_back[N_PAGES * PAGE], page[PAGE];
	char paths[2][32];
	const char *names[2] = { paths[0], paths[1] };
	int fds[2] = { new_file(), new_file() };
	struct image_cursor *cursor = NULL;
	struct image *image = NULL;
	const char *why = NULL;

	memset(model, 0, sizeof(model));
	for (unsigned int i = 0; i < 2; i++) {
		FUZZ_ASSERT(ftruncate(fds[i], sizeof(model)) == 0);
		snprintf(paths[i], sizeof(paths[i]), "/proc/self/fd/%d", fds[i]);
	}
	for (size_t i = 0; i + 1 < n_bytes; i += 2) {
		unsigned int side = i * 2 >= n_bytes;
		size_t first = bytes[i], n = min_u64(bytes[i + 1] % 16, N_PAGES - first);

		memset(page, (int)i + 1, sizeof(page));
		for (size_t j = first; j < first + n; j++) {
			put(fds[side], page, PAGE, j * PAGE);
			memcpy(model + j * PAGE, page, PAGE);
		}
	}
	FUZZ_ASSERT(image_open_foreign(&image, IMAGE_FIRECRACKER, names, 2, -1, &why) == 0);
	FUZZ_ASSERT(image_cursor_new(&cursor, image) == 0);
	FUZZ_ASSERT(image_read_pages(cursor, 0, 0, N_PAGES, read_back, &why) == 0);
	FUZZ_ASSERT(memcmp(model, read_back, sizeof(model)) == 0);
	look(image);
	image_cursor_free(cursor);
	image_unref(image);
	close(fds[0]);
	close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	int fd;

	switch (n_bytes ? bytes[0] : 0) {
	case 'f':
		fd = new_file();
		put(fd, bytes + 1, n_bytes - 1, 0);
		look_file(fd);
		close(fd);
		break;
	case 'i':
		run_index(bytes + 1, n_bytes - 1);
		break;
	case 's':
		run_spec(bytes + 1, n_bytes - 1);
		break;
	case 'r':
		run_layers(bytes + 1, n_bytes - 1);
		break;
	}
	return 0;
}
