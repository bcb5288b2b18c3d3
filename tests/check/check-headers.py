#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each header compiles alone, with gcc and clang; the public ones as C++ and strict C11 too."""

import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

from tree import Finding, Skip, main

FLAGS = ['-fsyntax-only', '-D_GNU_SOURCE', '-DUFD_VERSION="0"', '-Wall', '-Wextra',
         '-Wno-unused-parameter', '-Werror']
C_FLAGS = ['-x', 'c', '-std=gnu11', '-Wstrict-prototypes', '-Wmissing-prototypes']
PUBLIC_FLAGS = [['-x', 'c', '-std=c11', '-pedantic'], ['-x', 'c++', '-std=c++11', '-pedantic']]
FOLDERS = ('lib', 'include', 'daemon', 'cli', 'tests')
PACKAGES = ['jansson', 'libevent_core', 'liburing', 'libsystemd', 'inih', 'check', 'libbpf', 'gnutls']


def package_flags():
    flags = []
    for package in PACKAGES:
        asked = subprocess.run(['pkg-config', '--cflags', package], capture_output=True, text=True)
        flags += asked.stdout.split() if asked.returncode == 0 else []
    return flags


def jobs(tree, compilers):
    """(header, how, command) for each compilation."""
    includes = [flag for folder in FOLDERS for flag in ('-I', os.path.join(tree.root, folder))]
    if tree.build:
        includes += [flag for folder in FOLDERS for flag in ('-I', os.path.join(tree.build, folder))]
    base = FLAGS + includes + package_flags()
    for path in tree.under(*FOLDERS, suffix='.h'):
        for compiler in compilers:
            yield path, f'{compiler} as C', [compiler] + base + C_FLAGS
            if path.startswith('include/'):
                for flags in PUBLIC_FLAGS:
                    how = f'{compiler} {flags[1]} {flags[2]}'
                    own = [flag for flag in flags + base if flag != '-D_GNU_SOURCE']
                    yield path, how, [compiler] + own


def compile_alone(tree, job):
    path, how, command = job
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, 'alone.c')
        with open(source, 'w', encoding='utf-8') as file:
            file.write(f'#include "{os.path.join(tree.root, path)}"\n')
        ran = subprocess.run(command + [source], capture_output=True, text=True)
    if ran.returncode == 0:
        return None
    errors = [line for line in ran.stderr.splitlines() if ': error' in line or 'fatal' in line]
    first = errors[0] if errors else ran.stderr.strip()[:200]
    where = re.match(r'.*?:(\d+):', first)
    return Finding(path, int(where.group(1)) if where else 1,
                   f'does not compile alone ({how}): {first.split("error: ")[-1]}',
                   'include or forward-declare what it uses')


def check(tree):
    compilers = [name for name in ('gcc', 'clang') if shutil.which(name)]
    if not compilers:
        raise Skip('neither gcc nor clang is installed')
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for finding in pool.map(lambda job: compile_alone(tree, job), jobs(tree, compilers)):
            if finding:
                yield finding


if __name__ == '__main__':
    main(check)
