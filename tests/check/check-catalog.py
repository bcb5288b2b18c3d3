#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every MESSAGE_ID is explained in the journal's catalog and in ufdd(8), and nothing else is."""

import re

from tree import Finding, line_of, main

IDS = 'daemon/log-ids.h'
CATALOG = 'systemd/ufdd.catalog'
PAGE = 'docs/man/ufdd.8.scd'
DEFINED = re.compile(r'^#define LOG_ID_\w+\s+"([0-9a-f]{32})"', re.M)
ENTRY = re.compile(r'^-- ([0-9a-f]{32})\n((?:[A-Z][\w-]*: .*\n)*)\n((?:(?!-- ).*\n?)*)', re.M)
TITLE = re.compile(r'^-- (.*)', re.M)
ROW = re.compile(r'^\W*\*([0-9a-f]{2})\*$', re.M)


def found(pattern, text):
    """{identifier: line}, the last one of each."""
    return {match.group(1): line_of(text, match.start()) for match in pattern.finditer(text)}


def check_entries(text):
    for title in TITLE.finditer(text):
        entry = ENTRY.match(text, title.start())
        if not entry:
            yield Finding(CATALOG, line_of(text, title.start()), 'no entry of a catalog',
                          'write `-- ` and 32 hexadecimal digits, then fields, an empty line and the text')
            continue
        for field in ('Subject', 'Defined-By', 'Documentation'):
            if f'{field}: ' not in entry.group(2):
                yield Finding(CATALOG, line_of(text, title.start()), f'no {field}:', 'add it')
        if not entry.group(3).strip():
            yield Finding(CATALOG, line_of(text, title.start()), 'explains nothing', 'say what to do')


def check(tree):
    if not tree.has(IDS):
        return
    header = tree.text(IDS)
    catalog, page = (tree.text(path) if tree.has(path) else '' for path in (CATALOG, PAGE))
    defined, entries, rows = found(DEFINED, header), found(ENTRY, catalog), found(ROW, page)
    if len(defined) != len(DEFINED.findall(header)):
        yield Finding(IDS, 1, 'two events have the same identifier', 'take the next one')
    for name, line in defined.items():
        if name not in entries:
            yield Finding(IDS, line, f'{name} is not in {CATALOG}', 'explain it there')
        if name[-2:] not in rows:
            yield Finding(IDS, line, f'{name[-2:]} is not in the table of {PAGE}', 'add a row')
    for name, line in entries.items():
        if name not in defined:
            yield Finding(CATALOG, line, f'{name} is not in {IDS}', 'take it away, or define it')
    for name, line in rows.items():
        if not any(known.endswith(name) for known in defined):
            yield Finding(PAGE, line, f'{name} is not in {IDS}', 'take it away, or define it')
    yield from check_entries(catalog)


if __name__ == '__main__':
    main(check)
