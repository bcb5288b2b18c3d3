#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdd is killed at each step of an attach, of a second process that joins, and of a detach. TAP on stdout.

Arguments: ufdd, ufdd-mortal, toy-vmm and arrive, join or leave (without: all). UFD_TEST_SHORT=1 takes every fourth step.
Whatever the step: the next ufdd serves the guest with every byte, or has let go of
all its processes, and keeps nothing of it; they can be attached again.
"""
import itertools
import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
import recoveryworld
from children import die_with_parent, end, end_all, running, wait_until
from recoveryworld import Toy, World, attach, userfaultfds
from tap import check, finish

recoveryworld.UFDD, MORTAL, recoveryworld.TOY = (os.path.realpath(path) for path in sys.argv[1:4])

# The helper is found beside the ufdd that is installed, and here beside the one that is built.
os.environ["UFDD_ATTACH"] = os.path.join(os.path.dirname(recoveryworld.UFDD), "attach/ufdd-attach")

# Another process of the memory, like a back end of a device.
SECOND = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 0)
print("READY", flush=True)
sys.stdin.read()
"""


class Pair:
    """A process with a memory, and another that maps it."""

    def __init__(self, world):
        self.first = Toy(world, has_client=False)
        self.second = None

    def join(self):
        folder = f"/proc/{self.first.pid}/fd"
        memory = next(path for path in (f"{folder}/{number}" for number in os.listdir(folder))
                      if "/memfd:" in os.readlink(path))
        self.second = subprocess.Popen([sys.executable, "-S", "-c", SECOND, memory], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        running.append(self.second)
        self.second.stdout.readline()

    def copies(self):
        """How many of ours each of those that live has."""
        return [userfaultfds(process.pid) for process in (self.first.process, self.second)
                if process.poll() is None]

    def is_let_go(self):
        return wait_until(lambda: not any(self.copies()), 20)

    def end(self):
        self.first.end()
        if self.second:
            end(self.second)


# ---- what is cut short: each a way there, and the call ----


def arrive(world, pair):
    pair.join()
    return lambda: attach(world, pair.first, other_mappers="attach")


def start_tracking(world):
    return world.call("io.ufd.dirty.Start", name="toy", all_mappers=True)


def join(world, pair):
    attach(world, pair.first)
    pair.join()
    return lambda: start_tracking(world)


def leave(world, pair):
    pair.join()
    attach(world, pair.first, other_mappers="attach")
    return lambda: world.call("io.ufd.guest.Detach", name="toy")


def joins(world, pair):
    """What is wrong when the second process joins again."""
    memories = world.call("io.ufd.guest.Show", name="toy")["parameters"]["memories"]
    is_there = any(mapping["pid"] == pair.second.pid for memory in memories for mapping in memory["mappings"])
    reply = world.call("io.ufd.dirty.Start", name="toy", consumer="other")["parameters"]
    if is_there == any(str(pair.second.pid) in text for text in reply["warnings"]):
        return f"it {'is' if is_there else 'is not'} tracked: {reply}"
    reply = start_tracking(world)
    if reply.get("parameters", {}).get("warnings") != []:
        return f"not all of it is tracked: {reply}"
    return "" if wait_until(lambda: pair.copies() == [1, 1], 20) else f"not one copy each: {pair.copies()}"


def goes_on(world, pair, story, is_tried):
    """What is wrong with the guest, or with what is left of it. @is_tried: what was cut short is tried again."""
    if world.guests():
        wrong = joins(world, pair) if story is join else ""
        if wrong:
            return wrong
        pair.first.go()
        if not pair.first.is_right():
            return f"served, it reads what is wrong: {pair.first.text()}"
        world.call("io.ufd.guest.Detach", name="toy")
    if not pair.is_let_go():
        return f"copies are left: {pair.copies()}"
    if not wait_until(lambda: not world.ledgers()):
        return f"a ledger is left: {world.ledgers()}"
    if pair.first.process.poll() is not None or not (story is leave or is_tried):
        return ""
    if story is not leave:
        reply = attach(world, pair.first, other_mappers="attach")
        if "error" in reply:
            return f"it is not attached again: {reply}"
    pair.first.go()
    return "" if pair.first.is_right() else f"it reads what is wrong: {pair.first.text()}"


def killed_at(world, step, story):
    """Return: whether it came through, and what is wrong then."""
    armed = os.path.join(world.folder, "armed")
    world.start(MORTAL, UFD_MORTAL=f"{step} {armed}")
    pair = Pair(world)
    cut_short = story(world, pair)
    with open(armed, "wb"):
        pass
    reply = cut_short()
    os.unlink(armed)
    is_through = reply.get("error") != "closed"
    if is_through:
        wrong = str(reply) if "error" in reply else ""
        world.kill()
    else:
        world.daemon.wait()
        world.start()
        wrong = goes_on(world, pair, story, step % 4 == 1)
        world.kill()
    pair.end()
    for name in world.ledgers():
        os.unlink(os.path.join(world.state, name))
    return is_through, wrong


def cut_short(story, what, n_least):
    world = World(mib=4)
    faults = []
    for step in itertools.count(1, 4 if "UFD_TEST_SHORT" in os.environ else 1):
        is_through, wrong = killed_at(world, step, story)
        if wrong:
            faults.append(f"step {step}: {wrong}")
        if is_through:
            break
    check(f"{what} may be cut short at any step", not faults and step > n_least,
          f"{step} steps\n" + "\n".join(faults) + world.said())
    print(f"# {step} steps", flush=True)
    world.end()


try:
    for name, what, n_least in ((arrive, "an attach of two processes", 20), (join, "a process that joins a guest", 8),
                                (leave, "a detach of two processes", 4)):
        if len(sys.argv) <= 4 or name.__name__ in sys.argv[4:]:
            cut_short(name, what, n_least)
finally:
    end_all()
    subprocess.run(["rm", "-rf", *recoveryworld.folders], check=False)
finish()
