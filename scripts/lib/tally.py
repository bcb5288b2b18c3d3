#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count what scripts/test ran: tally.py RUNS REQUIRED

RUNS has a line a run: kind, name, file. Kind is `meson` (the file is a log of `meson test`, one JSON
object a line), or `passed`, `failed`, `skipped` (the file is what the program said). REQUIRED names
tests that may not be skipped as root on Linux 6.7 or newer.

The last line of the output is the result; the exit status is 1 unless something passed and nothing
failed.
"""

import json
import os
import re
import sys

TAP = re.compile(r'^(not )?ok\b[ \t]*(\d+)?[ \t]*-?[ \t]*([^#\n]*?)[ \t]*(?:#[ \t]*(SKIP)\S*[ \t]*(.*))?$',
                 re.M | re.I)
TAP_PLAN_SKIP = re.compile(r'^1\.\.0\s*#\s*skip\S*\s*(.*)$', re.M | re.I)
FAILED = ('FAIL', 'TIMEOUT', 'ERROR', 'INTERRUPT', 'UNEXPECTEDPASS')


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = []    # (run, test, why)
        self.skipped = []   # (run, test, why)
        self.absent = set() # (run, test) of tests and subtests that ran nothing


def last_words(*texts):
    for text in texts:
        lines = [line.strip() for line in (text or '').splitlines() if line.strip()]
        if lines:
            return lines[-1][:300]
    return 'no reason given'


def skip_reason(test):
    found = TAP_PLAN_SKIP.search(test.get('stdout') or '')
    if found and found.group(1):
        return found.group(1)
    return last_words(test.get('stderr'), test.get('stdout'))


def add_subtests(tally, run, name, text):
    """Count TAP lines. Return: how many there were, and how many of them failed."""
    n_seen = n_failed = 0
    for is_bad, number, title, directive, reason in TAP.findall(text):
        n_seen += 1
        full = f'{name}/{title or number}'
        if directive.upper() == 'SKIP':
            tally.skipped.append((run, full, reason or 'no reason given'))
            tally.absent.add((run, full))
        elif is_bad:
            n_failed += 1
            tally.failed.append((run, full, 'not ok'))
        else:
            tally.passed += 1
    return n_seen, n_failed


def add_test(tally, run, test):
    """One line of meson's log."""
    name, result = test['name'].split(' / ')[-1], test['result']
    n_seen, n_failed = add_subtests(tally, run, name, test.get('stdout') or '')
    if result == 'SKIP':
        tally.absent.add((run, name))
        if not n_seen:
            tally.skipped.append((run, name, skip_reason(test)))
    elif result in FAILED and not n_failed:
        status = test.get('returncode')
        why = f'{result.lower()}, exit status {status}: ' + last_words(test.get('stderr'), test.get('stdout'))
        tally.failed.append((run, name, why))
    elif not n_seen:
        tally.passed += 1


def read_log(path):
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return [json.loads(line) for line in file if line.strip()]
    except OSError:
        return []


def text_of(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.read()


def add_run(tally, kind, run, path):
    if kind == 'meson':
        n_before = tally.passed + len(tally.failed)
        tests = read_log(path)
        for test in tests:
            add_test(tally, run, test)
        if not tests:
            tally.failed.append((run, 'the run', 'no test was executed'))
        elif run.endswith('-system') and tally.passed + len(tally.failed) == n_before:
            tally.failed.append((run, 'the run', 'every test was skipped'))
    elif kind == 'passed':
        tally.passed += 1
    else:
        why = last_words(text_of(path))
        (tally.skipped if kind == 'skipped' else tally.failed).append((run, run, why))


def may_require():
    release = re.match(r'(\d+)\.(\d+)', os.uname().release)
    return os.geteuid() == 0 and tuple(int(part) for part in release.groups()) >= (6, 7)


def required_names(path):
    lines = (line.split('#', 1)[0].strip() for line in text_of(path).splitlines())
    return {line for line in lines if line}


def check_required(tally, runs, path):
    """Required tests of the first build must have run, and not been skipped."""
    log = next((file for kind, run, file in runs if kind == 'meson' and run == 'build-system'), None)
    if not log or not may_require():
        return
    known = {test['name'].split(' / ')[-1] for test in read_log(log)}
    for name in sorted(required_names(path)):
        if ('build-system', name) in tally.absent:
            tally.failed.append(('build-system', name, 'is required here, and was skipped'))
        elif name.split('/')[0] not in known:
            tally.failed.append(('build-system', name, 'is required here, and does not exist'))


def report(tally):
    for run, name, why in tally.skipped:
        print(f'skipped: {run}: {name}: {why}')
    for run, name, why in tally.failed:
        print(f'FAILED: {run}: {name}: {why}')
    line = f'{tally.passed} passed, {len(tally.failed)} failed'
    print(line + (f', {len(tally.skipped)} skipped' if tally.skipped else ''))


def main():
    tally = Tally()
    runs = [line.split('\t') for line in text_of(sys.argv[1]).splitlines()]
    for kind, run, path in runs:
        add_run(tally, kind, run, path)
    check_required(tally, runs, sys.argv[2])
    if not tally.passed and not tally.failed:
        tally.failed.append(('scripts/test', 'the run', 'no test was executed'))
    report(tally)
    sys.exit(1 if tally.failed else 0)


if __name__ == '__main__':
    main()
