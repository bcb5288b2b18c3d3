# SPDX-License-Identifier: LGPL-2.1-or-later
"""The source tree as the checks see it, and how they report.

A check is a script with one function, check(tree), that yields Finding. It is run as

	check-NAME.py SOURCE_ROOT [BUILD_ROOT]

and prints each finding as FILE:LINE: what is wrong; how to mend it. Exit 0: none; 1: some;
77: it could not be made here, with the reason.
"""

import os
import re
import sys
from dataclasses import dataclass

IGNORED = re.compile(r'^(build.*|\.git|\.cache|__pycache__|.*\.egg-info)$')


class Skip(Exception):
    """The check cannot be made on this machine; the text says why."""


class Unbuilt(Exception):
    """A product of the build is not there; the text is its path."""


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    what: str
    mend: str

    def __str__(self):
        return f'{self.path}:{self.line}: {self.what}; {self.mend}'


class Tree:
    def __init__(self, root, build=None):
        self.root = os.path.abspath(root)
        self.build = os.path.abspath(build) if build else None
        self.paths = sorted(self._walk())

    def _walk(self):
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if not IGNORED.match(name)]
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    yield os.path.relpath(path, self.root)

    def under(self, *folders, suffix=''):
        """Paths below the folders (all of the tree without any) that end in suffix."""
        starts = tuple(folder.rstrip('/') + '/' for folder in folders) or ('',)
        return [path for path in self.paths if path.startswith(starts) and path.endswith(suffix)]

    def has(self, path):
        return os.path.isfile(os.path.join(self.root, path))

    def text(self, path):
        with open(os.path.join(self.root, path), 'rb') as file:
            return file.read().decode('utf-8', 'replace')

    def is_text(self, path):
        with open(os.path.join(self.root, path), 'rb') as file:
            return b'\0' not in file.read(8192)

    def lines(self, path):
        """(number, line) from 1."""
        return enumerate(self.text(path).splitlines(), 1)

    def built(self, path):
        """A product of the build, which must be there."""
        if not self.build:
            raise Skip('needs a build directory')
        full = os.path.join(self.build, path)
        if not os.path.exists(full):
            raise Unbuilt(path)
        return full


def without_comments(text):
    """C with comments blanked and everything else where it was."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        found = match.group()
        return re.sub(r'[^\n]', ' ', found) if found.startswith('/') else found

    return token.sub(blank, text)


def line_of(text, offset):
    return text.count('\n', 0, offset) + 1


def main(check):
    tree = Tree(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    try:
        findings = sorted(set(check(tree)))
    except Skip as skip:
        print(skip)
        sys.exit(77)
    except Unbuilt as path:
        findings = [Finding(str(path), 1, 'is not built', 'build everything first')]
    for finding in findings:
        print(finding)
    print(f'{len(findings)} found')
    sys.exit(1 if findings else 0)
