/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The window: neighbours of demanded pages. */
#include "fault/window.h"

#include <string.h>

#include "fault/engine.h"
#include "fault/fill.h"

static void window_push(struct window *window, struct memory *memory, struct page_range pages)
{
	if (!pages.count)
		return;
	if (window->n == N_WINDOW) {
		memmove(window->stack, window->stack + 1,
			sizeof(window->stack) - sizeof(window->stack[0]));
		window->n--;
	}
	window->stack[window->n].memory = memory;
	window->stack[window->n].pages = pages;
	window->n++;
}

/* The stream that this fault continues, or a new one. */
static unsigned int window_stream(struct window *window, struct memory *memory, uint64_t page,
				  bool *ret_is_sequential)
{
	unsigned int i;

	for (i = 0; i < N_STREAMS; i++)
		if (window->streams[i].memory == memory && window->streams[i].next_page == page) {
			*ret_is_sequential = true;
			return i;
		}
	*ret_is_sequential = false;
	i = window->next_stream;
	window->next_stream = (i + 1) % N_STREAMS;
	return i;
}

struct page_range window_plan(struct demand *demand, struct memory *memory, uint64_t page)
{
	struct window *window = &demand->window;
	uint64_t n_window, n_max, first, end;
	bool is_sequential;
	unsigned int i;

	if (demand->config.window_bytes == WINDOW_NONE)
		return (struct page_range){ page, 1 };
	n_window = demand->config.window_bytes / memory->page_bytes;
	if (n_window < 2)
		return (struct page_range){ page, 1 };

	i = window_stream(window, memory, page, &is_sequential);
	n_max = (memory->is_backing_source ? WINDOW_CONTINUE_BYTES : WINDOW_COPY_BYTES) /
		memory->page_bytes;
	window->streams[i].memory = memory;
	if (is_sequential) {
		uint64_t n = min_u64(window->streams[i].n_pages, memory_n_pages(memory) - page);

		window->streams[i].next_page = page + n;
		window->streams[i].n_pages = min_u64(n * 2, max_u64(n_max, n_window));
		return (struct page_range){ page, n };
	}

	first = align_down(page, n_window);
	end = min_u64(first + n_window, memory_n_pages(memory));
	window->streams[i].next_page = end;
	window->streams[i].n_pages = n_window;
	/* last pushed, first done: forward before backward */
	window_push(window, memory, (struct page_range){ first, page - first });
	window_push(window, memory, (struct page_range){ page + 1, end - page - 1 });
	return (struct page_range){ page, 1 };
}

bool window_piece(struct demand *demand)
{
	struct window *window = &demand->window;

	while (window->n) {
		struct memory *memory = window->stack[window->n - 1].memory;
		struct page_range *left = &window->stack[window->n - 1].pages;
		uint64_t n_piece = max_u64(WINDOW_PIECE_BYTES / memory->page_bytes, 1);
		struct page_range run;

		if (!page_states_find(&memory->states, *left, PAGE_ABSENT, &run)) {
			window->n--;
			continue;
		}
		run.count = min_u64(run.count, n_piece);
		if (!fill_begin(demand, memory, run, CAUSE_WINDOW))
			return false;
		left->count -= run.first + run.count - left->first;
		left->first = run.first + run.count;
		if (!left->count)
			window->n--;
		return true;
	}
	return false;
}

void window_forget(struct window *window, const struct memory *memory)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < window->n; i++)
		if (window->stack[i].memory != memory)
			window->stack[n++] = window->stack[i];
	window->n = n;
	for (unsigned int i = 0; i < N_STREAMS; i++)
		if (window->streams[i].memory == memory)
			window->streams[i].memory = NULL;
}
