#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""--help of each program fits 80 columns, and names what the program and its man pages know."""

import re
import subprocess

from tree import Finding, main, without_comments, line_of

COLUMNS = 80
# program below the build directory, sources with its verb tables, start of its man pages' names
PROGRAMS = [('cli/ufdctl', 'cli', 'ufdctl'), ('daemon/ufdd', None, 'ufdd'),
            ('daemon/ufdd-firecracker', None, 'ufdd-firecracker')]
VERB_TABLE = re.compile(r'\bstruct \w*(?:verb|command)\w* +\w+\[\w*\] *= *\{(.*?)\n\};', re.S)
VERB_NAME = re.compile(r'\{\s*(?:\.name\s*=\s*)?"([a-z][a-z -]*)"')
OPTION = re.compile(r'(?<![\w-])--[a-z][a-z-]*[a-z]')
HIDDEN = {'--list-methods'}


def verbs(tree, folder):
    """(path, line, name) of every row of a verb table."""
    for path in tree.under(folder, suffix='.c'):
        text = without_comments(tree.text(path))
        for table in VERB_TABLE.finditer(text):
            for name in VERB_NAME.finditer(table.group(1)):
                yield path, line_of(text, table.start(1) + name.start()), name.group(1)


def spoken(program):
    ran = subprocess.run([program, '--help'], capture_output=True, text=True, timeout=30,
                         stdin=subprocess.DEVNULL)
    return ran.returncode, ran.stdout


def pages(tree, start):
    found = [path for path in tree.under('docs/man', suffix='.scd')
             if re.match(rf'docs/man/{start}(-[\w-]+)?\.\d\.scd$', path)]
    return found, '\n'.join(tree.text(path).replace('\\', '') for path in found)


def check_help(name, status, text):
    if status != 0 or not text.strip():
        yield Finding(name, 1, f'--help exits {status} with {len(text)} bytes', 'print the help, exit 0')
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > COLUMNS:
            yield Finding(f'{name} --help', number, f'{len(line)} columns', f'keep to {COLUMNS}')


def check_program(tree, name, folder, start):
    status, text = spoken(tree.built(name))
    yield from check_help(name, status, text)
    found, manual = pages(tree, start)
    if not found:
        yield Finding(f'docs/man/{start}.scd', 1, f'{name} has no man page', 'write it')
    for option in sorted(set(OPTION.findall(text)) - HIDDEN):
        if found and option not in manual:
            yield Finding(found[0], 1, f'{option} of --help is not explained', 'explain it')
    if not folder:
        return
    rows = list(verbs(tree, folder))
    if not rows:
        yield Finding(folder, 1, 'no verb table was found', 'name its struct a verb or command')
    for path, line, verb in rows:
        words = verb.replace(' ', r'\s+')
        if not re.search(rf'(?<![\w-]){words}(?![\w-])', text):
            yield Finding(path, line, f'--help does not name the verb {verb}', 'add it to the help')
        if found and not re.search(rf'(?<![\w-]){words}(?![\w-])', manual.replace('*', '').replace('_', '')):
            yield Finding(path, line, f'no man page names the verb {verb}', f'describe it in {found[0]}')


def check(tree):
    for name, folder, start in PROGRAMS:
        yield from check_program(tree, name, folder, start)


if __name__ == '__main__':
    main(check)
