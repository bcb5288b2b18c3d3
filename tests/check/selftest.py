#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each check can fail: a small good tree passes, and one bad thing in it is found.

Every row puts files over the good tree (None removes one) and names words of the finding.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

from tree import Skip, Tree

MIT, LGPL = ('/* SPDX-License-Identifier: %s */\n' % name for name in ('MIT', 'LGPL-2.1-or-later'))
HASH = '# SPDX-License-Identifier: LGPL-2.1-or-later\n'
PAGE = '; SPDX-License-Identifier: LGPL-2.1-or-later\n\n'
HERE = os.path.dirname(os.path.abspath(__file__))

PROGRAM = '#!/bin/sh\n# SPDX-License-Identifier: LGPL-2.1-or-later\ncase $1 in\n' \
          '--help) echo "%s" ;;\n--list-methods) echo "%s" ;;\nesac\n'
LIBRARY = '#define API __attribute__((visibility("default")))\n%s\n'

GOOD = {
    'lib/base/ring.h': MIT + '#pragma once\n#include <stdint.h>\nuint64_t ring_size(void);\n',
    'lib/base/ring.c': MIT + '#include "base/ring.h"\nuint64_t ring_size(void)\n{\n\treturn 1;\n}\n',
    'lib/kernel/uffd.h': MIT + '#pragma once\n#include "base/ring.h"\nint uffd_wake(int fd);\n',
    'lib/guest/guest.h': LGPL + '#pragma once\n#include "kernel/uffd.h"\nint guest_new(int fd);\n',
    'lib/wire/io.ufd.guest.varlink': '# SPDX-License-Identifier: MIT\ninterface io.ufd.guest\n'
                                     'method List() -> ()\nerror NoSuchGuest ()\n',
    'include/ufd/ufd.h': MIT + '#ifndef U\n#define U\nint ufd_open(int fd);\n#endif\n',
    'include/ufd/pager.h': MIT + '#ifndef P\n#define P\nint ufd_pager_open(int fd);\n#endif\n',
    'cli/main.c': LGPL + 'static const struct verb verbs[] = {\n\t{ "status", 0 },\n};\n',
    'docs/man/libufd.3.scd': 'libufd(3)\n\n' + PAGE + '*ufd_open*() opens.\n',
    'docs/man/libufd-pager.3.scd': 'libufd-pager(3)\n\n' + PAGE + '*ufd\\_pager\\_open*() opens.\n',
    'docs/man/ufdctl.1.scd': 'ufdctl(1)\n\n' + PAGE + '*status*, *--json*\n',
    'docs/man/ufdd.8.scd': 'ufdd(8)\n\n' + PAGE + '*--socket*\n',
    'docs/man/ufdd-firecracker.8.scd': 'ufdd-firecracker(8)\n\n' + PAGE,
    'docs/man/ufd-protocol.7.scd': 'ufd-protocol(7)\n\n' + PAGE + '*io.ufd.guest*: *List*, *NoSuchGuest*\n',
    'docs/meson.build': HASH + "pages = ['libufd.3', 'libufd-pager.3', 'ufdctl.1', 'ufdd.8', 'ufdd-firecracker.8', 'ufd-protocol.7']\n",
    'docs/architecture.md': 'Rooms: `lib/base`, `lib/kernel`, `lib/guest`. See [it](architecture.md).\n',
    'LICENSES/MIT.txt': 'text\n',
    'LICENSES/LGPL-2.1-or-later.txt': 'text\n',
    'build/cli/ufdctl': PROGRAM % ('ufdctl status [--json]', ''),
    'build/daemon/ufdd': PROGRAM % ('ufdd --socket PATH', 'io.ufd.guest.List'),
    'build/daemon/ufdd-firecracker': PROGRAM % ('ufdd-firecracker', ''),
}
for table in ('layers.txt', 'libraries.txt'):
    with open(os.path.join(HERE, table), encoding='utf-8') as file:
        GOOD[f'tests/check/{table}'] = file.read()
with open(os.path.join(HERE, '../../.clang-format'), encoding='utf-8') as file:
    GOOD['.clang-format'] = file.read()

IDENTIFIER = '6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f%s'
ENTRY = '-- ' + IDENTIFIER + '\nSubject: s\nDefined-By: ufd\nDocumentation: man:ufdd(8)\n\nText.\n'
EVENT = {'daemon/log-ids.h': LGPL + f'#define LOG_ID_A "{IDENTIFIER % "01"}"\n',
         'systemd/ufdd.catalog': ENTRY % '01', 'docs/man/ufdd.8.scd': '[[ *01*\n:< a\n'}
UNIT = '[Service]\nExecStart=/usr/sbin/ufdd\nUser=ufdd\n'

LONG_FUNCTION = LGPL + 'int f(void)\n{\n' + '\tf();\n' * 90 + '\treturn 0;\n}\n'
PROJECT = "project('p')\ninstall_data('a.txt', install_dir : get_option('datadir') / 'ufd')\n"

CASES = [
    # check, what is wrong, files, words of the finding
    ('layers', 'an arrow that points up',
     {'lib/kernel/uffd.h': MIT + '#pragma once\n#include "guest/guest.h"\n'}, 'lib/kernel may not use lib/guest'),
    ('layers', 'two files that need each other',
     {'lib/base/a.h': MIT + '#include "base/b.h"\n', 'lib/base/b.h': MIT + '#include "base/a.h"\n'},
     'files include each other'),
    ('layers', 'a room without a row', {'lib/attic/a.c': LGPL}, 'no row'),
    ('layers', 'the daemon seen from below',
     {'daemon/refusal.h': LGPL, 'lib/wire/a.c': MIT + '#include "../../daemon/refusal.h"\n'},
     'lib/wire may not use daemon/refusal'),
    ('layers', 'a library in the wrong room', {'lib/guest/a.c': LGPL + '#include <jansson.h>\n'},
     '<jansson.h> belongs to'),
    ('layers', 'an include without its folder', {'lib/base/a.c': MIT + '#include "ring.h"\n'}, 'its folder'),
    ('layers', 'a table that points up',
     {'tests/check/layers.txt': 'lib/base: lib/kernel\nlib/kernel:\nlib/guest: lib/kernel\ninclude/ufd:\ncli:\n'},
     'which is not above it'),
    ('headers', 'a header that leans on others', {'lib/base/ring.h': MIT + 'uint64_t ring_size(void);\n'},
     'does not compile alone'),
    ('headers', 'a public header that is not C++',
     {'include/ufd/ufd.h': MIT + 'int ufd_open(int class);\n'}, 'c++'),
    ('symbols', 'a prototype without a function',
     {'include/ufd/ufd.h': MIT + 'int ufd_open(int fd);\nint ufd_gone(int fd);\n'}, 'ufd_gone() is not exported'),
    ('symbols', 'an export without a prototype', {'build/lib/libufd.c': LIBRARY % 'API int ufd_open, ufd_spare;'},
     'exports ufd_spare'),
    ('symbols', 'a function without its manual', {'docs/man/libufd.3.scd': 'libufd(3)\n'},
     'ufd_open() is not explained'),
    ('symbols', 'a manual without its function',
     {'docs/man/libufd.3.scd': 'libufd(3)\n*ufd_open*(), ufd_shut()\n'}, 'ufd_shut() does not exist'),
    ('symbols', 'a library without a page', {'docs/man/libufd-pager.3.scd': None}, 'has no man page'),
    ('licences', 'a file without a head', {'lib/base/a.c': 'int a;\n'}, 'no SPDX head'),
    ('licences', 'the wrong licence for the room', {'lib/base/a.c': LGPL}, 'in a room that is MIT'),
    ('licences', 'a licence without its text', {'LICENSES/MIT.txt': None}, 'has no text'),
    ('licences', 'a text without its licence', {'LICENSES/BSD.txt': 'text'}, 'no file has this licence'),
    ('licences', 'BPF that is not dual', {'daemon/bpf/a.bpf.c': LGPL}, 'GPL-2.0-only OR MIT'),
    ('places', 'a path of one machine', {'README.md': 'see /' + 'work/main\n'}, 'a path of one machine'),
    ('places', 'a home', {'README.md': 'see /' + 'home/anna/x\n'}, 'home'),
    ('places', 'a registry', {'scripts/x': 'curl https://py' + 'pi.org/x\n'}, 'registry'),
    ('places', 'a private address', {'scripts/x': 'ping 10.' + '20.30.40\n'}, 'private address'),
    ('sizes', 'a file too long', {'lib/base/a.c': 'int a;\n' * 601}, '601 lines'),
    ('sizes', 'a function too long', {'lib/base/a.c': LONG_FUNCTION}, 'f() has 93 lines'),
    ('names', 'a file without a noun', {'lib/base/util.c': MIT}, 'without a noun'),
    ('names', 'a thing left unfinished', {'lib/base/a.c': MIT + '/* TO' + 'DO: finish */\n'}, 'unfinished'),
    ('format', 'code laid out by hand', {'lib/base/a.c': MIT + 'int  a( void );\n'}, 'formatted differently'),
    ('help', 'a line too long', {'build/daemon/ufdd': PROGRAM % ('--socket ' + 'x' * 90, '')}, '99 columns'),
    ('help', 'no help', {'build/daemon/ufdd': '#!/bin/sh\nexit 2\n'}, '--help exits 2'),
    ('help', 'a verb the help forgot', {'build/cli/ufdctl': PROGRAM % ('ufdctl', '')}, 'not name the verb status'),
    ('help', 'a verb the manual forgot', {'docs/man/ufdctl.1.scd': 'ufdctl(1)\n--json\n'},
     'no man page names the verb status'),
    ('help', 'an option the manual forgot', {'docs/man/ufdd.8.scd': 'ufdd(8)\n'}, '--socket of --help'),
    ('interfaces', 'a method nobody serves', {'build/daemon/ufdd': PROGRAM % ('', '')},
     'io.ufd.guest.List is not in the server'),
    ('interfaces', 'a method nobody declared', {'build/daemon/ufdd': PROGRAM % ('', 'io.ufd.guest.List a.B')},
     'the server has a.B'),
    ('interfaces', 'an error the manual forgot',
     {'docs/man/ufd-protocol.7.scd': 'ufd-protocol(7)\n*io.ufd.guest*: *List*\n'}, 'NoSuchGuest is not in'),
    ('interfaces', 'a method of the manual only',
     {'docs/man/ufd-protocol.7.scd': 'x(7)\nio.ufd.guest List NoSuchGuest io.ufd.guest.Sell\n'},
     'io.ufd.guest.Sell is in no interface file'),
    ('documents', 'a dead link', {'README.md': 'see [x](docs/x.md)\n'}, 'leads nowhere'),
    ('documents', 'a path that is gone', {'README.md': 'see `scripts/gone`\n'}, 'scripts/gone does not exist'),
    ('documents', 'a page that is not installed', {'docs/man/ufd.7.scd': 'ufd(7)\n'}, 'is not installed'),
    ('documents', 'a room without a word', {'lib/attic/a.c': LGPL}, 'lib/attic is not described'),
    ('documents', 'a setting without a word',
     {'daemon/settings.c': LGPL + '\t{ "spin_us", offsetof(struct settings, spin_us) },\n'}, 'the setting spin_us'),
    ('references', 'a new way to unregister',
     {'lib/pager/a.c': LGPL + 'void f(int fd)\n{\n\tuffd_unregister(fd);\n}\n',
      'tests/check/references.txt': 'uffd_unregister lib/pager/a.c g\n'}, 'f() calls uffd_unregister'),
    ('references', 'a new way to close a userfaultfd',
     {'lib/pager/a.c': LGPL + 'static void f(struct mapper *mapper)\n{\n\tclosep(&mapper->uffd);\n}\n'},
     'f() calls close(uffd)'),
    ('references', 'a line of its table that says nothing any more',
     {'tests/check/references.txt': 'uffd_unregister lib/pager/a.c g\n'}, 'does not call uffd_unregister'),
    ('install', 'a file that is not listed', {'meson.build': PROJECT, 'a.txt': '', 'tests/check/installed.txt': ''},
     'share/ufd/a.txt was installed'),
    ('install', 'a file that is not installed',
     {'meson.build': PROJECT, 'a.txt': '', 'tests/check/installed.txt': 'datadir/ufd/a.txt\nbindir/b\n'},
     'bin/b was not installed'),
    ('install', 'an example that does not build',
     {'meson.build': PROJECT, 'a.txt': '', 'tests/check/installed.txt': 'datadir/ufd/a.txt\n',
      'docs/examples/a.c': MIT + '#include <ufd/ufd.h>\nint main(void) { return 0; }\n'}, 'pkg-config'),
    ('install', 'a file that stays',
     {'meson.build': PROJECT + "meson.add_install_script('touch.sh')\n", 'a.txt': '',
      'touch.sh': '#!/bin/sh\ntouch $MESON_INSTALL_DESTDIR_PREFIX/x\n',
      'tests/check/installed.txt': 'datadir/ufd/a.txt\nprefix/x\n'}, 'leaves'),
    ('catalog', 'an event without an explanation', {**EVENT, 'systemd/ufdd.catalog': ''}, 'is not in systemd/'),
    ('catalog', 'an event without a row', {**EVENT, 'docs/man/ufdd.8.scd': ''}, 'is not in the table'),
    ('catalog', 'an explanation without an event',
     {**EVENT, 'systemd/ufdd.catalog': ENTRY % '01' + ENTRY % '02'}, '02 is not in daemon/'),
    ('catalog', 'a row without an event', {**EVENT, 'docs/man/ufdd.8.scd': '[[ *01*\n:< a\n|  *02*\n'}, '02 is not in'),
    ('catalog', 'an explanation without words',
     {**EVENT, 'systemd/ufdd.catalog': (ENTRY % '01').replace('Text.\n', '')}, 'explains nothing'),
    ('catalog', 'an explanation without a page',
     {**EVENT, 'systemd/ufdd.catalog': (ENTRY % '01').replace('Documentation', 'See')}, 'no Documentation:'),
    ('catalog', 'an identifier cut short', {**EVENT, 'systemd/ufdd.catalog': ENTRY % '0'}, 'no entry of a catalog'),
    ('catalog', 'two events of one identifier',
     {**EVENT, 'daemon/log-ids.h': EVENT['daemon/log-ids.h'] + f'#define LOG_ID_B "{IDENTIFIER % "01"}"\n'},
     'the same'),
    ('units', 'a unit that may do anything',
     {'systemd/ufdd.service.in': UNIT, 'build/systemd/ufdd.service': UNIT}, 'systemd-analyze security says'),
    ('units', 'a setting that does not exist',
     {'systemd/ufdd.service.in': UNIT, 'build/systemd/ufdd.service': UNIT + 'Watchdog=1\n'}, 'Watchdog'),
    ('units', 'a value that is none',
     {'systemd/ufdd.service.in': UNIT, 'build/systemd/ufdd.service': UNIT + 'WatchdogSec=soon\n'}, 'soon'),
]


def lay(root, files):
    for path, text in files.items():
        full = os.path.join(root, path)
        if text is None:
            continue
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, 'w', encoding='utf-8') as file:
            file.write(text)
        if text.startswith('#!'):
            os.chmod(full, 0o755)


def build(root, name):
    """What a check wants built of the small tree."""
    if name == 'symbols':
        for library, function in (('libufd', 'ufd_open'), ('libufd-pager', 'ufd_pager_open')):
            source = os.path.join(root, f'build/lib/{library}.c')
            if not os.path.exists(source):
                lay(root, {f'build/lib/{library}.c': LIBRARY % f'API int {function}(int fd) {{ return fd; }}'})
            subprocess.run(['cc', '-shared', '-fPIC', '-fvisibility=hidden', '-o', source[:-2] + '.so', source],
                           check=True)
    if name == 'install':
        shutil.rmtree(os.path.join(root, 'build'))
        subprocess.run(['meson', 'setup', 'build'], cwd=root, check=True, capture_output=True)


def found_by(name, files):
    with tempfile.TemporaryDirectory() as root:
        lay(root, {**GOOD, **files})
        build(root, name)
        tree = Tree(root, os.path.join(root, 'build'))
        return [str(finding) for finding in importlib.import_module(f'check-{name}').check(tree)]


def cases():
    """(title, check, files, words); words None: nothing may be found."""
    good = {'catalog': EVENT,
            'install': {'meson.build': PROJECT, 'a.txt': '', 'tests/check/installed.txt': 'datadir/ufd/a.txt\n'}}
    for name in sorted({case[0] for case in CASES}):
        yield f'{name}: a good tree passes', name, good.get(name, {}), None
    for name, what, files, words in CASES:
        yield f'{name}: {what} is found', name, files, words


def run_case(number, title, name, files, words):
    try:
        findings = found_by(name, files)
    except Skip as skip:
        print(f'ok {number} - {title} # SKIP {skip}', flush=True)
        return True
    passed = any(words in finding for finding in findings) if words else not findings
    print(f'{"ok" if passed else "not ok"} {number} - {title}', flush=True)
    if not passed:
        print(*[f'# {finding}' for finding in findings or ['nothing found']], sep='\n')
    return passed


def main():
    names = {re.match(r'check-(.+)\.py$', name).group(1) for name in os.listdir(HERE) if name.startswith('check-')}
    forgotten = sorted(names - {case[0] for case in CASES})
    print(f'{"not ok" if forgotten else "ok"} 1 - every check has a case', *forgotten)
    results = [run_case(number, *case) for number, case in enumerate(cases(), 2)]
    print(f'1..{len(results) + 1}')
    sys.exit(0 if all(results) and not forgotten else 1)


if __name__ == '__main__':
    main()
