/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The last footer of an image. */
#include "image/image-end.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "image/image-error.h"

#define PIECE_BYTES (64 * 1024)
#define MOST_STRIDES \
	64 /* without a mark, behind the last one: what a crash may have lost of the file */

enum { _FOUND, NOTHING, BROKEN };

int image_read_at(int fd, void *buffer, uint64_t n_bytes, uint64_t offset)
{
	unsigned char *to = buffer;

	while (n_bytes) {
		ssize_t n = pread(fd, to, min_u64(n_bytes, MIB), (off_t)offset);

		if (n == 0)
			return -ENODATA;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 0)
			continue;
		to += n;
		offset += n;
		n_bytes -= n;
	}
	return 0;
}

/* Return: 0, -EBADMSG, -EPROTONOSUPPORT, -errno. */
static int read_header(int fd, const char *name, struct image_header *ret, const char **ret_error)
{
	struct image_header header;
	int r = image_read_at(fd, &header, sizeof(header), 0);

	if (r == -ENODATA || (r == 0 && memcmp(header.magic, IMAGE_MAGIC, sizeof(header.magic))))
		return image_fail(ret_error, -EBADMSG, "%s is no .ufdi image", name);
	if (r < 0)
		return image_fail(ret_error, r, "%s cannot be read: %s", name, strerror(-r));
	if (header.checksum != XXH3_64bits(&header, offsetof(struct image_header, checksum)))
		return image_fail(ret_error, -EBADMSG,
				  "the header of %s is damaged (offset 0); take another copy of it",
				  name);
	if (header.min_reader > IMAGE_LAYOUT)
		return image_fail(ret_error, -EPROTONOSUPPORT,
				  "%s has layout %u, which needs a newer release (this one reads "
				  "%u)",
				  name, header.min_reader, IMAGE_LAYOUT);
	*ret = header;
	return 0;
}

/* What lies at @offset. A copy of a footer that belongs elsewhere is the guest's bytes. */
static int judge(const struct image_header *header, const struct image_footer *footer,
		 uint64_t offset)
{
	bool is_sound = footer->checksum ==
			XXH3_64bits(footer, offsetof(struct image_footer, checksum));
	bool has_magic = !memcmp(footer->magic, IMAGE_FOOTER_MAGIC, sizeof(footer->magic));
	bool has_id = !memcmp(footer->id, header->id, sizeof(header->id));
	bool has_offset = footer->offset == offset;

	if (is_sound)
		return has_magic && has_id && has_offset ? _FOUND : NOTHING;
	return has_magic + has_id + has_offset >= 2 ? BROKEN : NOTHING;
}

static int read_footer(int fd, const struct image_header *header, uint64_t offset,
		       struct image_footer *ret)
{
	int r = image_read_at(fd, ret, sizeof(*ret), offset);

	if (r < 0)
		return r == -ENODATA ? BROKEN : r;
	return judge(header, ret, offset) == _FOUND ? _FOUND : BROKEN;
}

/* The last footer that begins from @start on and ends by @end. Return: the outcome, or -errno. */
static int scan(int fd, const struct image_header *header, uint64_t start, uint64_t end,
		struct image_footer *ret)
{
	unsigned char piece[PIECE_BYTES];

	end = align_down(end, IMAGE_ALIGN);
	while (end > start) {
		uint64_t first = end - start > PIECE_BYTES ? end - PIECE_BYTES : start;
		int r = image_read_at(fd, piece, end - first, first);

		if (r < 0)
			return r;
		for (uint64_t at = end; at > first; at -= IMAGE_ALIGN) {
			struct image_footer footer;

			/* a mark looks like a broken footer */
			if (is_aligned(at - IMAGE_ALIGN, IMAGE_STRIDE))
				continue;
			memcpy(&footer, piece + (at - IMAGE_ALIGN - first), sizeof(footer));
			r = judge(header, &footer, at - IMAGE_ALIGN);
			if (r == NOTHING)
				continue;
			*ret = footer;
			return r;
		}
		end = first;
	}
	return NOTHING;
}

/*
 * By the mark at @offset. Return: the outcome (NOTHING: no footer before it), BROKEN: there is no
 * mark, -errno.
 */
static int read_mark(int fd, const struct image_header *header, uint64_t offset, uint64_t *ret)
{
	struct image_mark mark;
	int r = image_read_at(fd, &mark, sizeof(mark), offset);

	if (r < 0)
		return r == -ENODATA ? BROKEN : r;
	if (memcmp(mark.magic, IMAGE_MARK_MAGIC, sizeof(mark.magic)) ||
	    memcmp(mark.id, header->id, sizeof(mark.id)) || mark.offset != offset ||
	    mark.checksum != XXH3_64bits(&mark, offsetof(struct image_mark, checksum)))
		return BROKEN;
	*ret = mark.footer;
	return mark.footer ? _FOUND : NOTHING;
}

/*
 * From the end of the file backwards, a stride at a time, until a mark says where to look. A
 * stranger's file may be endless holes: then it has no end.
 */
static int find_last(int fd, const struct image_header *header, uint64_t size,
		     struct image_footer *ret)
{
	uint64_t end = size, at;

	for (unsigned int i = 0; i < MOST_STRIDES && end > IMAGE_HEADER_BYTES; i++) {
		uint64_t start = align_down(end - 1, IMAGE_STRIDE);
		int r = scan(fd, header, max_u64(start, IMAGE_HEADER_BYTES), end, ret);

		if (r != NOTHING || start == 0)
			return r;
		r = read_mark(fd, header, start, &at);
		if (r == _FOUND)
			return read_footer(fd, header, at, ret);
		if (r != BROKEN)
			return r;
		end = start;
	}
	return NOTHING;
}

/* The commit with this digest: @footer's or one before. Return: 0, -EBADMSG, -ESTALE, -errno. */
static int find_digest(int fd, const struct image_header *header, const char *name,
		       const uint8_t *digest, struct image_footer *footer, const char **ret_error)
{
	while (memcmp(footer->digest, digest, IMAGE_DIGEST_BYTES)) {
		uint64_t at = footer->offset;
		int r;

		if (!footer->previous)
			return image_fail(ret_error, -ESTALE,
					  "%s is another image than the one that was asked for",
					  name);
		r = footer->previous < at ? read_footer(fd, header, footer->previous, footer)
					  : BROKEN;
		if (r < 0)
			return image_fail(ret_error, r, "%s cannot be read: %s", name,
					  strerror(-r));
		if (r != _FOUND)
			return image_fail(ret_error, -EBADMSG,
					  "%s: an older footer, before offset %llu, is damaged",
					  name, (unsigned long long)at);
	}
	return 0;
}

/* Return: -EBADMSG. */
static int tell_broken(const char *name, const struct image_footer *footer, int outcome,
		       const char **ret_error)
{
	if (outcome == NOTHING)
		return image_fail(ret_error, -EBADMSG,
				  "%s has no end: whoever wrote it never finished; write it again",
				  name);
	return image_fail(
		ret_error, -EBADMSG,
		"the last footer of %s is damaged (before offset %llu); take another copy "
		"of it",
		name, (unsigned long long)footer->offset);
}

int image_end_find(int fd, const char *name, const uint8_t *digest, struct image_end *ret,
		   const char **ret_error)
{
	struct image_end end = {};
	unsigned int n_tries = 0;
	struct stat info;
	int r;

	if (fstat(fd, &info) < 0)
		return image_fail(ret_error, -errno, "%s: %s", name, strerror(errno));
	if (!S_ISREG(info.st_mode))
		return image_fail(ret_error, -ESPIPE,
				  "%s is no regular file, and images are read from their end",
				  name);
	r = read_header(fd, name, &end.header, ret_error);
	if (r < 0)
		return r;
	/* who appends begins by cutting off what a crash has left */
	do {
		r = fstat(fd, &info) < 0
			    ? -errno
			    : find_last(fd, &end.header, (uint64_t)info.st_size, &end.footer);
	} while (r == -ENODATA && n_tries++ < 3);
	if (r < 0)
		return image_fail(ret_error, r, "%s cannot be read: %s", name, strerror(-r));
	if (r != _FOUND)
		return tell_broken(name, &end.footer, r, ret_error);
	r = digest ? find_digest(fd, &end.header, name, digest, &end.footer, ret_error) : 0;
	if (r < 0)
		return r;
	end.end = end.footer.offset + sizeof(end.footer);
	*ret = end;
	return 0;
}
