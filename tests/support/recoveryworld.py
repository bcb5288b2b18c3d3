# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests of recovery share: a daemon with a state directory that can be killed, and guests that compare every byte."""
import json
import os
import resource
import socket
import subprocess
import tempfile
import time

from children import die_with_parent, running, wait_until

UFDD = TOY = ""  # set by whoever imports this

folders = []


class World:
    """A folder on a tmpfs, an image, and a daemon that keeps its state there."""

    def __init__(self, mib=8, keeps=True):
        self.folder = tempfile.mkdtemp(prefix="ufd-recovery-", dir="/dev/shm")
        folders.append(self.folder)
        self.socket, self.image, self.state, self.log = (
            os.path.join(self.folder, name) for name in ("socket", "image", "state", "log"))
        self.mib = mib
        self.keeps = keeps
        self.daemon = None
        self.n_files = None
        subprocess.run([TOY, "--write-image", self.image, "--mib", str(mib)], check=True)

    def launch(self, program="", **environment):
        """Without waiting for it."""
        words = ["--state-dir", self.state] if self.keeps else []
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen([program or UFDD, "--socket", self.socket, *words], stderr=log,
                                           stdout=log, preexec_fn=self.prepare,
                                           env={**os.environ, **environment})
        running.append(self.daemon)

    def prepare(self):
        die_with_parent()
        if self.n_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.n_files, self.n_files))

    def start(self, program="", **environment):
        self.launch(program, **environment)
        if not wait_until(lambda: self.answers() or self.daemon.poll() is not None):
            raise TimeoutError("ufdd does not listen")

    def answers(self):
        """A connection is not enough: what one that was killed had forked has its socket until it is another program."""
        try:
            return "parameters" in self.call("io.ufd.manager.Status")
        except OSError:
            return False

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop(self):
        """Return: the exit status and how long it took."""
        start = time.monotonic()
        self.daemon.terminate()
        return self.daemon.wait(60), time.monotonic() - start

    def call(self, method, fds=(), **parameters):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(self.socket)
            call = json.dumps({"method": method, "parameters": parameters}).encode() + b"\0"
            socket.send_fds(client, [call], fds)
            text = b""
            while not text.endswith(b"\0"):
                try:
                    more = client.recv(65536)
                except ConnectionError:
                    more = b""
                if not more:
                    return {"error": "closed"}
                text += more
        return json.loads(text[:-1])

    def guests(self):
        return self.call("io.ufd.guest.List")["parameters"]["guests"]

    def adopted(self):
        return self.call("io.ufd.manager.Status")["parameters"]["adopted_guests"]

    def ledgers(self):
        return sorted(name for name in os.listdir(self.state) if name.endswith(".ledger"))

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def end(self):
        if self.daemon and self.daemon.poll() is None:
            self.kill()
        subprocess.run(["rm", "-rf", self.folder], check=True)


def userfaultfds(pid):
    """How many file descriptors of the process are one."""
    folder, n = f"/proc/{pid}/fd", 0
    for number in os.listdir(folder):
        try:
            n += "userfaultfd" in os.readlink(f"{folder}/{number}")
        except OSError:
            pass
    return n


class Toy:
    """A guest that compares its memory with what it must be."""

    def __init__(self, world, *words, name="toy", has_client=True, holds=subprocess.STDOUT):
        way = ["--socket", world.socket] if has_client else ["--no-client"]
        self.out = os.path.join(world.folder, name + ".out")
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [TOY, *way, "--name", name, "--image", world.image, "--mib", str(world.mib), *words],
                stdin=subprocess.PIPE, stdout=out, stderr=holds,
                preexec_fn=die_with_parent)
        self.pid = self.process.pid
        running.append(self.process)
        word = "ATTACHED" if has_client else "READY"
        if not wait_until(lambda: word in self.text() or self.process.poll() is not None):
            raise TimeoutError(self.text())

    def text(self):
        with open(self.out, encoding="utf-8", errors="replace") as out:
            return out.read()

    def go(self):
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def is_right(self):
        """It has ended, having found every byte."""
        try:
            return self.process.wait(60) == 0 and '"wrong_pages":0' in self.text()
        except subprocess.TimeoutExpired:
            return False

    def userfaultfds(self):
        return userfaultfds(self.pid)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def attach(world, toy, name="toy", **settings):
    return world.call("io.ufd.guest.AttachProcess", name=name, pid=toy.pid,
                      source=f"file:{world.image}", settings={"background": False, **settings})
