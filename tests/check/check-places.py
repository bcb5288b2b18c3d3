#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stranger has only the clone: no path of somebody's machine, no package registry or mirror."""

import re

from tree import Finding, main

# Spelled so that no pattern finds itself.
PLACES = [
    (re.compile(r'(^|[^\w.$}*])/(wor[k]|far[m]|User[s]|worksp[a]ce|bui[l]ds)/'), 'a path of one machine',
     'make it relative, or a variable'),
    (re.compile(r'(^|[^\w.])/hom[e]/(?!\*|USER|\$)\w+'), 'somebody\'s home', 'use $HOME'),
    (re.compile(r'\bfile:///(?!run|usr|etc|var|dev|PATH)\w'), 'a path of one machine', 'make it relative'),
    (re.compile(r'(pyp[i]\.|python[h]osted\.|npm[j]s\.|crate[s]\.io|prox[y]\.golang|artifac[t]ory|nexu[s]\.'
                r'|(deb|snapshot|ftp)\.debia[n]\.org|debia[n]\.(com|net)|docke[r]\.io|ghc[r]\.io|qua[y]\.io'
                r'|registr[y]\.(?![ch]\b)[a-z])', re.I), 'a registry or mirror',
     'leave the choice to the machine\'s own configuration'),
    (re.compile(r'\b(10|192\.168|172\.(1[6-9]|2\d|3[01]))(\.\d{1,3}){2,3}\b(?!\.?\d)'), 'a private address',
     'use loopback or a documentation address'),
]
EXEMPT = ('LICENSES/',)


def check(tree):
    for path in tree.paths:
        if path.startswith(EXEMPT) or not tree.is_text(path):
            continue
        for number, line in tree.lines(path):
            for pattern, what, mend in PLACES:
                found = pattern.search(line)
                if found:
                    yield Finding(path, number, f'{what}: {found.group().strip()}', mend)


if __name__ == '__main__':
    main(check)
