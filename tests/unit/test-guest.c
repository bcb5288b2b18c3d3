/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest, its views, and what mappings say of pages and addresses. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/guest.h"
#include "support/unit.h"

#define PAGE ((uint64_t)sysconf(_SC_PAGESIZE))

static struct memory *add_memory(struct guest *guest, uint64_t n_pages)
{
	struct memory_config config = {
		.name = "ram",
		.page_bytes = PAGE,
		.length_bytes = n_pages * PAGE,
		.backing = -EBADF,
	};
	struct memory *memory = NULL;

	ck_assert_int_eq(memory_new(&memory, guest->n_memories, &config, guest->ledger), 0);
	ck_assert_int_eq(guest_add_memory(guest, memory), 0);
	return memory;
}

static struct mapper *add_mapper(struct guest *guest)
{
	struct mapper *mapper = NULL;

	ck_assert_int_eq(guest_add_mapper(guest, -EBADF, -EBADF, -EBADF, 42, 7, &mapper), 0);
	return mapper;
}

/* Page numbers, as all of this test counts. Return: what guest_add_mapping() does. */
static int add_mapping(struct guest *guest, struct mapper *mapper, uint64_t address,
		       uint64_t n_pages, uint64_t offset)
{
	struct mapping mapping = {
		.mapper = mapper,
		.memory = guest->memories[0],
		.range = { { address * PAGE }, n_pages * PAGE },
		.offset_bytes = offset * PAGE,
		.is_open = true,
	};
	struct guest_view *old = NULL, *before = guest->view;
	struct mapping *copy = NULL;
	int r = guest_add_mapping(guest, &mapping, &old, &copy);

	if (r) {
		ck_assert_ptr_eq(guest->view, before);
		ck_assert_ptr_null(old);
		return r;
	}
	ck_assert_ptr_eq(old, before);
	ck_assert_ptr_ne(guest->view, before);
	ck_assert_ptr_ne(copy, &mapping);
	free(old);
	return 0;
}

static int remove_mapping(struct guest *guest, const struct mapper *mapper, uint64_t address,
			  uint64_t n_pages)
{
	struct hva_range range = { { address * PAGE }, n_pages * PAGE };
	struct guest_view *old = NULL;
	struct mapping *mapping = NULL;
	int r = guest_remove_mapping(guest, mapper, range, &old, &mapping);

	free(old);
	free(mapping);
	return r;
}

static struct guest *new_guest(uint64_t n_pages)
{
	struct guest *guest = NULL;

	ck_assert_int_eq(guest_new(&guest, "guest"), 0);
	add_memory(guest, n_pages);
	return guest;
}

START_TEST(names_have_1_to_63_bytes)
{
	_cleanup_(guest_freep) struct guest *guest = NULL;

	ck_assert_int_eq(guest_new(&guest, ""), -EINVAL);
	ck_assert_int_eq(guest_new(&guest, "123456789012345678901234567890123456789012345678901234"
					   "5678901234"),
			 -EINVAL);
	ck_assert_ptr_null(guest);
	ck_assert_int_eq(guest_new(&guest, "g"), 0);
	ck_assert_str_eq(guest->name, "g");
}
END_TEST

START_TEST(a_guest_takes_its_name_from_an_adopted_ledger)
{
	_cleanup_(guest_freep) struct guest *guest = NULL, *next = NULL;
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;

	ck_assert_int_eq(guest_new(&guest, "guest"), 0);
	ck_assert_int_eq(ledger_adopt(&ledger, ledger_fd(guest->ledger)), 0);
	ck_assert_int_eq(guest_adopt(&next, ledger), 0);
	ck_assert_ptr_eq(next->ledger, TAKE_PTR(ledger));
	ck_assert_str_eq(next->name, "guest");
	ck_assert_uint_eq(next->view->n_mappings, 0);
}
END_TEST

/* The harness fails a test that leaves an fd open. */
START_TEST(a_mapper_owns_its_fds_and_there_are_8)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(1);
	struct mapper *mapper;
	int fd;

	for (uint32_t i = 0; i < MAX_MAPPERS; i++) {
		ck_assert_int_eq(guest_add_mapper(guest, open("/dev/null", O_CLOEXEC),
						  open("/dev/null", O_CLOEXEC),
						  open("/dev/null", O_CLOEXEC), 42 + i, i, &mapper),
				 0);
		ck_assert_uint_eq(mapper->id, i);
		ck_assert_int_eq(mapper->pid, 42 + i);
		ck_assert(!mapper->is_gone);
	}
	fd = open("/dev/null", O_CLOEXEC);
	ck_assert_int_eq(guest_add_mapper(guest, fd, -EBADF, -EBADF, 1, 0, &mapper), GUEST_FULL);
	ck_assert_int_eq(close(fd), 0); /* not consumed */
}
END_TEST

START_TEST(a_guest_has_64_memories)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(1);
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_config config = { "one more", BACKING_ANON, PAGE, PAGE, -EBADF };

	while (guest->n_memories < MAX_MEMORIES)
		add_memory(guest, 1);
	ck_assert_int_eq(memory_new(&memory, MAX_MEMORIES, &config, guest->ledger), 0);
	ck_assert_int_eq(guest_add_memory(guest, memory), GUEST_FULL);
}
END_TEST

static const struct {
	const char *what;
	uint64_t address, n_pages;
	int result;
} neighbours[] = {
	/* beside a mapping of the pages 10 to 19 */
	{ "just before", 8, 2, 0 },
	{ "just behind", 20, 2, 0 },
	{ "its first page", 10, 1, GUEST_OVERLAP },
	{ "its last page", 19, 1, GUEST_OVERLAP },
	{ "over its beginning", 9, 2, GUEST_OVERLAP },
	{ "over its end", 19, 2, GUEST_OVERLAP },
	{ "around it", 5, 30, GUEST_OVERLAP },
	{ "the same", 10, 10, GUEST_OVERLAP },
};

START_TEST(mappings_of_one_mapper_do_not_overlap)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(100);
	struct mapper *first = add_mapper(guest), *second = add_mapper(guest);

	ck_assert_int_eq(add_mapping(guest, first, 10, 10, 0), 0);
	ck_assert_msg(add_mapping(guest, first, neighbours[_i].address, neighbours[_i].n_pages,
				  0) == neighbours[_i].result,
		      "%s", neighbours[_i].what);
	/* another process may have the same addresses */
	ck_assert_int_eq(
		add_mapping(guest, second, neighbours[_i].address, neighbours[_i].n_pages, 0), 0);
	ck_assert_uint_eq(guest->memories[0]->n_mappings, neighbours[_i].result ? 2 : 3);
}
END_TEST

/* Mappings of two pages with two pages between them, in two mappers, added in random order. */
START_TEST(every_address_finds_its_mapping_and_no_other)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(1000);
	struct mapper *mappers[] = { add_mapper(guest), add_mapper(guest) };
	enum { N = 150 };
	unsigned int seed = 1, n_added = 0;
	bool is_there[2][N] = {};

	while (n_added < N) {
		unsigned int m = rand_r(&seed) % 2, i = rand_r(&seed) % N;

		if (!is_there[m][i]) {
			ck_assert_int_eq(add_mapping(guest, mappers[m], 4 * (i + 1), 2, i), 0);
			is_there[m][i] = true;
			n_added++;
		} else if (rand_r(&seed) % 4 == 0) {
			ck_assert_int_eq(remove_mapping(guest, mappers[m], 4 * (i + 1), 2), 0);
			is_there[m][i] = false;
			n_added--;
		}
	}
	ck_assert_uint_eq(guest->view->n_mappings, N);
	ck_assert_uint_eq(guest->memories[0]->n_mappings, N);
	for (unsigned int m = 0; m < 2; m++)
		for (uint64_t page = 0; page < 4 * (N + 2); page++) {
			uint64_t i = page / 4 - 1;
			bool is_inside = page >= 4 && i < N && is_there[m][i] && page % 4 < 2;
			struct hva last = { (page + 1) * PAGE - 1 };
			struct mapping *found = guest_view_find(guest->view, m, last);

			ck_assert_msg((found != NULL) == is_inside, "mapper %u page %lu", m,
				      (unsigned long)page);
			if (!found)
				continue;
			ck_assert_ptr_eq(found->mapper, mappers[m]);
			ck_assert_uint_eq(mapping_page(found, last), i + page % 4);
			ck_assert_ptr_eq(
				guest_view_find(guest->view, m, (struct hva){ page * PAGE }),
				found);
		}
}
END_TEST

START_TEST(only_a_whole_mapping_is_removed)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(100);
	struct mapper *mapper = add_mapper(guest), *other = add_mapper(guest);

	ck_assert_int_eq(remove_mapping(guest, mapper, 10, 10), GUEST_UNKNOWN);
	ck_assert_int_eq(add_mapping(guest, mapper, 10, 10, 0), 0);
	ck_assert_int_eq(remove_mapping(guest, mapper, 10, 9), GUEST_UNKNOWN);
	ck_assert_int_eq(remove_mapping(guest, mapper, 11, 9), GUEST_UNKNOWN);
	ck_assert_int_eq(remove_mapping(guest, mapper, 9, 10), GUEST_UNKNOWN);
	ck_assert_int_eq(remove_mapping(guest, other, 10, 10), GUEST_UNKNOWN);
	ck_assert_uint_eq(guest->view->n_mappings, 1);
	ck_assert_int_eq(remove_mapping(guest, mapper, 10, 10), 0);
	ck_assert_uint_eq(guest->view->n_mappings, 0);
	ck_assert_uint_eq(guest->memories[0]->n_mappings, 0);
}
END_TEST

/* The demand thread may be looking into it. */
START_TEST(the_old_view_stays_as_it_was)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(100);
	struct mapper *mapper = add_mapper(guest);
	struct mapping mapping = { mapper, guest->memories[0], { { 30 * PAGE }, PAGE } };
	struct guest_view *old = NULL, *older = NULL;
	struct mapping *added, *removed = NULL;

	ck_assert_int_eq(add_mapping(guest, mapper, 10, 10, 0), 0);
	ck_assert_int_eq(guest_add_mapping(guest, &mapping, &older, &added), 0);
	ck_assert_ptr_null(guest_view_find(older, 0, mapping.range.start));
	ck_assert_ptr_eq(guest_view_find(guest->view, 0, mapping.range.start), added);
	ck_assert_int_eq(guest_remove_mapping(guest, mapper, mapping.range, &old, &removed), 0);
	ck_assert_ptr_eq(removed, added);
	ck_assert_ptr_eq(guest_view_find(old, 0, mapping.range.start), added);
	ck_assert_ptr_null(guest_view_find(guest->view, 0, mapping.range.start));
	/* both views share what both have */
	ck_assert_ptr_eq(guest_view_find(older, 0, (struct hva){ 10 * PAGE }),
			 guest_view_find(guest->view, 0, (struct hva){ 10 * PAGE }));
	free(older);
	free(old);
	free(removed);
}
END_TEST

START_TEST(a_page_is_found_in_open_mappings_of_the_living)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(100);
	struct mapper *first = add_mapper(guest), *second = add_mapper(guest);
	struct memory *memory = guest->memories[0], *other = add_memory(guest, 100);
	struct mapping *found;

	ck_assert_int_eq(add_mapping(guest, first, 10, 10, 50), 0);
	ck_assert_int_eq(add_mapping(guest, second, 10, 10, 55), 0);
	ck_assert_ptr_null(guest_view_find_page(guest->view, memory, 49));
	ck_assert_ptr_null(guest_view_find_page(guest->view, memory, 65));
	ck_assert_ptr_null(guest_view_find_page(guest->view, other, 50));
	found = guest_view_find_page(guest->view, memory, 59);
	ck_assert_ptr_eq(found->mapper, first);
	first->is_gone = true;
	ck_assert_ptr_null(guest_view_find_page(guest->view, memory, 50));
	found = guest_view_find_page(guest->view, memory, 59);
	ck_assert_ptr_eq(found->mapper, second);
	found->is_open = false;
	ck_assert_ptr_null(guest_view_find_page(guest->view, memory, 59));
}
END_TEST

static const struct {
	const char *what;
	struct page_range pages, shown;
} clips[] = {
	/* by a mapping of the pages 50 to 59 */
	{ "all of it", { 0, 100 }, { 50, 10 } },
	{ "inside", { 52, 3 }, { 52, 3 } },
	{ "over the beginning", { 40, 11 }, { 50, 1 } },
	{ "over the end", { 59, 11 }, { 59, 1 } },
};

static const struct page_range unseen[] = { { 40, 10 }, { 60, 10 }, { 55, 0 }, { 0, 0 } };

START_TEST(a_mapping_shows_the_pages_of_its_offset)
{
	struct memory memory = { .page_bytes = 2 * MIB };
	struct mapping mapping = {
		.memory = &memory,
		.range = { { UINT64_C(0x7f0000000000) }, 10 * 2 * MIB },
		.offset_bytes = 50 * 2 * MIB,
	};
	struct page_range shown = mapping_clip(&mapping, clips[_i].pages);

	ck_assert_msg(shown.first == clips[_i].shown.first && shown.count == clips[_i].shown.count,
		      "%s", clips[_i].what);
	ck_assert_uint_eq(mapping_clip(&mapping, unseen[_i]).count, 0);
	for (uint64_t page = 0; page < 100; page++) {
		ck_assert(mapping_shows(&mapping, page) == (page >= 50 && page < 60));
		if (mapping_shows(&mapping, page)) {
			struct hva address = mapping_address(&mapping, page);

			ck_assert_uint_eq(address.v, mapping.range.start.v + (page - 50) * 2 * MIB);
			ck_assert_uint_eq(mapping_page(&mapping, hva_add(address, 2 * MIB - 1)),
					  page);
		}
	}
}
END_TEST

int main(void)
{
	return unit_run("guest",
			(struct unit_test[]){
				UNIT(names_have_1_to_63_bytes),
				UNIT(a_guest_takes_its_name_from_an_adopted_ledger),
				UNIT(a_mapper_owns_its_fds_and_there_are_8),
				UNIT(a_guest_has_64_memories),
				UNIT_TABLE(mappings_of_one_mapper_do_not_overlap, neighbours),
				UNIT(every_address_finds_its_mapping_and_no_other),
				UNIT(only_a_whole_mapping_is_removed),
				UNIT(the_old_view_stays_as_it_was),
				UNIT(a_page_is_found_in_open_mappings_of_the_living),
				UNIT_TABLE(a_mapping_shows_the_pages_of_its_offset, clips),
				{},
			});
}
