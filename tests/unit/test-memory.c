/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory: made, and found again by the next process. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "guest/memory.h"
#include "support/unit.h"

#define PAGE ((uint64_t)sysconf(_SC_PAGESIZE))

static struct ledger *ledger;

static void make_ledger(void)
{
	ck_assert_int_eq(ledger_new(&ledger, "guest"), 0);
}

static struct memory_config anon_config(uint64_t n_pages)
{
	return (struct memory_config){
		.name = "ram",
		.kind = BACKING_ANON,
		.page_bytes = PAGE,
		.length_bytes = n_pages * PAGE,
		.backing = -EBADF,
	};
}

static uint64_t ledger_allocated(void)
{
	struct stat stat;

	ck_assert_int_eq(fstat(ledger_fd(ledger), &stat), 0);
	return stat.st_blocks * UINT64_C(512);
}

START_TEST(a_new_memory_is_wholly_absent)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_config config = anon_config(100);
	uint64_t counts[PAGE_STATES];

	make_ledger();
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	ck_assert_uint_eq(memory_n_pages(memory), 100);
	ck_assert_uint_eq(memory->n_absent, 100);
	page_states_count(&memory->states, (struct page_range){ 0, 100 }, counts);
	ck_assert_uint_eq(counts[PAGE_ABSENT], 100);
	ck_assert_str_eq(memory->name, "ram");
	ledger_free(ledger);
}
END_TEST

/* What other processes do meanwhile does not count. */
static uint64_t cpu_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

static uint64_t time_touching(size_t n_bytes)
{
	volatile char *bytes = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start_ns;

	ck_assert_ptr_ne((void *)bytes, MAP_FAILED);
	madvise((void *)bytes, n_bytes, MADV_NOHUGEPAGE);
	start_ns = cpu_now_ns();
	for (size_t i = 0; i < n_bytes; i += PAGE)
		bytes[i] = 1;
	start_ns = cpu_now_ns() - start_ns;
	munmap((void *)bytes, n_bytes);
	return start_ns;
}

/*
 * 64 MiB of states, of which not a page may be touched, neither by the first process nor by the next:
 * no memory is allocated for them, and it takes less time than touching as much memory does.
 */
START_TEST(a_tebibyte_is_attached_and_adopted_without_touching_its_states)
{
	_cleanup_(memory_freep) struct memory *memory = NULL, *adopted = NULL;
	struct memory_config config = anon_config(TIB / PAGE);
	uint64_t n_pages = TIB / PAGE, touching_ns = time_touching(64 * MIB), start_ns;

	make_ledger();
	start_ns = cpu_now_ns();
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	ck_assert_uint_lt(cpu_now_ns() - start_ns, touching_ns);
	ck_assert_uint_eq(memory->n_absent, n_pages);
	ck_assert_uint_lt(ledger_allocated(), 256 * KIB);

	page_states_move_all(&memory->states, (struct page_range){ 1000, 50 }, PAGE_ABSENT,
			     PAGE_FILLING);
	page_states_move_all(&memory->states, (struct page_range){ 1020, 30 }, PAGE_FILLING,
			     PAGE_PRESENT);
	page_states_move(&memory->states, n_pages - 1, PAGE_ABSENT, PAGE_REMOVED);
	start_ns = cpu_now_ns();
	ck_assert_int_eq(memory_adopt(&adopted, 0, &config, ledger), 0);
	ck_assert_uint_lt(cpu_now_ns() - start_ns, touching_ns);
	ck_assert_uint_eq(adopted->n_absent, n_pages - 30 - 1);
	ck_assert_uint_lt(ledger_allocated(), 512 * KIB);
	ledger_free(ledger);
}
END_TEST

static const bool are_backing_sources[] = { false, true };

START_TEST(adopted_pages_are_as_they_were)
{
	_cleanup_(memory_freep) struct memory *memory = NULL, *adopted = NULL;
	enum page_state expected[] = { PAGE_ABSENT, PAGE_FILLING, PAGE_PRESENT, PAGE_REMOVED };
	struct memory_config config = anon_config(4);

	make_ledger();
	config.is_backing_source = are_backing_sources[_i];
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	page_states_move(&memory->states, 1, PAGE_ABSENT, PAGE_FILLING);
	page_states_move(&memory->states, 2, PAGE_ABSENT, PAGE_FILLING);
	page_states_move(&memory->states, 2, PAGE_FILLING, PAGE_PRESENT);
	page_states_move(&memory->states, 3, PAGE_ABSENT, PAGE_REMOVED);
	ck_assert(memory_add_poisoned(memory, ledger, 2));

	ck_assert_int_eq(memory_adopt(&adopted, 0, &config, ledger), 0);
	for (uint64_t page = 0; page < 4; page++)
		ck_assert_int_eq(page_states_get(&adopted->states, page), expected[page]);
	ck_assert_uint_eq(adopted->n_absent, 2);
	ck_assert(memory_is_poisoned(adopted, 2));
	ck_assert(!memory_is_poisoned(adopted, 1));
	ledger_free(ledger);
}
END_TEST

static void other_name(struct memory_config *config)
{
	config->name = "rom";
}

static void other_length(struct memory_config *config)
{
	config->length_bytes += PAGE;
}

static void other_page_size(struct memory_config *config)
{
	config->page_bytes *= 2;
}

static void other_source_offset(struct memory_config *config)
{
	config->source_offset = 1;
}

static void other_backing_offset(struct memory_config *config)
{
	config->backing_offset = PAGE;
}

static void other_source_kind(struct memory_config *config)
{
	config->is_backing_source = true;
}

static void other_file(struct memory_config *config)
{
	_cleanup_(closep) int another = memfd_create("another", MFD_CLOEXEC);

	ck_assert_int_eq(dup2(another, config->backing), config->backing);
}

static const struct {
	const char *what;
	void (*change)(struct memory_config *config);
} differences[] = {
	{ "name", other_name },
	{ "length", other_length },
	{ "page size", other_page_size },
	{ "source offset", other_source_offset },
	{ "backing offset", other_backing_offset },
	{ "source", other_source_kind },
	{ "file", other_file },
};

static struct memory_config shmem_config(void)
{
	struct memory_config config = anon_config(16);

	config.kind = BACKING_SHMEM;
	config.backing = memfd_create("ram", MFD_CLOEXEC);
	ck_assert_int_ge(config.backing, 0);
	return config;
}

START_TEST(a_memory_that_differs_from_its_record_is_not_adopted)
{
	_cleanup_(memory_freep) struct memory *memory = NULL, *adopted = NULL;
	struct memory_config config = shmem_config();
	int fd = config.backing;

	make_ledger();
	ck_assert_int_eq(memory_new(&memory, 2, &config, ledger), 0);
	ck_assert_int_ne(memory->backing, fd);
	ck_assert_int_eq(memory_adopt(&adopted, 1, &config, ledger), -ENOENT);
	ck_assert_int_eq(memory_adopt(&adopted, 2, &config, ledger), 0);
	adopted = memory_free(adopted);

	differences[_i].change(&config);
	ck_assert_msg(memory_adopt(&adopted, 2, &config, ledger) == -EINVAL, "another %s",
		      differences[_i].what);
	ck_assert_ptr_null(adopted);
	close(fd);
	ledger_free(ledger);
}
END_TEST

START_TEST(the_record_tells_the_next_process_what_to_ask_for)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_config config = shmem_config(), recorded;

	make_ledger();
	config.backing_offset = 3 * PAGE;
	config.source_offset = 4711;
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	ck_assert_int_eq(memory_recorded(ledger, 1, &recorded), -ENOENT);
	ck_assert_int_eq(memory_recorded(ledger, 0, &recorded), 0);
	ck_assert_str_eq(recorded.name, "ram");
	ck_assert_int_eq(recorded.kind, BACKING_SHMEM);
	ck_assert_uint_eq(recorded.page_bytes, PAGE);
	ck_assert_uint_eq(recorded.length_bytes, 16 * PAGE);
	ck_assert_uint_eq(recorded.backing_offset, 3 * PAGE);
	ck_assert_uint_eq(recorded.source_offset, 4711);
	ck_assert_int_eq(recorded.backing, -EBADF);
	close(config.backing);
	ledger_free(ledger);
}
END_TEST

/* Whole, with a checksum, and yet nonsense: what a hostile file may hold. */
START_TEST(a_record_that_cannot_be_is_damage)
{
	_cleanup_(memory_freep) struct memory *memory = NULL, *adopted = NULL;
	struct memory_config config = anon_config(4), recorded;
	unsigned char bytes[256];
	const void *data;
	size_t n_bytes;

	make_ledger();
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	ck_assert_int_eq(ledger_get_record(ledger, LEDGER_MEMORY, 0, &data, &n_bytes), 0);
	ck_assert_uint_le(n_bytes, sizeof(bytes));
	memcpy(bytes, data, n_bytes);

	/* no name without an end */
	memset(bytes + n_bytes - NAME_BYTES, 'n', NAME_BYTES);
	ck_assert_int_eq(ledger_put_record(ledger, LEDGER_MEMORY, 0, bytes, n_bytes), 0);
	ck_assert_int_eq(memory_recorded(ledger, 0, &recorded), LEDGER_DAMAGED);

	ck_assert_int_eq(ledger_put_record(ledger, LEDGER_MEMORY, 0, bytes, n_bytes - 1), 0);
	ck_assert_int_eq(memory_recorded(ledger, 0, &recorded), LEDGER_DAMAGED);
	ck_assert_int_eq(memory_adopt(&adopted, 0, &config, ledger), LEDGER_DAMAGED);
	ledger_free(ledger);
}
END_TEST

START_TEST(states_outside_the_ledger_are_damage)
{
	_cleanup_(memory_freep) struct memory *memory = NULL, *adopted = NULL;
	struct memory_config config = anon_config(4);
	unsigned char bytes[256];
	uint64_t offset;
	const void *data;
	size_t n_bytes;

	make_ledger();
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	ck_assert_int_eq(ledger_get_record(ledger, LEDGER_MEMORY, 0, &data, &n_bytes), 0);
	memcpy(bytes, data, n_bytes);
	memcpy(&offset, bytes + 32, sizeof(offset));
	ck_assert_uint_eq(offset, memory->states_offset);
	offset = UINT64_C(1) << 40;
	memcpy(bytes + 32, &offset, sizeof(offset));
	ck_assert_int_eq(ledger_put_record(ledger, LEDGER_MEMORY, 0, bytes, n_bytes), 0);
	ck_assert_int_eq(memory_adopt(&adopted, 0, &config, ledger), LEDGER_DAMAGED);
	ledger_free(ledger);
}
END_TEST

static void no_name(struct memory_config *config)
{
	config->name = NULL;
}

static void empty_name(struct memory_config *config)
{
	config->name = "";
}

static void long_name(struct memory_config *config)
{
	config->name = "1234567890123456789012345678901234567890123456789012345678901234";
}

static void no_length(struct memory_config *config)
{
	config->length_bytes = 0;
}

static void odd_length(struct memory_config *config)
{
	config->length_bytes = PAGE + 512;
}

static void huge_length(struct memory_config *config)
{
	config->length_bytes = UINT64_MAX & ~(PAGE - 1);
}

static void odd_page_size(struct memory_config *config)
{
	config->page_bytes = 3 * PAGE;
	config->length_bytes = 6 * PAGE;
}

static void small_page_size(struct memory_config *config)
{
	config->page_bytes = 512;
}

static void odd_backing_offset(struct memory_config *config)
{
	config->backing_offset = 512;
}

static void file_for_anon(struct memory_config *config)
{
	config->backing = STDIN_FILENO;
}

static void no_file_for_shmem(struct memory_config *config)
{
	config->kind = BACKING_SHMEM;
}

static const struct {
	const char *what;
	void (*change)(struct memory_config *config);
} unsound[] = {
	{ "no name", no_name },
	{ "empty name", empty_name },
	{ "name of 64 bytes", long_name },
	{ "no length", no_length },
	{ "length no multiple of the page", odd_length },
	{ "length near 2^64", huge_length },
	{ "page size no power of two", odd_page_size },
	{ "page size below the system's", small_page_size },
	{ "unaligned backing offset", odd_backing_offset },
	{ "a file for anonymous memory", file_for_anon },
	{ "no file for shared memory", no_file_for_shmem },
};

START_TEST(a_config_that_cannot_be_is_refused)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_config config = anon_config(16);

	make_ledger();
	unsound[_i].change(&config);
	ck_assert_msg(memory_new(&memory, 0, &config, ledger) == -EINVAL, "%s", unsound[_i].what);
	ck_assert_ptr_null(memory);
	ledger_free(ledger);
}
END_TEST

static const struct {
	struct page_range pages;
	uint64_t words[3];
} dirty[] = {
	{ { 0, 1 }, { 1 } },
	{ { 63, 2 }, { UINT64_C(1) << 63, 1 } },
	{ { 0, 64 }, { UINT64_MAX } },
	{ { 60, 80 }, { UINT64_C(0xf) << 60, UINT64_MAX, 0xfff } },
	{ { 70, 0 }, {} },
};

START_TEST(dirty_bits_cover_the_range_and_no_more)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_config config = anon_config(192);
	uint64_t offset;

	make_ledger();
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	memory_mark_dirty(memory, dirty[_i].pages); /* no tracker: nothing happens */
	ck_assert(!memory_is_tracked(memory));
	ck_assert_int_eq(memory_add_maps(memory, ledger, 0), 0);
	ck_assert_int_eq(memory_add_maps(memory, ledger, 5), 0);
	memory_mark_dirty(memory, dirty[_i].pages); /* nor has it begun */
	ck_assert_uint_eq(memory->dirty.maps[0].pending[0], 0);
	dirty_maps_arm(&memory->dirty, 0);
	dirty_maps_arm(&memory->dirty, 5);
	ck_assert(memory_is_tracked(memory));
	memory_mark_dirty(memory, dirty[_i].pages);
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(memory->dirty.maps[0].pending[i], dirty[_i].words[i]);
		ck_assert_uint_eq(memory->dirty.maps[5].pending[i], dirty[_i].words[i]);
		ck_assert_uint_eq(memory->dirty.maps[5].unacked[i], 0);
	}
	/* a successor finds them, and they go */
	offset = memory->dirty.maps[5].area_offset;
	dirty_maps_disarm(&memory->dirty, 0);
	dirty_maps_disarm(&memory->dirty, 5);
	ck_assert(!memory_is_tracked(memory));
	ck_assert_int_eq(memory_adopt_maps(memory, ledger, 1, offset), 0);
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(memory->dirty.maps[1].pending[i], dirty[_i].words[i]);
	ck_assert_int_eq(memory_adopt_maps(memory, ledger, 2, offset + 1), LEDGER_DAMAGED);
	memory_drop_maps(memory, ledger, 5);
	ck_assert_uint_eq(memory->dirty.maps[1].pending[0], 0);
	ledger_free(ledger);
}
END_TEST

START_TEST(the_list_of_poisoned_pages_has_an_end_and_no_doubles)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_config config = anon_config(192);

	make_ledger();
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	for (uint64_t page = 0; page < MAX_POISONED; page++) {
		ck_assert(memory_add_poisoned(memory, ledger, page));
		ck_assert(memory_add_poisoned(memory, ledger, page));
	}
	ck_assert_uint_eq(memory->n_poisoned, MAX_POISONED);
	ck_assert(!memory_add_poisoned(memory, ledger, MAX_POISONED));
	ck_assert(!memory_is_poisoned(memory, MAX_POISONED));
	ledger_free(ledger);
}
END_TEST

START_TEST(the_list_of_poisoned_pages_holds_only_what_the_ledger_holds)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_config config = anon_config(192);
	static char filler[1024];

	make_ledger();
	ck_assert_int_eq(memory_new(&memory, 0, &config, ledger), 0);
	for (uint32_t id = 0; !ledger_put_record(ledger, 99, id, filler, sizeof(filler)); id++)
		;
	for (uint32_t id = 0; !ledger_put_record(ledger, 98, id, NULL, 0); id++)
		;
	ck_assert(!memory_add_poisoned(memory, ledger, 5));
	ck_assert(!memory_is_poisoned(memory, 5));
	ledger_free(ledger);
}
END_TEST

int main(void)
{
	return unit_run(
		"memory",
		(struct unit_test[]){
			UNIT(a_new_memory_is_wholly_absent),
			UNIT(a_tebibyte_is_attached_and_adopted_without_touching_its_states),
			UNIT_TABLE(adopted_pages_are_as_they_were, are_backing_sources),
			UNIT_TABLE(a_memory_that_differs_from_its_record_is_not_adopted,
				   differences),
			UNIT(the_record_tells_the_next_process_what_to_ask_for),
			UNIT(a_record_that_cannot_be_is_damage),
			UNIT(states_outside_the_ledger_are_damage),
			UNIT_TABLE(a_config_that_cannot_be_is_refused, unsound),
			UNIT_TABLE(dirty_bits_cover_the_range_and_no_more, dirty),
			UNIT(the_list_of_poisoned_pages_has_an_end_and_no_doubles),
			UNIT(the_list_of_poisoned_pages_holds_only_what_the_ledger_holds),
			{},
		});
}
