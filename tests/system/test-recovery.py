#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdd with a state directory is killed, stopped, started again: guests of every kind go on. TAP on stdout.

Arguments: ufdd, toy-vmm, many-vmm. Guests compare every byte themselves; processes are ended by pid.
"""
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
import recoveryworld
from children import die_with_parent, end_all, running, wait_until
from recoveryworld import Toy, World, attach
from tap import check, finish, skip

UFDD, TOY, MANY = (os.path.realpath(path) for path in sys.argv[1:4])
recoveryworld.UFDD, recoveryworld.TOY = UFDD, TOY
SEED = int(os.environ.get("SEED", random.randrange(1 << 30)))
chance = random.Random(SEED)
print(f"# SEED={SEED}", flush=True)


def has_huge_pages(mib):
    try:
        with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                  encoding="ascii") as pool:
            return int(pool.read()) * 2 >= mib
    except OSError:
        return False


KINDS = (("shmem", "--write", "--discard"), ("anon", "--write", "--discard"),
         ("hugetlb", "--write"))


def killed_at_random(world, toy, n):
    """SIGKILL, again and again, at once or while it recovers, until the guest is through."""
    for turn in range(n):
        time.sleep(chance.uniform(0, 0.05))
        world.kill()
        if turn % 3 == 1:  # in the middle of its start
            world.launch()
            time.sleep(chance.uniform(0, 0.02))
            world.kill()
        world.start()
        if toy.process.poll() is not None:
            break


def clients():
    for kind, *words in KINDS:
        what = f"killed at random, a client's {kind} memory keeps every byte"
        world = World()
        if kind == "hugetlb" and not has_huge_pages(world.mib):
            skip(what, "no pool of 2 MiB pages")
            world.end()
            continue
        world.start()
        toy = Toy(world, "--memory", kind, "--pause-us", "300", *words)
        killed_at_random(world, toy, 12)
        check(what, toy.is_right(), toy.text() + world.said())
        check("and was taken over, not handed over again", "REATTACHED" not in toy.text()
              and toy.text().count("RESUMED") >= toy.text().count("LOST") - 1, toy.text())
        check("and its ledger goes with it", wait_until(lambda: not world.ledgers()),
              world.ledgers())
        world.end()


def processes():
    for kind, *words in KINDS[:1] + KINDS[2:]:
        what = f"killed at random, {kind} memory attached by pid keeps every byte"
        world = World()
        if kind == "hugetlb" and not has_huge_pages(world.mib):
            skip(what, "no pool of 2 MiB pages")
            world.end()
            continue
        world.start()
        toy = Toy(world, "--memory", kind, "--pause-us", "300", *(w for w in words if "disc" not in w),
                  has_client=False)
        reply = attach(world, toy)
        check("a process is attached by pid", "error" not in reply, reply)
        check("and keeps a copy of its userfaultfd",
              reply["parameters"]["guest"]["duplicate"] and toy.userfaultfds() == 1, reply)
        toy.go()
        killed_at_random(world, toy, 12)
        check(what, toy.is_right(), toy.text() + world.said())
        world.end()


def opened_by_the_caller():
    """As ufdctl does: the file of the source comes open, and whoever opened it is gone."""
    world = World()
    world.start()
    toy = Toy(world, has_client=False)
    with open(world.image, "rb") as image:
        reply = world.call("io.ufd.guest.AttachProcess", fds=[image.fileno()], name="toy",
                           pid=toy.pid, source="file:", source_fd=0,
                           settings={"background": False})
    world.kill()
    world.start()
    toy.go()
    check("a source that came as an open file is found again", "error" not in reply
          and toy.is_right(), f"{reply}\n{toy.text()}\n{world.said()}")
    world.end()


def described():
    world = World()
    world.start()
    toy = Toy(world, has_client=False)
    attach(world, toy, policy="kill", fault_deadline_s=77)
    before = world.call("io.ufd.guest.Show", name="toy")["parameters"]
    world.kill()
    check("its copy of the userfaultfd stays open meanwhile", toy.userfaultfds() == 1)
    world.start()
    after = world.call("io.ufd.guest.Show", name="toy")["parameters"]
    for part in (before, after):
        for word in ("fault_p50_ns", "fault_p99_ns", "faults", "present_bytes", "absent_bytes"):
            part["guest"].pop(word)
        for memory in part["memories"]:
            for word in ("present_bytes", "absent_bytes"):
                memory.pop(word)
        part.pop("counters")
    check("what is known of a guest is known again", before == after, f"{before}\n{after}")
    reply = world.call("io.ufd.guest.Detach", name="toy")
    check("an adopted process is let go", "error" not in reply, reply)
    check("and keeps nothing of ours", toy.userfaultfds() == 0, os.listdir(f"/proc/{toy.pid}/fd"))
    toy.go()
    check("it is right", toy.is_right(), toy.text())
    check("nothing of it is kept", not world.ledgers(), world.ledgers())
    world.end()


def the_dead():
    world = World()
    world.start()
    gone, there = Toy(world, has_client=False, name="gone"), Toy(world, has_client=False, name="there")
    attach(world, gone, "gone")
    attach(world, there, "there")
    world.kill()
    gone.end()
    world.start()
    check("who ended meanwhile is dropped", [g["name"] for g in world.guests()] == ["there"]
          and world.ledgers() == ["there.ledger"], world.said())
    check("and named", "stored guest gone.ledger is dropped: its processes have ended"
          in world.said(), world.said())
    there.go()
    check("the other goes on", there.is_right(), there.text())
    world.end()


def strangers():
    world = World()
    world.start()
    toy = Toy(world, has_client=False)
    attach(world, toy)
    world.kill()
    with open(world.state + "/nowhere.ledger", "wb") as file:
        file.write(os.urandom(400000))
    with open(world.state + "/empty.ledger", "wb"):
        pass
    os.symlink("/etc/passwd", world.state + "/link.ledger")
    os.mkdir(world.state + "/folder.ledger")
    with open(world.state + "/toy.ledger", "rb") as file:
        whole = file.read()
    with open(world.state + "/twin.ledger", "wb") as file:
        file.write(whole)
    world.start()
    said = world.said()
    check("a ledger from nowhere is left and named",
          "nowhere.ledger cannot be adopted, and is left where it is" in said
          and "empty.ledger cannot be adopted" in said, said)
    check("a copy of a ledger does not become a second guest",
          len(world.guests()) == 1 and "twin.ledger cannot be adopted" in said, said)
    check("all of it is still there", len(world.ledgers()) == 6, world.ledgers())
    toy.go()
    check("the guest between them goes on", toy.is_right(), toy.text())
    world.end()


def too_many():
    """More than can be opened: whoever is not served is counted, and named."""
    world = World()
    world.start()
    toy = Toy(world, has_client=False)
    attach(world, toy)
    world.kill()
    for i in range(60):
        with open(f"{world.state}/guest{i}.ledger", "wb"):
            pass
    world.n_files = 50
    world.start()
    check("no guest is forgotten for want of file descriptors",
          f"{61 - world.adopted()} are left as they are" in world.said(), world.said())
    world.kill()
    world.n_files = None
    world.start()
    toy.go()
    check("with enough of them it is served", toy.is_right(), toy.text() + world.said())
    world.end()


def not_ours():
    """A directory that somebody else may change could give us a guest of yesterday."""
    for mode, owner in ((0o777, os.geteuid()), (0o700, 12345))[:1 if os.geteuid() else 2]:
        world = World()
        os.mkdir(world.state)
        os.chown(world.state, owner, -1)
        os.chmod(world.state, mode)
        world.launch()
        check(f"a state directory of mode {mode:o}, user {owner} is refused",
              world.daemon.wait(30) == 1, world.said())
        world.end()


def open_silent(world):
    """A file whose file system answers nothing any more, and the server, which is to be ended."""
    point = world.folder + "/fuse"
    os.mkdir(point)
    script = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support/fuse-server.py")
    server = subprocess.Popen([sys.executable, script, point, "4096", "0"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    running.append(server)
    if not server.stdout.readline():
        raise OSError("FUSE cannot be mounted here")
    os.close(os.open(point + "/image", os.O_RDONLY))  # the first close asks whether to ask
    file = os.open(point + "/image", os.O_RDONLY)
    ctypes.CDLL(None).umount2(point.encode(), 2)  # MNT_DETACH: what is open stays
    server.send_signal(signal.SIGSTOP)
    return file, server


def silent_files():
    """Processes hold what they like. Nobody may ask for it, or all guests wait for one's file system."""
    what = "a process may hold a file that nobody answers for"
    if os.geteuid() or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        skip(what, "no FUSE")
        return
    world = World()
    world.start()
    file, server = open_silent(world)
    toy = Toy(world, has_client=False, holds=file)
    link = world.image + ".link"
    os.symlink(world.image, link)
    try:
        begun = time.monotonic()
        reply = world.call("io.ufd.guest.AttachProcess", name="toy", pid=toy.pid,
                           source=f"file:{link}", settings={"background": False})
        check(what, "error" not in reply and time.monotonic() - begun < 20, reply)
        world.kill()
        os.unlink(link)
        os.mkfifo(link)  # and a path may lead to what has no other end
        world.launch()
        check("so may one that is adopted", wait_until(world.answers), world.said())
        world.kill()
        os.unlink(link)
        os.symlink(world.image, link)
        world.start()
        toy.go()
        check("which is served then", toy.is_right(), toy.text() + world.said())
    finally:
        server.kill()
        server.wait()
        os.close(file)
    world.end()


def damage(path, word):
    """Flip a bit in the middle of each place that has this word."""
    with open(path, "r+b") as file:
        text = bytearray(file.read())
        at = text.find(word)
        if at < 0:
            raise ValueError(f"{path} does not have {word}")
        while at >= 0:
            text[at + len(word) // 2] ^= 4
            at = text.find(word, at + 1)
        file.seek(0)
        file.write(text)


def damaged():
    world = World()
    world.start()
    bad, good = Toy(world, has_client=False, name="bad"), Toy(world, has_client=False, name="good")
    attach(world, bad, "bad")
    attach(world, good, "good")
    world.kill()
    damage(world.state + "/bad.ledger", world.image.encode())
    with open(world.state + "/bad.ledger", "rb") as file:
        before = file.read()
    world.start()
    check("a guest with a damaged record is not guessed",
          [g["name"] for g in world.guests()] == ["good"], world.guests())
    check("but named", "bad.ledger cannot be adopted, and is left where it is: its ledger is damaged"
          in world.said(), world.said())
    with open(world.state + "/bad.ledger", "rb") as file:
        check("and not touched", file.read() == before)
    bad.go()
    good.go()
    check("the other goes on", good.is_right(), good.text())
    check("its threads wait, and read no zeros", bad.process.poll() is None
          and "wrong" not in bad.text(), bad.text())
    world.kill()
    damage(world.state + "/bad.ledger", bytes(b ^ (4 if i == len(world.image) // 2 else 0)
                                              for i, b in enumerate(world.image.encode())))
    world.start()
    check("mended, it is served by the next one", bad.is_right(), bad.text() + world.said())
    world.end()


def stopped():
    world = World()
    world.start()
    toy = Toy(world, "--pause-us", "8000", "--write")  # seconds: it must outlast what comes
    other = Toy(world, has_client=False, name="other")
    attach(world, other, "other")
    other.go()
    status, took = world.stop()
    check("with copies everywhere SIGTERM ends it at once", status == 0 and took < 10,
          f"{status} after {took} s: {world.said()}")
    check("the guests wait", toy.process.poll() is None and other.process.poll() is None)
    check("their ledgers are there", world.ledgers() == ["other.ledger", "toy.ledger"],
          world.ledgers())
    world.start()
    check("and both go on", toy.is_right() and other.is_right(),
          toy.text() + other.text() + world.said())
    world.end()


def stopped_alone():
    """A VMM that hands its userfaultfd over and closes its own."""
    world = World()
    image, out = world.folder + "/many-image", world.folder + "/many.out"
    subprocess.run([MANY, "--write-image", image, "--guests", "2"], check=True)
    world.start()
    with open(out, "wb") as file:
        many = subprocess.Popen([MANY, "--image", image, "--guests", "2", "--socket", world.socket,
                                 "--no-duplicate"], stdin=subprocess.PIPE, stdout=file,
                                stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
    running.append(many)

    def text():
        with open(out, encoding="utf-8") as file:
            return file.read()

    wait_until(lambda: "ATTACHED" in text() or many.poll() is not None)
    check("two guests whose copies are closed are absent", [g["absent_bytes"] > 0
          for g in world.guests()] == [True, True], f"{world.guests()}{text()}")
    status, _ = world.stop()
    check("without a copy SIGTERM fills them first", status == 0, world.said())
    many.stdin.write(b"\n" * 4)  # as many rounds as a guest has pages
    many.stdin.close()
    wait_until(lambda: text().count('"wrong_pages":') == 4 or many.poll() is not None)
    check("and they read no zeros", text().count('"wrong_pages":0') == 4, text() + world.said())
    many.kill()
    check("nothing of them is kept", not world.ledgers(), world.ledgers())
    world.end()


def stopped_without_state():
    world = World(keeps=False)
    world.start()
    toy = Toy(world, "--pause-us", "8000", "--write")
    other = Toy(world, has_client=False, name="other")
    attach(world, other, "other")
    status, _ = world.stop()
    other.go()
    check("without a place for its ledger, a process is filled before the end",
          status == 0 and other.is_right(), world.said())
    world.start()
    check("a client hands itself over again", toy.is_right() and "REATTACHED" in toy.text(),
          toy.text())
    world.end()


def two_daemons():
    world = World()
    world.start()
    second = subprocess.run([UFDD, "--socket", world.socket + "2", "--state-dir", world.state],
                            capture_output=True, text=True, timeout=30, check=False,
                            preexec_fn=die_with_parent)
    check("a second daemon does not take the guests of the first", second.returncode == 1
          and f"another ufdd uses the state directory {world.state}" in second.stderr,
          second.stderr)
    world.end()


def killed_while_attaching():
    """Wherever it is killed: the process is served, or has nothing of ours any more."""
    world = World(mib=4)
    n_left = 0
    for turn in range(16):
        world.start()
        toy = Toy(world, has_client=False, name=f"t{turn}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(world.socket)
            call = {"method": "io.ufd.guest.AttachProcess",
                    "parameters": {"name": "g", "pid": toy.pid, "source": f"file:{world.image}"}}
            client.sendall(json.dumps(call).encode() + b"\0")
            time.sleep(chance.uniform(0, 0.04))
            world.kill()
        world.start()
        served = [g["name"] for g in world.guests()]
        if not served and not wait_until(lambda: toy.userfaultfds() == 0, 20):
            n_left += 1
        if not served:
            reply = attach(world, toy, "g")
            if "error" in reply:
                check("a process whose attach was cut short is attached again", False,
                      f"{reply}\n{world.said()}")
        toy.go()
        if not toy.is_right():
            check("a process whose attach was cut short reads what it must", False,
                  toy.text() + world.said())
        world.kill()
    check("no copy of ours is left by an attach that was cut short", n_left == 0, world.said())
    world.end()


try:
    for case in (clients, processes, opened_by_the_caller, described, the_dead, strangers, too_many, not_ours,
                 silent_files, damaged, stopped, stopped_alone, stopped_without_state, two_daemons, killed_while_attaching):
        if len(sys.argv) <= 4 or case.__name__ in sys.argv[4:]:
            case()
finally:
    end_all()
    subprocess.run(["rm", "-rf", *recoveryworld.folders], check=False)
finish()
