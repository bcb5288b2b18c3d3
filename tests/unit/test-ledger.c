/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ledger as a file: written by one process, read by the next, and never believed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "guest/flight.h"
#include "guest/ledger.h"
#include "support/unit.h"

/* The layout, written a second time. */
enum {
	AT_CHECKSUM = 8,
	AT_LAYOUT = 16,
	AT_LENGTH = 24,
	AT_NAME = 32,
	AT_MIN_READER = 96,
	AT_BOARD = 8192 + 65536,
	AT_FLIGHT = AT_BOARD + 4096,
	AT_RECORDS = AT_FLIGHT + 68 * 1024,
	FIXED_BYTES = AT_RECORDS + 2 * 49152,
};

static struct ledger *new_ledger(void)
{
	struct ledger *ledger = NULL;

	ck_assert_int_eq(ledger_new(&ledger, "guest"), 0);
	return ledger;
}

static uint64_t allocated_bytes(int fd)
{
	struct stat stat;

	ck_assert_int_eq(fstat(fd, &stat), 0);
	return stat.st_blocks * UINT64_C(512);
}

static unsigned char byte_at(int fd, off_t offset)
{
	unsigned char byte = 0;

	ck_assert_int_eq(pread(fd, &byte, 1, offset), 1);
	return byte;
}

START_TEST(a_second_process_finds_all_that_the_first_wrote)
{
	_cleanup_(ledger_freep) struct ledger *first = new_ledger(), *second = NULL;
	uint64_t offset = 0;
	void *area = NULL;
	const void *data;
	size_t n_bytes;

	ck_assert_int_eq(ledger_add_area(first, 5000, &offset, &area), 0);
	ck_assert(is_aligned(offset, 65536));
	strcpy(area, "in the area");
	ledger_messages(first)->mapper = 3;
	memset(ledger_scan_vector(first), 0x11, LEDGER_SCAN_BYTES);
	memset(ledger_board(first), 0x22, sizeof(struct board));
	memset(ledger_flight(first), 0x33, sizeof(struct flight));
	ck_assert_int_eq(ledger_put_record(first, LEDGER_MAPPER, 7, "record", 7), 0);

	ck_assert_int_eq(ledger_adopt(&second, ledger_fd(first)), 0);
	ck_assert_str_eq(ledger_guest_name(second), "guest");
	ck_assert_uint_eq(ledger_messages(second)->mapper, 3);
	ck_assert_int_eq(ledger_get_record(second, LEDGER_MAPPER, 7, &data, &n_bytes), 0);
	ck_assert_str_eq(data, "record");
	ck_assert_int_eq(ledger_map_area(second, offset, 5000, &area), 0);
	ck_assert_str_eq(area, "in the area");
	/* parts do not overlap */
	ck_assert_uint_eq(((unsigned char *)ledger_scan_vector(second))[LEDGER_SCAN_BYTES - 1],
			  0x11);
	ck_assert_uint_eq(((unsigned char *)ledger_scan_vector(second))[0], 0x11);
	ck_assert_uint_eq(byte_at(ledger_fd(first), AT_BOARD), 0x22);
	ck_assert_uint_eq(byte_at(ledger_fd(first), AT_FLIGHT), 0x33);
	ck_assert_uint_eq(((unsigned char *)ledger_board(second))[sizeof(struct board) - 1], 0x22);
	ck_assert_uint_eq(((unsigned char *)ledger_flight(second))[sizeof(struct flight) - 1],
			  0x33);
}
END_TEST

/* It is mapped so that a store would kill us. */
START_TEST(who_only_looks_changes_nothing)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger(), *looked = NULL;
	_cleanup_(closep) int fd = -EBADF;
	struct flight_event event;
	struct flight_cursor cursor = {};
	uint64_t offset = 0;
	char path[64];
	void *area = NULL;

	ck_assert_int_eq(ledger_add_area(ledger, 5000, &offset, &area), 0);
	strcpy(area, "in the area");
	flight_note(ledger_flight(ledger), 5000, FLIGHT_STARTED, 0, 0, 1);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ledger_fd(ledger));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);

	/* a descriptor that is open for reading alone is enough, and only here */
	ck_assert_int_eq(ledger_adopt(&looked, fd), -EACCES);
	ck_assert_int_eq(ledger_open_readonly(&looked, fd), 0);
	ck_assert_int_eq(ledger_map_area(looked, offset, 5000, &area), 0);
	ck_assert_str_eq(area, "in the area");
	ck_assert(flight_next(ledger_flight(looked), &cursor, &event));
	ck_assert_int_eq(event.kind, FLIGHT_STARTED);
}
END_TEST

static const struct {
	const char *guest, *file;
} file_names[] = {
	{ "web1", "web1.ledger" },
	{ "a.b", "a.b.ledger" },
	{ "..", "%2e..ledger" },
	{ "../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd.ledger" },
	{ "a b\n%", "a%20b%0a%25.ledger" },
	{ "\xc3\xa4", "%c3%a4.ledger" },
};

START_TEST(a_guest_of_any_name_has_its_file_in_the_directory)
{
	char name[LEDGER_FILE_NAME_BYTES], longest[64];

	ledger_file_name(file_names[_i].guest, name);
	ck_assert_str_eq(name, file_names[_i].file);

	memset(longest, '/', 63);
	longest[63] = '\0';
	ledger_file_name(longest, name);
	ck_assert_uint_eq(strlen(name), 3 * 63 + strlen(".ledger"));
}
END_TEST

static int new_directory(char path[static 32])
{
	int fd;

	strcpy(path, "/dev/shm/ledger-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(path));
	fd = open(path, O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

START_TEST(a_ledger_may_be_a_file)
{
	_cleanup_(ledger_freep) struct ledger *first = NULL, *second = NULL, *old = NULL;
	_cleanup_(closep) int fd = -EBADF, directory = -EBADF;
	uint64_t offset = 0, before;
	char path[32];
	void *area;

	directory = new_directory(path);
	ck_assert_int_eq(ledger_new_file(&old, "guest", directory), 0);
	ck_assert_int_eq(ledger_new_file(&first, "guest", directory), 0);
	ck_assert_uint_ge(allocated_bytes(ledger_fd(first)), FIXED_BYTES);
	before = allocated_bytes(ledger_fd(first));
	ck_assert_int_eq(ledger_add_area(first, MIB, &offset, &area), 0);
	/* what is not allocated now could be missing later */
	ck_assert_uint_ge(allocated_bytes(ledger_fd(first)), before + MIB);
	strcpy((char *)area + 5000, "in the area");

	fd = openat(directory, "guest.ledger", O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ledger_adopt(&second, fd), 0);
	ck_assert_int_eq(ledger_map_area(second, offset, MIB, &area), 0);
	ck_assert_str_eq((char *)area + 5000, "in the area");

	/* the one that was replaced is another file */
	ledger_unlink(old, directory);
	ck_assert_int_eq(faccessat(directory, "guest.ledger", F_OK, 0), 0);
	ledger_unlink(second, directory);
	ck_assert_int_eq(unlinkat(AT_FDCWD, path, AT_REMOVEDIR), 0);
}
END_TEST

START_TEST(a_file_that_others_may_cut_is_no_ledger)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL, *copy = NULL;
	_cleanup_(closep) int directory = -EBADF;
	char path[32];

	directory = new_directory(path);
	ck_assert_int_eq(ledger_new_file(&ledger, "guest", directory), 0);
	ck_assert_int_eq(fchmod(ledger_fd(ledger), 0620), 0);
	ck_assert_int_eq(ledger_adopt(&copy, ledger_fd(ledger)), LEDGER_DAMAGED);
	ck_assert_int_eq(fchmod(ledger_fd(ledger), 0640), 0);
	ck_assert_int_eq(ledger_adopt(&copy, ledger_fd(ledger)), 0);
	if (geteuid() == 0) {
		copy = ledger_free(copy);
		ck_assert_int_eq(fchown(ledger_fd(ledger), 12345, 12345), 0);
		ck_assert_int_eq(ledger_adopt(&copy, ledger_fd(ledger)), LEDGER_DAMAGED);
	}
	ledger_unlink(ledger, directory);
	ck_assert_int_eq(unlinkat(AT_FDCWD, path, AT_REMOVEDIR), 0);
}
END_TEST

START_TEST(an_area_costs_nothing_until_it_is_written)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger();
	uint64_t offsets[2], before, found = 0, length = 0, end;
	unsigned char *areas[2];

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(ledger_add_area(ledger, 64 * MIB, &offsets[i], (void **)&areas[i]),
				 0);
	ck_assert_uint_ge(offsets[1], offsets[0] + 64 * MIB);
	ck_assert_uint_le(allocated_bytes(ledger_fd(ledger)), 256 * KIB);

	before = allocated_bytes(ledger_fd(ledger));
	end = offsets[0] + 64 * MIB;
	ck_assert(!ledger_next_data(ledger, offsets[0], end, &found, &length));
	areas[1][0] = 1;
	ck_assert(!ledger_next_data(ledger, offsets[0], end, &found, &length));
	areas[0][5 * MIB] = 1;
	ck_assert(ledger_next_data(ledger, offsets[0], end, &found, &length));
	ck_assert_uint_eq(found, offsets[0] + 5 * MIB);
	ck_assert_uint_ge(length, 1);
	ck_assert(!ledger_next_data(ledger, found + length, end, &found, &length));
	ck_assert_uint_le(allocated_bytes(ledger_fd(ledger)), before + 2 * 65536);
}
END_TEST

static const struct {
	const char *what;
	uint64_t offset, length;
} outside[] = {
	{ "head", 0, 4096 },
	{ "records", AT_RECORDS & ~65535, 4096 },
	{ "unaligned", 4 * 65536 + 4096, 4096 },
	{ "empty", 4 * 65536, 0 },
	{ "one byte too long", 4 * 65536, 65536 + 1 },
	{ "wraps around", 4 * 65536, UINT64_MAX },
	{ "far behind", UINT64_C(1) << 40, 4096 },
	{ "highest offset", UINT64_MAX & ~65535, 65536 },
};

START_TEST(an_area_outside_the_file_is_damage)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger();
	uint64_t offset;
	void *area, *none = &area;

	ck_assert_int_eq(ledger_add_area(ledger, 65536, &offset, &area), 0);
	ck_assert_uint_eq(offset, 4 * 65536);
	ck_assert_int_eq(ledger_map_area(ledger, offset, 65536, &area), 0);
	ck_assert_msg(ledger_map_area(ledger, outside[_i].offset, outside[_i].length, &none) ==
			      LEDGER_DAMAGED,
		      "%s", outside[_i].what);
	ck_assert_ptr_eq(none, &area);
}
END_TEST

START_TEST(an_area_beyond_all_sizes_is_refused)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger();
	uint64_t offset;
	void *area;

	ck_assert_int_eq(ledger_add_area(ledger, 0, &offset, &area), -EINVAL);
	ck_assert_int_eq(ledger_add_area(ledger, UINT64_MAX, &offset, &area), -EINVAL);
	ck_assert_int_eq(ledger_add_area(ledger, UINT64_C(1) << 53, &offset, &area), -EINVAL);
}
END_TEST

START_TEST(names_longer_than_63_bytes_are_refused)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	char name[65] = "";

	memset(name, 'n', 64);
	ck_assert_int_eq(ledger_new(&ledger, name), -EINVAL);
	ck_assert_ptr_null(ledger);
	name[63] = '\0';
	ck_assert_int_eq(ledger_new(&ledger, name), 0);
	ck_assert_str_eq(ledger_guest_name(ledger), name);
}
END_TEST

/* A copy that can be damaged: the same bytes in a memfd of the test's own. */
static int copy_of(const struct ledger *ledger, uint64_t length, unsigned int seals)
{
	static unsigned char bytes[FIXED_BYTES + 65536];
	int fd = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(pread(ledger_fd(ledger), bytes, sizeof(bytes), 0), FIXED_BYTES);
	ck_assert_int_eq(pwrite(fd, bytes, FIXED_BYTES, 0), FIXED_BYTES);
	ck_assert_int_eq(ftruncate(fd, length), 0);
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static const struct {
	const char *what;
	uint64_t length;
	unsigned int seals;
	unsigned int offset; /* of a byte to be changed */
	unsigned char flip;
	int result;
} copies[] = {
	{ "as it was", FIXED_BYTES, F_SEAL_SHRINK, 0, 0, 0 },
	{ "may shrink", FIXED_BYTES, 0, 0, 0, LEDGER_DAMAGED },
	{ "sealed, but not against shrinking", FIXED_BYTES, F_SEAL_GROW, 0, 0, LEDGER_DAMAGED },
	{ "cut by a byte", FIXED_BYTES - 1, F_SEAL_SHRINK, 0, 0, LEDGER_DAMAGED },
	{ "empty", 0, F_SEAL_SHRINK, 0, 0, LEDGER_DAMAGED },
	{ "absurdly long", UINT64_C(1) << 53, F_SEAL_SHRINK, 0, 0, LEDGER_DAMAGED },
	{ "another magic", FIXED_BYTES, F_SEAL_SHRINK, 0, 1, LEDGER_DAMAGED },
	{ "another checksum", FIXED_BYTES, F_SEAL_SHRINK, AT_CHECKSUM, 1, LEDGER_DAMAGED },
	{ "another name", FIXED_BYTES, F_SEAL_SHRINK, AT_NAME, 1, LEDGER_DAMAGED },
	{ "another length inside", FIXED_BYTES, F_SEAL_SHRINK, AT_LENGTH, 1, LEDGER_DAMAGED },
	{ "another least reader", FIXED_BYTES, F_SEAL_SHRINK, AT_MIN_READER, 1, LEDGER_DAMAGED },
};

START_TEST(adopt_takes_only_what_is_whole)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger(), *copy = NULL;
	_cleanup_(closep) int fd = copy_of(ledger, copies[_i].length, copies[_i].seals);
	unsigned char byte;

	if (copies[_i].flip) {
		ck_assert_int_eq(pread(fd, &byte, 1, copies[_i].offset), 1);
		byte ^= copies[_i].flip;
		ck_assert_int_eq(pwrite(fd, &byte, 1, copies[_i].offset), 1);
	}
	ck_assert_msg(ledger_adopt(&copy, fd) == copies[_i].result, "%s", copies[_i].what);
	ck_assert((copy != NULL) == (copies[_i].result == 0));
}
END_TEST

START_TEST(adopt_refuses_what_is_no_memfd)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	_cleanup_(closep) int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	ck_assert_int_eq(ledger_adopt(&ledger, fd), LEDGER_DAMAGED);
	ck_assert_int_eq(ledger_adopt(&ledger, -EBADF), -EBADF);
	ck_assert_ptr_null(ledger);
}
END_TEST

static const struct {
	uint32_t min_reader;
	int result;
} later_layouts[] = {
	{ LEDGER_LAYOUT, 0 },
	{ LEDGER_LAYOUT + 1, LEDGER_TOO_NEW },
};

/* The head of a later layout, as ledger.c would sum it. */
START_TEST(a_ledger_of_a_later_layout_is_read_only_if_it_says_so)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger(), *copy = NULL;
	_cleanup_(closep) int fd = copy_of(ledger, FIXED_BYTES, F_SEAL_SHRINK);
	uint64_t min_reader = later_layouts[_i].min_reader;
	uint32_t layout = LEDGER_LAYOUT + 1;
	unsigned char header[AT_MIN_READER];
	uint64_t checksum;

	ck_assert_int_eq(pread(fd, header, sizeof(header), 0), sizeof(header));
	memcpy(header + AT_LAYOUT, &layout, sizeof(layout));
	checksum = XXH3_64bits(header + AT_LAYOUT, AT_MIN_READER - AT_LAYOUT);
	memcpy(header + AT_CHECKSUM, &checksum, sizeof(checksum));
	ck_assert_int_eq(pwrite(fd, header, sizeof(header), 0), sizeof(header));
	min_reader |= ~min_reader << 32;
	ck_assert_int_eq(pwrite(fd, &min_reader, 8, AT_MIN_READER), 8);
	ck_assert_int_eq(ledger_adopt(&copy, fd), later_layouts[_i].result);
}
END_TEST

/* As an upgrade does when it can no longer be rolled back. */
START_TEST(what_a_ledger_asks_of_its_readers_can_change)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger(), *copy = NULL;

	ck_assert_int_eq(ledger_fd_set_min_reader(ledger_fd(ledger), LEDGER_LAYOUT + 1), 0);
	ck_assert_int_eq(ledger_adopt(&copy, ledger_fd(ledger)), LEDGER_TOO_NEW);
	ck_assert_int_eq(ledger_open_readonly(&copy, ledger_fd(ledger)), LEDGER_TOO_NEW);
	ck_assert_int_eq(ledger_fd_set_min_reader(ledger_fd(ledger), LEDGER_LAYOUT), 0);
	ck_assert_int_eq(ledger_adopt(&copy, ledger_fd(ledger)), 0);
}
END_TEST

/* A new program may look at the ledger of a running one (dry run of an upgrade). */
START_TEST(adopt_writes_nothing)
{
	static unsigned char before[FIXED_BYTES], after[FIXED_BYTES];
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger(), *copy = NULL;
	size_t cursor = 0, n_bytes;
	unsigned int n_damaged;
	uint32_t tag, id;
	const void *data;
	unsigned char byte = 0xff;

	ck_assert_int_eq(ledger_put_record(ledger, 1, 1, "x", 2), 0);
	ck_assert_int_eq(ledger_put_record(ledger, 2, 2, "y", 2), 0);
	ck_assert_int_eq(pwrite(ledger_fd(ledger), &byte, 1, AT_RECORDS + 16 + 32), 1);
	ck_assert_int_eq(pread(ledger_fd(ledger), before, FIXED_BYTES, 0), FIXED_BYTES);

	ck_assert_int_eq(ledger_adopt(&copy, ledger_fd(ledger)), 0);
	ck_assert(ledger_next_record(copy, &cursor, &tag, &id, &data, &n_bytes, &n_damaged));
	ck_assert_uint_eq(tag, 2);
	ck_assert_uint_eq(n_damaged, 1);
	ck_assert(!ledger_next_record(copy, &cursor, &tag, &id, &data, &n_bytes, NULL));
	ck_assert_int_eq(pread(ledger_fd(ledger), after, FIXED_BYTES, 0), FIXED_BYTES);
	ck_assert_mem_eq(after, before, FIXED_BYTES);
}
END_TEST

START_TEST(random_damage_is_survived)
{
	_cleanup_(ledger_freep) struct ledger *ledger = new_ledger();
	unsigned int seed = 1, n_adopted = 0;

	for (uint32_t i = 0; i < 20; i++)
		ck_assert_int_eq(ledger_put_record(ledger, i % 4, i, "some bytes", 11), 0);
	for (unsigned int round = 0; round < 1000; round++) {
		_cleanup_(ledger_freep) struct ledger *copy = NULL;
		_cleanup_(closep) int fd = copy_of(ledger, FIXED_BYTES, F_SEAL_SHRINK);
		unsigned int n_flips = 1 + rand_r(&seed) % 64;
		/* head, records' beginning, records' other half */
		static const unsigned int starts[] = { 0, AT_RECORDS, AT_RECORDS + 49152 };

		for (unsigned int i = 0; i < n_flips; i++) {
			unsigned char byte = rand_r(&seed);

			ck_assert_int_eq(
				pwrite(fd, &byte, 1, starts[round % 3] + rand_r(&seed) % 1200), 1);
		}
		if (ledger_adopt(&copy, fd) != 0)
			continue;
		n_adopted++;
		ledger_drop_record(copy, 1, 1);
		ck_assert_int_eq(ledger_put_record(copy, 3, 99, "new", 4), 0);
	}
	ck_assert_uint_gt(n_adopted, 0);
}
END_TEST

int main(void)
{
	return unit_run(
		"ledger",
		(struct unit_test[]){
			UNIT(a_second_process_finds_all_that_the_first_wrote),
			UNIT(who_only_looks_changes_nothing),
			UNIT_TABLE(a_guest_of_any_name_has_its_file_in_the_directory, file_names),
			UNIT(a_ledger_may_be_a_file),
			UNIT(a_file_that_others_may_cut_is_no_ledger),
			UNIT(an_area_costs_nothing_until_it_is_written),
			UNIT_TABLE(an_area_outside_the_file_is_damage, outside),
			UNIT(an_area_beyond_all_sizes_is_refused),
			UNIT(names_longer_than_63_bytes_are_refused),
			UNIT_TABLE(adopt_takes_only_what_is_whole, copies),
			UNIT(adopt_refuses_what_is_no_memfd),
			UNIT_TABLE(a_ledger_of_a_later_layout_is_read_only_if_it_says_so,
				   later_layouts),
			UNIT(what_a_ledger_asks_of_its_readers_can_change),
			UNIT(adopt_writes_nothing),
			UNIT(random_damage_is_survived),
			{},
		});
}
