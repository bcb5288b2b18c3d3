#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prose keeps up: links and paths in it exist, man pages are built, rooms and settings are described."""

import os
import re

from tree import Finding, main

LINK = re.compile(r'\]\(([^)#\s]+)(#[^)]*)?\)')
PATH = re.compile(r'`((?:lib|daemon|cli|docs|scripts|tests|include|systemd|\.ci|LICENSES)/[\w./-]*\w/?)`')
MAN_LIST = 'docs/meson.build'
MAP = 'docs/architecture.md'
SETTINGS_PAGE = 'docs/man/ufdd.conf.5.scd'
SETTING_TABLES = [('daemon/config.c', r'\s*\{ "[a-z]+", "([a-z_-]+)", parse'),
                  ('daemon/settings.c', r'\s*\{ "([a-z_]+)", offsetof')]
ROOMS = ('lib', 'daemon')


def exists(tree, path):
    return os.path.exists(os.path.join(tree.root, path))


def check_prose(tree, path):
    for number, line in tree.lines(path):
        for target, _ in LINK.findall(line):
            if '://' not in target and not target.startswith('mailto:'):
                beside = os.path.normpath(os.path.join(os.path.dirname(path), target))
                if not exists(tree, beside):
                    yield Finding(path, number, f'the link to {target} leads nowhere', 'correct it')
        for target in PATH.findall(line):
            stem = os.path.join(tree.root, target)
            if not exists(tree, target) and not any(os.path.exists(stem + end) for end in ('.c', '.h')):
                yield Finding(path, number, f'{target} does not exist', 'correct the path')


def check_manual(tree):
    listed = tree.text(MAN_LIST) if tree.has(MAN_LIST) else ''
    for path in tree.under('docs/man', suffix='.scd'):
        if f"'{os.path.basename(path)[:-4]}'" not in listed:
            yield Finding(path, 1, 'is not installed', f'add it to the list in {MAN_LIST}')


def check_rooms(tree):
    text = tree.text(MAP) if tree.has(MAP) else ''
    rooms = {tuple(path.split('/')[:2]) for path in tree.under(*ROOMS, suffix='.c') if path.count('/') > 1}
    for top, room in sorted(rooms):
        if not re.search(rf'\b{re.escape(room)}/|`{re.escape(top)}/{re.escape(room)}`', text):
            yield Finding(MAP, 1, f'{top}/{room} is not described', 'say what the room is for')


def setting_names(tree):
    """(path, line, name) of each row of the configuration's tables."""
    for path, row in SETTING_TABLES:
        if tree.has(path):
            for number, line in tree.lines(path):
                found = re.match(row, line)
                if found:
                    yield path, number, found.group(1)


def check_settings(tree):
    text = tree.text(SETTINGS_PAGE).replace('\\', '') if tree.has(SETTINGS_PAGE) else ''
    words = {word.strip('_-') for word in re.findall(r'[a-z_-]+', text)}
    words |= {word.replace('-', '_') for word in words}
    for path, number, name in setting_names(tree):
        if name not in words:
            yield Finding(path, number, f'the setting {name} is not in {SETTINGS_PAGE}', 'explain it there')


def check(tree):
    for path in tree.paths:
        if path.endswith('.md'):
            yield from check_prose(tree, path)
    yield from check_manual(tree)
    yield from check_rooms(tree)
    yield from check_settings(tree)


if __name__ == '__main__':
    main(check)
