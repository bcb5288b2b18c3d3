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
    'messages-not-replayed': ('messages.c', [('if (!atomic_load(&buffer->is_reading))', 'if (true)')]),
    'partial-skips-a-page': ('place.c', [(
        'struct page_range done = { run.first, n_done };',
        'struct page_range done = { run.first, n_done + (outcome == UFFD_CHANGING) };')]),
    'graduate-before-complete': ('tell.c', [(
        'if (count_get(&memory->n_absent) && guest_view_has_memory(demand->view, memory))',
        'if (count_get(&memory->n_absent) > 3 && guest_view_has_memory(demand->view, memory))')]),
    'source-after-discard': ('messages.c', [(
        '''		n_settled += page_states_move_all(&memory->states, pages, PAGE_FILLING,
						  PAGE_REMOVED);
''', '')]),
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
