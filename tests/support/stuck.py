# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes that get stuck: a daemon, a target that it pages, the file system that the pages come from, and control
groups. Whoever makes them ends them, by pid and in the right order."""
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time

SUPPORT = os.path.dirname(os.path.abspath(__file__))
libc = ctypes.CDLL(None, use_errno=True)

# Takes every free huge page, also those that others give back, until it is told to stop; then keeps them.
HOG = """
import mmap, select, sys
kept = []
is_full = False
while not select.select([sys.stdin], [], [], 0.01 if is_full else 0)[0]:
    try:
        kept.append(mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000))
        kept[-1][0] = 1
    except OSError:
        if not is_full:
            print("full", flush=True)
        is_full = True
sys.stdin.readline()
print("stopped", flush=True)
sys.stdin.read()
"""


def die_with_parent():
    libc.prctl(1, signal.SIGKILL)


def wait_until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


def read_text(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def write_text(path, text):
    with open(path, "w") as file:
        file.write(str(text))


def state_of(pid):
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1]


class Talker:
    """A program of tests/support that takes lines and gives lines."""

    def __init__(self, name, *words):
        self.process = subprocess.Popen([sys.executable, os.path.join(SUPPORT, name), *words],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                        preexec_fn=die_with_parent)
        self.pid = self.process.pid
        self.hear()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline().strip()
        if not line:
            raise EOFError(f"process {self.pid} said nothing")
        return line

    def ask(self, line):
        self.tell(line)
        return self.hear()

    def wait_in(self, function):
        wait_until(lambda: read_text(f"/proc/{self.pid}/wchan") == function,
                   f"{self.pid} in {function}, not {read_text(f'/proc/{self.pid}/wchan')}")

    def is_served(self, block, seconds=20):
        """The touched block came after all, with its bytes."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return bool(ready) and self.hear() == (block + 1).to_bytes(8, "little").hex()

    def end(self):
        self.process.kill()
        self.process.wait()


class World:
    """A daemon, a target, and what it is paged from; all ended together."""

    def __init__(self, programs, scratch, stack, kind="shmem", mib=8, options=(), attach=True):
        self.ufdd, self.ufdctl = programs
        self.server = self.daemon = self.target = None
        stack.callback(self.end)
        self.folder = tempfile.mkdtemp(dir=scratch)
        self.socket = os.path.join(self.folder, "s")
        self.states = os.path.join(self.folder, "states")
        os.mkdir(self.states)
        if libc.mount(b"states", self.states.encode(), b"tmpfs", 0, b"mode=700") < 0:
            raise OSError(ctypes.get_errno(), "tmpfs")
        self.source = os.path.join(self.folder, "mount", "image")
        os.mkdir(os.path.dirname(self.source))
        self.server = Talker("fuse-server.py", os.path.dirname(self.source), str(mib << 20))
        self.start_daemon()
        self.target = Talker("why-target.py", str(mib), kind)
        if attach:
            self.attach(options)

    def end(self):
        """The server first: whoever waits for a file system heeds nothing while it has one."""
        if self.server:
            self.server.end()
            libc.umount2(os.path.dirname(self.source).encode(), 2)
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon.stderr.close()
        if self.target:
            self.target.end()
        libc.umount2(self.states.encode(), 2)

    def start_daemon(self):
        self.daemon = subprocess.Popen([self.ufdd, "--socket", self.socket, "--state-dir", self.states],
                                       stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        for line in self.daemon.stderr:
            if "is ready" in line:
                return
        raise RuntimeError("ufdd did not start")

    def ctl(self, *words):
        return subprocess.run([self.ufdctl, "--socket", self.socket, *words], capture_output=True, text=True,
                              timeout=60)

    def attach(self, options=(), source=None):
        run = self.ctl("guest", "attach", "g", "--pid", str(self.target.pid), "--memory", "guest-ram",
                       "--source", "file:" + (source or self.source), *(options or ("--background", "no")))
        if run.returncode:
            raise RuntimeError(run.stderr)

    def touch(self, block):
        self.target.tell(f"touch {block}")
        self.target.wait_in("handle_userfault")

    def ledger_says(self, doing):
        """What the pager does for the page, as why shows it, not as the test thinks."""
        wait_until(lambda: any(page["doing"] == doing for page in self.why("g")[0]["pages"]), doing)

    def stop_daemon(self):
        self.daemon.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(self.daemon.pid) == ["T"], "a stopped daemon")

    def why(self, asked, *words):
        begun = time.monotonic()
        run = self.ctl("why", str(asked), "--state-dir", self.states, "--json=short", *words)
        took = time.monotonic() - begun
        if run.returncode:
            raise RuntimeError(f"status {run.returncode}: {run.stderr}{run.stdout}")
        return json.loads(run.stdout), took

    def remedy(self, answer):
        run = subprocess.run(["sh", "-c", answer["remedy"]], capture_output=True, text=True, timeout=60)
        return run.returncode == 0, run.stderr


def find_cgroups(controller):
    """Where groups of a controller are made: (mount point, is it the first version)."""
    for line in read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        point = left.split()[4]
        if kind == "cgroup" and controller in options.split(","):
            return point, True
        if kind == "cgroup2" and (controller == "freezer" or controller in
                                  read_text(point + "/cgroup.subtree_control").split()):
            return point, False
    return None, False


def make_group(stack, controller):
    point, is_v1 = find_cgroups(controller)
    group = os.path.join(point, f"ufd-why-{os.getpid()}") if point else None
    try:
        os.mkdir(group)
    except (OSError, TypeError):
        return None, is_v1

    def remove():
        wait_until(lambda: not read_text(group + "/cgroup.procs"), "an empty group")
        os.rmdir(group)
    stack.callback(remove)
    return group, is_v1
