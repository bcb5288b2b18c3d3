/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules of registering: what is offered, what replaces what, who may, and what is refused. */
#include <sys/mman.h>

#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP	UFFDIO_REGISTER_MODE_WP
#define MINOR	UFFDIO_REGISTER_MODE_MINOR

/* The masks of ioctls that registering returns, one mode after the other added. */
static void try_offers(struct probe_run *run, enum lab_backing backing)
{
	static const uint64_t sets[] = { MISSING, MISSING | WP, MISSING | WP | MINOR };
	struct lab_memory memory = lab_map_unused(run, backing, 1);
	int uffd = lab_uffd(run, 0);
	uint64_t masks[3] = {};

	for (int i = 0; i < 3; i++) {
		int r = lab_try_register(uffd, memory.at, memory.length_bytes, sets[i], &masks[i]);

		probe_step(run, "modes %#llx: %s, ioctls %#llx", (unsigned long long)sets[i],
			   probe_errno(r), (unsigned long long)masks[i]);
	}
	probe_detail(run, "one bit an ioctl: wake 0x4, copy 0x8, zeropage 0x10, move 0x20, "
			  "writeprotect 0x40, continue 0x80, poison 0x100");
	if (masks[2])
		probe_answer(run, "%#llx, wp %#llx, minor %#llx", (unsigned long long)masks[0],
			     (unsigned long long)masks[1], (unsigned long long)masks[2]);
	else
		probe_answer(run, "%#llx, wp %#llx", (unsigned long long)masks[0],
			     (unsigned long long)masks[1]);
}

static void try_offers_anon(struct probe_run *run)
{
	try_offers(run, LAB_ANON);
}

static void try_offers_shmem(struct probe_run *run)
{
	try_offers(run, LAB_SHMEM);
}

static void try_offers_hugetlb(struct probe_run *run)
{
	try_offers(run, LAB_HUGETLB);
}

/* A mask that offers what the ioctl then refuses. */
static void try_offers_move(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 2);
	int uffd = lab_uffd(run, UFFD_FEATURE_MOVE), r;
	uint64_t ioctls;

	lab_fill(&memory, 1, 1);
	ioctls = lab_register(run, uffd, &memory, MISSING);
	r = lab_move(uffd, lab_page(&memory, 0), lab_page(&memory, 1), memory.page_bytes, 0, NULL);
	probe_detail(run, "the mask is %#llx; UFFDIO_MOVE says %s", (unsigned long long)ioctls,
		     probe_errno(r));
	if (r == 0)
		probe_answer(run, "moved");
	else
		probe_answer(run, "%s", ioctls & 1 << _UFFDIO_MOVE ? "offered" : "left out");
}

/* Does an access to an empty page raise a message? */
static bool is_missing_told(struct probe_run *run, int uffd, uint8_t *at)
{
	struct lab_thread *reader = lab_start_read(run, at);
	struct uffd_msg message;

	return lab_raised(run, uffd, reader, &message);
}

static void try_added_mode(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 1);
	int uffd = lab_uffd(run, 0);
	bool is_told;

	lab_register(run, uffd, &memory, MISSING);
	lab_register(run, uffd, &memory, WP);
	is_told = is_missing_told(run, uffd, memory.at);
	probe_detail(run, "missing mode, then write-protect mode: an empty page %s",
		     is_told ? "raised a message" : "was read as zero without a message");
	probe_answer(run, "%s", is_told ? "added" : "replaced");
}

static void try_reduced_mode(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 1);
	int uffd = lab_uffd(run, 0), r;

	lab_register(run, uffd, &memory, MISSING | WP);
	lab_register(run, uffd, &memory, MISSING);
	r = lab_protect(uffd, memory.at, memory.length_bytes, UFFDIO_WRITEPROTECT_MODE_WP);
	probe_detail(run, "both modes, then missing mode alone: UFFDIO_WRITEPROTECT says %s",
		     probe_errno(r));
	probe_answer(run, "%s", r == 0 ? "kept" : "reduced");
}

static void try_second_uffd(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);
	int first = lab_uffd(run, 0), second = lab_uffd(run, 0), r;

	r = lab_try_register(first, lab_page(&memory, 1), memory.page_bytes, MISSING, NULL);
	probe_must(run, r == 0, "UFFDIO_REGISTER");
	r = lab_try_register(second, memory.at, memory.length_bytes, MISSING, NULL);
	probe_answer(run, "%s", probe_errno(r));
}

static void try_foreign_unregister(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int owner = lab_uffd(run, 0), other = lab_uffd(run, 0), r;
	bool is_told;

	lab_register(run, owner, &memory, MISSING);
	r = lab_unregister(other, memory.at, memory.length_bytes);
	is_told = is_missing_told(run, owner, memory.at);
	probe_detail(run, "UFFDIO_UNREGISTER by another userfaultfd: %s; the owner %s",
		     probe_errno(r), is_told ? "still hears of faults" : "lost the range");
	probe_answer(run, "%s", r == 0 && !is_told ? "unregistered" : probe_errno(r));
}

static void try_unregister(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 3);
	int uffd = lab_uffd(run, 0), part, again, unmapped;

	lab_register(run, uffd, &memory, MISSING);
	part = lab_unregister(uffd, lab_page(&memory, 1), memory.page_bytes);
	again = lab_unregister(uffd, lab_page(&memory, 1), memory.page_bytes);
	munmap(lab_page(&memory, 1), memory.page_bytes);
	unmapped = lab_unregister(uffd, lab_page(&memory, 1), memory.page_bytes);
	probe_detail(run, "a part: %s, the same once more: %s, unmapped: %s", probe_errno(part),
		     probe_errno(again), probe_errno(unmapped));
	probe_answer(run, "%s, %s, %s", probe_errno(part), probe_errno(again),
		     probe_errno(unmapped));
}

/* All of these are our mistakes, and each must be told. */
static void try_arguments(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 3);
	size_t page = memory.page_bytes;
	int uffd = lab_uffd(run, 0);
	const struct {
		const char *what;
		size_t offset, length_bytes;
		uint64_t modes;
	} mistakes[] = {
		{ "an unaligned start", 1, page, MISSING },
		{ "an unaligned length", 0, page + 1, MISSING },
		{ "no length", 0, 0, MISSING },
		{ "no mode", 0, page, 0 },
		{ "an unknown mode", 0, page, MISSING | 1 << 5 },
		{ "nothing mapped", 2 * page, page, MISSING },
	};

	munmap(lab_page(&memory, 2), page);
	probe_answer(run, "EINVAL");
	for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
		int r = lab_try_register(uffd, memory.at + mistakes[i].offset,
					 mistakes[i].length_bytes, mistakes[i].modes, NULL);

		probe_step(run, "%s: %s", mistakes[i].what, probe_errno(r));
		if (r != -EINVAL)
			probe_answer(run, "%s for %s", probe_errno(r), mistakes[i].what);
	}
}

static void try_huge_edge(struct probe_run *run)
{
	struct lab_memory memory = lab_map_unused(run, LAB_HUGETLB, 1);
	int uffd = lab_uffd(run, 0);

	probe_answer(run, "%s",
		     probe_errno(lab_try_register(uffd, memory.at, memory.page_bytes / 2, MISSING,
						  NULL)));
}

/* A range with a hole, which is filled by a mapping later. */
static void try_hole(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 3);
	int uffd = lab_uffd(run, 0), r;
	bool is_told;
	void *at;

	munmap(lab_page(&memory, 1), memory.page_bytes);
	r = lab_try_register(uffd, memory.at, memory.length_bytes, MISSING, NULL);
	if (r < 0) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	at = mmap(lab_page(&memory, 1), memory.page_bytes, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	probe_must(run, at != MAP_FAILED, "mmap() into the hole");
	is_told = is_missing_told(run, uffd, at);
	probe_detail(run, "the range was registered; an empty page mapped into its hole later %s",
		     is_told ? "raised a message" : "was read as zero without a message");
	probe_answer(run, "%s", is_told ? "registered" : "not registered");
}

static void try_gone(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd_of_dead(run), r, q;

	r = lab_try_register(uffd, memory.at, memory.length_bytes, MISSING, NULL);
	q = lab_unregister(uffd, memory.at, memory.length_bytes);
	probe_detail(run, "UFFDIO_REGISTER says %s, UFFDIO_UNREGISTER %s", probe_errno(r),
		     probe_errno(q));
	probe_answer(run, "%s", r == q ? probe_errno(r) : "unlike");
}

#define OFFERS "nothing: ufd asks for features, and does not read these masks"

static const struct probe_check checks[] = {
	{
		.id = "trackable.ioctls-anon",
		.group = PROBE_TRACKABLE,
		.title = "Registered anonymous memory is offered all that it can do",
		.wanted = "0x13c, wp 0x17c",
		.known = { { PROBE_KERNEL(6, 1), "0x1c, wp 0x5c" },
			   { PROBE_KERNEL(6, 6), "0x11c, wp 0x15c" },
			   { PROBE_KERNEL(6, 8), "0x13c, wp 0x17c" } },
		.consequence = OFFERS,
		.run = try_offers_anon,
	},
	{
		.id = "trackable.ioctls-shmem",
		.group = PROBE_TRACKABLE,
		.title = "Registered shmem is offered all that a userfaultfd can do",
		.wanted = "0x13c, wp 0x17c, minor 0x1fc",
		.known = { { PROBE_KERNEL(6, 1), "0x1c, wp 0x5c, minor 0xdc" },
			   { PROBE_KERNEL(6, 6), "0x11c, wp 0x15c, minor 0x1dc" },
			   { PROBE_KERNEL(6, 8), "0x13c, wp 0x17c, minor 0x1fc" } },
		.consequence = OFFERS,
		.run = try_offers_shmem,
	},
	{
		.id = "trackable.ioctls-hugetlb",
		.group = PROBE_TRACKABLE,
		.title = "Registered huge pages are offered all but zeropage and move",
		.wanted = "0x10c, wp 0x14c, minor 0x1cc",
		.known = { { PROBE_KERNEL(6, 1), "0xc, wp 0x4c, minor 0xcc" },
			   { PROBE_KERNEL(6, 6), "0x10c, wp 0x14c, minor 0x1cc" } },
		.consequence = OFFERS,
		.run = try_offers_hugetlb,
	},
	{
		.id = "trackable.ioctls-move",
		.group = PROBE_TRACKABLE,
		.title = "What shmem is offered leaves out UFFDIO_MOVE, which refuses shmem",
		.wanted = "left out",
		.known = { { PROBE_KERNEL(6, 8), "offered" } },
		.consequence = "nothing: ufd never moves pages",
		.run = try_offers_move,
	},
	{
		.id = "trackable.mode-added",
		.group = PROBE_TRACKABLE,
		.title = "Registering a range again adds a mode to those it has",
		.wanted = "added",
		.known = { { PROBE_KERNEL(5, 7), "replaced" } },
		.consequence = "ufd always registers with the full set of modes",
		.run = try_added_mode,
	},
	{
		.id = "trackable.mode-reduced",
		.group = PROBE_TRACKABLE,
		.title = "Registering a range again with fewer modes takes the others away",
		.wanted = "reduced",
		.known = { { PROBE_KERNEL(5, 7), "kept" } },
		.consequence = "ufd leaves write-protect mode on until the range is unregistered",
		.run = try_reduced_mode,
	},
	{
		.id = "trackable.second",
		.group = PROBE_TRACKABLE,
		.title = "Memory belongs to one userfaultfd; a second one is told so",
		.wanted = "EBUSY",
		.consequence = "ufd could not tell that a guest's memory is paged by somebody else",
		.run = try_second_uffd,
	},
	{
		.id = "trackable.foreign-unregister",
		.group = PROBE_TRACKABLE,
		.title = "A userfaultfd cannot unregister what belongs to another one",
		.wanted = "EINVAL",
		.known = { { PROBE_KERNEL(4, 3), "unregistered" },
			   { PROBE_KERNEL(6, 17), "EINVAL" } },
		.consequence = "another userfaultfd of a guest's process could end its paging",
		.run = try_foreign_unregister,
	},
	{
		.id = "trackable.unregister",
		.group = PROBE_TRACKABLE,
		.title = "A part can be unregistered, twice too, but not what is unmapped",
		.wanted = "ok, ok, EINVAL",
		.consequence = "ufd would take the end of a mapping for another error",
		.run = try_unregister,
	},
	{
		.id = "trackable.arguments",
		.group = PROBE_TRACKABLE,
		.title = "What cannot be a range or a mode is refused",
		.wanted = "EINVAL",
		.consequence = "mistakes of ufd in registering would go unnoticed",
		.run = try_arguments,
	},
	{
		.id = "trackable.huge-edge",
		.group = PROBE_TRACKABLE,
		.title = "A part of a huge page cannot be registered",
		.wanted = "EINVAL",
		.consequence = "ufd checks alignment itself; nothing follows",
		.run = try_huge_edge,
	},
	{
		.id = "trackable.hole",
		.group = PROBE_TRACKABLE,
		.title = "What is mapped into a hole of a registered range is registered, too",
		.wanted = "registered",
		.known = { { PROBE_KERNEL(4, 3), "not registered" } },
		.consequence =
			"ufd pages only what was mapped at attach or announced by the client",
		.run = try_hole,
	},
	{
		.id = "trackable.gone",
		.group = PROBE_TRACKABLE,
		.title = "Registering for a process that has ended says so (ESRCH)",
		.wanted = "ESRCH",
		.known = { { PROBE_KERNEL(4, 3), "ENOMEM" } },
		.consequence = "ufd asks by a COPY whether the process is gone or memory is short",
		.run = try_gone,
	},
};

const struct probe_family probe_family_trackable_rules = PROBE_FAMILY(checks);
