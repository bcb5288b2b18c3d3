/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One episode: a world by chance, chaos, then calm in which everybody must get what he waits for. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault/command.h"
#include "fault/demand.h"
#include "guest/page-state.h"
#include "parties.h"

#define N_TURNS_CALM 20000

/* ---- a world ---- */

static void choose_kind(struct model_memory *memory)
{
	uint64_t dice = chance_below(20);

	memory->page_bytes = 4096;
	memory->n_pages = 20 + chance_below(N_PAGES - 20 + 1);
	memory->kind = dice < 8 ? BACKING_SHMEM : dice < 12 ? BACKING_ANON : BACKING_HUGETLB;
	if (dice >= 18)
		memory->kind = BACKING_PRIVATE;
	memory->source_kind = SOURCE_KIND_CALLBACK;
	dice = chance_below(20);
	if (dice < 2)
		memory->source_kind = SOURCE_KIND_ZERO;
	else if (dice < 6 && memory->kind != BACKING_ANON)
		memory->source_kind = SOURCE_KIND_BACKING;
	else if (dice < 10)
		memory->source_kind = SOURCE_KIND_FILE;
	if (memory->kind != BACKING_HUGETLB)
		return;
	memory->page_bytes = 16 * KIB;
	memory->n_pages = 8 + chance_below(57);
	if (memory->source_kind == SOURCE_KIND_FILE || chance_below(5))
		return;
	memory->page_bytes = chance_below(6) ? 2 * MIB : GIB;
	memory->n_pages = memory->page_bytes == GIB ? 2 + chance_below(4) : 4 + chance_below(20);
}

static void fill_file(struct model_memory *memory)
{
	for (uint64_t i = 0; i < memory->n_pages; i++) {
		bool is_hole = memory->source_tokens[i] == 0 && chance_below(4);

		memory->file.pages[i].is_cached = !is_hole;
		memory->file.pages[i].is_data = !is_hole;
		memory->file.pages[i].token = memory->source_tokens[i];
	}
}

static void make_memory(struct model_memory *memory)
{
	bool is_zero = false;

	*memory = (struct model_memory){ .is_used = true };
	choose_kind(memory);
	memory->source_offset = chance_below(3) * memory->page_bytes;
	for (uint64_t i = 0; i < memory->n_pages; i++) {
		if (chance_below(6) == 0)
			is_zero = !is_zero;
		/* a gigabyte of zeros takes long to be told from others */
		if (memory->source_kind == SOURCE_KIND_ZERO ||
		    (is_zero && memory->page_bytes < GIB))
			continue;
		memory->source_tokens[i] = ++world.next_token << 8 | 0x11;
	}
	memory->file.fd = -EBADF;
	if (memory->kind != BACKING_ANON)
		memory->file.fd = memfd_create("model-memory", MFD_CLOEXEC);
	memory->file.is_huge = memory->kind == BACKING_HUGETLB;
	memory->file.n_pages = memory->n_pages;
	if (memory->source_kind == SOURCE_KIND_BACKING)
		fill_file(memory);
	oracle_init(memory);
	model_source_open(memory);
}

static void make_area(unsigned int *n_areas, unsigned int memory, unsigned int process,
		      struct page_range pages)
{
	struct area *area = &world.areas[*n_areas];

	*area = (struct area){
		.is_used = true,
		.is_shown = true,
		.is_private = !memory_is_shared(&world.memories[memory]),
		.process = process,
		.memory = memory,
		.start = { (UINT64_C(1) + *n_areas) << 40 },
		.first_page = pages.first,
		.n_pages = pages.count,
	};
	for (uint64_t i = 0; i < pages.count; i++)
		area->is_mapped[i] = true;
	++*n_areas;
}

static void make_areas(unsigned int *n_areas, unsigned int memory)
{
	uint64_t n_pages = world.memories[memory].n_pages, half = n_pages / 2;
	unsigned int process = (unsigned int)chance_below(world.n_processes);

	if (!memory_is_shared(&world.memories[memory]) && chance_below(2)) {
		make_area(n_areas, memory, process, (struct page_range){ 0, half });
		make_area(n_areas, memory, process, (struct page_range){ half, n_pages - half });
		return;
	}
	make_area(n_areas, memory, process, (struct page_range){ 0, n_pages });
	if (!memory_is_shared(&world.memories[memory]))
		return;
	for (uint64_t n = chance_below(3); n; n--) {
		uint64_t first = chance_below(2) ? 0 : chance_below(n_pages);

		make_area(n_areas, memory, (unsigned int)chance_below(world.n_processes),
			  (struct page_range){ first, n_pages - first });
	}
}

static void make_world(void)
{
	unsigned int n_areas = 0;
	bool is_async = chance_below(3) == 0;

	world = (struct world){ .now_ns = NSEC_PER_SEC, .pool_free = 100000 };
	world.n_processes = 1 + (unsigned int)chance_below(chance_below(2) ? N_PROCESSES : 1);
	world.n_memories = 1 + (unsigned int)chance_below(N_MEMORIES);
	world.n_threads = 3 + (unsigned int)chance_below(N_THREADS - 2);
	world.may_graduate = chance_below(3) == 0;
	world.may_track = !world.may_graduate;
	world.crash_weight = (unsigned int)chance_below(3) * 12;
	world.is_continue_open = !is_async && chance_below(4) == 0;
	for (unsigned int i = 0; i < world.n_processes; i++)
		world.processes[i] = (struct process){
			.is_alive = true,
			.is_registered = true,
			.is_wp_async = is_async,
			.has_remove_events = chance_below(6) > 0,
		};
	for (unsigned int i = 0; i < world.n_threads; i++)
		world.threads[i].process = i % world.n_processes;
	for (unsigned int i = 0; i < world.n_memories; i++) {
		make_memory(&world.memories[i]);
		make_areas(&n_areas, i);
	}
	/* refused: a discard that nobody tells of hides that a huge page was written */
	for (unsigned int i = 0; i < world.n_memories * world.n_processes; i++)
		if (is_async && world.memories[i % world.n_memories].kind == BACKING_HUGETLB &&
		    !world.processes[i / world.n_memories].has_remove_events)
			world.may_track = false;
	chaos_reset();
}

static void boot(void)
{
	static const uint64_t windows[] = { WINDOW_NONE, 16 * KIB, 48 * KIB, 64 * KIB, 64 * KIB };
	uint64_t dice = chance_below(20);
	const struct demand_config config = {
		.policy = dice < 15   ? POLICY_STALL
			  : dice < 19 ? POLICY_POISON
				      : POLICY_KILL,
		.deadline_ns = chance_below(3) * 40 * NSEC_PER_MSEC,
		.background_rate = chance_below(3) ? 0 : MIB << chance_below(8),
		.window_bytes = windows[chance_below(sizeof(windows) / sizeof(windows[0]))],
		.sleep_max_ns = NSEC_PER_SEC,
		.can_map_protected = !world.is_continue_open,
		.is_background = chance_below(4) > 0,
		.cpu = -1,
		.event_fd = -EBADF,
		.chore_fd = -EBADF,
	};

	engine_boot(&config);
}

/* Pages that were there before us: the owner said that they are to be kept. */
static void populate(struct area *area)
{
	struct model_memory *memory = area_memory(area);
	uint64_t page = chance_below(area->n_pages);
	uint64_t at = area->first_page + page, token = ++world.next_token << 8 | 0x22;

	if (memory->source_kind == SOURCE_KIND_BACKING)
		return;
	if (memory_is_shared(memory))
		memory_poke(memory, at, token, true);
	else
		area->ptes[page] = (struct pte){ .kind = PTE_OWN, .token = token };
	oracle_write(memory, at, token);
	engine_command(COMMAND_KEEP, memory, (struct page_range){ at, 1 }, false);
}

static void open_areas(void)
{
	bool are_populated = chance_below(3) == 0;

	for (unsigned int i = 0; i < N_AREAS; i++) {
		if (!world.areas[i].is_used)
			continue;
		for (uint64_t n = are_populated ? chance_below(6) : 0; n; n--)
			populate(&world.areas[i]);
		if (chance_below(4)) /* the rest opens later */
			engine_open_area(&world.areas[i]);
	}
}

/* ---- calm ---- */

static void mend(void)
{
	world.is_calm = true;
	world.is_source_bad = false;
	world.is_out_of_memory = false;
	world.pool_free = 1000000;
	world.crash_in = 0;
	for (unsigned int i = 0; i < world.n_memories; i++) {
		struct model_memory *memory = &world.memories[i];

		memory->file.has_foreign_mapping = false;
		memory->file.n_pages = memory->n_pages;
		if (!memory->is_source_changed)
			continue;
		engine_kill();
		model_source_close(memory);
		model_source_open(memory);
		engine_recover();
	}
	for (unsigned int i = 0; i < N_AREAS; i++)
		if (world.areas[i].is_shown && !world.areas[i].is_open &&
		    !world.areas[i].is_leaving)
			engine_open_area(&world.areas[i]);
}

static bool is_anybody_busy(void)
{
	for (unsigned int i = 0; i < world.n_threads; i++)
		if (world.threads[i].state != THREAD_IDLE)
			return true;
	return false;
}

static bool is_area_leaving(void)
{
	for (unsigned int i = 0; i < N_AREAS; i++)
		if (world.areas[i].is_leaving)
			return true;
	return false;
}

/* Everybody goes on until he has what he waits for. */
static void settle(void)
{
	for (unsigned int turn = 0; is_anybody_busy() || is_area_leaving(); turn++) {
		for (unsigned int i = 0; i < N_AREAS; i++)
			if (world.areas[i].is_leaving)
				chaos_unplug(&world.areas[i]);
		for (unsigned int i = 0; i < world.n_threads; i++) {
			world.threads[i].n_storm = 0;
			if (world.threads[i].state != THREAD_IDLE)
				thread_run(&world.threads[i]);
		}
		(void)engine_turn();
		if (chance_below(2))
			(void)model_source_complete();
		(void)engine_answer_chore();
		for (unsigned int i = 0; turn == N_TURNS_CALM && i < world.n_threads; i++)
			if (world.threads[i].state == THREAD_WAITS)
				model_fail(
					"lost wake-up: thread %u waits for page %llu since %llu ms",
					i,
					(unsigned long long)(world.threads[i].page +
							     world.threads[i].area->first_page),
					(unsigned long long)((world.now_ns -
							      world.threads[i].waits_since_ns) /
							     NSEC_PER_MSEC));
		if (turn == N_TURNS_CALM)
			model_fail("the guest does not come to rest");
	}
}

/*
 * Until the engine has slept a while and is about to sleep with nothing to wait for. (It need not
 * sleep for ever: pages that are unmapped are tried again from time to time.)
 */
static void rest(void)
{
	for (unsigned int turn = 0, n_sleeps = 0; !engine_has_ended(); turn++) {
		bool is_busy = model_source_complete();

		is_busy |= engine_answer_chore();
		is_busy |= !engine_turn();
		is_busy |= !engine_is_idle();
		n_sleeps += !is_busy;
		if (n_sleeps == 20 && !is_busy)
			break;
		if (!is_busy)
			(void)engine_turn(); /* the sleep itself */
		if (turn == N_TURNS_CALM)
			model_fail("the engine does not come to rest");
	}
	if (!engine_has_ended())
		engine_check_rest();
}

static void read_everything(void)
{
	for (unsigned int i = 0; i < N_AREAS; i++) {
		struct area *area = &world.areas[i];

		if (!area->is_used || !area->is_shown || !world.processes[area->process].is_alive)
			continue;
		for (uint64_t page = 0; page < area->n_pages; page++) {
			struct thread *thread = &world.threads[area->process];

			thread_begin(thread, area, page, false);
			settle();
			if (!world.processes[area->process].is_alive)
				break;
		}
	}
}

static void end(void)
{
	engine_end();
	for (unsigned int i = 0; i < world.n_memories; i++) {
		model_source_close(&world.memories[i]);
		closep(&world.memories[i].file.fd);
	}
}

void episode_run(uint64_t n_steps)
{
	make_world();
	boot();
	open_areas();
	if (chance_below(2))
		tracking_start(0);
	for (uint64_t step = 0; step < n_steps && !engine_has_ended(); step++) {
		trace_step(step);
		chaos_step();
	}
	trace_step(n_steps);
	mend();
	settle();
	rest();
	tracking_check();
	read_everything();
	rest();
	end();
}
