#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each line of ufdd goes to the journal or to stderr: never to both, never nowhere. TAP on stdout.

The journal is a socket of ours in a mount namespace of ours. Argument: ufdd.
"""
import os
import signal
import socket
import subprocess
import sys
import tempfile

UFDD = os.path.abspath(sys.argv[1])
JOURNAL = "/run/systemd/journal/socket"
INSIDE = "UFD_TEST_OWN_MOUNTS"

results = []


def check(what, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {what}", flush=True)
    if not ok:
        print(f"# {detail!r}"[:800], flush=True)


class Journal:
    """What a journal receives; a datagram a line."""

    def __init__(self):
        os.makedirs(os.path.dirname(JOURNAL), exist_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(JOURNAL)
        self.socket.setblocking(False)

    def lines(self):
        """Of each datagram, its fields."""
        found = []
        while True:
            try:
                datagram = self.socket.recv(65536).decode()
            except BlockingIOError:
                return found
            found.append(dict(field.split("=", 1) for field in datagram.splitlines()))

    def close(self):
        self.socket.close()


def complain(config, is_stream):
    """ufdd, with a configuration that it complains about once. Its stderr."""
    ours, theirs = socket.socketpair()
    status = os.fstat(theirs.fileno())
    stream = f"{status.st_dev}:{status.st_ino if is_stream else 1}"
    ran = subprocess.run([UFDD, "--config", config, "--check"], stderr=theirs, stdout=subprocess.DEVNULL,
                         env={**os.environ, "JOURNAL_STREAM": stream}, timeout=30, check=False)
    theirs.close()
    with ours:
        said = b"".join(iter(lambda: ours.recv(65536), b"")).decode()
    return said if ran.returncode in (0, 1) else f"exit status {ran.returncode}"


def is_alone(said, prefix=""):
    return said.count("\n") == 1 and said.startswith(prefix + "ufdd: ") and "nonsense" in said


def run_cases(config):
    said = complain(config, True)
    check("without a journal, a line for it goes to stderr, with its priority", is_alone(said, "<4>"), said)

    journal = Journal()
    said = complain(config, False)
    check("stderr that is not the journal's gets the line", is_alone(said), said)
    check("and then the journal does not", not journal.lines())

    said = complain(config, True)
    lines = journal.lines()
    check("the journal gets the line once", len(lines) == 1, lines)
    check("and then stderr does not", said == "", said)
    fields = lines[0] if lines else {}
    check("with its sentence, priority, identifier and place",
          "nonsense" in fields.get("MESSAGE", "") and fields.get("PRIORITY") in ("3", "4") and
          len(fields.get("MESSAGE_ID", "")) == 32 and fields.get("CODE_FILE", "").endswith(".c"), fields)

    journal.close()
    said = complain(config, True)
    check("a journal that died is no journal", is_alone(said, "<4>"), said)
    os.unlink(JOURNAL)


def main():
    signal.alarm(60)
    if INSIDE not in os.environ:
        probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
        if probe.returncode != 0:
            print("1..0 # SKIP needs a mount namespace of its own")
            return 0
        os.environ[INSIDE] = "yes"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, "-B", *sys.argv])
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    with tempfile.NamedTemporaryFile("w", prefix="ufd-log-", suffix=".conf") as config:
        config.write("[daemon]\nnonsense = 1\n")
        config.flush()
        run_cases(config.name)
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


sys.exit(main())
