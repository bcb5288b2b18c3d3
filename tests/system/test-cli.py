#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdctl against a real ufdd: verbs, tables, JSON, errors and exit statuses. TAP on stdout.

Arguments: ufdd, ufdctl. The guest is a Python process with a memfd; it is ended by pid.
"""
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile

UFDD, UFDCTL = sys.argv[1:3]
PAGES = 512
TARGET = f"""
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.prctl(1, 9)
fd = os.memfd_create("guest-ram")
os.ftruncate(fd, {PAGES} * 4096)
memory = mmap.mmap(fd, {PAGES} * 4096)
print("ready", flush=True)
for line in sys.stdin:
    page = int(line)
    print(memory[page * 4096:page * 4096 + 8].hex(), flush=True)
"""

results = []


def check(what, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {what}", flush=True)
    if not ok:
        print(f"# {detail}", flush=True)


def ctl(*words, timeout=30):
    return subprocess.run([UFDCTL, *words], capture_output=True, text=True, timeout=timeout)


def refused(what, status, text, *words):
    run = ctl(*words)
    check(what, run.returncode == status and text in run.stderr + run.stdout,
          f"status {run.returncode}: {run.stderr}{run.stdout}".replace("\n", " | "))


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def word(page):
    return (page + 1).to_bytes(8, "little")


def start_target():
    target = subprocess.Popen([sys.executable, "-c", TARGET], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    target.stdout.readline()
    return target


def read_page(target, page):
    target.stdin.write(f"{page}\n")
    target.stdin.flush()
    return bytes.fromhex(target.stdout.readline())


def usage_errors():
    refused("no verb is a usage error", 2, "what shall I do")
    refused("an unknown verb is named", 2, "'gest'", "gest")
    refused("an object wants a verb", 2, "wants a verb", "guest")
    refused("help is given behind a verb, too", 0, "Verbs:", "guest", "attach", "--help")
    refused("an unknown verb of an object is named", 2, "'lost'", "guest", "lost")
    refused("attach wants a source", 2, "--source", "guest", "attach", "g", "--pid", "1")
    refused("attach wants a process", 2, "--pid", "guest", "attach", "g", "--source", "zero")
    refused("a policy is one of three", 2, "stall poison kill", "guest", "attach", "g", "--pid", "1",
            "--source", "zero", "--policy", "hope")
    refused("a number is a number", 2, "'many'", "--timeout", "many", "status")
    refused("JSON styles are three", 2, "pretty, short or off", "--json=odd", "status")
    refused("a broken JSON is told", 2, "one JSON object", "call", "a.b", "{")
    refused("restore wants a monitor", 2, "--qmp", "restore", "/nowhere")


def daemon_errors(socket):
    refused("no daemon is status 3", 3, "Is ufdd running?", "--socket", socket + ".none", "status")
    refused("no such guest is status 4", 4, "no guest", "guest", "show", "nobody")
    refused("an unknown method is told", 2, "MethodNotFound", "call", "io.ufd.guest.Fly")
    refused("no such process is told", 1, "999999", "guest", "attach", "g", "--pid", "999999", "--source",
            "zero")
    refused("a missing source file is named", 1, "/nowhere/ram", "guest", "attach", "g", "--pid",
            str(os.getpid()), "--source", "file:/nowhere/ram")
    refused("a missing snapshot is named", 1, "/nowhere/snap", "restore", "/nowhere/snap", "--qmp",
            "/nowhere/qmp")
    run = ctl("-j", "guest", "show", "nobody")
    check("with JSON an error is an object",
          json.loads(run.stdout)["error"] == "io.ufd.guest.NoSuchGuest", run.stdout)


def looks(directory):
    run = ctl("status")
    check("status is for people", "Userfaultfd: 0x" in run.stdout, run.stdout)
    run = ctl("status", "--json=short")
    check("and for programs", json.loads(run.stdout)["guests"] == 0, run.stdout)
    check("version names both programs",
          ctl("version").stdout.startswith("ufdctl ") and "ufdd " in ctl("version").stdout)
    check("an empty list is a list", "0 guests listed." in ctl("guest", "list").stdout)
    check("which --no-legend makes empty", ctl("guest", "list", "--no-legend").stdout == "")


def pages_a_process(directory):
    image = os.path.join(directory, "ram,1")
    with open(image, "wb") as file:
        for page in range(PAGES):
            file.write(word(page) + bytes(4088))
    target = start_target()
    try:
        run = ctl("guest", "attach", "py", "--pid", str(target.pid), "--memory", "guest-ram", "--source",
                  "file:" + image.replace(",", ",,"), "--background", "no", "--window", "16K",
                  "--policy", "stall", "--fault-deadline", "5")
        if run.returncode == 5 or "CAP_SYS_PTRACE" in run.stderr:
            print("1..0 # SKIP attaching needs rights that this user lacks")
            sys.exit(0)
        check("a process is attached by pid", run.returncode == 0, run.stderr)
        check("its pages come from the file",
              all(read_page(target, page) == word(page) for page in (0, 7, 300, PAGES - 1)))
        refused("a name is taken once", 1, "GuestExists", "guest", "attach", "py", "--pid",
                str(target.pid), "--source", "zero")
        shown = json.loads(ctl("guest", "show", "py", "-j").stdout)
        check("show has its settings", shown["settings"]["window_bytes"] == 16384 and
              shown["settings"]["background"] is False and
              shown["settings"]["fault_deadline_s"] == 5, shown["settings"])
        check("and its counters", shown["counters"]["faults_missing"] >= 4, shown["counters"])
        check("and is serving", shown["guest"]["state"] == "serving", shown["guest"])
        row = ctl("guest", "list", "--no-legend", "--bytes").stdout.split()
        check("list has its row", row[0] == "py" and str(PAGES * 4096) in row, row)
        refused("absent pages are no way out", 1, "NotComplete", "guest", "detach", "py", "--no-populate")
        run = ctl("guest", "prefetch", "py", "-j")
        check("prefetch fills everything", json.loads(run.stdout)["complete"] is True, run.stdout + run.stderr)
        run = ctl("guest", "detach", "py")
        check("detach ends it", run.returncode == 0 and
              "0 guests listed." in ctl("guest", "list").stdout, run.stderr)
        check("with every page in place",
              all(read_page(target, page) == word(page) for page in range(PAGES)))
    finally:
        target.kill()
        target.wait()


def main():
    with tempfile.TemporaryDirectory() as directory:
        socket = os.path.join(directory, "socket")
        os.environ["UFD_SOCKET"] = socket
        daemon = subprocess.Popen([UFDD, "--socket", socket], preexec_fn=die_with_parent,
                                  stderr=subprocess.PIPE, text=True)
        try:
            for line in daemon.stderr:
                if "is ready" in line:
                    break
            usage_errors()
            daemon_errors(socket)
            looks(directory)
            pages_a_process(directory)
        finally:
            daemon.kill()
            daemon.wait()
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


sys.exit(main())
