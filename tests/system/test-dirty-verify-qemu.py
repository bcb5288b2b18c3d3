#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""An unmodified QEMU whose guest writes pages at random, and a copy of its memory by what io.ufd.dirty tells.

Arguments: ufdd, ufdctl. Two processes of the guest, on two vCPUs under emulation, rewrite pages without a pause
for anybody, and look into each before they do. A round is over when 500 pages that were told have changed. Now and then
the guest is paused by its monitor, what is left is read, and the copy must be the memory, byte for byte; ufdd is
killed a few times, every other time while it is asked. 300 rounds of each tracker, 10,000 with UFD_TEST_LONG=1.
TAP on stdout.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
import dirtyworld
from dirtyworld import PAGE, World, check, die_with_parent, running, wait_until
from tap import finish

dirtyworld.UFDD, dirtyworld.UFDCTL = (os.path.realpath(path) for path in sys.argv[1:3])
ROUNDS = 10000 if os.environ.get("UFD_TEST_LONG") else 30 if os.environ.get("UFD_TEST_SHORT") else 300
PAGES_A_ROUND = 500
LOOK_EACH = 25  # rounds
KILLS = 5
GUEST_MIB = 128
BLOCK = 256  # pages that are compared at once


def skip_all(why):
    print(f"1..0 # SKIP {why}", flush=True)
    sys.exit(0)


def guest_kernel():
    """Return: paths of a kernel and an initrd. The scripts that boot this guest have them already, or fetch them."""
    ran = subprocess.run(["bash", "-c", ". scripts/lib/packages.sh && . scripts/lib/guest.sh && guest_prepare && "
                          'echo "$GUEST_KERNEL" && echo "$GUEST_INITRD"'], cwd=os.environ["SOURCE_ROOT"],
                         env={**os.environ, "BUILD": os.environ["UFD_BUILD"]}, capture_output=True, text=True,
                         check=False)
    if ran.returncode:
        skip_all("no guest kernel: " + ran.stderr.strip().rpartition("\n")[2])
    return [os.path.join(os.environ["SOURCE_ROOT"], path) for path in ran.stdout.split()]


class Guest:
    def __init__(self, folder, kernel, initrd):
        self.console, self.monitor = os.path.join(folder, "console"), os.path.join(folder, "qmp")
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg",
             "-cpu", "max,-erms,-fsrm", "-smp", "2", "-m", f"{GUEST_MIB}M", "-machine", "pc,memory-backend=ram0",
             "-object", f"memory-backend-memfd,id=ram0,size={GUEST_MIB}M,share=on", "-kernel", kernel,
             "-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet nonce=verify writers=2 tick_ms=1 rate=50 "
             "ws_mb=64 blank_mb=2", "-serial", f"file:{self.console}",
             "-qmp", f"unix:{self.monitor},server=on,wait=off"],
            stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        running.append(self.process)
        self.memory = None

    def boots(self):
        return wait_until(lambda: self.ticks() > 0 or self.process.poll() is not None, 120) and self.ticks() > 0

    def open_memory(self):
        """Through its file: a mapping of ours would fill holes by looking into them."""
        fds = f"/proc/{self.process.pid}/fd"
        self.memory = next(os.open(f"{fds}/{fd}", os.O_RDONLY) for fd in os.listdir(fds)
                           if os.readlink(f"{fds}/{fd}").startswith("/memfd:"))

    def lines(self):
        try:
            with open(self.console, encoding="ascii", errors="replace") as console:
                return console.read().splitlines()
        except FileNotFoundError:
            return []

    def ticks(self):
        return sum(line.startswith("TICK ") for line in self.lines())

    def complaints(self):
        return [line for line in self.lines() if line.startswith(("WRONG", "FAILED"))]

    def command(self, name):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(self.monitor)
            file = client.makefile("rw")
            file.readline()
            for word in ("qmp_capabilities", name):
                file.write(json.dumps({"execute": word}))
                file.flush()
                while "return" not in json.loads(file.readline()):
                    pass


class Copy:
    """The memory, as far as one consumer was told."""

    def __init__(self, world, guest):
        self.world, self.guest, self.epoch = world, guest, 0
        self.n_reads = self.n_told = self.n_changed = self.n_told_again = 0
        self.pages = []
        for page in range(0, GUEST_MIB * 256, BLOCK):
            block = self.look(page, BLOCK)
            self.pages += [block[at:at + PAGE] for at in range(0, len(block), PAGE)]

    def look(self, page, n_pages=1):
        return os.pread(self.guest.memory, n_pages * PAGE, page * PAGE)

    def told(self):
        """The pages of the next epoch."""
        reply, pages = self.world.read(acknowledge=self.epoch)
        if pages is None:
            raise RuntimeError(f"{reply}\n{self.world.said()}")
        self.epoch = reply["epoch"]
        self.n_reads += 1
        self.n_told += len(pages)
        return pages

    def read(self, leave_out=0):
        """Copies an epoch. Return: pages of it that have changed; the first of them, @leave_out, are not copied."""
        changed = []
        for page in self.told():
            now = self.look(page)
            if now == self.pages[page]:
                continue
            changed.append(page)
            if len(changed) > leave_out:
                self.pages[page] = now
        self.n_changed += len(changed)
        return changed

    def round(self):
        enough = self.n_changed + PAGES_A_ROUND

        def is_over():
            self.read()
            return self.n_changed >= enough

        if not wait_until(is_over, 60):
            raise TimeoutError(f"the guest writes no {PAGES_A_ROUND} pages in a minute\n{self.world.said()}")

    def stale(self):
        return [page for block in range(0, len(self.pages), BLOCK)
                if self.look(block, BLOCK) != b"".join(self.pages[block:block + BLOCK])
                for page in range(block, block + BLOCK) if self.look(page) != self.pages[page]]


def stale_at_rest(copy, leave_out=0):
    """Pages that differ when nobody writes any more and the last epoch was copied; and what of that one had changed."""
    copy.guest.command("stop")
    changed = copy.read(leave_out)
    stale = copy.stale()
    copy.n_told_again += len(copy.told())
    for page in changed[:leave_out]:
        copy.pages[page] = copy.look(page)
    copy.guest.command("cont")
    return stale, changed


def kill(copy, is_asked):
    """Whoever was asked is asked the same again: the copy has not got that epoch."""
    if not is_asked:
        copy.world.again()
        return
    with copy.world.send("io.ufd.dirty.Read", name="g", format="bitmap", acknowledge=copy.epoch):
        copy.world.again()


def verify(world, guest, track):
    run = world.ctl("guest", "attach", "g", "--qmp", guest.monitor, "--source", "backing", "--populated", "keep",
                    "--track", track)
    reply = world.dirty("Start") if run.returncode == 0 else run.stderr
    is_tracked = "parameters" in reply and reply["parameters"].get("tracker") == track
    check(f"{track}: the guest is attached by its monitor, and tracked", is_tracked, reply)
    if not is_tracked:
        return
    begun, ticks = time.monotonic(), guest.ticks()
    copy, stale, n_looks, n_kills = Copy(world, guest), [], 0, 0
    for number in range(1, ROUNDS + 1):
        copy.round()
        if number % (ROUNDS // (KILLS + 1)) == 0 and n_kills < KILLS:
            kill(copy, n_kills % 2)
            n_kills += 1
        if number % LOOK_EACH == 0 or number == ROUNDS:
            stale += stale_at_rest(copy)[0]
            n_looks += 1
    check(f"{track}: after {ROUNDS} rounds the copy is the memory", not stale, f"stale pages: {stale}")
    check(f"{track}: so it was {n_looks} times, across {n_kills} deaths of ufdd", n_kills == KILLS, world.said())
    check(f"{track}: when nobody writes, nothing is told again", not copy.n_told_again, copy.n_told_again)
    check(f"{track}: the guest went on, and found its pages right",
          guest.ticks() > ticks and not guest.complaints(), guest.complaints())
    print(f"# {track}: {copy.n_reads} reads, {copy.n_told} pages told, {copy.n_changed} of them changed, in "
          f"{time.monotonic() - begun:.1f} s", flush=True)

    ticks = guest.ticks()
    wait_until(lambda: guest.ticks() > ticks + 1)
    stale, changed = stale_at_rest(copy, leave_out=1)
    check(f"{track}: one told page that is not copied is found", changed and stale == changed[:1],
          f"stale {stale} of {len(changed)}")
    check(f"{track}: and when it is, no page is stale", not stale_at_rest(copy)[0])
    run = world.ctl("guest", "detach", "g")
    check(f"{track}: the guest is let go", run.returncode == 0, run.stderr)


def main():
    if os.geteuid():
        skip_all("attaching to a process needs root")
    if not shutil.which("qemu-system-x86_64"):
        skip_all("qemu-system-x86_64 is missing")
    kernel, initrd = guest_kernel()
    try:
        world = World()
        guest = Guest(world.folder, kernel, initrd)
        begun = time.monotonic()
        check("a guest with two writers boots", guest.boots(), guest.lines()[-3:])
        print(f"# it took {time.monotonic() - begun:.1f} s", flush=True)
        guest.open_memory()
        for track in dirtyworld.trackers():
            verify(world, guest, track)
    finally:
        dirtyworld.end_all()
    finish()


main()
