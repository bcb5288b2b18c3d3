#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cloud Hypervisor's migration protocol: snapshots that it sends, and guests restored page by page, whole and
with deaths, nonsense and silence in the middle. TAP on stdout.

Arguments: ufdd, ufdctl, sim-cloud-hypervisor, the folder of the tests' modules.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

UFDD, UFDCTL, SIM, SUPPORT = sys.argv[1:5]
sys.path.insert(0, SUPPORT)
from children import die_with_parent, end, end_all, running, wait_until  # noqa: E402
from tap import check, finish  # noqa: E402

for name in ("UFD_SOCKET", "NOTIFY_SOCKET", "JOURNAL_STREAM", "LISTEN_FDS", "FDSTORE", "UFD_FDSTORE_MAX"):
    os.environ.pop(name, None)

SECONDS = 60
folder = tempfile.TemporaryDirectory(prefix="ufd-ch-")
os.environ["UFD_SOCKET"] = os.path.join(folder.name, "ufdd")


def at(*words):
    return os.path.join(folder.name, *words)


def start(*words, **more):
    process = subprocess.Popen(words, preexec_fn=die_with_parent, text=True, **more)
    running.append(process)
    return process


class Manager:
    """Keeps fds for a ufdd, as systemd does."""

    # what makes of fds 100 and following the first ones of a ufdd
    LAUNCH = ("import os,sys\n"
              "n = int(sys.argv[1])\n"
              "for i in range(n): os.dup2(100 + i, 3 + i)\n"
              "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(n))\n"
              "os.execv(sys.argv[2], sys.argv[2:])\n")

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(at("notify"))
        self.kept = {}
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            text, fds, _, _ = socket.recv_fds(self.socket, 4096, 16)
            words = dict(line.split("=", 1) for line in text.decode().split("\n") if "=" in line)
            if "FDSTORE" in words:
                self.kept[words["FDNAME"]] = fds[0]
            elif "FDSTOREREMOVE" in words:
                os.close(self.kept.pop(words["FDNAME"]))
            else:
                for fd in fds:  # of a barrier
                    os.close(fd)

    def launch(self, words):
        """(words, what to start them with)"""
        more = {"env": {**os.environ, "NOTIFY_SOCKET": at("notify"), "UFD_FDSTORE_MAX": "64",
                        "LISTEN_FDNAMES": ":".join(self.kept)}}
        n = len(self.kept)
        for i, fd in enumerate(self.kept.values()):
            os.dup2(fd, 100 + i)
        more["pass_fds"] = range(100, 100 + n)
        return [sys.executable, "-c", self.LAUNCH, str(n), *words] if n else words, more


class Daemon:
    def __init__(self, manager=None):
        self.log = at(f"log-{len(running)}")
        words, more = [UFDD, "--socket", os.environ["UFD_SOCKET"], "--debug", "control"], {}
        if manager:
            words, more = manager.launch(words)
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = start(*words, stderr=log, **more)
        for fd in more.get("pass_fds", []):
            os.close(fd)
        assert wait_until(lambda: ctl("status").returncode == 0, SECONDS)

    def said(self, words):
        with open(self.log, encoding="utf-8") as log:
            return words in log.read()

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def servers(self):
        """pids of ufdd-offload, of which each is a child"""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split() if is_server(int(pid))]


def is_server(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            name = file.read().strip()
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return name == "ufdd-offload" and file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ctl(*words):
    return subprocess.run([UFDCTL, *words], capture_output=True, text=True, timeout=SECONDS,
                          preexec_fn=die_with_parent, check=False)


def send(path, seed, *words):
    return start(SIM, "send", path, str(seed), *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def receive(path, seed, *words):
    """One that listens."""
    process = start(SIM, "receive", path, str(seed), *words, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.readline()
    return process


def wait(process):
    """(status, what it said)"""
    said, _ = process.communicate(timeout=SECONDS)
    return process.returncode, said


def restore(name, path, *words):
    return ctl("restore", at("kept", name), "--cloud-hypervisor", path, *words)


# ---- snapshots ----

def snapshots():
    made = ctl("handoff", "create", at("h"), "--dialect", "cloud-hypervisor", "--source", at("kept"),
               "--name", "vm%")
    check("a hand-off for snapshots is made", made.returncode == 0, made.stderr)
    ended = wait(send(at("h"), 1))
    check("a snapshot comes as files", ended == (0, "done\n"), ended)
    ended = wait(send(at("h"), 2, "inline"))
    check("a snapshot comes as bytes", ended == (0, "done\n"), ended)
    names = sorted(os.listdir(at("kept")))
    check("each has a folder", len(names) == 2 and not any(".new" in name for name in names), names)
    files = sorted(os.listdir(at("kept", names[0])))
    check("of the files that are expected", files == [
        "memory-0", "memory-2", "memory-7", "migration_config.json", "state.json", "ufd-manifest.json"], files)
    taken = os.stat(at("kept", names[0], "memory-0")).st_blocks * 512
    check("zeros are holes", 0 < taken < 3 * 2**20 * 4 // 5, taken)
    return names


def bad_senders(daemon, names):
    n_fds = daemon.fds()
    silent = send(at("h"), 1, "silent")
    for how, what in {"half-head": "", "dies": "", "dies-in-state": "", "abandon": "done",
                      "nonsense": "refused at the beginning", "version": "refused at the beginning",
                      "no-start": "refused at the beginning", "long-config": "refused at the beginning",
                      "no-fd": "refused MemoryFd", "pipe": "refused MemoryFd", "same-slot": "refused MemoryFd",
                      "bad-config": "refused Config", "one-fd-less": "refused Complete",
                      "short-file": "refused Complete"}.items():
        ended = wait(send(at("h"), 1, how))
        check(f"a sender that goes wrong ({how}) is answered", ended[1].strip() == what, ended)
    ended = wait(send(at("h"), 1, "inline", "outside"))
    check("bytes of no memory are refused", ended[1] == "refused Memory\n", ended)
    ended = wait(silent)
    check("a silent one is let go", ended[1].startswith("refused"), ended)
    check("they leave nothing behind", wait_until(lambda: sorted(os.listdir(at("kept"))) == names and
                                                  daemon.fds() <= n_fds, SECONDS),
          (os.listdir(at("kept")), daemon.fds(), n_fds))


# ---- restores ----

def restores(daemon, names):
    local, inline = names
    n_fds = daemon.fds()
    for what, name, seed, words, more in (
            ("by files", local, 1, [], []),
            ("by files, as 53.0 does it", inline, 2, ["missing-only"], ["--resume"]),
            ("by bytes", local, 1, ["inline"], ["--inline"])):
        guest = receive(at("r"), seed, *words)
        ran = restore(name, at("r"), "--name", "one", *more)
        check(f"a restored guest runs ({what})", ran.returncode == 0 and "one runs after" in ran.stdout,
              ran.stderr + ran.stdout)
        ended = wait(guest)
        check(f"every byte is right ({what})", ended[0] == 0 and int(ended[1].split()[-1]) >= 1536, ended)
        os.unlink(at("r"))
    guest = receive(at("r"), 1)
    ran = restore(local, at("r"), "--paused")
    check("one is left paused", ran.returncode == 0 and guest.stdout.readline() == "paused\n",
          ran.stderr + ran.stdout)
    ended = wait(guest)
    check("and has its memory", ended[0] == 0, ended)
    os.unlink(at("r"))
    guests = [receive(at(f"r{i}"), 1 + i % 2, *(["inline"] if i >= 4 else [])) for i in range(8)]
    calls = [start(UFDCTL, "restore", at("kept", names[i % 2]), "--cloud-hypervisor", at(f"r{i}"), "--name",
                   f"g{i}", *(["--inline"] if i >= 4 else []), stdout=subprocess.PIPE,
                   stderr=subprocess.STDOUT) for i in range(8)]
    ended = [wait(call) for call in calls]
    check("eight at once are restored", all(status == 0 for status, _ in ended), ended)
    ended = [wait(guest) for guest in guests]
    check("and every byte of theirs is right", all(status == 0 for status, _ in ended), ended)
    for i in range(8):
        os.unlink(at(f"r{i}"))
    check("nothing is left of them", wait_until(lambda: not daemon.servers() and daemon.fds() <= n_fds, SECONDS),
          (daemon.servers(), daemon.fds(), n_fds))
    check("the log says that they are complete", daemon.said("all 1536 pages are there"))


def refusals(names):
    for words, what in (([at("nothing"), "--cloud-hypervisor", at("r")], "cannot be opened"),
                        ([folder.name, "--cloud-hypervisor", at("r")], "no snapshot of Cloud Hypervisor's"),
                        ([at("kept", names[0]), "--cloud-hypervisor", at("r")], "receive-migration"),
                        ([at("kept", names[0]), "--cloud-hypervisor", at("r"), "--wait"], "--name, --paused")):
        ran = ctl("restore", *words)
        check(f"refused: {what}", ran.returncode != 0 and what in ran.stderr, ran.stderr)
    failed = ctl("call", "io.ufd.handoff.OffloadRestore", json.dumps(
        {"directory": at("nothing"), "socket": at("r")}))
    check("the error is the interface's", "io.ufd.guest.BadSnapshot" in failed.stderr + failed.stdout,
          failed.stderr + failed.stdout)
    with open(at("kept", names[1], "memory-7"), "r+b") as file:
        file.truncate(4096)
    ran = restore(names[1], at("r"))
    check("a snapshot that was cut is noticed", ran.returncode != 0 and "was cut" in ran.stderr, ran.stderr)
    for how, what in (("refuse-config", "answers Config by an error"), ("refuse-state", "answers State by an error")):
        guest = receive(at("r"), 1, how)
        ran = restore(names[0], at("r"))
        check(f"the answer is told: {how}", ran.returncode != 0 and what in ran.stderr, ran.stderr)
        wait(guest)
        os.unlink(at("r"))
    for how in ("nonsense", "outside"):
        guest = receive(at("r"), 1, how)
        restore(names[0], at("r"))
        ended = wait(guest)
        check(f"a request that makes no sense is refused ({how})", ended[0] == 3, ended)
        os.unlink(at("r"))


# ---- deaths ----

def deaths(daemon, names):
    for words, more in (([], []), (["missing-only"], []), (["inline"], ["--inline"])):
        guest = receive(at("r"), 1, *words)
        ran = restore(names[0], at("r"), "--name", "mortal", *more)
        n_kills = 0
        while guest.poll() is None and ran.returncode == 0:
            for pid in daemon.servers():
                os.kill(pid, signal.SIGKILL)
                n_kills += 1
            time.sleep(0.01)  # not to wait for anything: let it come some pages further
            if n_kills >= 12:
                break
        ended = wait(guest)
        check(f"who serves may be killed again and again {words}", ended[0] == 0 and n_kills > 1,
              (ran.stderr, ended, n_kills))
        os.unlink(at("r"))
    check("the log tells of it, and that nobody keeps them but ufdd",
          daemon.said("another one goes on") and daemon.said("no service manager keeps"))

    guest = receive(at("r"), 1, "hold=300")
    ran = restore(names[0], at("r"), "--name", "orphan")
    held = guest.stdout.readline() + guest.stdout.readline()
    servers = daemon.servers()
    check("one is being served", "held" in held and len(servers) == 1, (ran.stderr, held, servers))
    listed = json.loads(ctl("call", "io.ufd.handoff.OffloadList").stdout or "{}").get("restores", [])
    check("and is listed", [guest["guest"] for guest in listed] == ["orphan"] and
          listed[0]["phase"] == "serving" and listed[0]["total_bytes"] == 6 << 20, listed)
    end(daemon.process)
    guest.stdin.write("\n")
    guest.stdin.flush()
    ended = wait(guest)
    check("ufdd may be killed in the middle", ended[0] == 0, ended)
    check("and what served it ends by itself", wait_until(lambda: not is_server(servers[0]), SECONDS))
    os.unlink(at("r"))


def both_die(names):
    """Who serves and who watches over it, at once: the manager has what is needed."""
    manager = Manager()
    daemon = Daemon(manager)
    guest = receive(at("r"), 1, "hold=300")
    ran = restore(names[0], at("r"), "--name", "twice")
    held = guest.stdout.readline() + guest.stdout.readline()
    kept = [name for name in manager.kept if name[0] == "o"]
    check("the manager keeps what serving needs", len(kept) == 1 and "held" in held,
          (ran.stderr, held, manager.kept))
    servers = daemon.servers()
    end(daemon.process)
    os.kill(servers[0], signal.SIGKILL)
    daemon = Daemon(manager)
    check("the next ufdd starts another to serve", wait_until(lambda: len(daemon.servers()) == 1, SECONDS))
    guest.stdin.write("\n")
    guest.stdin.flush()
    ended = wait(guest)
    check("both may be killed in the middle", ended[0] == 0, ended)
    check("then nothing is kept any more", wait_until(lambda: kept[0] not in manager.kept, SECONDS), manager.kept)
    os.unlink(at("r"))

    guest = receive(at("r"), 1, "hold=300")
    ran = restore(names[0], at("r"), "--name", "upgraded")
    held = guest.stdout.readline() + guest.stdout.readline()
    upgraded = ctl("upgrade", UFDD)
    os.kill(daemon.servers()[0], signal.SIGKILL)
    guest.stdin.write("\n")
    guest.stdin.flush()
    ended = wait(guest)
    check("ufdd may be upgraded meanwhile", upgraded.returncode == 0 and ended[0] == 0 and
          daemon.said("another one goes on"), (held, upgraded.stderr, ended))
    end(daemon.process)


def main():
    os.mkdir(at("kept"))
    daemon = Daemon()
    names = snapshots()
    bad_senders(daemon, names)
    restores(daemon, names)
    refusals(names)
    deaths(daemon, names)
    both_die(names)


try:
    main()
finally:
    end_all()
    folder.cleanup()
finish()
