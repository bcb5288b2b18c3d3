# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests of dirty tracking share: a daemon that can be killed, guests that take commands, results as TAP."""
import json
import os
import socket
import subprocess
import tempfile

import children
from children import die_with_parent, running, wait_until  # noqa: F401
from tap import check, results, skip  # noqa: F401

UFDD = UFDCTL = VMM = ""  # set by whoever imports this
PAGE = 4096
MIB = 8
PAGES = MIB * 256

folders = []


def trackers():
    """The usual one first; without what scan needs that is skipped, and everybody is tracked by faults."""
    ran = subprocess.run([UFDCTL, "probe", "--json", "--only", "host.wp-async", "host.pagemap-scan"],
                         capture_output=True, text=True, timeout=60, check=False, preexec_fn=die_with_parent)
    can = [tried["detail"] for tried in json.loads(ran.stdout)["checks"]] == ["yes", "yes"]
    if not can:
        skip("scan", "needs WP_ASYNC and PAGEMAP_SCAN (Linux 6.7)")
    return ("scan", "wp") if can else ("wp",)


class World:
    """A folder on a tmpfs and a daemon that keeps its state there."""

    def __init__(self, **environment):
        self.environment = {**os.environ, **environment}
        self.folder = tempfile.mkdtemp(prefix="ufd-dirty-", dir="/dev/shm")
        folders.append(self.folder)
        self.socket, self.state, self.log = (os.path.join(self.folder, name)
                                             for name in ("socket", "state", "log"))
        self.daemon = None
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen([UFDD, "--socket", self.socket, "--state-dir", self.state],
                                           stderr=log, stdout=log, preexec_fn=die_with_parent,
                                           env=self.environment)
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

    def again(self):
        self.kill()
        self.start()

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def send(self, method, **parameters):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(self.socket)
        client.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
        return client

    @staticmethod
    def hear(client):
        """Return: the reply, and the fds that came with it."""
        text, fds = b"", []
        with client:
            while not text.endswith(b"\0"):
                more, new, _, _ = socket.recv_fds(client, 65536, 4)
                fds += new
                if not more:
                    return {"error": "closed"}, fds
                text += more
        return json.loads(text[:-1]), fds

    def call(self, method, **parameters):
        reply, fds = self.hear(self.send(method, **parameters))
        for fd in fds:
            os.close(fd)
        return reply

    def dirty(self, method, name="g", **parameters):
        return self.call("io.ufd.dirty." + method, name=name, **parameters)

    def read(self, name="g", **parameters):
        """Return: the reply's parameters, and the set of dirty pages; None if it is an error."""
        reply, fds = self.hear(self.send("io.ufd.dirty.Read", name=name, format="bitmap", **parameters))
        if "error" in reply:
            return reply, None
        with os.fdopen(fds[0], "rb") as file:
            return reply["parameters"], pages_of(file.read())

    def ctl(self, *words, timeout=60):
        return subprocess.run([UFDCTL, "--socket", self.socket, *words], capture_output=True, text=True,
                              timeout=timeout, env={**os.environ, "LC_ALL": "C.UTF-8"})

    def end(self):
        if self.daemon.poll() is None:
            self.kill()
        subprocess.run(["rm", "-rf", self.folder], check=True)


def pages_of(bitmap):
    return {8 * i + bit for i, byte in enumerate(bitmap) if byte for bit in range(8) if byte >> bit & 1}


class Process:
    """Takes commands on stdin, answers with lines."""

    def __init__(self, *words, in_child=lambda: None):
        def prepare():
            die_with_parent()
            in_child()

        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        bufsize=1, preexec_fn=prepare)
        self.pid = self.process.pid
        running.append(self.process)
        self.first = self.process.stdout.readline()
        if not self.first:
            raise RuntimeError(f"{words[0]} did not start")

    def tell(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().strip()

    def ask(self, *words):
        self.tell(*words)
        return self.hear()

    def write(self, *pages):
        return self.ask("w", *pages)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def client_vmm(world, *words, name="g", **options):
    return Process(VMM, "--socket", world.socket, "--name", name, "--mib", str(MIB), "--image",
                   image_of(world), *words, **options)


def image_of(world):
    """Each page holds its number, plus one."""
    path = os.path.join(world.folder, "image")
    if not os.path.exists(path):
        with open(path, "wb") as file:
            for page in range(PAGES):
                file.write((page + 1).to_bytes(8, "little") + bytes(PAGE - 8))
    return path


def error_of(reply):
    return reply.get("error", "none"), reply.get("parameters", {})


def is_error(reply, name, *texts):
    error, parameters = error_of(reply)
    return error == name and all(text in parameters["message"] for text in texts)


def is_exact(reply, told, written):
    """Nothing is missing, and no more is told than was on its way into memory at that moment."""
    return written <= told and len(told - written) * PAGE <= reply["uncertain_bytes"]


def end_all():
    children.end_all()
    for folder in folders:
        subprocess.run(["rm", "-rf", folder], check=False)
