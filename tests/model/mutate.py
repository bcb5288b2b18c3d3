#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies a file of the data plane with one fault put in. The model test must catch each."""

import sys

# name: (file, [(text, text instead), ...]); each text must be in the file, once.
MUTATIONS = {
    'no-wake-after-eexist': ('place.c', [(
        '''	fill_present(demand, memory, (struct page_range){ page, 1 });
	fill_wake_others(demand, memory, (struct page_range){ page, 1 }, NULL);
	return true;''',
        '''	fill_present(demand, memory, (struct page_range){ page, 1 });
	return true;''')]),
    'wp-lost': ('fill.c', [('return memory_is_tracked(memory) ? UFFD_FILL_WP : 0;', 'return 0;')]),
    'dirty-after-unprotect': ('track.c', [
        ('''	memory_mark_dirty(mapping->memory, (struct page_range){ page, 1 });
	if (!before_write_save(demand, mapping, page))
		return;
''', ''),
        ('''	outcome = uffd_write_protect(mapping->mapper->uffd, range, false);
''', '''	outcome = uffd_write_protect(mapping->mapper->uffd, range, false);
	if (outcome)
		memory_mark_dirty(mapping->memory, pages);
''')]),
    'fault-before-remove': ('messages.c', [
        ('if (copy[i].event != UFFD_EVENT_PAGEFAULT) {', 'if (false) {'),
        ('''			message_fault(demand, mapper, &copy[i]);
''', '''			message_fault(demand, mapper, &copy[i]);
	for (unsigned int i = 0; i < n; i++)
		if (copy[i].event != UFFD_EVENT_PAGEFAULT)
			message_apply_event(demand, mapper, &copy[i]);
''')]),
    'foreign-bytes-mapped': ('place.c', [('	if (may_be_foreign) {', '	if (may_be_foreign && !exists) {')]),
    'overwritten-on-recovery': ('place.c', [('!slot->is_recovered &&', 'true &&')]),
    'mark-in-the-way': ('place.c', [('if (outcome != UFFD_PRESENT)', 'if (true)')]),
    'messages-not-replayed': ('messages.c', [('if (!atomic_load(&buffer->is_reading))', 'if (true)')]),
    'partial-skips-a-page': ('place.c', [(
        'struct page_range done = { run.first, n_done };',
        'struct page_range done = { run.first, n_done + (outcome == UFFD_CHANGING) };')]),
    'graduate-before-complete': ('tell.c', [(
        'if (count_get(&memory->n_absent) && guest_view_has_memory(demand->view, memory))',
        'if (count_get(&memory->n_absent) > 3 && guest_view_has_memory(demand->view, memory))')]),
    'source-after-discard': ('discard.c', [(
        '	n += page_states_move_all(&memory->states, pages, PAGE_FILLING, PAGE_REMOVED);\n', '')]),
    'park-without-wake': ('park.c', [(
        '		(void)uffd_wake(park->entries[i].mapper->uffd, park->entries[i].range);\n', '')]),
    'puts-not-noted': ('put.c', [('pages.count << FIRST_BITS', '0 * pages.count << FIRST_BITS')]),
    'other-mappings-asleep': ('fill.c', [('	fill_wake_others(demand, memory, run, mapping);\n', '')]),
    'hole-over-foreign-page': ('fill.c', [(
        'is_zero && cause != CAUSE_DEMAND ? fill_untouched(memory, pages) : 0',
        'is_zero && cause != CAUSE_DEMAND ? pages.count : 0')]),
    'poison-stops-at-marker': ('stall.c', [(
        'if (uffd_write_protect(mapping->mapper->uffd, range, false) == 0)', 'if (false)')]),
    'broken-page-spins': ('resolve.c', [('if (outcome == UFFD_POISONED) {', 'if (false) {')]),
    'recovery-without-wake': ('demand.c', [('''		put_recover(demand);
		park_wake_all(demand);
''', '''		put_recover(demand);
''')]),
    'doubt-forgotten': ('put.c', [('if (!put_is_in_doubt(demand, memory, page))', 'if (true)')]),
    'unplugged-unheard': ('command.c', [(
        'if (mapper->is_gone || !uffd_is_changing(mapper->uffd))', 'if (true)')]),
    # what was written
    'scan-not-protected-again': ('scan.c', [('(PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC)', 'PM_SCAN_CHECK_WPASYNC')]),
    'scan-ends-early': ('scan.c', [(
        '	while (at.v < end.v) {\n		struct hva walk_end', '	if (at.v < end.v) {\n		struct hva walk_end')]),
    'filling-is-told': ('dirty-log.c', [(
        'if (state == PAGE_PRESENT || state == PAGE_REMOVED)', 'if (true || state == PAGE_PRESENT)')]),
    'vector-forgotten': ('dirty-adopt.c', [('	scan_recover(log->guest);\n', '')]),
    'wp-not-protected-again': ('dirty-log.c', [('return protect_map(log, slot, false);', 'return 0;')]),
    'mapped-unmarked': ('resolve.c', [('	memory_mark_dirty(mapping->memory, (struct page_range){ page, 1 });\n	return before', '	return before')]),
    'wp-not-settled': ('dirty-log.c', [('	if (log->settle)\n', '	if (false)\n')]),
    'asleep-while-filling': ('demand.c', [
        ('	atomic_store_explicit(&demand->board->is_asleep, 0, memory_order_seq_cst);\n', ''),
        ('''	demand_looked(demand, completions, n);
	return 0;
}

/*
''', '''	demand_looked(demand, completions, n);
	atomic_store_explicit(&demand->board->is_asleep, 0, memory_order_seq_cst);
	return 0;
}

/*
''')]),
    'discard-counted-late': ('discard.c', [('	count(memory);\n	n = page', '	n = page'), (
        '	count(memory);\n	demand_note', '	count(memory);\n	count(memory);\n	demand_note')]),
    'discard-counted-early': ('discard.c', [('	count(memory);\n	n = page', '	count(memory);\n	count(memory);\n	n = page'), (
        '	count(memory);\n	demand_note', '	demand_note')]),
    'lost-reply-forgotten': ('dirty-log.c', [('''	if (epoch == consumer->epoch)
		log->acknowledged |= UINT32_C(1) << slot;
	else
		unacked_back(log, slot);
''', '''	log->acknowledged |= UINT32_C(1) << slot;
''')]),
    'epoch-after-move': ('dirty-log.c', [(
        '''	consumer->epoch++;
	(void)put_consumer(log, slot); /* as long as it was */
''', '''	consumer->epoch++;
''')]),
    'late-discard-forgotten': ('dirty-log.c', [(
        'r = discards_keep(log->guest->view, memory, slot, &n_pages);', 'r = 0;')]),
    'discard-before-begin-forgotten': ('dirty-log.c', [(
        'r = discards_begin(log->guest->view, memory, slot, &n_pages);', 'r = 0;')]),
    'cleared-before-set': ('dirty-map.c', [(
        '''		atomic_fetch_or_explicit(&to[i], bits, memory_order_release);
		/* a kill here leaves them in both */
		atomic_fetch_and_explicit(&from[i], ~bits, memory_order_acq_rel);
''', '''		atomic_fetch_and_explicit(&from[i], ~bits, memory_order_acq_rel);
		atomic_fetch_or_explicit(&to[i], bits, memory_order_release);
''')]),
    'taken-before-set': ('dirty-map.c', [('''		if (after != before)
			atomic_store_explicit(&to[i], after, memory_order_release);
		/* a kill here leaves them in both */
		if (bits)
			atomic_fetch_and_explicit(&from[i], ~bits, memory_order_acq_rel);
''', '''		if (bits)
			atomic_fetch_and_explicit(&from[i], ~bits, memory_order_acq_rel);
		if (after != before)
			atomic_store_explicit(&to[i], after, memory_order_release);
''')]),
    'owner-writes-unheard': ('command.c', [('''	if (n)
		command_wake(demand, command);
''', '')]),
}


def main():
    name, source, target = sys.argv[1:]
    file, changes = MUTATIONS[name]
    if not source.endswith('/' + file):
        sys.exit(f'{sys.argv[0]}: {name} changes {file}, not {source}')
    with open(source, encoding='utf-8') as stream:
        text = stream.read()
    for old, new in changes:
        if text.count(old) != 1:
            sys.exit(f'{sys.argv[0]}: {name}: {file} holds this {text.count(old)} times, not once:\n{old}')
        text = text.replace(old, new)
    with open(target, 'w', encoding='utf-8') as stream:
        stream.write(text)


if __name__ == '__main__':
    main()
