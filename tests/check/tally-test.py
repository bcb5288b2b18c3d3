#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""scripts/test counts rightly: every way in which a run can go wrong ends as a failure."""

import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../..')


def ran(name, result, stdout='', stderr='', returncode=0):
    return {'name': f'ufd:unit / {name}', 'result': result, 'stdout': stdout, 'stderr': stderr,
            'returncode': returncode}


# what, runs {name: tests, or (kind, text)}, required names, last line, exit status
CASES = [
    ('plain tests are counted', {'build-unit': [ran('a', 'OK'), ran('b', 'OK')]}, '', '2 passed, 0 failed', 0),
    ('subtests are counted one by one', {'build-unit': [ran('a', 'OK', '1..2\nok 1 - x\nok 2 - y\n')]}, '',
     '2 passed, 0 failed', 0),
    ('a failed subtest counts once', {'build-unit': [ran('a', 'FAIL', 'ok 1 - x\nnot ok 2 - y\n', '', 1)]}, '',
     '1 passed, 1 failed', 1),
    ('a crash after good subtests fails', {'build-unit': [ran('a', 'ERROR', 'ok 1 - x\n', 'Segfault', -11)]}, '',
     '1 passed, 1 failed', 1),
    ('a test that hangs fails', {'build-unit': [ran('a', 'TIMEOUT')]}, '', '0 passed, 1 failed', 1),
    ('skips are told apart', {'build-unit': [ran('a', 'OK'), ran('b', 'SKIP', 'no kvm', '', 77)]}, '',
     '1 passed, 0 failed, 1 skipped', 0),
    ('a skipped subtest is no success', {'build-unit': [ran('a', 'OK', 'ok 1 - x # SKIP no pool\nok 2 - y\n')]}, '',
     '1 passed, 0 failed, 1 skipped', 0),
    ('a run without tests fails', {'build-unit': [], 'build-model': [ran('a', 'OK')]}, '', '1 passed, 1 failed', 1),
    ('a run without a log fails', {'build-unit': None}, '', '0 passed, 1 failed', 1),
    ('no runs at all fail', {}, '', '0 passed, 1 failed', 1),
    ('a system suite of skips fails', {'build-system': [ran('a', 'SKIP')], 'build-unit': [ran('b', 'OK')]}, '',
     '1 passed, 1 failed, 1 skipped', 1),
    ('a required test may not be skipped', {'build-system': [ran('a', 'OK'), ran('b', 'SKIP')]}, 'b # why\n',
     '1 passed, 1 failed, 1 skipped', 1),
    ('a required subtest may not be skipped', {'build-system': [ran('a', 'OK', 'ok 1 - x # SKIP\nok 2 - y\n')]},
     'a/x\n', '1 passed, 1 failed, 1 skipped', 1),
    ('a required test of skipped subtests is skipped',
     {'build-system': [ran('a', 'SKIP', 'ok 1 - x # SKIP no pool\n'), ran('b', 'OK')]}, 'a\n',
     '1 passed, 1 failed, 1 skipped', 1),
    ('a system suite of skipped subtests fails',
     {'build-system': [ran('a', 'OK', 'ok 1 - x # SKIP no pool\n')]}, '', '0 passed, 1 failed, 1 skipped', 1),
    ('a required test must exist', {'build-system': [ran('a', 'OK')]}, 'gone\n', '1 passed, 1 failed', 1),
    ('programs are counted', {'demo': ('passed', 'fine'), 'bench': ('failed', 'slow')}, '', '1 passed, 1 failed', 1),
]
NEEDS_KERNEL = 'required'


def tally(runs, required):
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for name, what in runs.items():
            path = os.path.join(folder, name)
            kind, text = what if isinstance(what, tuple) else ('meson', what)
            if text is not None:
                with open(path, 'w', encoding='utf-8') as file:
                    file.write(text if isinstance(text, str) else ''.join(json.dumps(test) + '\n' for test in text))
            lines.append(f'{kind}\t{name}\t{path}\n')
        for name, text in (('runs', ''.join(lines)), ('required', required)):
            with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
                file.write(text)
        return subprocess.run([sys.executable, '-B', os.path.join(ROOT, 'scripts/lib/tally.py'),
                               os.path.join(folder, 'runs'), os.path.join(folder, 'required')],
                              capture_output=True, text=True)


def main():
    is_bound = os.geteuid() == 0 and tuple(map(int, os.uname().release.split('.')[:2])) >= (6, 7)
    failed = False
    for number, (what, runs, required, last, status) in enumerate(CASES, 1):
        if NEEDS_KERNEL in what and not is_bound:
            print(f'ok {number} - {what} # SKIP needs root and Linux 6.7')
            continue
        said = tally(runs, required)
        lines = said.stdout.splitlines() or ['']
        good = lines[-1] == last and said.returncode == status
        failed |= not good
        print(f'{"ok" if good else "not ok"} {number} - {what}')
        if not good:
            print(f'# said {lines[-1]!r}, exit {said.returncode}: {said.stderr[-300:]!r}')
    print(f'1..{len(CASES)}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
