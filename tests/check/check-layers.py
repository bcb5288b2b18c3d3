#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arrows point down: the include graph keeps to layers.txt, and no two files need each other."""

import os
import re

from tree import Finding, main, without_comments, line_of

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
ROOTS = ('lib', 'include', 'daemon', 'cli', 'tests', '')
CHECKED = ('lib', 'include', 'daemon', 'cli', 'docs/examples')
TABLE = 'tests/check/layers.txt'
LIBRARIES = 'tests/check/libraries.txt'


def rows(tree, path):
    """{name: (line, [names])} in the order of the file; `@group: names` stands for its names below it."""
    table, groups = {}, {}
    for number, line in tree.lines(path):
        name, colon, others = line.split('#', 1)[0].strip().partition(':')
        names = [one for other in others.split() for one in groups.get(other, [other])]
        if name.startswith('@'):
            groups[name] = names
        elif colon:
            table[name] = (number, names)
    return table


def includes(tree, path):
    """(line, kind, name) of every include."""
    text = without_comments(tree.text(path))
    return [(line_of(text, found.start(1)), found.group(1), found.group(2))
            for found in INCLUDE.finditer(text)]


def resolve(tree, path, name):
    """The file of this tree that an include means, or None for a system's or generated one."""
    beside = os.path.normpath(os.path.join(os.path.dirname(path), name))
    for candidate in [os.path.normpath(os.path.join(root, name)) for root in ROOTS] + [beside]:
        if tree.has(candidate):
            return candidate
    return None


def room_of(path, table):
    """The longest row that holds the path."""
    stem = re.sub(r'(\.bpf)?\.[ch]$', '', path)
    fitting = [room for room in table if stem == room or path.startswith(room + '/')]
    return max(fitting, key=len, default=None)


def allowed(room, other, table):
    if other in (room, 'lib/base'):
        return True
    return any(other == may or (may == 'lib' and other.startswith('lib/'))
               for may in table[room][1])


def check_table(table):
    """The table itself points down."""
    above = set()
    for room, (number, others) in table.items():
        for other in others:
            if other != 'lib' and other not in above:
                yield Finding(TABLE, number, f'{room} names {other}, which is not above it',
                              'a row names only rows before it')
        above.add(room)


def check_libraries(tree, path, line, name, libraries):
    for prefix, (_, rooms) in libraries.items():
        if name.startswith(prefix) and not any(path.startswith(room + '/') for room in rooms):
            yield Finding(path, line, f'<{name}> belongs to {", ".join(rooms)}',
                          f'ask that room, or change {LIBRARIES} and docs/architecture.md')


def check_file(tree, path, table, libraries, graph):
    room = room_of(path, table)
    if not room:
        yield Finding(path, 1, 'this room has no row', f'give it one in {TABLE}')
        return
    for line, kind, name in includes(tree, path):
        yield from check_libraries(tree, path, line, name, libraries)
        other = resolve(tree, path, name)
        if not other:
            continue
        if kind == '"' and os.path.dirname(other) not in ROOTS and '/' not in name:
            yield Finding(path, line, f'"{name}" does not say its folder',
                          f'write "{os.path.basename(os.path.dirname(other))}/{name}"')
        graph.setdefault(path, []).append((line, other))
        other_room = room_of(other, table)
        if not other_room:
            yield Finding(path, line, f'{other} lies outside the house', f'give it a row in {TABLE}')
        elif not allowed(room, other_room, table):
            yield Finding(path, line, f'{room} may not use {other_room}',
                          'move the noun below both, or pass a callback down')


def cycles(graph):
    """Each cycle of files once, as [(file, line, next)]."""
    state, trail = {}, []

    def visit(path):
        state[path] = 'open'
        for line, other in graph.get(path, []):
            trail.append((path, line, other))
            if state.get(other) == 'open':
                start = next(i for i, step in enumerate(trail) if step[0] == other)
                yield list(trail[start:])
            elif other not in state:
                yield from visit(other)
            trail.pop()
        state[path] = 'done'

    for path in sorted(graph):
        if path not in state:
            yield from visit(path)


def room_cycles(graph, table):
    rooms = {}
    for path, edges in graph.items():
        for line, other in edges:
            room, other_room = room_of(path, table), room_of(other, table)
            if room and other_room and room != other_room:
                rooms.setdefault(room, []).append((f'{path}:{line}', other_room))
    return cycles(rooms)


def check(tree):
    table, libraries, graph = rows(tree, TABLE), rows(tree, LIBRARIES), {}
    yield from check_table(table)
    for path in tree.under(*CHECKED):
        if path.endswith(('.c', '.h')):
            yield from check_file(tree, path, table, libraries, graph)
    for cycle in cycles(graph):
        path, line, _ = cycle[0]
        yield Finding(path, line, 'files include each other: ' +
                      ' -> '.join([step[0] for step in cycle] + [path]),
                      'a third noun is missing; put it below both')
    for cycle in room_cycles(graph, table):
        path, line = cycle[0][1].rsplit(':', 1)
        yield Finding(path, int(line), 'rooms use each other: ' +
                      ' -> '.join([step[0] for step in cycle] + [cycle[0][0]]),
                      'a third noun is missing; put it below both')


if __name__ == '__main__':
    main(check)
