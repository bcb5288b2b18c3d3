#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests paged from images: chains, other formats, a daemon that is killed, and a frame that is broken. TAP on stdout.

Arguments: ufdd, ufdctl, toy-vmm. Guests compare every byte themselves; processes are ended by pid.
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
from children import die_with_parent, end, end_all, running, wait_until
from tap import check, finish

UFDD, UFDCTL, TOY = (os.path.realpath(path) for path in sys.argv[1:4])
MIB = 8
PAGE = 4096


class World:
    """A folder on a tmpfs with images of one memory, and a daemon that keeps its state there."""

    def __init__(self, folder):
        self.folder = folder
        self.socket, self.state, self.log = (self.path(name) for name in ("socket", "state", "log"))
        self.daemon = None
        self.make_images()

    def path(self, name):
        return os.path.join(self.folder, name)

    def make_images(self):
        """`raw` is what the guest expects; `old` is another one; `top` is the first as a layer over the second."""
        for name, seed in (("raw", "1"), ("old", "2")):
            subprocess.run([TOY, "--write-image", self.path(name), "--mib", str(MIB), "--seed", seed], check=True)
        self.ctl("image", "convert", "--compress", "lz4", self.path("raw"), self.path("lz4.ufdi"))
        self.ctl("image", "convert", "--compress", "none", self.path("raw"), self.path("none.ufdi"))
        self.ctl("image", "convert", "--compress", "zstd", self.path("old"), self.path("base,1.ufdi"))
        self.ctl("image", "convert", "--compress", "lz4", "--parent", self.path("base,1.ufdi"), self.path("raw"),
                 self.path("top.ufdi"))
        self.ctl("image", "convert", "--to", "firecracker", "--alone", self.path("top.ufdi"), self.path("diff"))
        os.mkdir(self.path("ch"))
        self.ctl("image", "convert", "--to", "cloud-hypervisor", self.path("top.ufdi"),
                 self.path("ch/memory-ranges"))

    def ctl(self, *words, may_fail=False):
        ran = subprocess.run([UFDCTL, "--socket", self.socket, *words], capture_output=True, text=True, timeout=60,
                             check=False)
        if ran.returncode and not may_fail:
            raise RuntimeError(f"{words}: {ran.stderr}")
        return ran

    def start(self):
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen([UFDD, "--socket", self.socket, "--state-dir", self.state], stderr=log,
                                           stdout=log, preexec_fn=die_with_parent)
        running.append(self.daemon)
        if not wait_until(lambda: self.answers() or self.daemon.poll() is not None):
            raise TimeoutError("ufdd does not listen")

    def answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.socket)
            return True
        except OSError:
            return False

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()


class Toy:
    """A guest that compares its memory with what it must be."""

    def __init__(self, world, name, *words):
        self.out = world.path(name + ".out")
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [TOY, "--no-client", "--name", name, "--image", world.path("raw"), "--mib", str(MIB), "--seed", "1",
                 *words], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
        running.append(self.process)
        if not wait_until(lambda: "READY" in self.text() or self.process.poll() is not None):
            raise TimeoutError(self.text())

    def text(self):
        with open(self.out, encoding="utf-8", errors="replace") as out:
            return out.read()

    def go(self):
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def is_right(self):
        try:
            return self.process.wait(60) == 0 and '"wrong_pages":0' in self.text()
        except subprocess.TimeoutExpired:
            return False


def attach(world, toy, name, spec, *words):
    return world.ctl("guest", "attach", name, "--pid", str(toy.process.pid), "--source", spec, *words, may_fail=True)


def specs(world):
    old, diff = world.path("old"), world.path("diff")
    return (("a packed image", f"image:{world.path('lz4.ufdi')}", False),
            ("a raw image, by its digest", f"image:{world.path('none.ufdi')},memory=memory", False),
            ("a layer over a parent with a comma", f"image:{world.path('top.ufdi')},cache=256K", True),
            ("a difference of Firecracker's", f"firecracker:{old}+{diff}", True),
            ("the ranges of Cloud Hypervisor", f"cloud-hypervisor:{world.path('ch')}", False))


def every_byte(world):
    for number, (what, spec, _) in enumerate(specs(world)):
        name = f"guest{number}"
        toy = Toy(world, name)
        ran = attach(world, toy, name, spec)
        check(f"{what} is attached", ran.returncode == 0, ran.stderr)
        toy.go()
        check(f"{what} gives every byte", toy.is_right(), toy.text() + world.said())


def frames_are_counted(world):
    """While the guest waits to be told to go on, so that its counters are there for as long as that takes."""
    toy = Toy(world, "counted")
    attach(world, toy, "counted", f"image:{world.path('top.ufdi')}")
    counted = lambda: json.loads(world.ctl("--json", "guest", "show", "counted", may_fail=True).stdout or "{}") \
        .get("counters", {})
    wait_until(lambda: counted().get("frames_cached", 0) > 0)
    counters = counted()
    check("frames are unpacked, and kept for what is asked next", counters.get("frames_unpacked", 0) > 0 and
          counters.get("frames_cached", 0) > 0, counters)
    toy.go()
    check("and every byte is right", toy.is_right(), toy.text() + world.said())


def killed(world):
    for number, (what, spec, _) in enumerate(specs(world)):
        name = f"killed{number}"
        toy = Toy(world, name, "--pause-us", "300")
        attach(world, toy, name, spec, "--background", "no")
        toy.go()
        n_kills = 0
        while n_kills < 3 and toy.process.poll() is None:
            time.sleep(0.03)
            world.kill()
            world.start()
            n_kills += 1
        check(f"{what}: ufdd is killed {n_kills} times, and no byte is wrong", toy.is_right() and n_kills,
              toy.text() + world.said())


def appended(world):
    """What is added to an image later, or noted beside it, is nothing to guests that live on it."""
    image = world.path("noted.ufdi")
    world.ctl("image", "convert", world.path("raw"), image)
    toy = Toy(world, "noted", "--pause-us", "300")
    attach(world, toy, "noted", f"image:{image}", "--background", "no")
    toy.go()
    os.utime(image)
    world.kill()
    world.start()
    check("a touched image is the same one to the next ufdd", toy.is_right(), toy.text() + world.said())


def refusals(world):
    toy = Toy(world, "refused")
    os.rename(world.path("base,1.ufdi"), world.path("elsewhere"))
    ran = attach(world, toy, "refused", f"image:{world.path('top.ufdi')}")
    check("a missing parent is named", ran.returncode == 1 and "base,1.ufdi" in ran.stderr and
          "is missing" in ran.stderr, ran.stderr)
    world.ctl("image", "convert", world.path("raw"), world.path("base,1.ufdi"))
    ran = attach(world, toy, "refused", f"image:{world.path('top.ufdi')}")
    check("a wrong parent is named", ran.returncode == 1 and "is not the parent" in ran.stderr, ran.stderr)
    os.rename(world.path("elsewhere"), world.path("base,1.ufdi"))
    ran = attach(world, toy, "refused", f"image:{world.path('top.ufdi')},memory=rom")
    check("a memory that is not there is refused with those that are", ran.returncode == 1 and
          "the memories memory" in ran.stderr, ran.stderr)
    end(toy.process)


def broken(world):
    """The frames of an image are damaged while a guest lives on it; then they are mended."""
    image = world.path("top.ufdi")
    toy = Toy(world, "broken", "--pause-us", "50")
    ran = attach(world, toy, "broken", f"image:{image}", "--background", "no")
    layer = json.loads(world.ctl("--json", "image", "info", image).stdout)["layers"][0]
    end_of_frames = layer["file_bytes"] - layer["index_bytes"] - 512
    with open(image, "r+b") as file:
        sound = os.pread(file.fileno(), end_of_frames - PAGE, PAGE)
        os.pwrite(file.fileno(), bytes(byte ^ 1 for byte in sound), PAGE)
        toy.go()
        stalled = wait_until(lambda: "checksum" in world.said(), 20)
        check("a broken frame is told, with its file and offset", stalled and f"{image} at its offset" in world.said(),
              ran.stderr + world.said())
        why = json.loads(world.ctl("--json", "why", "broken").stdout)
        check("why names them, too", why["cause"] == "source_error" and f"{image} is damaged at offset" in why["sentence"],
              why)
        check("its remedy names all that is broken", f"ufdctl image verify '{image}'" in str(why["remedy"]), why)
        ran = world.ctl("image", "verify", image, may_fail=True)
        check("that is so", ran.returncode == 1 and f"{image} is damaged at offset" in ran.stderr, ran.stderr)
        os.pwrite(file.fileno(), sound, PAGE)
    check("mended, it goes on without a wrong byte", toy.is_right(), toy.text() + world.said())


def read(path):
    with open(path, "rb") as file:
        return file.read()


def appends(world, path, fails):
    """An image is continued by another one; a writer that is killed meanwhile leaves the one before."""
    world.ctl("image", "convert", path("a"), path("both.ufdi"))
    before = read(path("both.ufdi"))
    digest = json.loads(world.ctl("--json", "image", "info", path("both.ufdi")).stdout)["digest"]
    world.ctl("image", "append", path("b"), path("both.ufdi"))
    after = read(path("both.ufdi"))
    check("an image is continued, and is the newer one", after.startswith(before)
          and json.loads(world.ctl("--json", "image", "diff", path("both.ufdi"), path("b")).stdout)["differ_bytes"] == 0)
    spec = f"image:{path('both.ufdi')},digest={digest}"
    check("the older one is there, too",
          json.loads(world.ctl("--json", "image", "diff", spec, path("a")).stdout)["differ_bytes"] == 0)
    for cut in (len(after) - 1, (len(before) + len(after)) // 2, len(before) + 1):
        with open(path("cut.ufdi"), "wb") as file:
            file.write(after[:cut])
        check(f"cut {len(after) - cut} bytes before its end it is the one before", json.loads(world.ctl(
            "--json", "image", "info", path("cut.ufdi")).stdout)["digest"] == digest)
    code, said = fails("append", path("b"), path("a"))
    check("only an image is continued", code == 1 and said, (code, said))


def tool(world):
    """What needs no daemon: each way there and back, and each way to fail."""
    def path(name):
        return world.path("tool-" + name)

    def fails(*words):
        ran = world.ctl("image", *words, may_fail=True)
        return ran.returncode, ran.stderr

    pages = bytearray(read(world.path("raw"))[:1 << 20])
    with open(path("a"), "wb") as file:
        file.write(pages)
    pages[5 * PAGE:7 * PAGE] = b"x" * 2 * PAGE
    pages[100 * PAGE:101 * PAGE] = bytes(PAGE)
    with open(path("b"), "wb") as file:
        file.write(pages)
    world.ctl("image", "convert", "--compress", "none", path("a"), path("a.ufdi"))
    world.ctl("image", "convert", "--compress", "zstd:5", "--parent", path("a.ufdi"), path("b"), path("b.ufdi"))
    info = json.loads(world.ctl("--json", "image", "info", path("b.ufdi")).stdout)
    check("info shows the chain", [os.path.basename(layer["path"]) for layer in info["layers"]] ==
          ["tool-b.ufdi", "tool-a.ufdi"] and info["layers"][0]["digest"] == info["digest"] and
          info["memories"][0]["length_bytes"] == 1 << 20, info)
    diff = json.loads(world.ctl("--json", "image", "diff", path("a.ufdi"), path("b.ufdi")).stdout)
    wanted = {"offset_bytes": 5 * PAGE, "length_bytes": 2 * PAGE}
    check("diff finds what was changed", wanted in diff["memories"][0]["ranges"] and
          diff["differ_bytes"] in (2 * PAGE, 3 * PAGE), diff)
    world.ctl("image", "flatten", path("b.ufdi"), path("flat.ufdi"))
    world.ctl("image", "convert", "--to", "raw", path("flat.ufdi"), path("flat"))
    check("a flattened chain is what it was made from", read(path("flat")) == bytes(pages))
    same = json.loads(world.ctl("--json", "image", "diff", path("flat.ufdi"), path("b")).stdout)
    check("and no page is different", same["differ_bytes"] == 0, same)
    with open(path("pipe.ufdi"), "wb") as file, \
            subprocess.Popen([UFDCTL, "image", "convert", path("b"), "-"], stdout=subprocess.PIPE) as writer:
        file.write(writer.stdout.read())
    check("an image through a pipe is sound", fails("verify", path("pipe.ufdi"))[0] == 0)

    code, said = fails("convert", path("a"), path("b.ufdi"))
    check("a file that exists is not written over", code == 1 and "exists" in said, said)
    code, said = fails("convert", "--parent", path("a"), path("b"), path("none.ufdi"))
    check("a parent needs a digest", code == 1 and "no digest" in said and not os.path.exists(path("none.ufdi")), said)
    os.rename(path("a.ufdi"), path("gone"))
    code, said = fails("verify", path("b.ufdi"))
    check("a missing parent is named", code == 1 and "tool-a.ufdi" in said and "missing" in said, said)
    alone = json.loads(world.ctl("--json", "image", "info", "--alone", path("b.ufdi")).stdout)
    check("but a layer can be looked at alone", alone["memories"][0]["absent_bytes"] > 0, alone)
    with open(path("flat.ufdi"), "r+b") as file:
        file.truncate(os.path.getsize(path("flat.ufdi")) - 1)
    code, said = fails("info", path("flat.ufdi"))
    check("a file without its end is told", code == 1 and "has no end" in said, said)
    appends(world, path, fails)
    codes = [fails(*words)[0] for words in (("convert", path("a")), ("convert", "--compress", "zip", path("a"), path("z")),
                                            ("convert", "--to", "raw", path("a"), "-"), ("info", "--all", path("a")))]
    check("command lines that make no sense are refused", codes == [2] * 4, codes)


def main():
    with tempfile.TemporaryDirectory(prefix="ufd-image-", dir="/dev/shm") as folder:
        world = World(folder)
        try:
            world.start()
            tool(world)
            every_byte(world)
            frames_are_counted(world)
            killed(world)
            appended(world)
            refusals(world)
            broken(world)
        finally:
            end_all()
    finish()


if __name__ == "__main__":
    main()
