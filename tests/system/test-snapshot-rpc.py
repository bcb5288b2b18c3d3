#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""SnapshotSave of io.ufd.guest while others call, too: reads of its consumers, a second save. TAP on stdout.

Arguments: ufdd, ufdctl, dirty-vmm, fake-qemu.py. Every process is ended by its pid.
"""
import importlib.util
import json
import os
import socket
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
import dirtyworld
from dirtyworld import MIB, Process, World, check, client_vmm, is_error, results, skip, wait_until

UFDD, UFDCTL, VMM, FAKE = (os.path.realpath(path) for path in sys.argv[1:5])
dirtyworld.UFDD, dirtyworld.UFDCTL, dirtyworld.VMM = UFDD, UFDCTL, VMM


class Stranger(Process):
    def __init__(self, world, name="qmp"):
        self.monitor = os.path.join(world.folder, name)
        super().__init__(sys.executable, FAKE, self.monitor, str(MIB))


class Guest(Stranger):
    def __init__(self, world, **settings):
        super().__init__(world)
        self.attached = world.call("io.ufd.guest.AttachProcess", name="g", qmp=self.monitor, source="zero",
                                   settings={"populated": "keep", **settings})


def path_of(world, name):
    return os.path.join(world.folder, name)


def ask(world, name, **parameters):
    return world.send("io.ufd.guest.SnapshotSave", name="g", directory=path_of(world, name), **parameters)


def save(world, name, **parameters):
    return world.hear(ask(world, name, **parameters))[0]


def differing(world, one, other):
    """Bytes that are different in two snapshots."""
    images = [os.path.join(path_of(world, name), "memory.ufdi") for name in (one, other)]
    done = subprocess.run([UFDCTL, "--json", "image", "diff", *images], capture_output=True, text=True,
                          timeout=60, check=False)
    return json.loads(done.stdout)["differ_bytes"] if done.stdout else done.stderr


def threads_of(pid):
    """Name, nice value and start, in ticks, of each."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as file:
            name, rest = file.read().rsplit(")", 1)
        yield name.partition("(")[2], int(rest.split()[16]), int(rest.split()[19])


def job_nices(world):
    """How the threads of jobs are scheduled: those that have the daemon's name, and are younger. (A sanitizer has one of its
    own from the beginning on.)"""
    threads = list(threads_of(world.daemon.pid))
    born = min(start for _, _, start in threads)
    return [nice for name, nice, start in threads if name == "ufdd" and start > born + 5]


def held_at(world, guest, command, nice, name, **parameters):
    """How the threads of jobs are scheduled while this command of a save is not answered; others come to their end."""
    guest.ask("mute", command)
    client = ask(world, name, **parameters)
    is_there = wait_until(lambda: guest.ask("asked") == command)
    wait_until(lambda: job_nices(world) == [nice])
    nices = job_nices(world)
    guest.ask("speak")
    return is_there and "error" not in world.hear(client)[0] and nices


def gives_way(world, guest):
    usual = os.getpriority(os.PRIO_PROCESS, world.daemon.pid)
    nices = held_at(world, guest, "query-cpus-fast", 19, "slow", live=True)
    check("whoever copies gives way to those that answer faults", nices == [19], nices)
    nices = held_at(world, guest, "migrate", usual, "urgent", live=True)
    check("but not while the guest of a live save stands still", nices == [usual], nices)
    nices = held_at(world, guest, "cont", 19, "patient")
    check("a paused save copies whole memories, and gives way to other guests", nices == [19], nices)
    guest.ask("log")


def halves():
    """Two memories of a guest lie in one file, and its VMM has a monitor."""
    spec = importlib.util.spec_from_file_location("fake_qemu", FAKE)
    fake_qemu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake_qemu)
    world = World()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path_of(world, "qmp"))
    vmm = client_vmm(world, "--halves", in_child=lambda: listener.listen(1))  # it is the VMM that listens
    fake_qemu.Monitor(listener)
    reply = save(world, "both", qmp=path_of(world, "qmp"))
    check("a file that is paged as two memories is refused, and both are named", is_error(
        reply, "io.ufd.guest.DriverFailed", "`low`", "`high`", "memory alone"), reply)
    reply = save(world, "alone", memory_only=True)
    check("their memory alone is saved", "error" not in reply
          and reply["parameters"]["populated_bytes"] == MIB << 20, reply)
    vmm.end()
    world.end()


def stranger():
    """A VMM that ufdd does not page is saved, and ufdd dies while it stands still."""
    world = World()
    vmm = Stranger(world)
    notes = lambda: [name for name in os.listdir(world.state) if ".paused" in name]  # noqa: E731
    reply = world.call("io.ufd.guest.SnapshotSave", qmp=vmm.monitor, directory=path_of(world, "first"))
    check("a process that is not paged is saved", "error" not in reply and notes() == []
          and vmm.ask("log") == "stop cont running", (reply, notes()))
    vmm.ask("mute", "migrate")
    world.send("io.ufd.guest.SnapshotSave", qmp=vmm.monitor, directory=path_of(world, "cut"))
    check("it stands still while it is", wait_until(lambda: vmm.ask("asked") == "migrate")
          and vmm.ask("log") == "stop paused" and len(notes()) == 1, notes())
    world.kill()
    vmm.ask("speak")
    world.start()
    check("ufdd was killed meanwhile, and its successor lets it go on",
          wait_until(lambda: vmm.ask("log").endswith("running") and notes() == []), notes())
    check("and says so", wait_until(lambda: "was left paused by a save, and goes on" in world.said()), world.said())
    vmm.end()
    world.end()


def punched():
    """A hole is punched into the file of a guest whose writes are held back, and nobody says so."""
    world = World()
    guest = Guest(world, track="wp")
    if "error" in guest.attached:
        skip("a hole that is punched during a live save", "needs the right to trace")
    else:
        guest.write(*range(64))
        first = save(world, "whole", live=True)
        check("a page that is zero may be one", first.get("parameters", {}).get("way") == "copy-before-write", first)
        guest.ask("mute", "cont")
        client = ask(world, "punched", live=True)
        check("a guest is about to go on", wait_until(lambda: guest.ask("asked") == "cont"))
        guest.ask("punch", 3, 5)
        guest.ask("speak")
        reply = world.hear(client)[0]
        check("what it held is gone, and the save is refused", is_error(
            reply, "io.ufd.guest.BadSnapshot", "discarded 2 pages", "without --live"), reply)
        check("and nothing is left of it", not os.path.exists(path_of(world, "punched")))
    guest.end()
    world.end()


def consumers(world):
    return [one["name"] for one in world.dirty("List").get("parameters", {}).get("consumers", [])]


def failed_first(world, guest):
    other = Stranger(world, "other")
    reply = save(world, "wrong", qmp=other.monitor)
    check("a first save that fails tracks nothing any more", is_error(
        reply, "io.ufd.guest.DriverFailed", "none of guest `g`") and consumers(world) == [], (reply, consumers(world)))
    guest.ask("mute", "query-cpus-fast")
    ask(world, "wrong")
    check("another first one is under way", wait_until(lambda: guest.ask("asked") == "query-cpus-fast")
          and consumers(world) == ["snapshot"], consumers(world))
    world.kill()
    guest.ask("speak")
    world.start()
    check("nor does one that dies with ufdd", wait_until(lambda: consumers(world) == []), consumers(world))
    other.end()


def own_consumer(world, guest):
    """A client's consumer of a name that one of ours had."""
    started = world.dirty("Start", consumer="snapshot")
    guest.write(5)
    world.kill()
    world.start()
    reply = save(world, "untracked", untracked=True)  # it waits for whoever undoes saves
    check("a client's consumer is not taken for one of a save that died", "error" not in started
          and "error" not in reply and consumers(world) == ["snapshot"], (started, reply, consumers(world)))
    reply = save(world, "with-his")
    check("and no save reads it", is_error(reply, "io.ufd.dirty.ConsumerExists", "somebody else's"), reply)
    _, pages = world.read(consumer="snapshot")
    check("it tells its client what was written", pages and 5 in pages, pages)
    world.dirty("Stop", consumer="snapshot")
    guest.ask("log")


def read_meanwhile(world, guest):
    """What somebody else reads, and acknowledges, between the look at a consumer and its read."""
    guest.ask("mute", "query-cpus-fast")
    guest.write(3, 4)
    client = ask(world, "stolen", incremental=path_of(world, "full"))
    check("an incremental save is under way", wait_until(lambda: guest.ask("asked") == "query-cpus-fast"))
    world.read(consumer="snapshot")
    _, pages = world.read(consumer="snapshot")
    check("somebody else has read, and acknowledged, what it counts from", pages == set(), pages)
    guest.ask("speak")
    reply = world.hear(client)[0]
    check("it is refused, and not written without these pages", is_error(
        reply, "io.ufd.guest.WrongParent", "somebody else", "full one"), reply)
    check("nothing is left of it", not os.path.exists(path_of(world, "stolen"))
          and guest.ask("log").endswith("running"))


def at_once(world, guest):
    guest.write(5, 6, 7)
    clients = [ask(world, name, live=True, consumer=name) for name in ("one", "two", "three")]
    replies = [world.hear(client)[0] for client in clients]
    check("live saves of one guest at once are made one after the other",
          all("error" not in reply for reply in replies), replies)
    last = save(world, "last", consumer="four")
    different = [differing(world, name, "last") for name in ("one", "two", "three")]
    check("and each is whole", "error" not in last and different == [0, 0, 0], (last, different))
    for parameter in ("directory", "incremental", "qmp"):
        reply = world.call("io.ufd.guest.SnapshotSave", **{"name": "g", "directory": path_of(world, "no"), parameter: "x"})
        check(f"a relative {parameter} is refused by name", reply == {
            "error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": parameter}}, reply)
    reply = save(world, "named", live=True, consumer="snapshot.live")
    check("the consumer of rounds is nobody's base", is_error(
        reply, "io.ufd.manager.SystemError", "snapshot.live"), reply)


def exchanged():
    """A memory that is plugged where another one was, with its name, and in its file."""
    world = World()
    vmm = client_vmm(world)
    vmm.write(3)
    first = save(world, "first", memory_only=True)
    check("the memory of a guest is saved", "error" not in first and vmm.ask("x") == "ok", first)
    vmm.write(9)
    second = save(world, "second", memory_only=True, incremental=path_of(world, "first"))
    whole = save(world, "whole", memory_only=True)
    check("one that came later is in the next snapshot as it is, not as the one before it was",
          "error" not in second and differing(world, "second", "whole") == 0, (second, whole,
          differing(world, "second", "whole")))
    vmm.end()
    world.end()


def main():
    exchanged()
    halves()
    stranger()
    punched()
    world = World()
    guest = Guest(world)
    if "error" in guest.attached:
        skip("saves of a guest that is attached by its monitor", "needs the right to trace")
    else:
        failed_first(world, guest)
        own_consumer(world, guest)
        guest.write(*range(0, 512, 3))
        full = save(world, "full")
        check("a guest is saved", full.get("parameters", {}).get("epoch") == 1
              and guest.ask("log") == "stop cont running", full)
        read_meanwhile(world, guest)
        at_once(world, guest)
        gives_way(world, guest)
    guest.end()
    world.end()


try:
    main()
finally:
    dirtyworld.end_all()
print(f"1..{len(results)}")
sys.exit(0 if all(results) else 1)
