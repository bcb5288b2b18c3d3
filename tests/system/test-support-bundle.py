#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdctl support-bundle: what is in it, and that no byte of a guest is. TAP on stdout.

Arguments: ufdd, ufdctl, the directory of why-target.py. Every page of the guest, of its source and of the anonymous
memory of its process carries a mark, which must be nowhere in the bundle.
"""
import ctypes
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile

UFDD, UFDCTL, SUPPORT = sys.argv[1:4]
BLOCK = 4096
BLOCKS = 2048
MARK = b"ufd-guest-secret-0123456789abcdef"

results = []


def check(what, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {what}", flush=True)
    if not ok:
        print(f"# {detail!r}"[:2000], flush=True)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def contents(path):
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in members}


def is_free_of_guest(files):
    """No mark, and no eight bytes of it: nothing that was copied in part."""
    pieces = [MARK[i:i + 8] for i in range(0, len(MARK) - 8, 8)]
    return [name for name, data in files.items() if any(piece in data for piece in pieces)]


class Guest:
    def __init__(self, folder):
        self.socket = os.path.join(folder, "s")
        self.states = os.path.join(folder, "states")
        os.mkdir(self.states)
        self.image = os.path.join(folder, "image")
        with open(self.image, "wb") as file:
            for block in range(BLOCKS):
                file.write((MARK * (BLOCK // len(MARK) + 1))[:BLOCK])
        self.daemon = subprocess.Popen([UFDD, "--socket", self.socket], stderr=subprocess.PIPE, text=True,
                                       preexec_fn=die_with_parent)
        for line in self.daemon.stderr:
            if "is ready" in line:
                break
        # its environment and command line are no less the guest's business
        self.target = subprocess.Popen(
            [sys.executable, os.path.join(SUPPORT, "why-target.py"), str(BLOCKS * BLOCK >> 20), "shmem", MARK.decode()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent,
            env={**os.environ, "SECRET": MARK.decode()})
        self.target.stdout.readline()

    def ctl(self, *words):
        return subprocess.run([UFDCTL, "--socket", self.socket, *words], capture_output=True, text=True,
                              timeout=60)

    def end(self):
        for process in (self.daemon, self.target):
            process.kill()
            process.wait()


def page_in(guest):
    run = guest.ctl("guest", "attach", "secret.guest", "--pid", str(guest.target.pid), "--memory", "guest-ram",
                    "--background", "no", "--source", "file:" + guest.image)
    if run.returncode:
        raise RuntimeError(run.stderr)
    guest.target.stdin.write("touch 7\n")
    guest.target.stdin.flush()
    check("the guest reads its mark", bytes.fromhex(guest.target.stdout.readline()) == MARK[:8])


def with_daemon(guest, folder):
    path = os.path.join(folder, "with.tar.gz")
    run = guest.ctl("support-bundle", path, "--json")
    answer = json.loads(run.stdout)
    check("a bundle is made", run.returncode == 0 and answer["file"] == path, run)
    files = contents(path)
    check("its members are named", set(answer["members"]) == set(files), answer)
    check("it is for its owner's eyes", os.stat(path).st_mode & 0o077 == 0)
    check("it has what the daemon says",
          json.loads(files["daemon/status.json"])["guests"] == 1 and
          json.loads(files["daemon/guest-0.json"])["guest"]["name"] == "secret.guest", list(files))
    ledger = files["guests/secret_guest/ledger.txt"].decode()
    check("it has the flight recorder, decoded", "fault" in ledger and "filled" in ledger and
          "page 7" in ledger, ledger[-1500:])
    check("and the board", "beat_us" in ledger and f"pager_pid {guest.daemon.pid}" in ledger, ledger)
    process = f"processes/{guest.target.pid}"
    check("it has the guest's maps and fds", b"guest-ram" in files[process + "/maps"] and
          b"userfaultfd" in files[process + "/fds.txt"] and b"pending:" in files[process + "/fds.txt"], list(files))
    check("and the pager's threads", b"ufd-demand" in files[f"processes/{guest.daemon.pid}/threads.txt"], list(files))
    check("and the machine", b"MemTotal" in files["machine/meminfo"] and "versions.json" in files, list(files))
    check("no byte of the guest is in it", not is_free_of_guest(files), is_free_of_guest(files))


def without_daemon(guest, folder):
    guest.daemon.send_signal(signal.SIGSTOP)
    path = os.path.join(folder, "without.tar.gz")
    run = guest.ctl("support-bundle", path, "--json")
    missing = [entry["what"] for entry in json.loads(run.stdout)["missing"]]
    files = contents(path)
    check("a daemon that is stopped is no hindrance", run.returncode == 0 and
          "guests/secret_guest/ledger.txt" in files, run)
    check("what is missing is said", "daemon/status.json" in missing and b"daemon" in files["missing.json"], missing)
    check("no byte of the guest is in that one", not is_free_of_guest(files), is_free_of_guest(files))
    with open(os.path.join(folder, "streamed.tar.gz"), "wb") as file:
        run = subprocess.run([UFDCTL, "--socket", guest.socket, "support-bundle", "-"], stdout=file, timeout=60)
    check("it can be streamed", run.returncode == 0 and
          "guests/secret_guest/ledger.txt" in contents(os.path.join(folder, "streamed.tar.gz")))
    run = guest.ctl("support-bundle", os.path.join(folder, "nowhere", "x.tar.gz"))
    check("a place that cannot be written is an error", run.returncode == 1 and "nowhere" in run.stderr, run)
    left = [name for name in os.listdir("/tmp") if name.startswith("ufd-support.")]
    check("nothing is left behind", not left, left)


def main():
    if os.getuid() != 0 or os.uname().machine != "x86_64":
        print("1..0 # SKIP attaches by pid, which needs root on x86-64")
        return 0
    with tempfile.TemporaryDirectory(prefix="ufd-bundle-", dir="/dev/shm") as folder:
        guest = Guest(folder)
        try:
            page_in(guest)
            with_daemon(guest, folder)
            without_daemon(guest, folder)
        finally:
            guest.end()
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


sys.exit(main())
