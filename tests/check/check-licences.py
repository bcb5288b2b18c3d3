#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each file's head names its room's licence, and LICENSES/ has the text of each."""

import os
import re

from tree import Finding, main

MIT, LGPL, DUAL = 'MIT', 'LGPL-2.1-or-later', 'GPL-2.0-only OR MIT'
MIT_ROOMS = ('include/', 'lib/base/', 'lib/kernel/', 'lib/wire/', 'lib/client/', 'lib/preload/', 'docs/examples/')
# Prose, data and dot files have no place for a head.
EXEMPT = re.compile(r'^(LICENSES/.*|NEWS|(.*/)?README|.*\.(md|json|png)|(.*/)?\.[^/]+|tests/compat/.*'
                    r'|tests/(.*/)?[\w-]*(data|corpus)[\w-]*/.*)$')
HEAD = re.compile(r'SPDX-License-Identifier: ([A-Za-z0-9.+\- ]*[A-Za-z0-9.+])')
N_HEAD_LINES = 4    # a script has its interpreter first, a man page its title


def expected(path):
    """The licences a file may have."""
    name = os.path.basename(path)
    if path.endswith('.bpf.c'):
        return (DUAL,)
    if name in ('meson.build', 'meson_options.txt') or path.endswith(('.sym', '.scd')):
        return (LGPL, MIT)
    if path.endswith('.varlink') or path.startswith(MIT_ROOMS):
        return (MIT,)
    return (LGPL,)


def heads(tree, path):
    for number, line in tree.lines(path):
        if number > N_HEAD_LINES:
            return
        found = HEAD.search(line)
        if found:
            yield number, found.group(1)


def check(tree):
    used = set()
    for path in tree.paths:
        if EXEMPT.match(path) and not path.startswith('.ci/') or not tree.is_text(path):
            continue
        licences = expected(path)
        found = list(heads(tree, path))
        if not found:
            yield Finding(path, 1, 'no SPDX head', f'begin with SPDX-License-Identifier: {licences[0]}')
            continue
        number, licence = found[0]
        used.update(licence.split(' OR '))
        if licence not in licences:
            yield Finding(path, number, f'{licence} in a room that is {licences[0]}',
                          'change the head, or move the file')
        if path.endswith('.bpf.c') and 'Dual MIT/GPL' not in tree.text(path):
            yield Finding(path, 1, 'the kernel is not told "Dual MIT/GPL"', 'set SEC("license")')
    texts = {os.path.basename(path)[:-4] for path in tree.under('LICENSES', suffix='.txt')}
    for licence in sorted(used - texts):
        yield Finding(f'LICENSES/{licence}.txt', 1, 'a used licence has no text', 'add it')
    for licence in sorted(texts - used):
        yield Finding(f'LICENSES/{licence}.txt', 1, 'no file has this licence', 'remove it')


if __name__ == '__main__':
    main(check)
