# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results of a test in Python, as TAP on stdout."""
import sys

results = []


def check(what, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {what}", flush=True)
    if not ok:
        print("# " + str(detail).strip().replace("\n", "\n# "), flush=True)


def skip(what, why):
    results.append(True)
    print(f"ok {len(results)} - {what} # SKIP {why}", flush=True)


def finish():
    """The plan, last; and the end of this process."""
    print(f"1..{len(results)}", flush=True)
    sys.exit(0 if all(results) else 1)
