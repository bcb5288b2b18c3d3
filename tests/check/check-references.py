#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can close the last reference to a userfaultfd, or unregister: nobody that references.txt does not name.

Absent pages read zero then, so a new way to do it is a decision, not an accident.
"""

import re

from tree import Finding, line_of, main, without_comments

TABLE = 'tests/check/references.txt'
# Experiments close and unregister as they like: their processes hold no fd of the caller's, and no guest
# has a page of theirs (lib/probe/confine.c).
WITHOUT_GUESTS = 'lib/probe/'
FUNCTION = re.compile(r'^(?!typedef|struct \w+ \{|enum)[A-Za-z_][^;{}()=]*?\b(\w+)\([^;{}]*\)\s*\n\{\n.*?^\}', re.M | re.S)
CLOSE = re.compile(r'\b(?:close|closep)\s*\(([^;]*?\buffd\b[^;]*?)\)\s*;|\b(close_uffd)\(')


def allowed(tree):
    """{what: {(path, function): line}}"""
    rows = {}
    for number, line in tree.lines(TABLE) if tree.has(TABLE) else ():
        words = line.split('#')[0].split()
        if len(words) == 3:
            rows.setdefault(words[0], {})[words[1], words[2]] = number
    return rows


def uses(tree, names):
    """(what, path, function, line) of each call of one of the names, and of each close of a uffd."""
    call = re.compile(r'(?<![\w.>])(' + '|'.join(map(re.escape, sorted(names))) + r')\s*\(') if names else None
    for path in tree.under('lib', 'daemon', suffix='.c'):
        if path.startswith(WITHOUT_GUESTS):
            continue
        text = without_comments(tree.text(path))
        for function in FUNCTION.finditer(text):
            body = function.group()
            body = body[body.index('\n{\n'):]
            start = function.end() - len(body)
            for found in CLOSE.finditer(body):
                yield 'close(uffd)', path, function.group(1), line_of(text, start + found.start())
            for found in call.finditer(body) if call else ():
                yield found.group(1), path, function.group(1), line_of(text, start + found.start())


def check(tree):
    rows = allowed(tree)
    seen = set()
    for what, path, function, line in uses(tree, rows.keys() - {'close(uffd)'}):
        seen.add((what, path, function))
        if (path, function) not in rows.get(what, {}):
            yield Finding(path, line, f'{function}() calls {what}, after which absent pages may read zero',
                          f'see that nobody misses bytes there, cover it in test-last-reference.c, and name it in {TABLE}')
    for what, places in rows.items():
        for (path, function), number in places.items():
            if (what, path, function) not in seen:
                yield Finding(TABLE, number, f'{function}() of {path} does not call {what}', 'take the line out')


if __name__ == '__main__':
    main(check)
