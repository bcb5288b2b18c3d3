#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file is one noun and a function fits a screen or two: 600 and 80 lines at most."""

import re

from tree import Finding, main, without_comments

FILE_LINES = 600
FUNCTION_LINES = 80
FOLDERS = ('lib', 'include', 'daemon', 'cli', 'tests', 'docs/examples', 'scripts')
SUFFIXES = ('.c', '.h', '.py', '.sh')
NAME = re.compile(r'\b([A-Za-z_]\w*)\s*\([^;]*$')


def functions(text):
    """(name, first line, length) of each C function: a body whose braces stand in column one."""
    start, name = None, '?'
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        if start is None:
            found = NAME.search(line) if line[:1] not in (' ', '\t', '#', '}', '{') else None
            if found:
                name = found.group(1)
            if line.rstrip() == '{':
                start = number
        elif line.startswith('}'):
            yield name, start, number - start + 1
            start = None


def check(tree):
    for path in tree.under(*FOLDERS):
        is_script = path.startswith('scripts/') and '.' not in path
        if not path.endswith(SUFFIXES) and not is_script:
            continue
        text = tree.text(path)
        n_lines = text.count('\n')
        if n_lines > FILE_LINES:
            yield Finding(path, FILE_LINES, f'{n_lines} lines, more than {FILE_LINES}',
                          'move the second noun out')
        if path.endswith(('.c', '.h')):
            for name, line, length in functions(text):
                if length > FUNCTION_LINES:
                    yield Finding(path, line, f'{name}() has {length} lines, more than {FUNCTION_LINES}',
                                  'name its steps')


if __name__ == '__main__':
    main(check)
