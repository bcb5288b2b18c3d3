#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a library exports = what its public header declares = what its man page explains."""

import os
import re
import subprocess

from tree import Finding, Skip, main, without_comments, line_of

# library below the build directory, its headers, its man page
LIBRARIES = [
    ('libufd.so', ['include/ufd/ufd.h'], 'docs/man/libufd.3.scd'),
    ('libufd-pager.so', ['include/ufd/pager.h', 'include/ufd/pager-dirty.h'], 'docs/man/libufd-pager.3.scd'),
]
CALL = re.compile(r'\b(ufd_[a-z0-9_]+)\s*\(')


def declared(tree, header):
    """{name: line} of the prototypes in a header."""
    text = without_comments(tree.text(header))
    names = {}
    for statement in re.finditer(r'[^;{}]+;', re.sub(r'^[ \t]*#(.*\\\n)*.*$', keep_lines, text,
                                                     flags=re.M)):
        found = CALL.search(statement.group())
        words = statement.group().split()
        if found and words[0] not in ('typedef', 'static', 'return') and '=' not in statement.group():
            names[found.group(1)] = line_of(text, statement.start() + found.start())
    return names


def keep_lines(match):
    return re.sub(r'[^\n]', ' ', match.group())


def exported(library):
    ran = subprocess.run(['nm', '-D', '--defined-only', '--format=posix', library],
                         capture_output=True, text=True, check=True)
    names = [line.split() for line in ran.stdout.splitlines()]
    return {name.split('@')[0] for name, kind, *_ in names if kind in 'TWDBRV'}


def documented(tree, page):
    """{name: line} of the functions a man page names as name() or *name*()."""
    names = {}
    for number, line in tree.lines(page):
        plain = line.replace('\\_', '_').replace('*', '')
        for name in CALL.findall(plain):
            names.setdefault(name, number)
    return names


def check_library(tree, library, headers, page):
    prototypes = {name: (header, line) for header in headers if tree.has(header)
                  for name, line in declared(tree, header).items()}
    exports = exported(library)
    name = os.path.basename(library)
    for symbol in sorted(set(prototypes) - exports):
        yield Finding(*prototypes[symbol], f'{symbol}() is not exported by {name}',
                      'add it to the symbol map, or write it')
    for symbol in sorted(exports - set(prototypes)):
        yield Finding(headers[0], 1, f'{name} exports {symbol}, which no prototype declares',
                      'declare it, or keep it out of the symbol map')
    if not tree.has(page):
        yield Finding(page, 1, f'{headers[0]} has no man page', 'write it')
        return
    pages = documented(tree, page)
    for symbol in sorted(set(prototypes) - set(pages)):
        yield Finding(page, 1, f'{symbol}() is not explained', f'write about it as {symbol}()')
    for symbol in sorted(set(pages) - set(prototypes) - public_names(tree)):
        yield Finding(page, pages[symbol], f'{symbol}() does not exist', 'take it out')


def public_names(tree):
    """A page may also name the other library's functions and callback types."""
    return {name for path in tree.under('include', suffix='.h')
            for name in re.findall(r'\bufd_[a-z0-9_]+', without_comments(tree.text(path)))}


def find_library(tree, name):
    if not tree.build:
        raise Skip('needs a build directory')
    for folder, _, names in os.walk(tree.build):
        if name in names:
            return os.path.join(folder, name)
    return None


def check(tree):
    for name, headers, page in LIBRARIES:
        library = find_library(tree, name)
        if not tree.has(headers[0]):
            yield Finding(headers[0], 1, f'{name} has no header', 'write it')
        elif not library:
            yield Finding(headers[0], 1, f'{name} is not built', 'build it in lib/')
        else:
            yield from check_library(tree, library, headers, page)


if __name__ == '__main__':
    main(check)
