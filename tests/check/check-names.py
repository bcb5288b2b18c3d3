#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file list reads as the glossary: each file has a noun, and nothing is left unfinished."""

import os
import re

from tree import Finding, main

NO_NOUN = re.compile(r'^(utils?|common|helpers?|misc|stuff|shared)([-_].*)?\.(c|h|py|sh)$')
MARKS = re.compile(r'\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b|\bnot (yet )?implemente[d]\b', re.I)
# The Varlink error of that name belongs to the protocol.
PROTOCOL_WORDS = re.compile(r'MethodNotImplemented', re.I)
UPPER_ONLY = re.compile(r'\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b')
EXEMPT = ('LICENSES/',)


def check(tree):
    for path in tree.paths:
        if NO_NOUN.match(os.path.basename(path)):
            yield Finding(path, 1, 'a file without a noun', 'name what it holds, or move it to its owners')
        if path.startswith(EXEMPT) or 'corpus' in path or not tree.is_text(path):
            continue
        for number, line in tree.lines(path):
            found = MARKS.search(PROTOCOL_WORDS.sub('', line))
            if found and (UPPER_ONLY.match(found.group()) or ' ' in found.group()):
                yield Finding(path, number, f'unfinished: {found.group()}', 'finish it, or take it out')


if __name__ == '__main__':
    main(check)
