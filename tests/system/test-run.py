#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdctl run: VMMs that know nothing of ufd are paged, and nobody traces them. TAP on stdout.

Arguments: ufdd, ufdctl, toy-vmm, a static program. Guests compare every byte themselves; processes are ended by pid.
No daemon here finds its attach helper, so what is traced is refused.
"""
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
import recoveryworld
from children import die_with_parent, end, end_all, running, wait_until
from recoveryworld import World, folders
from tap import check, finish, skip

UFDD, UFDCTL, TOY, STATIC = (os.path.realpath(path) for path in sys.argv[1:5])
recoveryworld.UFDD, recoveryworld.TOY = UFDD, TOY
os.environ["UFDD_ATTACH"] = "/nonexistent/ufdd-attach"
MIB = 1 << 20
NOBODY = 65534


def run(world, options, program, **how):
    """A VMM under `ufdctl run`; its words come on a pipe."""
    process = subprocess.Popen([UFDCTL, "--socket", world.socket, "run", *options, "--", *program],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               preexec_fn=die_with_parent, **how)
    running.append(process)
    return process


def toy(world, kind, *words, options=(), **how):
    return run(world, options, [TOY, "--no-client", "--image", world.image, "--mib", str(world.mib), "--memory", kind,
                                *words], **how)


def until(process, word):
    """Lines up to one that begins so; the last one is it, unless it ended before."""
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith(word):
            break
    return lines


def go(process):
    process.stdin.write("go on\n")
    process.stdin.flush()


def result(process):
    lines = until(process, "{")
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        end(process)
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {"said": lines}


def source(world, hot=0):
    """The guest's memory, and another of its own size that comes later; each with its part of the image."""
    words = ["--name", "toy", "--source", f"file:{world.image}", "--background", "no",
             "--memory", f"size:{(world.mib - hot) * MIB}"]
    return words + ["--memory", f"size:{hot}M=file:{world.image},offset={(world.mib - hot) * MIB}"] if hot else words


def free_huge_pages():
    try:
        with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", encoding="ascii") as pool:
            return int(pool.read())
    except OSError:
        return 0


def memories():
    """Every kind, with memory that comes later, discards, and a daemon that dies in the middle."""
    for kind, *words in (("shmem", "--write", "--punch"), ("shmem", "--write", "--discard"),
                         ("anon", "--write", "--discard"), ("hugetlb", "--write", "--punch")):
        what = f"{kind} memory {' '.join(words)}"
        if kind == "hugetlb" and free_huge_pages() < 8:
            skip(f"{what}: every byte is right", "no 8 free huge pages of 2 MiB")
            continue
        world = World(mib=16)
        world.start()
        vmm = toy(world, kind, *words, "--hot-mib", "4", "--pause-us", "200", "--hold", options=source(world, hot=4))
        until(vmm, "READY")
        guests = world.guests()
        check(f"{what} is paged as it is mapped",
              [(guest["name"], guest["front_end"], guest["pid"], guest["duplicate"]) for guest in guests] ==
              [("toy", "preload", vmm.pid, True)], guests)
        go(vmm)
        world.kill()
        world.start()
        said = until(vmm, "READY")
        adopted = world.adopted()
        shown = world.call("io.ufd.guest.Show", name="toy").get("parameters", {})
        go(vmm)
        found = result(vmm)
        check(f"{what}: every byte is right, with ufdd killed meanwhile",
              found.get("ok") and found["memories"] == 2 and found["wrong_pages"] == 0 and
              (found["discarded_pages"] > 0 or len(words) == 1), [said, found, world.said()])
        sources = [memory["source"] for memory in shown.get("memories", [])]
        check(f"{what}: the next ufdd goes on by itself, and is told of what is mapped later",
              adopted == 1 and len(sources) == 2 and any(text.endswith(f",offset={12 * MIB}") for text in sources),
              [adopted, shown])
        check(f"{what}: and of every discard", "vanished" not in world.said(), world.said())
        world.end()


def offered():
    """Without a source the process waits for whoever brings it."""
    world = World()
    world.start()
    vmm = toy(world, "shmem", "--write", options=[])
    until(vmm, "READY")
    check("without a source nothing is paged yet", world.guests() == [])
    reply = world.call("io.ufd.guest.AttachProcess", name="late", pid=vmm.pid, source=f"file:{world.image}")
    guest = reply.get("parameters", {}).get("guest", {})
    for words, error in (({"uffd": 0}, "BadFd"), ({"uffd": 0, "front_end": "telepathy"}, "InvalidParameter")):
        said = world.call("io.ufd.guest.Offer", **words)
        check(f"an offer of {words} is refused", said.get("error", "").endswith(error), said)
    check("a process under `ufdctl run` is attached by pid, and nobody traces it",
          guest.get("front_end") == "preload" and guest.get("duplicate"), [reply, world.said()])
    go(vmm)
    found = result(vmm)
    check("and finds every byte", found.get("ok"), found)

    plain = subprocess.Popen([TOY, "--no-client", "--image", world.image, "--mib", str(world.mib)], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    running.append(plain)
    until(plain, "READY")
    reply = world.call("io.ufd.guest.AttachProcess", name="plain", pid=plain.pid, source=f"file:{world.image}")
    check("one that was started otherwise would have to be traced", "ufdd-attach" in json.dumps(reply), reply)
    end(plain)

    vmm = toy(world, "shmem", "--write", options=[])
    until(vmm, "READY")
    world.kill()
    world.start()
    reply = world.call("io.ufd.guest.AttachProcess", name="again", pid=vmm.pid, source=f"file:{world.image}")
    check("an offer ends with the daemon that had it", "ufdd-attach" in json.dumps(reply), reply)
    end(vmm)
    world.end()


def wrapped():
    """Programs that become the VMM pass it on; what the VMM starts is not the guest."""
    world = World()
    world.start()
    vmm = run(world, source(world), ["/bin/sh", "-c", 'exec "$@"', "sh", TOY, "--no-client", "--image", world.image,
                                     "--mib", str(world.mib)])
    until(vmm, "READY")
    guests = world.guests()
    check("a VMM behind a script is paged", [guest["pid"] for guest in guests] == [vmm.pid], guests)
    with open(f"/proc/{vmm.pid}/maps", encoding="ascii") as maps:
        check("by the library of this build", "/libufd-preload.so" in maps.read())
    go(vmm)
    found = result(vmm)
    check("and finds every byte", found.get("ok"), found)

    child = ("import mmap, os, sys\nfd = os.memfd_create('m')\nos.ftruncate(fd, 3 << 20)\nm = mmap.mmap(fd, 3 << 20)\n"
             "print(sys.argv[1], m[5], sorted(name for name in os.environ if name.startswith(('UFD_', 'LD_'))), flush=True)\n")
    vmm = run(world, ["--name", "parent", "--source", f"file:{world.image}", "--memory", "size:3M"],
              ["python3", "-c", child + "import subprocess\nsubprocess.run(['python3', '-c', sys.argv[2], 'child'])",
               "parent", child])
    said = vmm.communicate(timeout=60)[0].splitlines()
    check("what a VMM starts is not its guest", len(said) == 2 and "LD_PRELOAD" not in said[1] and
          "UFD_GUEST" not in said[1] and said[1].startswith("child 0 "), said)
    world.end()


def no_daemon():
    world = World()
    vmm = toy(world, "shmem", options=source(world))
    said = vmm.communicate(timeout=30)[0]
    check("without a daemon nothing is started", vmm.returncode == 3 and "READY" not in said, [vmm.returncode, said])
    world.start()
    vmm = toy(world, "shmem", options=source(world))
    until(vmm, "READY")
    twin = toy(world, "shmem", options=source(world))
    said = twin.communicate(timeout=30)[0]
    check("memory that cannot be handed over is not had: the VMM sees mmap() fail, and the reason is said",
          twin.returncode == 2 and "libufd-preload: " in said and "`toy` exists already" in said and "mmap" in said,
          [twin.returncode, said])
    end(vmm)
    other = run(world, ["--name", "two", "--source", f"file:{world.image}"],
                ["python3", "-c", "import mmap, os\nmaps = []\nfor i in range(2):\n fd = os.memfd_create('m')\n"
                 " os.ftruncate(fd, 1 << 20)\n maps.append(mmap.mmap(fd, 1 << 20))"])
    said = other.communicate(timeout=30)[0]
    check("one file does not serve two memories", other.returncode == 1 and "UFD_MEMORY" in said,
          [other.returncode, said])
    for options, words in ((["--source", "zero"], "wants --name"), (["--name", "x"], "wants --source"), ([], "PROGRAM")):
        ran = subprocess.run([UFDCTL, "--socket", world.socket, "run", *options, "--", *(["/bin/true"] if options else [])],
                             capture_output=True, text=True, check=False)
        check(f"`ufdctl run {' '.join(options)}` {words}", ran.returncode == 2 and words in ran.stderr, ran.stderr)
    world.end()


def refused():
    """Programs that LD_PRELOAD does not reach; each with its remedy."""
    world = World(keeps=False)
    copies = {name: os.path.join(world.folder, name) for name in ("set-uid", "set-gid", "capable")}
    for path in copies.values():
        shutil.copy("/bin/true", path)
        os.chmod(path, 0o755)
    os.chown(copies["set-uid"], NOBODY, NOBODY)
    os.chmod(copies["set-uid"], 0o4755)
    os.chown(copies["set-gid"], 0, NOBODY)
    os.chmod(copies["set-gid"], 0o2755)
    rows = [("a set-user-ID program", copies["set-uid"], "set-user-ID", {}),
            ("a set-group-ID program", copies["set-gid"], "set-group-ID", {}),
            ("a static program", STATIC, "linked statically", {})]
    os.chmod(world.folder, 0o755)
    try:
        os.setxattr(copies["capable"], "security.capability", struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0))
        rows.append(("a program with file capabilities", copies["capable"], "file capabilities",
                     {"user": NOBODY, "group": NOBODY, "extra_groups": []}))
    except OSError as error:
        skip("a program with file capabilities is refused", error)
    for what, path, words, how in rows:
        ran = subprocess.run([UFDCTL, "--socket", world.socket, "run", "--", path], capture_output=True, text=True,
                             check=False, **how)
        check(f"{what} is refused, with what to do instead",
              ran.returncode == 1 and words in ran.stderr and "ufdctl guest attach --pid" in ran.stderr,
              [ran.returncode, ran.stderr])
    world.end()


def unprivileged():
    """A user who may open /dev/userfaultfd, and a daemon of his that has no capability."""
    what = "without any privilege but the device every byte is right"
    world = World()
    own = os.path.join(world.folder, "device")
    try:
        os.mknod(own, stat.S_IFCHR | 0o666, os.stat("/dev/userfaultfd").st_rdev)
        os.chmod(own, 0o666)
    except OSError as error:
        skip(what, error)
        return
    for path in (world.folder, world.image):
        os.chown(path, NOBODY, NOBODY)
    words = ["unshare", "--mount", "sh", "-c",
             f'mount --bind {own} /dev/userfaultfd && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups '
             '--bounding-set -all --inh-caps -all --no-new-privs -- "$@"', "sh"]
    daemon = subprocess.Popen([*words, UFDD, "--socket", world.socket, "--state-dir", world.state],
                              stderr=open(world.log, "ab"), preexec_fn=die_with_parent)
    running.append(daemon)
    if not wait_until(lambda: world.answers() or daemon.poll() is not None) or daemon.poll() is not None:
        skip(what, f"no daemon in a mount namespace: {world.said()}")
        return
    for options in (source(world), []):
        vmm = subprocess.Popen([*words, UFDCTL, "--socket", world.socket, "run", *options, "--", TOY, "--no-client",
                                "--image", world.image, "--mib", str(world.mib), "--write", "--punch"], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               preexec_fn=die_with_parent)
        running.append(vmm)
        said = until(vmm, "READY")
        if not options:
            said = world.call("io.ufd.guest.AttachProcess", name="late", pid=vmm.pid, source=f"file:{world.image}")
        guests = world.guests()
        go(vmm)
        found = result(vmm)
        check(f"{what}, {'handed over' if options else 'offered'}",
              found.get("ok") and [(guest["front_end"], guest["uid"], guest["duplicate"]) for guest in guests] ==
              [("preload", NOBODY, True)], [said, found, guests, world.said()])
        wait_until(lambda: not world.guests())
    end(daemon)
    world.end()


class Monitor:
    """QMP, of a QEMU that has just been started."""

    def __init__(self, path, process):
        wait_until(lambda: os.path.exists(path) or process.poll() is not None)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.file = self.socket.makefile("r")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            reply = json.loads(self.file.readline())
            if "return" in reply or "error" in reply:
                return reply


def qemu():
    """A real VMM in its sandbox: memory at the start, memory that is plugged, a daemon that dies."""
    what = "QEMU with -sandbox on"
    if not shutil.which("qemu-system-x86_64"):
        skip(f"{what}: every byte is right", "no QEMU")
        return
    world = World(mib=32)
    world.start()
    path, dump = os.path.join(world.folder, "qmp"), os.path.join(world.folder, "dump")
    vmm = run(world, ["--name", "q", "--source", f"file:{world.image}", "--memory", "size:32M", "--memory",
                      "size:6M=zero", "--background", "no"],
              ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none,memory-backend=ram0", "-accel",
               "tcg", "-m", "32M", "-object", "memory-backend-memfd,id=ram0,size=32M,share=on", "-S", "-sandbox",
               "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-qmp",
               f"unix:{path},server=on,wait=off"])
    monitor = Monitor(path, vmm)
    with open(f"/proc/{vmm.pid}/status", encoding="ascii") as status:
        check(f"{what} is in it", "Seccomp:\t2" in status.read())
    guests = world.guests()
    check(f"{what} is paged", [(guest["front_end"], guest["absent_bytes"] > 0) for guest in guests] ==
          [("preload", True)], guests)
    world.kill()
    world.start()
    plug = {"qom-type": "memory-backend-memfd", "id": "more", "size": 6 * MIB, "share": True}
    reply = monitor.ask("object-add", **plug)
    more = world.call("io.ufd.guest.Show", name="q")["parameters"]["memories"]
    check(f"{what}: memory that is plugged after ufdd was killed is paged", "return" in reply and
          sorted(memory["length_bytes"] for memory in more) == [6 * MIB, 32 * MIB], [reply, more])
    reply = monitor.ask("object-del", id="more")

    def left():
        return world.call("io.ufd.guest.Show", name="q")["parameters"]["memories"]
    check(f"{what}: and is forgotten when it is unplugged", wait_until(lambda: len(left()) == 1), [reply, left()])
    reply = monitor.ask("pmemsave", val=0, size=32 * MIB, filename=dump)
    with open(dump, "rb") as found, open(world.image, "rb") as wanted:
        check(f"{what}: every byte is right", found.read() == wanted.read(), reply)
    end(vmm)
    world.end()


if os.geteuid() != 0:
    print("1..0 # SKIP other users and namespaces need root")
    sys.exit(0)
try:
    for test in (memories, offered, wrapped, no_daemon, refused, unprivileged, qemu):
        test()
finally:
    end_all()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
finish()
