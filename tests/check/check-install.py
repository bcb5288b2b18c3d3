#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is installed is what installed.txt lists, the examples build against it, and uninstalling leaves
nothing behind."""

import fnmatch
import json
import os
import shutil
import subprocess
import tempfile

from tree import Finding, Skip, main

LIST = 'tests/check/installed.txt'
PACKAGES = {'ufd.h': 'libufd', 'pager.h': 'libufd-pager'}
LOG = 'meson-logs/install-log.txt'
# Examples that use nothing of what is installed; tests/interop builds them.
ALONE = 'docs/examples/protocol/'


def folders(build):
    """{'bindir': '/usr/local/bin', ...} of a build directory."""
    asked = subprocess.run(['meson', 'introspect', '--buildoptions', build], capture_output=True,
                           text=True, check=True)
    options = {option['name']: option['value'] for option in json.loads(asked.stdout)}
    prefix = options['prefix']
    return {name: os.path.join(prefix, value) for name, value in options.items()
            if name.endswith('dir') and isinstance(value, str) and value}


def expected(tree, where):
    """(line, pattern of a full path) of the list; its first part is one of meson's directories."""
    for number, line in tree.lines(LIST):
        line = line.split('#', 1)[0].strip()
        if line:
            first, _, rest = line.partition('/')
            yield number, os.path.join(where[first], rest) if first in where else line


def files_below(root):
    return sorted('/' + os.path.relpath(os.path.join(folder, name), root)
                  for folder, _, names in os.walk(root) for name in names)


def run(command, build, destination):
    ran = subprocess.run(command, cwd=build, env={**os.environ, 'DESTDIR': destination},
                         capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ran.returncode != 0:
        raise RuntimeError(f'{" ".join(command)}: {(ran.stderr or ran.stdout).strip()[-400:]}')


def build_example(tree, path, root, libdir):
    """Compile and link as a stranger would: pkg-config and the installed files, nothing of this tree."""
    text = tree.text(path)
    wanted = [package for header, package in PACKAGES.items() if f'<ufd/{header}>' in text]
    inside = root + libdir
    asked = subprocess.run(['pkg-config', '--cflags', '--libs', *wanted], capture_output=True, text=True,
                           env={**os.environ, 'PKG_CONFIG_SYSROOT_DIR': root,
                                'PKG_CONFIG_PATH': os.path.join(inside, 'pkgconfig')})
    if not wanted or asked.returncode != 0:
        yield Finding(path, 1, f'pkg-config: {asked.stderr.strip() or "no package"}', 'install the .pc file')
        return
    built = subprocess.run(['cc', '-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', '-o', root + '/example',
                            os.path.join(tree.root, path), *asked.stdout.split(), '-pthread', f'-Wl,-rpath-link,{inside}'],
                           capture_output=True, text=True)
    if built.returncode != 0:
        said = [line for line in built.stderr.splitlines() if 'error' in line or 'undefined' in line] or ['?']
        yield Finding(path, 1, f'does not build against the installed tree: {said[0]}', 'see the message')
    else:
        os.unlink(root + '/example')


def compare(tree, found, where):
    patterns = list(expected(tree, where))
    for number, pattern in patterns:
        if not fnmatch.filter(found, pattern):
            yield Finding(LIST, number, f'{pattern} was not installed', 'install it, or take it off the list')
    for path in found:
        if not any(fnmatch.fnmatchcase(path, pattern) for _, pattern in patterns):
            yield Finding(LIST, 1, f'{path} was installed', 'list it, or do not install it')


def check(tree):
    if not tree.build or not shutil.which('meson'):
        raise Skip('needs a build directory and meson')
    log, where = os.path.join(tree.build, LOG), folders(tree.build)
    with tempfile.TemporaryDirectory() as destination:
        # The log of a real installation is what its own `ninja uninstall` needs: keep it.
        saved = os.path.join(destination, '.install-log')
        if os.path.exists(log):
            shutil.copy2(log, saved)
        root = os.path.join(destination, 'root')
        os.mkdir(root)
        try:
            run(['meson', 'install', '--no-rebuild', '--quiet'], tree.build, root)
            found = files_below(root)
            for path in tree.under('docs/examples', suffix='.c'):
                if not path.startswith(ALONE):
                    yield from build_example(tree, path, root, where['libdir'])
            run(['ninja', 'uninstall'], tree.build, root)
            left = files_below(root)
        except RuntimeError as error:
            yield Finding('meson.build', 1, str(error), 'see the message')
            return
        finally:
            if os.path.exists(saved):
                shutil.copy2(saved, log)
            elif os.path.exists(log):
                os.unlink(log)
    yield from compare(tree, found, where)
    for path in left:
        yield Finding('meson.build', 1, f'ninja uninstall leaves {path}', 'let meson itself install it')


if __name__ == '__main__':
    main(check)
