/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ledger: the file, its head, its areas. */
#include "guest/ledger.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "guest/flight.h"
#include "guest/records.h"

#define MAGIC	    UINT64_C(0x726567646c646675) /* "ufdldger" */
#define NAME_LENGTH LEDGER_NAME_BYTES
#define AREA_ALIGN  (64 * KIB)
#define MAX_BYTES   (UINT64_C(1) << 52)

#define MESSAGES_AT (4 * KIB)
#define SCAN_AT	    (8 * KIB)
#define BOARD_AT    (SCAN_AT + LEDGER_SCAN_BYTES)
#define FLIGHT_AT   (BOARD_AT + 4 * KIB)
#define RECORDS_AT  (FLIGHT_AT + 68 * KIB)
#define FIXED_BYTES (RECORDS_AT + 2 * LEDGER_RECORD_BYTES)

/*
 * Every layout begins with these fields, so that any reader can refuse any other. Written once, but
 * for @min_reader: the number, and its complement above it, so that one store changes both and no
 * crash leaves a half of each.
 */
struct header {
	uint64_t magic;
	uint64_t checksum; /* of all from here to @min_reader */
	uint32_t layout;
	uint32_t unused;
	uint64_t length_bytes; /* of the fixed parts */
	char guest_name[NAME_LENGTH];
	_Atomic uint64_t min_reader;
	uint64_t reserved[3];
};

static_assert(sizeof(struct ledger_messages) <= SCAN_AT - MESSAGES_AT,
	      "messages outgrew their page");
static_assert(sizeof(struct flight) <= RECORDS_AT - FLIGHT_AT,
	      "the flight recorder outgrew its part");

#define N_AREAS_MOST 1024 /* each is a mapping, of which a process may have 65,530 */

struct area {
	void *start;
	uint64_t offset;
	uint64_t length_bytes;
	bool is_free; /* all zero */
};

struct ledger {
	int fd;		       /* owned */
	unsigned char *fixed;  /* owned mapping of FIXED_BYTES; NULL if there is none yet */
	uint64_t length_bytes; /* of the file */
	bool is_file;	       /* in a directory: its parts are allocated when they are made */
	bool is_readonly;
	struct area *areas; /* owned, mappings too */
	uint32_t n_areas;
	pthread_mutex_t lock; /* of @records */
	struct records records;
};

static uint64_t header_checksum(const struct header *header)
{
	return XXH3_64bits(&header->layout,
			   offsetof(struct header, min_reader) - offsetof(struct header, layout));
}

static int map(const struct ledger *ledger, uint64_t offset, uint64_t length_bytes, void **ret)
{
	int protection = ledger->is_readonly ? PROT_READ : PROT_READ | PROT_WRITE;
	void *start = mmap(NULL, length_bytes, protection, MAP_SHARED | MAP_NORESERVE, ledger->fd,
			   offset);

	if (start == MAP_FAILED)
		return -errno;

	/* best effort: a kernel without core dumps refuses it */
	(void)madvise(start, length_bytes, MADV_DONTDUMP);
	/* the fault path stores into it: as far as RLIMIT_MEMLOCK allows it stays in memory */
	if (!ledger->is_readonly)
		(void)mlock2(start, length_bytes, MLOCK_ONFAULT);
	*ret = start;
	return 0;
}

static int ledger_alloc(struct ledger **ret)
{
	struct ledger *ledger = calloc(1, sizeof(*ledger));

	if (!ledger)
		return -ENOMEM;
	ledger->fd = -EBADF;
	pthread_mutex_init(&ledger->lock, NULL);
	*ret = ledger;
	return 0;
}

/* Room up to @length_bytes, also on the file system if it may be full. */
static int ledger_grow(struct ledger *ledger, uint64_t length_bytes)
{
	if (ledger->is_file &&
	    fallocate(ledger->fd, 0, ledger->length_bytes, length_bytes - ledger->length_bytes) < 0)
		return -errno;
	if (ftruncate(ledger->fd, length_bytes) < 0)
		return -errno;
	ledger->length_bytes = length_bytes;
	return 0;
}

/* The number and its complement: a value that was half written shows. */
static uint64_t min_reader_of(uint32_t layout)
{
	return layout | (uint64_t)~layout << 32;
}

/* The fixed parts of a new, empty file. */
static int ledger_format(struct ledger *ledger, const char *guest_name)
{
	struct header *header;
	void *fixed = NULL;
	int r;

	r = ledger_grow(ledger, align_up(FIXED_BYTES, AREA_ALIGN));
	if (r == 0)
		r = map(ledger, 0, FIXED_BYTES, &fixed);
	if (r)
		return r;

	ledger->fixed = fixed;
	records_format(&ledger->records, ledger->fixed + RECORDS_AT, LEDGER_RECORD_BYTES);
	header = fixed;
	header->layout = ledger_layout;
	header->min_reader = min_reader_of(ledger_layout);
	header->length_bytes = FIXED_BYTES;
	memcpy(header->guest_name, guest_name, strlen(guest_name));
	header->checksum = header_checksum(header);
	header->magic = MAGIC;
	return 0;
}

int ledger_new(struct ledger **ret, const char *guest_name)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	int r;

	if (strlen(guest_name) >= NAME_LENGTH)
		return -EINVAL;
	r = ledger_alloc(&ledger);
	if (r)
		return r;
	ledger->fd = memfd_create("ufd-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (ledger->fd < 0)
		return -errno;
	r = ledger_format(ledger, guest_name);
	if (r)
		return r;
	if (fcntl(ledger->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return -errno;
	*ret = TAKE_PTR(ledger);
	return 0;
}

void ledger_file_name(const char *guest_name, char ret[static LEDGER_FILE_NAME_BYTES])
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;

	for (const unsigned char *c = (const unsigned char *)guest_name; *c; c++) {
		bool is_plain = *c > ' ' && *c < 0x7f && *c != '/' && *c != '%' &&
				(*c != '.' || n > 0);

		assert(c - (const unsigned char *)guest_name < NAME_LENGTH);
		if (is_plain) {
			ret[n++] = (char)*c;
			continue;
		}
		ret[n++] = '%';
		ret[n++] = hex[*c >> 4];
		ret[n++] = hex[*c & 15];
	}
	memcpy(ret + n, ".ledger", sizeof(".ledger"));
}

int ledger_new_file(struct ledger **ret, const char *guest_name, int directory)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	char name[LEDGER_FILE_NAME_BYTES], new_name[LEDGER_FILE_NAME_BYTES + 4];
	int r;

	if (strlen(guest_name) >= NAME_LENGTH)
		return -EINVAL;
	ledger_file_name(guest_name, name);
	snprintf(new_name, sizeof(new_name), "%s.new", name);
	r = ledger_alloc(&ledger);
	if (r)
		return r;

	/* whole before it has its name */
	ledger->is_file = true;
	(void)unlinkat(directory, new_name, 0);
	ledger->fd = openat(directory, new_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			    0600);
	if (ledger->fd < 0)
		return -errno;
	r = ledger_format(ledger, guest_name);
	if (r == 0 && renameat(directory, new_name, directory, name) < 0)
		r = -errno;
	if (r) {
		(void)unlinkat(directory, new_name, 0);
		return r;
	}
	*ret = TAKE_PTR(ledger);
	return 0;
}

void ledger_unlink(const struct ledger *ledger, int directory)
{
	char name[LEDGER_FILE_NAME_BYTES];
	struct stat own, there;

	ledger_file_name(ledger_guest_name(ledger), name);
	if (fstat(ledger->fd, &own) == 0 &&
	    fstatat(directory, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    own.st_dev == there.st_dev && own.st_ino == there.st_ino)
		(void)unlinkat(directory, name, 0);
}

static int header_check(const struct header *mapped)
{
	struct header header = *mapped;
	uint32_t min_reader = (uint32_t)header.min_reader;

	if (header.magic != MAGIC || header.checksum != header_checksum(&header) ||
	    header.min_reader >> 32 != (uint32_t)~min_reader)
		return LEDGER_DAMAGED;
	if (min_reader > ledger_layout)
		return LEDGER_TOO_NEW;
	if (header.length_bytes != FIXED_BYTES ||
	    !memchr(header.guest_name, '\0', sizeof(header.guest_name)))
		return LEDGER_DAMAGED;
	return 0;
}

/*
 * A file that could shrink under its mapping would be a SIGBUS to come: a memfd must be sealed. Files
 * in a directory cannot be; there nobody but us, or root, may have it open for writing.
 */
static int ledger_check_file(struct ledger *ledger)
{
	struct stat stat;
	int seals = fcntl(ledger->fd, F_GET_SEALS);

	if (fstat(ledger->fd, &stat) < 0)
		return -errno;
	if (seals < 0 || !S_ISREG(stat.st_mode))
		return LEDGER_DAMAGED;
	ledger->is_file = !(seals & F_SEAL_SHRINK);
	if (ledger->is_file &&
	    (stat.st_nlink == 0 || stat.st_mode & (S_IWGRP | S_IWOTH) ||
	     (!ledger->is_readonly && stat.st_uid != geteuid() && stat.st_uid != 0)))
		return LEDGER_DAMAGED;
	if (stat.st_size < (off_t)FIXED_BYTES || stat.st_size > (off_t)MAX_BYTES)
		return LEDGER_DAMAGED;

	ledger->length_bytes = stat.st_size;
	return 0;
}

static int ledger_open(struct ledger **ret, int fd, bool is_readonly)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	void *fixed = NULL;
	int r;

	r = ledger_alloc(&ledger);
	if (r)
		return r;
	ledger->is_readonly = is_readonly;
	ledger->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (ledger->fd < 0)
		return -errno;
	r = ledger_check_file(ledger);
	if (r)
		return r;
	r = map(ledger, 0, FIXED_BYTES, &fixed);
	if (r)
		return r;

	ledger->fixed = fixed;
	r = header_check(fixed);
	if (r)
		return r;
	if (records_open(&ledger->records, ledger->fixed + RECORDS_AT, LEDGER_RECORD_BYTES) ==
	    RECORDS_DAMAGED)
		return LEDGER_DAMAGED;
	*ret = TAKE_PTR(ledger);
	return 0;
}

int ledger_adopt(struct ledger **ret, int fd)
{
	return ledger_open(ret, fd, false);
}

int ledger_open_readonly(struct ledger **ret, int fd)
{
	return ledger_open(ret, fd, true);
}

struct ledger *ledger_free(struct ledger *ledger)
{
	if (!ledger)
		return NULL;

	for (uint32_t i = 0; i < ledger->n_areas; i++)
		munmap(ledger->areas[i].start, ledger->areas[i].length_bytes);
	if (ledger->fixed)
		munmap(ledger->fixed, FIXED_BYTES);
	closep(&ledger->fd);
	pthread_mutex_destroy(&ledger->lock);
	free(ledger->areas);
	free(ledger);
	return NULL;
}

int ledger_fd(const struct ledger *ledger)
{
	return ledger->fd;
}

int ledger_fd_set_min_reader(int fd, uint32_t layout)
{
	const uint64_t min_reader = min_reader_of(layout);
	ssize_t n = pwrite(fd, &min_reader, sizeof(min_reader),
			   offsetof(struct header, min_reader));

	return n < 0 ? -errno : n == sizeof(min_reader) ? 0 : -EIO;
}

int ledger_fd_guest_name(int fd, char ret[static LEDGER_NAME_BYTES])
{
	struct header header;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) || header.magic != MAGIC ||
	    header.checksum != header_checksum(&header) ||
	    !memchr(header.guest_name, '\0', sizeof(header.guest_name)))
		return LEDGER_DAMAGED;
	strcpy(ret, header.guest_name);
	return 0;
}

const char *ledger_guest_name(const struct ledger *ledger)
{
	return ((const struct header *)ledger->fixed)->guest_name;
}

struct ledger_messages *ledger_messages(struct ledger *ledger)
{
	return (struct ledger_messages *)(ledger->fixed + MESSAGES_AT);
}

void *ledger_scan_vector(struct ledger *ledger)
{
	return ledger->fixed + SCAN_AT;
}

struct board *ledger_board(struct ledger *ledger)
{
	return (struct board *)(ledger->fixed + BOARD_AT);
}

struct flight *ledger_flight(struct ledger *ledger)
{
	return (struct flight *)(ledger->fixed + FLIGHT_AT);
}

/* The smallest that is free and large enough; NULL if there is none. */
static struct area *find_free(const struct ledger *ledger, uint64_t length_bytes)
{
	struct area *best = NULL;

	for (uint32_t i = 0; i < ledger->n_areas; i++) {
		struct area *area = &ledger->areas[i];

		if (area->is_free && area->length_bytes >= length_bytes &&
		    (!best || area->length_bytes < best->length_bytes))
			best = area;
	}
	return best;
}

int ledger_add_area(struct ledger *ledger, uint64_t length_bytes, uint64_t *ret_offset,
		    void **ret_area)
{
	uint64_t offset = align_up(ledger->length_bytes, AREA_ALIGN);
	struct area *area;
	int r;

	if (!length_bytes || length_bytes > MAX_BYTES - offset)
		return -EINVAL;
	length_bytes = align_up(length_bytes, AREA_ALIGN);
	area = find_free(ledger, length_bytes);
	if (area) {
		if (ledger->is_file && fallocate(ledger->fd, 0, area->offset, length_bytes) < 0)
			return -errno;
		area->is_free = false;
		*ret_offset = area->offset;
		*ret_area = area->start;
		return 0;
	}
	if (ledger->n_areas >= N_AREAS_MOST)
		return -ENOSPC;
	r = ledger_grow(ledger, offset + length_bytes);
	if (r)
		return r;

	/* should this fail, an area is left that nobody knows */
	r = ledger_map_area(ledger, offset, length_bytes, ret_area);
	if (r)
		return r;
	*ret_offset = offset;
	return 0;
}

void ledger_drop_area(struct ledger *ledger, uint64_t offset)
{
	for (uint32_t i = 0; i < ledger->n_areas; i++) {
		struct area *area = &ledger->areas[i];

		if (area->offset == offset && !area->is_free)
			area->is_free = fallocate(ledger->fd,
						  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						  offset, area->length_bytes) == 0;
	}
}

int ledger_map_area(struct ledger *ledger, uint64_t offset, uint64_t length_bytes, void **ret_area)
{
	struct area *areas;
	int r;

	if (offset < FIXED_BYTES || !is_aligned(offset, AREA_ALIGN) || !length_bytes ||
	    offset > ledger->length_bytes || length_bytes > ledger->length_bytes - offset)
		return LEDGER_DAMAGED;

	areas = reallocarray(ledger->areas, ledger->n_areas + 1, sizeof(*areas));
	if (!areas)
		return -ENOMEM;
	ledger->areas = areas;
	r = map(ledger, offset, length_bytes, &areas[ledger->n_areas].start);
	if (r)
		return r;
	areas[ledger->n_areas].offset = offset;
	areas[ledger->n_areas].length_bytes = length_bytes;
	areas[ledger->n_areas].is_free = false;
	*ret_area = areas[ledger->n_areas++].start;
	return 0;
}

bool ledger_next_data(const struct ledger *ledger, uint64_t offset, uint64_t end,
		      uint64_t *ret_offset, uint64_t *ret_length_bytes)
{
	off_t data, hole;

	data = lseek(ledger->fd, offset, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return false;
	/* should the kernel not say, everything may have been written */
	if (data < 0)
		data = offset;
	if ((uint64_t)data >= end)
		return false;

	hole = lseek(ledger->fd, data, SEEK_HOLE);
	*ret_offset = data;
	*ret_length_bytes = (hole < 0 ? end : min_u64(hole, end)) - data;
	return true;
}

int ledger_put_record(struct ledger *ledger, uint32_t tag, uint32_t id, const void *data,
		      size_t n_bytes)
{
	int r;

	pthread_mutex_lock(&ledger->lock);
	r = records_put(&ledger->records, tag, id, data, n_bytes);
	pthread_mutex_unlock(&ledger->lock);
	return r;
}

void ledger_drop_record(struct ledger *ledger, uint32_t tag, uint32_t id)
{
	pthread_mutex_lock(&ledger->lock);
	records_drop(&ledger->records, tag, id);
	pthread_mutex_unlock(&ledger->lock);
}

int ledger_copy_record(const struct ledger *ledger, uint32_t tag, uint32_t id, void *data,
		       size_t n_bytes, size_t *ret_n_bytes)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)&ledger->lock;
	const void *found;
	size_t n_found;
	int r;

	pthread_mutex_lock(lock);
	r = records_get(&ledger->records, tag, id, &found, &n_found);
	if (r == 0) {
		memcpy(data, found, n_found < n_bytes ? n_found : n_bytes);
		*ret_n_bytes = n_found;
	}
	pthread_mutex_unlock(lock);
	return r;
}

int ledger_get_record(const struct ledger *ledger, uint32_t tag, uint32_t id, const void **ret_data,
		      size_t *ret_n_bytes)
{
	return records_get(&ledger->records, tag, id, ret_data, ret_n_bytes);
}

bool ledger_next_record(const struct ledger *ledger, size_t *cursor, uint32_t *ret_tag,
			uint32_t *ret_id, const void **ret_data, size_t *ret_n_bytes,
			unsigned int *ret_n_damaged)
{
	if (ret_n_damaged)
		*ret_n_damaged = ledger->records.n_damaged;
	return records_next(&ledger->records, cursor, ret_tag, ret_id, ret_data, ret_n_bytes);
}
