#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdd as a process: command line, configuration, sockets, signals, notifications, log. TAP on stdout.

Argument: ufdd.
"""
import ctypes
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile

UFDD = sys.argv[1]
INFO = b'{"method":"org.varlink.service.GetInfo"}\0'

results = []
folder = tempfile.mkdtemp(prefix="ufd-daemon-")
path = os.path.join(folder, "s")
for name in ("UFD_SOCKET", "NOTIFY_SOCKET", "JOURNAL_STREAM", "LISTEN_FDS"):
    os.environ.pop(name, None)


def check(what, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {what}", flush=True)
    if not ok:
        print(f"# {detail!r}"[:600], flush=True)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def run(*words, **more):
    return subprocess.run([UFDD, *words], capture_output=True, text=True, timeout=30,
                          preexec_fn=die_with_parent, **more)


class Daemon:
    """A ufdd that has said READY=1."""

    def __init__(self, *words, **environment):
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.path.join(folder, "notify"))
        self.notify.settimeout(20)
        environment["NOTIFY_SOCKET"] = os.path.join(folder, "notify")
        self.process = subprocess.Popen([UFDD, *words], stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment},
                                        preexec_fn=die_with_parent)
        self.said = self.hear("READY=1")

    def hear(self, word):
        while True:
            text = self.notify.recv(4096).decode()
            if word in text.split("\n"):
                return text

    def stop(self, signal_number=signal.SIGTERM):
        """(status, everything on stderr)"""
        self.process.send_signal(signal_number)
        if signal_number == signal.SIGTERM:
            self.hear("STOPPING=1")
        _, errors = self.process.communicate(timeout=20)
        self.notify.close()
        os.unlink(os.path.join(folder, "notify"))
        return self.process.returncode, errors


def ask(where, data=INFO):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(where)
        try:
            client.sendall(data)
        except BrokenPipeError:
            pass  # turned away; the reason is still to be read
        reply = b""
        while b"\0" not in reply:
            more = client.recv(1 << 16)
            if not more:
                return None
            reply += more
        return json.loads(reply.split(b"\0")[0])


def write(name, text):
    with open(os.path.join(folder, name), "w", encoding="ascii") as file:
        file.write(text)
    return os.path.join(folder, name)


def command_line():
    check("--version", run("--version").stdout.startswith("ufdd "))
    check("--help names every option", all(word in run("--help").stdout for word in (
        "--socket", "--config", "--check", "--state-dir", "--user", "--log-level", "--debug")))
    check("an unknown option is a usage error", run("--sokcet").returncode == 2)
    check("an argument is a usage error", run("now").returncode == 2)
    bad = run("--log-level", "loud", "--check")
    check("a bad level is refused", bad.returncode == 1 and "--log-level:2: [daemon] log-level"
          in bad.stderr, bad.stderr)
    long = run("--socket", "/" + "a" * 200, "--check")
    check("a socket too long is refused", long.returncode == 1 and "longer than 107" in long.stderr,
          long.stderr)


def configuration():
    good = write("good.conf", "[daemon]\nlog-level = warning\n[limits]\nguests = 3\n")
    odd = write("odd.conf", "\n[daemon]\nsokcet = /x\n")
    bad = write("bad.conf", "[limits]\n\n\nguests = none\n")
    ran = run("--config", good, "--check")
    check("a sound file", ran.returncode == 0 and "sound" in ran.stdout and not ran.stderr, ran)
    ran = run("--config", odd, "--check")
    check("an unknown key is warned of by file and line", ran.returncode == 0
          and f"warning: {odd}:3: unknown key [daemon] sokcet" in ran.stderr, ran.stderr)
    for words in (["--check"], ["--socket", path]):
        ran = run("--config", bad, *words)
        check(f"a bad value refuses to start, {words[0]}", ran.returncode == 1
              and f"error: {bad}:4: [limits] guests cannot be `none`" in ran.stderr, ran.stderr)
    ran = run("--config", folder + "/none.conf", "--check")
    check("a named file must be there", ran.returncode == 1 and "none.conf" in ran.stderr,
          ran.stderr)
    os.mkdir(odd + ".d")
    write("odd.conf.d/10-bad.conf", "[daemon]\ndebug = everything\n")
    ran = run("--config", odd, "--check")
    check("a bad value in a drop-in is named by it", ran.returncode == 1
          and "odd.conf.d/10-bad.conf:2: [daemon] debug" in ran.stderr, ran.stderr)


def sockets():
    daemon = Daemon("--socket", path)
    check("it serves when it says it is ready", ask(path)["parameters"]["product"] == "ufdd")
    mode = stat.S_IMODE(os.stat(path).st_mode)
    check("its socket is for owner and group", mode == 0o660, oct(mode))
    second = run("--socket", path)
    check("another one on this socket is refused, and the first still serves",
          second.returncode == 1 and "another ufdd listens" in second.stderr
          and ask(path) is not None, second.stderr)
    daemon.process.kill()
    daemon.stop(signal.SIGKILL)
    check("killed, it leaves its socket behind", os.path.exists(path))
    daemon = Daemon(UFD_SOCKET=path)
    check("the next one, told by $UFD_SOCKET, takes it over", ask(path) is not None)
    status, errors = daemon.stop()
    check("stopped, it ends well and takes its socket away", status == 0
          and not os.path.exists(path), errors)
    missing = run("--socket", folder + "/none/s")
    check("a folder that is not there is named", missing.returncode == 1
          and "/none/s" in missing.stderr, missing.stderr)


def fd_table():
    """Where it grows after threads have begun, a guest waits for it."""
    daemon = Daemon("--socket", path)
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    daemon.stop()
    wanted = min(16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    check("its table of file descriptors is wide from the start", int(fields["FDSize"]) >= wanted,
          fields["FDSize"])


def is_tmpfs(where):
    return subprocess.run(["stat", "-f", "-c", "%T", where], capture_output=True, check=True).stdout == b"tmpfs\n"


def user_instance():
    runtime = tempfile.mkdtemp(dir="/dev/shm")
    os.makedirs(runtime + "/ufd")
    daemon = Daemon("--user", XDG_RUNTIME_DIR=runtime, XDG_CONFIG_HOME=folder + "/config")
    check("--user listens in $XDG_RUNTIME_DIR", ask(runtime + "/ufd/io.ufd.manager") is not None)
    daemon.stop()
    check("--user keeps state in $XDG_RUNTIME_DIR", os.path.isdir(runtime + "/ufd/state"))
    subprocess.run(["rm", "-r", runtime], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
    ran = run("--user", "--check", env=environment)
    check("without $XDG_RUNTIME_DIR it says what it needs", ran.returncode == 1
          and "XDG_RUNTIME_DIR" in ran.stderr, ran.stderr)


def disk():
    folders = [where for where in ("/tmp", "/var/tmp") if not is_tmpfs(where)]
    if not folders:
        print(f"ok {len(results) + 1} - on a disk # SKIP /tmp and /var/tmp are tmpfs")
        results.append(True)
        return
    runtime = tempfile.mkdtemp(dir=folders[0])
    os.makedirs(runtime + "/ufd")
    daemon = Daemon("--user", XDG_RUNTIME_DIR=runtime, XDG_CONFIG_HOME=folder + "/config")
    _, errors = daemon.stop()
    check("on a disk it goes without, and says so", "is not on a tmpfs" in errors, errors)
    ran = run("--socket", path, "--state-dir", runtime)
    check("a state directory that was asked for must be on a tmpfs", ran.returncode == 1
          and "is not on a tmpfs" in ran.stderr, ran.stderr)
    subprocess.run(["rm", "-r", runtime], check=True)


def reload():
    config = write("reload.conf", "[limits]\nconnections-per-user = 5\n")
    daemon = Daemon("--socket", path, "--config", config)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in clients:
        client.connect(path)
    check("as many connections as allowed", ask(path)["parameters"]["product"] == "ufdd")
    write("reload.conf", "[limits]\nconnections-per-user = 3\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hear("READY=1")
    check("a reload changes limits for those who come",
          ask(path).get("error") == "io.ufd.manager.LimitReached")
    write("reload.conf", "[limits]\nconnections-per-user = many\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hear("READY=1")
    for client in clients:
        client.close()
    check("a bad file changes nothing", ask(path) is not None)
    status, errors = daemon.stop()
    check("and was named", status == 0 and "reload.conf:2: [limits] connections-per-user" in errors,
          errors)


def log_lines():
    config = write("log.conf", "[daemon]\nlog-prefix = yes\n")
    daemon = Daemon("--socket", path, "--config", config, "--debug", "control")
    ask(path)
    _, errors = daemon.stop()
    check("priorities go before the lines if wanted", "<6>ufdd: ufdd " in errors, errors)
    check("a trace is shown at any level", f"<7>ufdd: pid {os.getpid()}" in errors
          and "calls org.varlink.service.GetInfo" in errors, errors)
    daemon = Daemon("--socket", path, "--debug", "control")
    for _ in range(100):
        ask(path)
    _, errors = daemon.stop()
    check("one place writes so many lines and no more", errors.count(" calls ") == 20,
          errors.count(" calls "))
    daemon = Daemon("--socket", path, "--log-level", "error")
    _, errors = daemon.stop()
    check("what is below the level is not written", errors == "", errors)


JOURNAL = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal || exit 77
exec python3 -c '
import os, socket, subprocess, sys
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
journal.settimeout(20)
reader, writer = os.pipe()
info = os.fstat(writer)
environment = {**os.environ, "JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"}
ufdd = subprocess.Popen([sys.argv[1], "--socket", sys.argv[2]], stderr=writer, env=environment)
os.close(writer)
text = journal.recv(65536).decode()
ufdd.terminate()
ufdd.wait()
print(text, flush=True)
print("STDERR", os.read(reader, 100), flush=True)
' "$0" "$1"
"""


def journal():
    ran = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", JOURNAL,
                          UFDD, path], capture_output=True, text=True, timeout=60, check=False,
                         preexec_fn=die_with_parent)
    if ran.returncode != 0:
        print(f"ok {len(results) + 1} - the journal # SKIP no private mounts: {ran.stderr[:80]!r}")
        results.append(True)
        return
    check("with a journal, lines go there with their fields, and nowhere else",
          "MESSAGE=ufdd " in ran.stdout and "PRIORITY=6" in ran.stdout
          and "CODE_FILE=" in ran.stdout and "STDERR b''" in ran.stdout, ran.stdout)


for case in (command_line, configuration, sockets, fd_table, user_instance, disk, reload, log_lines, journal):
    case()
if all(results):
    subprocess.run(["rm", "-r", folder], check=True)
else:
    print(f"# files: {folder}")
print(f"1..{len(results)}")
sys.exit(0 if all(results) else 1)
