#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.ufd.dirty and `ufdctl dirty` on real guests, across deaths of ufdd. TAP on stdout.

Arguments: ufdd, ufdctl, dirty-vmm, fake-qemu.py [, only these of pauses, no_monitor, monitor_of_the_start,
mapped_before, strangers, crowd, others, tool]. The guests know which pages they wrote. Every process is ended by its pid.
"""
import fcntl
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
import dirtyworld
from dirtyworld import (MIB, PAGE, PAGES, Process, World, check, client_vmm, die_with_parent, is_error,
                        is_exact, pages_of, results, running, skip, wait_until)

UFDD, UFDCTL, VMM, FAKE = (os.path.realpath(path) for path in sys.argv[1:5])
dirtyworld.UFDD, dirtyworld.UFDCTL, dirtyworld.VMM = UFDD, UFDCTL, VMM
SEED = int(os.environ.get("SEED", random.randrange(1 << 30)))
chance = random.Random(SEED)
print(f"# SEED={SEED}", flush=True)

TRACKERS = dirtyworld.trackers()
SEALS = 0xf  # SEAL, SHRINK, GROW, WRITE


# ---- epochs --------------------------------------------------------------------------------------------


def epochs(track):
    world = World()
    vmm = client_vmm(world, "--track", track)
    vmm.write(*range(64))
    reply = world.dirty("Start")
    check(f"{track}: a consumer starts", reply.get("parameters", {}).get("tracker") == track
          and reply["parameters"]["quiesced"] is False, reply)
    check("and says why this tracker", "track=" + track in reply["parameters"]["reason"], reply)
    check("once", is_error(world.dirty("Start"), "io.ufd.dirty.ConsumerExists", "default", "`g`"))

    vmm.write(3, 4, 5, 2000)
    reply, pages = world.read()
    check("what was written is told", is_exact(reply, pages, {3, 4, 5, 2000}) and reply["epoch"] == 1
          and reply["dirty_bytes"] == len(pages) * PAGE, (reply, pages))
    vmm.write(4)
    world.dirty("Start", consumer="other")
    vmm.write(7)
    reply, pages = world.read()
    check("a page that was told is told again when it is written again",
          pages == {4, 7} and reply["epoch"] == 2, (reply, pages))
    reply, pages = world.read(consumer="other")
    check("each consumer has a baseline of its own", pages == {7} and reply["epoch"] == 1, (reply, pages))
    vmm.write(9)
    for page in (10, 9):  # lost twice
        reply, pages = world.read(acknowledge=1)
        check("an epoch whose reply was lost is part of the one that is read instead",
              pages == {4, 7, 9} | ({10} if page == 9 else set()) and reply["epoch"] == 2, (reply, pages))
        vmm.write(page)
    reply, pages = world.read(acknowledge=2)
    check("one that was acknowledged is over", pages == {9} and reply["epoch"] == 3,
          (reply, pages))
    reply = world.dirty("Read", acknowledge=1)
    check("older ones are unknown", is_error(reply, "io.ufd.dirty.EpochUnknown", "epoch 3", "not 1")
          and reply["parameters"]["epoch"] == 3, reply)
    check("there are times between them", reply and world.read()[0]["taken_ns"] > 0)

    vmm.ask("d", 7)
    reply, pages = world.read()
    check("a discard is a write", 7 in pages, (reply, pages))
    listed = world.dirty("List")["parameters"]
    check("all of them are listed", [c["name"] for c in listed["consumers"]] == ["default", "other"]
          and listed["tracker"] == track, listed)
    check("a consumer can be stopped", "error" not in world.dirty("Stop"))
    check("and is unknown then", is_error(world.dirty("Read"), "io.ufd.dirty.NoSuchConsumer", "default"))
    vmm.write(11)
    reply, pages = world.read(consumer="other")
    check("which is nothing to the other one", pages >= {9, 11, 7}, (reply, pages))
    world.dirty("Stop", consumer="other")
    check("the last one leaves nothing tracked", world.dirty("List")["parameters"]["consumers"] == [])
    limits(world)
    vmm.end()
    check("a guest that has ended is no clean one", wait_until(
        lambda: is_error(world.dirty("Read"), "io.ufd.guest.NoSuchGuest")), world.dirty("Read"))
    world.end()


def limits(world):
    for i in range(8):
        world.dirty("Start", consumer=f"c{i}")
    check("there are at most 8", is_error(world.dirty("Start", consumer="c8"),
                                          "io.ufd.manager.LimitReached", "8"))
    check("names are short", world.dirty("Start", consumer="x" * 64).get("error") ==
          "org.varlink.service.InvalidParameter")
    for i in range(8):
        world.dirty("Stop", consumer=f"c{i}")
    check("a word that nobody knows is refused", world.dirty("Start", quiesce="often").get("error") ==
          "org.varlink.service.InvalidParameter")


def answers():
    world = World()
    vmm = client_vmm(world)
    world.dirty("Start")
    world.dirty("Start", consumer="b")
    written = set(range(0, PAGES, 2))
    for first in range(0, PAGES, 512):
        vmm.write(*range(first, first + 512, 2))
    reply, fds = world.hear(world.send("io.ufd.dirty.Read", name="g"))
    memory = reply["parameters"]["memories"][0]
    with os.fdopen(fds[0], "r+b", buffering=0) as file:
        seals = fcntl.fcntl(file, 1034)
        pairs = list(struct.iter_unpack("<QQ", file.read()))
    check("many ranges come as a file", memory["n_ranges"] == len(pairs) > 1000
          and "ranges" not in memory, memory)
    check("which is sealed", seals == SEALS, seals)
    told = {page for offset, length in pairs for page in range(offset // PAGE, (offset + length) // PAGE)}
    check("and right", is_exact(reply["parameters"], told, written), sorted(told ^ written))
    reply, pages = world.read(consumer="b")
    check("as a bitmap they are the same", is_exact(reply, pages, written), sorted(pages ^ written))
    vmm.write(1, 2, 3)
    reply = world.dirty("Read")["parameters"]
    check("few ranges lie in the reply", reply["memories"][0]["ranges"][0] ==
          {"offset_bytes": PAGE, "length_bytes": 3 * PAGE} and "fd" not in reply, reply)
    vmm.end()
    world.end()


def from_the_first_fill():
    world = World()
    vmm = client_vmm(world, "--consumer", "backup")
    read = [int(vmm.ask("r", page), 16) for page in (5, 900)]
    vmm.write(6, 901)
    reply, pages = world.read(consumer="backup")
    check("a consumer of the hand-over reads what was written, not what was filled",
          read == [6, 901] and is_exact(reply, pages, {6, 901}), (read, pages, reply))
    check("a consumer without a name is refused", "consumer" in subprocess.run(
        [VMM, "--socket", world.socket, "--name", "h", "--consumer", ""], capture_output=True,
        text=True, timeout=30, check=False).stderr)
    vmm.end()
    world.end()


def told_at_once():
    """Pages that are filled for a write are told by the next read, however soon that comes."""
    world = World()
    vmm = client_vmm(world, "--consumer", "c")
    fresh = list(range(PAGES))
    chance.shuffle(fresh)
    late = []
    for i in range(0, 600, 3):
        vmm.write(*fresh[i:i + 3])
        reply, pages = world.read(consumer="c")
        late += [(page, reply) for page in set(fresh[i:i + 3]) - pages]
    check("what is written is told by the next read, not by a later one", not late, late[:3])
    vmm.end()
    world.end()


# ---- deaths --------------------------------------------------------------------------------------------


def deaths(track):
    world = World()
    vmm = client_vmm(world, "--track", track)
    world.dirty("Start", quiesce="never")
    told, turns = set(), 6
    vmm.ask("busy")
    for turn in range(turns):
        time.sleep(chance.uniform(0, 0.05))
        if turn % 2:
            told |= world.read()[1]
            world.again()
        else:
            world.kill()
            time.sleep(chance.uniform(0, 0.02))
            world.start()
            told |= world.read()[1]
    written = pages_of(bytes.fromhex(vmm.ask("calm")))
    epoch, last = world.read()
    told |= last
    check(f"{track}: killed between reads, {len(written)} pages are told", written and written <= told,
          sorted(written - told)[:20])
    check("and the epochs go on", epoch["epoch"] == turns + 1, epoch)
    check("as it asked", world.dirty("List")["parameters"]["consumers"][0]["quiesce"] == "never")

    client = world.send("io.ufd.dirty.Read", name="g")
    time.sleep(chance.uniform(0, 0.003))
    world.kill()
    client.close()
    vmm.tell("w", 1, 2)  # with wp the writers wait until somebody is there
    world.start()
    vmm.hear()
    epoch, last = world.read(acknowledge=turns + 1)
    check("a read that was killed loses nothing", {1, 2} <= last
          and epoch["epoch"] in (turns + 2, turns + 3), (epoch, last))
    vmm.write(30)
    world.daemon.terminate()
    world.daemon.wait(30)
    world.start()
    check("nor does an orderly stop", world.read()[1] == {30})
    vmm.end()
    world.end()


# ---- pauses --------------------------------------------------------------------------------------------


class FakeQemu(Process):
    def __init__(self, world, name="g", by_pid=False, *words):
        self.monitor = os.path.join(world.folder, name + ".qmp")
        super().__init__(sys.executable, FAKE, self.monitor, str(MIB), *words)
        self.disk = os.path.join(os.getcwd(), f"disk-{self.pid}")
        who = {"pid": self.pid} if by_pid else {"qmp": self.monitor}
        self.attached = world.call("io.ufd.guest.AttachProcess", name=name, source="zero",
                                   settings={"populated": "keep"}, **who)

    def open_disk(self):
        answer = self.ask("open", self.disk)
        os.unlink(self.disk)
        return answer == "ok"


def can_attach(world):
    fake = FakeQemu(world, "probe")
    ok = "error" not in fake.attached
    if not ok:
        print(f"# {fake.attached}", flush=True)
    fake.end()
    return ok


def pauses(world):
    fake = FakeQemu(world)
    check("without hazards nobody is paused", world.dirty("Start")["parameters"]["quiesced"] is False
          and fake.ask("log") == "running")
    if not fake.open_disk():
        skip("a guest with O_DIRECT is paused", "no O_DIRECT on this file system")
        fake.end()
        return
    fake.write(1, 2)
    reply, pages = world.read()
    check("a disk that was plugged later pauses it for the read", fake.ask("log") == "stop cont running"
          and reply["paused_ns"] > 0 and pages >= {1, 2}, (reply, pages))
    started = world.dirty("Start", consumer="b")["parameters"]
    check("and for another start", started["quiesced"] is True and fake.ask("log") == "stop cont running")
    world.dirty("Start", consumer="n", quiesce="never")
    world.read(consumer="n")
    check("never is never", fake.ask("log") == "running")
    fake.ask("close")
    world.read()
    check("without the disk it goes on running", fake.ask("log") == "running")
    world.dirty("Start", consumer="a", quiesce="always")
    world.read(consumer="a")
    check("always is always", fake.ask("log") == "stop cont stop cont running")
    shown = world.call("io.ufd.guest.Show", name="g")["parameters"]["counters"]
    check("pauses are counted", shown["pauses"] == 4 and shown["paused_ns"] > 0
          and shown["dirty_reads"] == 4, shown)
    world.again()
    fake.write(8)
    reply, pages = world.read(consumer="a")
    check("after a restart they are as they were asked for", fake.ask("log") == "stop cont running"
          and 8 in pages, (reply, pages))
    silence(world, fake)
    killed_while_paused(world, fake)
    fake.end()


def silence(world, fake):
    fake.ask("mute", "query-status")
    start = time.monotonic()
    reply = world.dirty("Read", consumer="a")
    check("a monitor that does not answer is an error in time",
          is_error(reply, "io.ufd.dirty.CannotQuiesce", "goes on") and time.monotonic() - start < 20, reply)
    fake.ask("speak")
    check("of which the guest hears nothing", fake.ask("log") == "running")
    fake.ask("mute", "stop")
    reply = world.dirty("Read", consumer="a")
    check("a stop that is not answered is an error", is_error(reply, "io.ufd.dirty.CannotQuiesce"), reply)
    fake.ask("speak")
    log = []
    check("and whenever it stops, it is told to go on", wait_until(
        lambda: log.append(fake.ask("log")) or log[-1].endswith("running")
        and "cont" in " ".join(log)), log)
    reply, pages = world.read(consumer="a")
    check("then it can be read again", pages is not None, reply)
    fake.ask("log")


def killed_while_paused(world, fake):
    """It is told to stop, and nobody is there any more to tell it to go on."""
    fake.ask("mute", "stop")
    fake.write(12)
    client = world.send("io.ufd.dirty.Read", name="g", consumer="a")
    check("a guest is being paused", wait_until(lambda: fake.ask("asked") == "stop"))
    world.kill()
    client.close()
    fake.ask("speak")
    check("and is left paused", wait_until(lambda: fake.ask("log").endswith("paused")))
    world.start()
    seen = []
    check("killed meanwhile, the successor lets it go on", wait_until(
        lambda: seen.append(fake.ask("log")) or seen[-1] == "cont running"), [*seen[-3:], world.said()])
    reply, pages = world.read(consumer="a")
    check("and nothing is lost", 12 in pages, (reply, pages))
    check("it is said that counts may be", any("restarted during this epoch" in text for text in reply["warnings"]), reply)
    reply, _ = world.read(consumer="a")
    check("once", not any("restarted" in text for text in reply["warnings"]), reply)


def no_monitor(world):
    vmm = Process(VMM, "--no-client", "--mib", str(MIB))
    world.call("io.ufd.guest.AttachProcess", name="m", pid=vmm.pid, source="zero",
               settings={"populated": "keep"})
    reply = world.dirty("Start", "m", quiesce="always")
    check("without a monitor nobody can be paused", is_error(
        reply, "io.ufd.dirty.CannotQuiesce", "--qmp SOCK", "--quiesce never"), reply)
    answer = vmm.ask("pin", 5)
    if answer != "ok":
        skip("memory that is a buffer of an io_uring is refused", "io_uring: errno " + answer)
    else:
        reply = world.dirty("Start", "m", quiesce="never")
        check("memory that is a buffer of an io_uring is refused", is_error(
            reply, "io.ufd.dirty.NotTrackable", "io_uring", str(vmm.pid)), reply)
        vmm.ask("unpin")
        check("and can be tracked without it", "error" not in world.dirty("Start", "m", quiesce="never"))
    vmm.end()


def monitor_of_the_start(world):
    fake, stranger = FakeQemu(world, "p", by_pid=True), FakeQemu(world, "q", by_pid=True)
    if fake.open_disk():
        reply = world.dirty("Start", "p")
        check("with O_DIRECT and without a monitor nothing is tracked by itself", is_error(
            reply, "io.ufd.dirty.CannotQuiesce", "O_DIRECT", str(fake.pid), "--qmp SOCK"), reply)
    reply = world.dirty("Start", "p", quiesce="always", qmp=stranger.monitor)
    check("the monitor of another VMM is refused", is_error(
        reply, "io.ufd.dirty.CannotQuiesce", str(stranger.pid)), reply)
    reply = world.dirty("Start", "p", quiesce="always", qmp=fake.monitor)
    check("a start may name the monitor", "error" not in reply
          and fake.ask("log") == "stop cont running", reply)
    world.again()
    world.read("p")
    check("which is known after a restart", fake.ask("log") == "stop cont running"
          and stranger.ask("log") == "running")
    fake.end()
    stranger.end()


def mapped_before(world):
    """What a process has mapped before it was attached, it writes without a fault, absent or not."""
    vmm = Process(VMM, "--no-client", "--mib", str(MIB))
    vmm.write(*range(1000))
    world.call("io.ufd.guest.AttachProcess", name="b", pid=vmm.pid, source="backing",
               settings={"populated": "keep", "background": False})
    reply = world.dirty("Start", "b")
    vmm.write(5, 600, 1500)
    reply, pages = world.read("b")
    check("pages that were mapped before the guest was attached are told", pages >= {5, 600, 1500},
          (reply, pages))
    vmm.end()


def older_kernel():
    """Without asynchronous write-protection (before Linux 6.7), and somebody who did not choose."""
    world = World(UFD_FEATURES_MASK="17fff")
    vmm = Process(VMM, "--no-client", "--mib", str(MIB))
    vmm.write(*range(16))
    reply = world.call("io.ufd.guest.AttachProcess", name="k", pid=vmm.pid, source="zero",
                       settings={"populated": "keep"})
    check("an attach without a choice is settings.track=auto",
          world.call("io.ufd.guest.Show", name="k")["parameters"]["settings"]["track"] == "auto", reply)
    reply = world.dirty("Start", "k")
    check("which is wp where the userfaultfd cannot do better",
          reply.get("parameters", {}).get("tracker") == "wp" and "6.7" in reply["parameters"]["reason"], reply)
    vmm.write(4, 5)
    check("and told all the same", world.read("k")[1] >= {4, 5})
    vmm.end()
    world.end()


STRANGER = """
import json, os, socket, sys
os.setgid(65534)
os.setuid(65534)
for method in sys.argv[2:]:
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(json.dumps({"method": method, "parameters": {"name": "x"}}).encode() + b"\\0")
    print(json.loads(client.recv(65536)[:-1]).get("error", "none"))
"""


def strangers(world):
    """Somebody else's guest can be listed, no more."""
    vmm = client_vmm(world, name="x")
    os.chmod(world.folder, 0o755)
    os.chmod(world.socket, 0o666)
    methods = [f"io.ufd.dirty.{name}" for name in ("Start", "Read", "Stop", "List")]
    run = subprocess.run([sys.executable, "-c", STRANGER, world.socket, *methods], capture_output=True,
                         text=True, timeout=30, check=False)
    denied = "org.varlink.service.PermissionDenied"
    check("strangers look at who reads, and do nothing", run.stdout.split() == [denied] * 3 + ["none"], run)
    vmm.end()


NOBODY = 65534


def become(uid):
    os.setegid(uid)
    os.seteuid(uid)


def crowd(world):
    """A user whose monitor does not answer, and who asks again and again."""
    os.chmod(world.folder, 0o777)
    os.chmod(world.socket, 0o666)
    fake = FakeQemu(world, "crowd", False, str(NOBODY))
    world.dirty("Start", "crowd", quiesce="always")
    fake.ask("mute", "query-status")
    become(NOBODY)  # the daemon asks who connects
    clients = [world.send("io.ufd.dirty.Read", name="crowd") for _ in range(5)]
    become(0)
    ready, _, _ = select.select(clients, [], [], 60)
    replies = [world.hear(client)[0] for client in ready]
    check("one call more than a user may have at work is refused by name", len(replies) == 1 and is_error(
        replies[0], "io.ufd.manager.LimitReached", "jobs-per-user")
        and replies[0]["parameters"]["limit"] == "jobs-per-user", replies)
    check("and others are heard", "error" not in world.dirty("List", "crowd"))
    fake.ask("speak")
    rest = [world.hear(client)[0] for client in clients if client not in ready]
    check("the others are answered", len(rest) == 4
          and not any(is_error(reply, "io.ufd.manager.LimitReached") for reply in rest), rest)
    become(NOBODY)
    client = world.send("io.ufd.dirty.Read", name="crowd")
    become(0)
    check("and there is room again", "error" not in world.hear(client)[0])
    fake.end()


# ---- others --------------------------------------------------------------------------------------------


MAPPER = """
import ctypes, mmap, os, sys
ctypes.CDLL(None).prctl(1, 9)
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 0)
print("READY", flush=True)
for line in sys.stdin:
    for page in line.split()[1:]:
        memory[int(page) * 4096] = (memory[int(page) * 4096] + 1) & 255
    print("ok", flush=True)
"""


def ram_of(vmm):
    folder = f"/proc/{vmm.pid}/fd"
    return next(os.path.join(folder, fd) for fd in os.listdir(folder)
                if "dirty-ram" in os.readlink(os.path.join(folder, fd)))


def others(world):
    vmm = Process(VMM, "--no-client", "--mib", str(MIB))
    world.call("io.ufd.guest.AttachProcess", name="o", pid=vmm.pid, source="zero",
               settings={"populated": "keep"})
    world.dirty("Start", "o")
    mapper = Process(sys.executable, "-c", MAPPER, ram_of(vmm))
    check("a process that maps the memory later is named by a read soon", wait_until(
        lambda: any(str(mapper.pid) in text for text in world.read("o")[0]["warnings"])))
    reply = world.dirty("Start", "o", consumer="w")["parameters"]
    check("and by a start without all_mappers", any(str(mapper.pid) in text and "all_mappers" in text
                                                    for text in reply["warnings"]), reply)
    reply = world.dirty("Start", "o", consumer="all", all_mappers=True)
    check("with it nobody is left", reply.get("parameters", {}).get("warnings") == [], reply)
    vmm.write(20)
    mapper.write(21)
    reply, pages = world.read("o", consumer="all")
    check("and what each of them writes is told", pages >= {20, 21} and reply["warnings"] == [],
          (reply, pages))
    mapper.end()
    vmm.end()


# ---- the tool ------------------------------------------------------------------------------------------


def tool(world):
    vmm = client_vmm(world, name="t")
    run = world.ctl("dirty", "start", "t")
    check("ufdctl starts", run.returncode == 0 and f"Tracker: {TRACKERS[0]}" in run.stdout, run)
    vmm.write(2, 3, 500)
    run = world.ctl("dirty", "read", "t")
    check("and reads ranges", run.stdout == f"ram {2 * PAGE} {2 * PAGE}\nram {500 * PAGE} {PAGE}\n"
          and "epoch 1: 12K" in run.stderr, run)
    vmm.write(9)
    path = os.path.join(world.folder, "bitmap")
    run = world.ctl("dirty", "read", "t", "--acknowledge", "0", "--format", "bitmap", "--output", path)
    with open(path, "rb") as file:
        check("bitmaps into a file", pages_of(file.read()) == {2, 3, 500, 9}, run)
    run = world.ctl("dirty", "read", "t", "--acknowledge", "0", "--format", "json")
    check("and all of it as JSON", json.loads(run.stdout)["memories"][0]["ranges"][0] ==
          {"offset_bytes": 2 * PAGE, "length_bytes": 2 * PAGE}, run)
    run = world.ctl("dirty", "read", "t", "--acknowledge", "77")
    check("an unknown epoch is told", run.returncode == 1 and "not 77" in run.stderr, run)
    for status, text, words in (
            (1, "no consumer `x`", ("read", "t", "--consumer", "x")), (4, "no guest", ("read", "nobody")),
            (2, "auto, always or never", ("start", "t", "--quiesce", "soon")),
            (2, "ranges, bitmap or json", ("read", "t", "--format", "xml")),
            (2, "--interval", ("rate", "t", "--interval", "0")), (2, "one guest", ("stop",)),
            (1, "cannot write", ("read", "t", "--output", "/nowhere/file"))):
        run = world.ctl("dirty", *words)
        check(f"dirty {' '.join(words)} is status {status}", run.returncode == status
              and text in run.stderr, run)
    run = world.ctl("guest", "show", "t")
    check("guest show has tracker and consumers", f"TRACKER: {TRACKERS[0]}" in run.stdout
          and "1 consumers listed." in run.stdout, run)
    live(world, vmm)
    world.dirty("Start", "t", consumer="a\x1b[2J")
    run = world.ctl("dirty", "list", "t")
    check("no name moves the cursor", "a?[2J" in run.stdout and "\x1b" not in run.stdout, run)
    run = world.ctl("dirty", "start", "t", "--consumer", "a\x1b[2J")
    check("nor in a message", "a?[2J" in run.stderr and "\x1b" not in run.stderr, run)
    world.dirty("Stop", "t", consumer="a\x1b[2J")
    run = world.ctl("dirty", "stop", "t")
    check("and stops", run.returncode == 0 and "0 consumers" in world.ctl("dirty", "list", "t").stdout)
    vmm.end()


def live(world, vmm):
    vmm.ask("busy")
    run = world.ctl("--json=short", "dirty", "rate", "t", "--count", "3", "--interval", "0.1")
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    check("rate tells how fast it writes", len(lines) == 3 and all(
        line["pages_per_s"] > 0 and line["memories"][0]["name"] == "ram" for line in lines), run)
    run = world.ctl("dirty", "rate", "t", "--count", "2", "--interval", "0.1", "--bandwidth", "1M")
    check("and that it is too fast for a thin line", "does not converge" in run.stdout
          and "PRE-COPY AT 1.0M/s" in run.stdout, run)
    run = world.ctl("dirty", "heatmap", "t", "--count", "2", "--interval", "0.1", "--width", "40")
    check("heatmap tells where", "|ram" in run.stdout and "█" in run.stdout, run)
    run = world.ctl("dirty", "heatmap", "t", "--count", "1", "--interval", "0.1", "--ascii")
    check("also without Unicode", run.stdout.isascii() and "@" in run.stdout, run)
    vmm.ask("calm")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([UFDCTL, "--socket", world.socket, "dirty", "rate", "t"],
                                   stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
        running.append(process)
        name = f"rate-{process.pid}"
        began = wait_until(lambda n=name: n in world.ctl("dirty", "list", "t").stdout)
        process.send_signal(number)
        status = process.wait(30)
        check(f"{number.name} ends it, and its consumer", began and status == 0
              and name not in world.ctl("dirty", "list", "t").stdout, status)


def main():
    if len(sys.argv) > 5:
        world = World()
        for name in sys.argv[5:]:
            globals()[name](world)
        world.end()
        return
    for track in TRACKERS:
        epochs(track)
    answers()
    from_the_first_fill()
    told_at_once()
    for track in TRACKERS:
        deaths(track)
    world = World()
    tool(world)
    if os.geteuid() == 0:
        strangers(world)
    if can_attach(world):
        pauses(world)
        crowd(world)
        no_monitor(world)
        monitor_of_the_start(world)
        mapped_before(world)
        older_kernel()
        others(world)
    else:
        skip("guests that are attached by pid", "needs the right to trace")
    world.end()


try:
    main()
finally:
    dirtyworld.end_all()
print(f"1..{len(results)}")
sys.exit(0 if all(results) else 1)
