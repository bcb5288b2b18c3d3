#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface files are the source: the server's table and the man page name the same methods."""

import os
import re
import subprocess

from tree import Finding, main

FOLDER = 'lib/wire'
PAGE = 'docs/man/ufd-protocol.7.scd'
SERVER = 'daemon/ufdd'
MEMBER = re.compile(r'^(method|error)\s+([A-Z]\w*)')
INTERFACE = re.compile(r'^interface\s+(\S+)')


def members(tree, path):
    """(kind, full name, line) of an interface file; the first is the interface itself."""
    interface = None
    for number, line in tree.lines(path):
        found = INTERFACE.match(line)
        if found:
            interface = found.group(1)
            yield 'interface', interface, number
        found = MEMBER.match(line)
        if found:
            yield found.group(1), f'{interface}.{found.group(2)}', number


def served(program):
    """Names as the server's dispatch table has them."""
    ran = subprocess.run([program, '--list-methods'], capture_output=True, text=True, timeout=30,
                         stdin=subprocess.DEVNULL)
    return ran.returncode, set(ran.stdout.split())


def check_page(tree, declared):
    if not tree.has(PAGE):
        yield Finding(PAGE, 1, 'the protocol has no man page', 'write it')
        return
    words = set(re.findall(r'[\w.]+', tree.text(PAGE).replace('\\_', '_')))
    words |= {word.strip('.') for word in words}
    words |= {part for word in words for part in word.split('.')}
    for (path, line, kind, name) in declared:
        short = name if kind == 'interface' else name.rsplit('.', 1)[1]
        if short not in words:
            yield Finding(path, line, f'{kind} {name} is not in {PAGE}', 'describe it there')
    known = {name for _, _, _, name in declared}
    for number, text in tree.lines(PAGE):
        for name in re.findall(r'\b(?:io\.ufd|org\.varlink)\.[a-z]+\.[A-Z]\w*', text):
            if name not in known:
                yield Finding(PAGE, number, f'{name} is in no interface file', 'correct the page')


def check(tree):
    paths = tree.under(FOLDER, suffix='.varlink')
    if not paths:
        yield Finding(FOLDER, 1, 'no interface files', 'they are the source of all methods')
        return
    declared = [(path, line, kind, name) for path in paths for kind, name, line in members(tree, path)]
    for path in paths:
        interface = next((name for at, _, kind, name in declared if at == path), None)
        if os.path.basename(path) != f'{interface}.varlink':
            yield Finding(path, 1, f'the file describes {interface}', 'name it after its interface')
    yield from check_page(tree, declared)
    status, table = served(tree.built(SERVER))
    if status != 0:
        yield Finding(SERVER, 1, '--list-methods failed', 'print one full method name a line')
        return
    methods = {name: (path, line) for path, line, kind, name in declared if kind == 'method'}
    for name in sorted(set(methods) - table):
        yield Finding(*methods[name], f'{name} is not in the server\'s table', 'serve it')
    for name in sorted(table - set(methods)):
        yield Finding(FOLDER, 1, f'the server has {name}, which no interface file declares', 'declare it')


if __name__ == '__main__':
    main(check)
