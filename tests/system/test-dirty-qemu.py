#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A QEMU whose disk has cache=none reads into its memory, while somebody copies what is told to be dirty.

Arguments: ufdd, ufdctl, slow-disk.py. Each read of the disk has its page pinned for a while, and the bytes come
at the end: a page that is protected and copied in between changes without a fault. Paused for each read of
the dirty pages, nothing is in flight, and the copy is right; not paused, it must go wrong, or this test
shows nothing. TAP on stdout.
"""
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
from children import die_with_parent, end, end_all, running, wait_until
from tap import check, finish

UFDD, UFDCTL, DISK = (os.path.realpath(path) for path in sys.argv[1:4])
ROUNDS = 50
TRIES = 3
PAGE = 4096
MIB = 16
DELAY_MS = 20


def skip_all(why):
    print(f"1..0 # SKIP {why}", flush=True)
    sys.exit(0)


def start(*words, **options):
    process = subprocess.Popen(words, preexec_fn=die_with_parent, **options)
    running.append(process)
    return process


class Disk:
    def __init__(self, folder):
        self.point = os.path.join(folder, "disk")
        os.mkdir(self.point)
        self.process = start(sys.executable, DISK, self.point, str(DELAY_MS), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        self.is_ready = self.process.stdout.readline().strip() == "ready"
        self.why = "" if self.is_ready else self.process.stderr.read()

    def end(self):
        end(self.process)
        ctypes.CDLL(None).umount2(self.point.encode(), 2)


class Qemu:
    """It boots from the disk, and reads it for ever."""

    def __init__(self, folder, disk):
        self.memory = os.path.join(folder, "ram")
        self.monitor = os.path.join(folder, "qmp")
        self.process = start(
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", f"{MIB}M",
            "-machine", "pc,memory-backend=ram0", "-object",
            f"memory-backend-file,id=ram0,size={MIB}M,share=on,mem-path={self.memory}", "-drive",
            f"file={disk.point}/image,format=raw,if=virtio,cache=none,aio=threads,readonly=on,file.locking=off",
            "-qmp", f"unix:{self.monitor},server=on,wait=off", stderr=subprocess.DEVNULL)

    def read(self):
        with open(self.memory, "rb") as file:
            return bytearray(file.read())

    def number_at(self, address):
        with open(self.memory, "rb") as file:
            file.seek(address)
            return int.from_bytes(file.read(8), "little")

    def boots(self):
        return wait_until(lambda: os.path.exists(self.memory) and self.number_at(0x10000) > 0, 60)

    def command(self, name):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(self.monitor)
            file = client.makefile("rw")
            file.readline()
            for word in ("qmp_capabilities", name):
                file.write(json.dumps({"execute": word}))
                file.flush()
                while "return" not in json.loads(file.readline()):
                    pass


class Daemon:
    def __init__(self, folder):
        self.socket = os.path.join(folder, "socket")
        self.process = start(UFDD, "--socket", self.socket, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(self.socket))

    def ctl(self, *words):
        return subprocess.run([UFDCTL, "--socket", self.socket, *words], capture_output=True, text=True,
                              timeout=60)

    def dirty(self):
        """Return: ranges of bytes; how long the guest was paused for them."""
        run = self.ctl("dirty", "read", "g", "--format", "json")
        if run.returncode:
            raise RuntimeError(run.stderr)
        reply = json.loads(run.stdout)
        return [(r["offset_bytes"], r["length_bytes"]) for r in reply["memories"][0]["ranges"]], \
            reply["paused_ns"]


def copy(qemu, to, ranges):
    with open(qemu.memory, "rb") as file:
        for offset, length in ranges:
            file.seek(offset)
            to[offset:offset + length] = file.read(length)


def stale_pages(daemon, qemu, quiesce):
    """Copies rounds of dirty pages, the last one of a guest that stands still. Return: pages that differ; pauses."""
    run = daemon.ctl("dirty", "start", "g", "--quiesce", quiesce)
    if run.returncode:
        raise RuntimeError(run.stderr)
    mine, pauses = qemu.read(), []
    for _ in range(ROUNDS):
        time.sleep(DELAY_MS / 4000)  # the guest's own pace, against which the rounds run
        ranges, paused_ns = daemon.dirty()
        copy(qemu, mine, ranges)
        pauses.append(paused_ns)
    qemu.command("stop")
    copy(qemu, mine, daemon.dirty()[0])
    right = qemu.read()
    stale = [page for page in range(len(right) // PAGE)
             if mine[page * PAGE:(page + 1) * PAGE] != right[page * PAGE:(page + 1) * PAGE]]
    daemon.ctl("dirty", "stop", "g")
    qemu.command("cont")
    return stale, pauses


def run_in(folder):
    disk = Disk(folder)
    if not disk.is_ready:
        skip_all("no file system of our own: " + disk.why.strip())
    qemu, daemon = Qemu(folder, disk), Daemon(folder)
    try:
        check("a PC boots from the disk", qemu.boots(), qemu.process.poll())
        run = daemon.ctl("guest", "attach", "g", "--qmp", qemu.monitor, "--source", "backing",
                         "--populated", "keep")
        check("and is attached by its monitor", run.returncode == 0, run.stderr)
        before = qemu.number_at(0x10000)
        stale, pauses = stale_pages(daemon, qemu, "auto")
        check(f"paused for each of {ROUNDS} reads, no page is stale", not stale, stale)
        check("it was paused each time", len(pauses) == ROUNDS and all(pauses), pauses)
        check("and reads on", wait_until(lambda: qemu.number_at(0x10000) != before))
        print(f"# paused for {sorted(pauses)[len(pauses) // 2] / 1e6:.1f} ms (median), "
              f"{max(pauses) / 1e6:.1f} ms (most)", flush=True)
        lost = []
        for _ in range(TRIES):
            lost.append(len(stale_pages(daemon, qemu, "never")[0]))
            if lost[-1]:
                break
        check("never paused, pages are stale: this test would see them", any(lost), lost)
        print(f"# stale pages without pauses: {lost}", flush=True)
    finally:
        end(qemu.process)
        end(daemon.process)
        disk.end()


def main():
    if os.geteuid():
        skip_all("attaching to a process, and mounting, need root")
    if not shutil.which("qemu-system-x86_64"):
        skip_all("qemu-system-x86_64 is missing")
    folder = tempfile.mkdtemp(prefix="ufd-dirty-qemu-", dir="/dev/shm")
    try:
        run_in(folder)
    finally:
        end_all()
        shutil.rmtree(folder, ignore_errors=True)
    finish()


main()
