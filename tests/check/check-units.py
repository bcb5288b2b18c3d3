#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The units as they are installed: systemd understands every line, and finds them well confined."""

import os
import re
import shutil
import subprocess
import tempfile

from tree import Finding, Skip, main

FOLDER = 'systemd'
THRESHOLD = 2.5
# Of later releases than the oldest one we run on; there it only warns.
LATER_KEYS = ('FileDescriptorStorePreserve',)
TARGETS = ('basic', 'multi-user', 'shutdown', 'sockets', 'sysinit')
INSTANCE = 'anna'
LEVEL = re.compile(r'Overall exposure level for \S+: ([\d.]+)')
PROGRAM = re.compile(r'^Exec\w+=[-@:+!]*(/\S+)', re.M)
PLACE = re.compile(r'^(/\S+):(\d+): (.*)')


def units(tree):
    """{name: full path} of the system's units: made by the build, or taken as they are."""
    found = {}
    for path in tree.under(FOLDER):
        folder, name = os.path.split(path)
        if folder == FOLDER and name.endswith('.service.in'):
            found[name[:-3]] = tree.built(path[:-3])
        elif folder == FOLDER and name.endswith('.socket'):
            found[name] = os.path.join(tree.root, path)
    return found


def run(*command):
    ran = subprocess.run(['systemd-analyze', *command], capture_output=True, text=True, timeout=60,
                         stdin=subprocess.DEVNULL)
    return ran.returncode, ran.stdout + ran.stderr


def make_root(root, found):
    """A disk with these units, the programs that they start, and the targets that they know."""
    folder = os.path.join(root, 'usr/lib/systemd/system')
    os.makedirs(folder)
    for name, path in found.items():
        shutil.copy(path, os.path.join(folder, name))
        with open(path, encoding='utf-8') as file:
            programs = PROGRAM.findall(file.read())
        for program in programs:
            inside = root + program
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            with open(inside, 'w', encoding='utf-8') as file:
                os.fchmod(file.fileno(), 0o755)
    for target in TARGETS:
        with open(os.path.join(folder, f'{target}.target'), 'w', encoding='utf-8') as file:
            file.write(f'[Unit]\nDescription={target}\n')


def is_expected(line):
    return any(f"Unknown key '{key}'" in line or f'Unknown key name \'{key}\'' in line for key in LATER_KEYS)


def check_verify(found):
    with tempfile.TemporaryDirectory() as root:
        make_root(root, found)
        names = [name.replace('@.', f'@{INSTANCE}.') for name in found]
        status, text = run('verify', '--man=no', f'--root={root}', *names)
    for line in text.splitlines():
        place = PLACE.match(line)
        if line.strip() and not is_expected(line):
            yield Finding(f'{FOLDER}/{os.path.basename(place.group(1))}' if place else FOLDER,
                          int(place.group(2)) if place else 1, place.group(3) if place else line, 'correct it')
    if status != 0:
        yield Finding(FOLDER, 1, f'systemd-analyze verify exits {status}', 'see its lines')


def check_security(name, path):
    _, text = run('security', '--offline=yes', '--no-pager', path)
    level = LEVEL.search(text)
    if not level or float(level.group(1)) > THRESHOLD:
        yield Finding(f'{FOLDER}/{name}.in', 1,
                      f'systemd-analyze security says {level.group(1) if level else text[-200:]}',
                      f'confine it: {THRESHOLD} at most')


def check(tree):
    found = units(tree)
    if not found:
        return
    if not shutil.which('systemd-analyze'):
        raise Skip('needs systemd-analyze')
    yield from check_verify(found)
    for name, path in found.items():
        if name.endswith('.service'):
            yield from check_security(name, path)


if __name__ == '__main__':
    main(check)
