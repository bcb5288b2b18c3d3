#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMMs leave their memory at a socket: every version of Firecracker's dialect, and everything that goes wrong with one.

Usage: test-handoff.py UFDD UFDCTL SIM-FIRECRACKER"""
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
from tap import check, finish, skip  # noqa: E402

UFDD, UFDCTL, SIM = (os.path.abspath(path) for path in sys.argv[1:4])
MIB = 8
PAGES = MIB << 8
DEADLINE = 60
NOBODY = 65534


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class World:
    """A daemon with a state directory, and the VMMs that come to it."""

    def __init__(self, unit=False):
        self.folder = tempfile.mkdtemp(prefix="ufd-handoff-")
        self.state = tempfile.mkdtemp(prefix="ufd-handoff-", dir="/dev/shm")
        os.chmod(self.folder, 0o755)
        self.memory = self.path("memory")
        subprocess.run([SIM, "--write", self.memory, "--mib", str(MIB)], check=True)
        self.log = open(self.path("log"), "w+")
        self.vmms = []
        self.unit = None
        if unit:
            self.make_unit()
        self.start()

    def path(self, name):
        return os.path.join(self.folder, name)

    def make_unit(self):
        """A socket as the service manager has it, and what ufdd is told of it."""
        self.unit = socket.socket(socket.AF_UNIX)
        self.unit.bind(self.path("unit"))
        self.unit.listen()
        with open(self.path("conf"), "w", encoding="utf-8") as file:
            file.write("[daemon]\nexperimental-dialects = yes\n\n")
            file.write(f"[handoff unit]\nsource = file:{self.memory}\nname = of-unit-%\nowner = 1234\n")

    def start(self):
        words = [UFDD, "--socket=" + self.path("ufdd"), "--state-dir=" + self.state]
        fds = ()
        if self.unit:
            fds = (self.unit.fileno(),)
            words = ["bash", "-c", f'exec 3<&{fds[0]}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=handoff-unit; '
                     'exec "$@"', "bash", *words, "--config=" + self.path("conf")]
        self.daemon = subprocess.Popen(words, stderr=self.log, pass_fds=fds, preexec_fn=die_with_parent)
        self.wait("the daemon", lambda: self.ctl("status")[0] == 0)

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def ctl(self, *arguments, uid=None):
        ran = subprocess.run([UFDCTL, "--socket=" + self.path("ufdd"), *arguments], capture_output=True, text=True,
                             timeout=DEADLINE, user=uid)
        return ran.returncode, ran.stdout + ran.stderr

    def ask(self, *arguments):
        status, text = self.ctl("--json=short", *arguments)
        return json.loads(text) if status == 0 else {}

    def create(self, name, *options):
        return self.ctl("handoff", "create", self.path(name), "--source", "file:" + self.memory, *options)

    def listed(self, name):
        return next((one for one in self.ask("handoff", "list").get("handoffs", [])
                     if one["path"] == self.path(name)), None)

    def guests(self):
        return self.ask("guest", "list").get("guests", [])

    def vmm(self, name, *options):
        vmm = subprocess.Popen([SIM, "--socket", self.path(name), "--file", self.memory, "--deadline", str(DEADLINE),
                                *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, preexec_fn=die_with_parent)
        self.vmms.append(vmm)
        return vmm

    @staticmethod
    def end(vmm):
        out, err = vmm.communicate(timeout=2 * DEADLINE)
        said = next((line for line in reversed(out.splitlines()) if line.startswith("{")), "{}")
        return vmm.returncode, json.loads(said), err

    @staticmethod
    def wait(what, condition):
        until = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > until:
                raise SystemExit(f"waited in vain for {what}")
            time.sleep(0.01)

    def log_text(self):
        with open(self.path("log"), encoding="utf-8") as file:
            return file.read()

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def done(self):
        for vmm in self.vmms:
            if vmm.poll() is None:
                vmm.kill()
                vmm.communicate()
        self.daemon.kill()
        self.daemon.wait()
        shutil.rmtree(self.folder)
        shutil.rmtree(self.state)


def gone(world):
    world.wait("the guests to be gone", lambda: not world.guests())


def test_dialects(world):
    """All at one time; each byte is checked by who left it."""
    world.create("all", "--background", "no")
    kinds = {
        "1.1": ["--version", "1.1"],
        "1.1, which says nothing first": ["--version", "1.1", "--empty-first"],
        "1.7, closed at once": ["--version", "1.7", "--early-close"],
        "1.11, in pieces": ["--version", "1.11", "--split-body"],
        "main": ["--version", "main", "--threads", "4"],
        "main, with keys of the future": ["--version", "main", "--extra-keys"],
        "main, without page sizes": ["--version", "main", "--no-page-size"],
        "main, discarding": ["--version", "main", "--discards", "300"],
        "main, plugging": ["--version", "main", "--regions", "3", "--virtio-mem"],
        "e2b": ["--version", "e2b"],
        "e2b, synchronous": ["--version", "e2b", "--sync-wp"],
        "e2b, anonymous": ["--version", "e2b", "--no-memfd"],
    }
    vmms = {kind: world.vmm("all", *options) for kind, options in kinds.items()}
    for kind, vmm in vmms.items():
        status, said, err = world.end(vmm)
        check(f"Firecracker {kind}: what it left is what it reads", status == 0 and said.get("wrong") == 0,
              f"{status} {said} {err}\n{world.log_text()[-2000:]}")
        if kind.startswith("e2b") and status == 0:
            check(f"Firecracker {kind}: what was filled does not look written to it", said["shown_dirty"] == 0, said)
    gone(world)
    check("they are counted", world.listed("all")["guests"] == len(kinds), world.listed("all"))
    check("who left without a word is no refusal",
          (world.listed("all")["empty"], world.listed("all")["refused"]) == (1, 0), world.listed("all"))


def free_huge_pages():
    with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", encoding="ascii") as file:
        return int(file.read())


def test_huge(world):
    if free_huge_pages() < 2 * MIB // 2 + 4:
        skip("pages of 2 MiB", "no huge pages are free")
        return
    status, said, err = world.end(world.vmm("all", "--page-size", "2097152", "--discards", "3"))
    check("pages of 2 MiB", status == 0 and said.get("wrong") == 0, f"{status} {said} {err}")


SINS = {
    "silent": "0 bytes and 0 file descriptors came",
    "half": "no message is whole",
    "garbage": "no dialect that is known",
    "no-fd": "no userfaultfd came",
    "secret-freedom": "secret freedom",
    "uffd-block": "uffd_block",
    "blocking-uffd": "must be O_NONBLOCK",
    "no-handshake": "not seen UFFDIO_API",
    "foreign-uffd": "another process's",
}


def test_refusals(world):
    """Beside a guest that must not notice."""
    world.create("sins", "--dialect", "auto")
    bystander = world.vmm("all", "--discards", "100", "--passes", "3")
    sinners = {sin: world.vmm("sins", "--sin", sin) for sin in SINS}
    for sin, vmm in sinners.items():
        status, _, err = world.end(vmm)
        check(f"{sin}: refused, and told why", status == 3 and SINS[sin] in world.log_text(),
              f"{status} {err}\n{world.log_text()[-3000:]}")
    status, said, err = world.end(bystander)
    check("who is beside them does not notice", status == 0 and said.get("wrong") == 0, f"{status} {said} {err}")
    counted = world.listed("sins")
    check("each is counted", counted["refused"] == len(SINS) and counted["guests"] == 0, counted)
    gone(world)


def test_ends(world):
    """VMMs that die or stop while a page of theirs is being filled."""
    dying = world.vmm("all", "--die-in-fault")
    status, _, err = world.end(dying)
    check("a VMM dies in mid-fault", status == -signal.SIGKILL, f"{status} {err}")
    stopped = world.vmm("all", "--stop")
    world.wait("the VMM to stop", lambda: os.waitpid(stopped.pid, os.WNOHANG | os.WUNTRACED)[1] != 0)
    status, said, err = world.end(world.vmm("all"))
    check("one that is stopped holds up nobody", status == 0 and said.get("wrong") == 0, f"{status} {said} {err}")
    stopped.send_signal(signal.SIGCONT)
    status, said, err = world.end(stopped)
    check("and goes on as if nothing had been", status == 0 and said.get("wrong") == 0, f"{status} {said} {err}")
    gone(world)


def test_kill(world):
    """The daemon is killed while threads wait; its successor has guest and socket."""
    world.create("kill", "--background", "no", "--window", "0", "--name", "killed-%")
    vmm = world.vmm("kill", "--discards", "50")
    world.wait("a fault", lambda: any(guest["faults"] for guest in world.guests()))
    world.kill()
    late = world.vmm("kill")
    status, _, _ = world.end(late)
    check("who connects while nobody listens is told so", status == 2, status)
    world.start()
    check("the guest is there again, by the name of its dialect",
          [guest["front_end"] for guest in world.guests()] in (["firecracker"], []), world.guests())
    status, said, err = world.end(vmm)
    check("SIGKILL of ufdd in mid-fault", status == 0 and said.get("wrong") == 0,
          f"{status} {said} {err}\n{world.log_text()[-2000:]}")
    check("the hand-off counts on", world.listed("kill")["taken"] == 1, world.listed("kill"))
    status, said, err = world.end(world.vmm("kill"))
    check("and lets VMMs in", status == 0 and said.get("wrong") == 0, f"{status} {said} {err}")
    gone(world)


def test_dirty(world):
    """Tracking from outside: Firecracker asked its userfaultfd for nothing of the kind."""
    world.create("dirty", "--consumer", "diff", "--name", "dirty")
    vmm = world.vmm("dirty", "--write-every", "8", "--hold")
    said = json.loads(vmm.stdout.readline())
    status, text = world.ctl("guest", "prefetch", "dirty")
    reply = world.ask("dirty", "read", "dirty", "--consumer", "diff")
    check("the tracker is the synchronous one", "TRACKER: wp" in world.ctl("guest", "show", "dirty")[1],
          world.ctl("guest", "show", "dirty")[1])
    dirty = sum(memory["dirty_bytes"] for memory in reply.get("memories", []))
    check("exactly what was written is dirty, whatever was filled", said["written"] == PAGES // 8 and
          dirty == said["written"] * 4096, f"{said} {reply} {text}")
    again = world.ask("dirty", "read", "dirty", "--consumer", "diff")
    check("and nothing of it twice", sum(memory["dirty_bytes"] for memory in again.get("memories", [])) == 0, again)
    second = world.vmm("dirty")
    world.wait("a refusal", lambda: world.listed("dirty")["refused"] == 1)
    check("a second guest of one name is refused", "GuestExists" in world.listed("dirty")["last_refusal"],
          world.listed("dirty"))
    second.kill()
    vmm.stdin.close()
    vmm.wait(DEADLINE)
    gone(world)


def test_listeners(world):
    """By their names: what cannot be."""
    def error(text, *arguments):
        status, said = world.ctl("call", "io.ufd.handoff." + arguments[0], json.dumps(arguments[1]))
        check(f"{arguments[0]} {text}", status != 0 and text in said, said)

    memory = "file:" + world.memory
    error("Exists", "Create", {"path": world.path("all"), "source": memory})
    error("Exists", "Create", {"path": world.path("ufdd"), "source": memory})
    error("BadPath", "Create", {"path": world.memory, "source": memory})
    error("BadPath", "Create", {"path": "relative", "source": memory})
    error("BadPath", "Create", {"path": "/" + 120 * "x", "source": memory})
    error("BadDialect", "Create", {"path": world.path("new"), "source": memory, "dialect": "esperanto"})
    error("experimental", "Create", {"path": world.path("new"), "source": memory, "dialect": "cloud-hypervisor-uffd"})
    error("BadSource", "Create", {"path": world.path("new"), "source": memory + ".not"})
    error("InvalidParameter", "Create", {"path": world.path("new"), "source": memory, "name": "a%b%c"})
    error("NoSuchHandoff", "Remove", {"path": world.path("new")})

    world.create("mode", "--mode", "0604", "--owner", "1234:4321")
    info = os.stat(world.path("mode"))
    check("the socket's owner and mode", (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (0o604, 1234, 4321), info)
    os.chmod(world.path("ufdd"), 0o666)
    status, said = world.ctl("handoff", "create", world.path("nobody"), "--source", "zero", uid=NOBODY)
    check("another user makes none", status == 5, said)
    status, said = world.ctl("handoff", "remove", world.path("all"), uid=NOBODY)
    check("nor removes one", status == 5 and os.path.exists(world.path("all")), said)
    status, said = world.ctl("handoff", "remove", world.path("mode"), uid=1234)
    check("but his own", status == 0 and not os.path.exists(world.path("mode")), said)
    status = subprocess.run([SIM, "--socket", world.path("all"), "--file", world.memory], user=NOBODY, timeout=DEADLINE,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    check("who may not connect does not", status in (2, 77), status)

    world.create("once", "--count", "1")
    ended = [world.end(world.vmm("once"))[0] for _ in range(2)]
    check("after the last guest there is no socket", ended == [0, 2] and world.listed("once") is None and
          not os.path.exists(world.path("once")), ended)
    gone(world)


class CloudHypervisor:
    """As it is proposed: its own process, which maps, registers, hands over, reads, adds, and comes back."""

    API, REGISTER = 0xC018AA3F, 0xC020AA00

    def __init__(self, path, memory):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.path = path
        with open(memory, "rb") as file:
            self.bytes = file.read()
        self.uffd = self.libc.syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
        self.ioctl(self.API, struct.pack("QQQ", 0xAA, 1 << 3, 0))
        self.regions = []

    def ioctl(self, command, argument):
        buffer = ctypes.create_string_buffer(argument)
        if self.libc.ioctl(self.uffd, ctypes.c_ulong(command), buffer) < 0:
            raise OSError(ctypes.get_errno(), hex(command))

    def map(self, mib):
        offset = sum(region["size"] for region in self.regions)
        address = self.libc.mmap(None, ctypes.c_size_t(mib << 20), 3, 0x4022, -1, ctypes.c_long(0))
        self.ioctl(self.REGISTER, struct.pack("QQQQ", address, mib << 20, 1, 0))
        self.regions.append({"guest_phys_addr": offset, "host_virt_addr": address, "size": mib << 20,
                             "backing_file_offset": offset})
        return self.regions[-1]

    def say(self, message, fds=()):
        text = json.dumps(message).encode()
        socket.send_fds(self.connection, [struct.pack("<I", len(text)) + text], list(fds))
        return self.connection.recv(1)

    def hand_over(self):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(DEADLINE)
        self.connection.connect(self.path)
        return self.say({"type": "handoff", "version": 0, "vmm_pid": os.getpid(), "mode": "MISSING",
                         "regions": self.regions}, [self.uffd])

    def is_right(self, region, first, end):
        at = region["backing_file_offset"]
        return ctypes.string_at(region["host_virt_addr"] + first, end - first) == self.bytes[at + first:at + end]

    def run(self):
        """Its results, a word a line, for whoever started it."""
        region = self.map(2)
        print("acknowledged" if len(self.hand_over()) == 1 else "silence", flush=True)
        print("right" if self.is_right(region, 0, 1 << 20) else "wrong", flush=True)
        print("ended" if self.connection.recv(1) == b"" else "more", flush=True)
        sys.stdin.readline()
        print("acknowledged" if len(self.hand_over()) == 1 else "silence", flush=True)
        print("right" if self.is_right(region, 0, 2 << 20) else "wrong", flush=True)
        added = self.map(1)
        print("acknowledged" if len(self.say({"type": "add_region", "region": added})) == 1 else "silence", flush=True)
        print("right" if self.is_right(added, 0, 1 << 20) else "wrong", flush=True)


def test_proposal(world):
    """Acknowledged, killed, again, and more memory."""
    world.create("chu", "--dialect", "auto", "--name", "chu", "--background", "no")
    vmm = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), *sys.argv[1:4], world.path("chu"), world.memory],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    world.vmms.append(vmm)
    said = [vmm.stdout.readline().strip() for _ in range(2)]
    check("Cloud Hypervisor's proposal", said == ["acknowledged", "right"], f"{said}\n{world.log_text()[-2000:]}")
    world.kill()
    said = vmm.stdout.readline().strip()
    world.start()
    vmm.stdin.write("\n")
    vmm.stdin.flush()
    said = [said] + [vmm.stdout.readline().strip() for _ in range(4)]
    check("comes back, and adds memory", said == ["ended"] + 2 * ["acknowledged", "right"],
          f"{said}\n{world.log_text()[-2000:]}")
    check("as the guest that it was", world.listed("chu")["again"] == 1, world.listed("chu"))
    vmm.wait(DEADLINE)
    gone(world)


def test_unit():
    """A socket of the service manager; and a successor in the same process has it, and what was made beside it."""
    world = World(unit=True)
    try:
        status, said, err = world.end(world.vmm("unit"))
        check("a unit's socket", status == 0 and said.get("wrong") == 0, f"{status} {said} {err}\n{world.log_text()}")
        check("is described by the configuration", (world.listed("unit")["uid"], world.listed("unit")["unit"]) ==
              (1234, True), world.listed("unit"))
        test_proposal(world)
        world.create("made", "--name", "made")
        held = world.vmm("made", "--hold")
        held.stdout.readline()
        status, said = world.ctl("upgrade")
        check("ufdctl upgrade", status == 0, said)
        check("the guest goes on", [guest["name"] for guest in world.guests()] == ["made"], world.guests())
        for name in ("unit", "made"):
            check(f"{name} is still there", world.listed(name) is not None, world.log_text()[-2000:])
        held.stdin.close()
        held.wait(DEADLINE)
        gone(world)
        vmms = [world.vmm(name) for name in ("unit", "made")]
        ended = [world.end(vmm) for vmm in vmms]
        check("and both let VMMs in", all(status == 0 for status, _, _ in ended), f"{ended}\n{world.log_text()[-2000:]}")
    finally:
        world.done()


def main():
    test_unit()
    world = World()
    try:
        fds = world.n_fds()
        test_dialects(world)
        test_huge(world)
        test_refusals(world)
        test_ends(world)
        world.wait("fds to be closed", lambda: world.n_fds() <= fds + 8)
        check("nothing leaks", world.n_fds() <= fds + 8, world.n_fds())
        test_kill(world)
        test_dirty(world)
        test_listeners(world)
        for one in world.ask("handoff", "list")["handoffs"]:
            world.ctl("handoff", "remove", one["path"])
        check("nothing of what was removed is kept", os.listdir(world.state) == [], os.listdir(world.state))
    finally:
        world.done()
    finish()


if len(sys.argv) == 6:
    CloudHypervisor(*sys.argv[4:]).run()
else:
    main()
