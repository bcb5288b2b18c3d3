#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""clang-format 14 and .clang-format decide how C looks."""

import re
import shutil
import subprocess

from tree import Finding, Skip, main

FOLDERS = ('lib', 'include', 'daemon', 'cli', 'tests', 'docs/examples')


def program():
    """Other versions format some constructs differently, so only 14 may judge."""
    for name in ('clang-format-14', 'clang-format'):
        if shutil.which(name):
            said = subprocess.run([name, '--version'], capture_output=True, text=True).stdout
            if re.search(r'version 14\.', said):
                return name
    raise Skip('clang-format 14 is not installed')


def check(tree):
    name = program()
    paths = [path for path in tree.under(*FOLDERS) if path.endswith(('.c', '.h'))]
    if not paths:
        return
    ran = subprocess.run([name, '--dry-run', '--style=file', *paths], cwd=tree.root,
                         capture_output=True, text=True)
    for line in ran.stderr.splitlines():
        found = re.match(r'(.+?):(\d+):\d+: (?:warning|error): ', line)
        if found:
            yield Finding(found.group(1), int(found.group(2)), 'formatted differently',
                          'run scripts/format')


if __name__ == '__main__':
    main(check)
