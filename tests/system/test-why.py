#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdctl why: causes are planted, and each must be named, in time, with a remedy that works. TAP on stdout.

Arguments: ufdd, ufdctl, the directory of stuck.py. In half of the cases the daemon is stopped
too, so that what is said comes from the ledger and /proc alone. Every process is ended by its pid; one that waits for
a page heeds nothing but SIGKILL.
"""
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

UFDD, UFDCTL, SUPPORT = sys.argv[1:4]
sys.path.insert(0, SUPPORT)
sys.dont_write_bytecode = True
from stuck import (HOG, World, die_with_parent, libc, make_group, read_text, state_of,  # noqa: E402
                   wait_until, write_text)

BLOCK = 4096
HUGE_BLOCKS = 512
POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
LIMIT_S = 2.0

results = []
scratch = ""


def check(what, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {what}", flush=True)
    if not ok:
        for line in str(detail).split("\n"):
            print(f"# {line}", flush=True)


def skip(what, why):
    results.append(True)
    print(f"ok {len(results)} - {what} # SKIP {why}", flush=True)


def make_world(stack, **options):
    return World((UFDD, UFDCTL), scratch, stack, **options)


def expect(world, name, cause, asked="g", is_us=True, is_stopped=False):
    """The first cause, in time. Return: the answer."""
    answer, took = world.why(asked)
    causes = [entry["cause"] for entry in answer["causes"]]
    ok = answer["cause"] == cause and answer["is_us"] == is_us and took <= LIMIT_S
    if is_stopped:
        ok = ok and answer["pager"]["state"] == "stopped" and answer["ledger"]["from"] != "daemon"
    check(f"{name}: {cause}{', the daemon is stopped' if is_stopped else ''}", ok,
          f"causes {causes}, {took:.2f} s\n{json.dumps(answer, indent=1)}")
    return answer


def expect_cure(world, name, answer, block):
    ok, error = world.remedy(answer)
    check(f"{name}: its remedy works", ok and world.target.is_served(block),
          f"{answer['remedy']}: {error}\n{world.why('g')[0]}")


# ---- our side ----

def source_hangs(stack):
    world = make_world(stack)
    world.server.ask("hang")
    world.touch(3)
    world.ledger_says("reading")
    wait_until(lambda: world.why("g")[0]["cause"] == "source_hangs", "a read that is old")
    answer = expect(world, "a file system that does not answer", "source_hangs")
    page, thread = answer["pages"][0], answer["threads"][0]
    check("it is said which thread waits, where and since when",
          thread["pid"] == world.target.pid and thread["page"] == 3 and thread["address"] % BLOCK < BLOCK and
          thread["address_from"] == "fault" and thread["since_ms"] >= 900, thread)
    check("and what is done about the page",
          page["state"] == "filling" and page["doing"] == "reading" and page["read_ms"] >= 900 and
          page["source_offset_bytes"] == 3 * BLOCK and page["policy"] == "stall", page)
    check("and which file it is", world.source in answer["sentence"], answer["sentence"])
    by_pid, _ = world.why(world.target.pid)
    check("a pid is as good as a name", by_pid["cause"] == "source_hangs" and by_pid["guest"] == "g", by_pid)
    text = world.ctl("why", "g").stdout
    check("people get sentences", "does not answer" in text and "Remedy: " in text and "page 3 of" in text, text)
    world.stop_daemon()
    answer = expect(world, "a file system that does not answer", "source_hangs", is_stopped=True)
    check("and that the daemon is stopped, too", answer["causes"][1]["cause"] == "daemon_stopped", answer)
    ok, error = world.remedy(answer)
    wait_until(lambda: world.why("g")[0]["cause"] == "source_error", "a file system that was cut off")
    check("its remedy lets the daemon go on, and ends the read", ok, error)


def source_server_stopped(stack):
    world = make_world(stack)
    world.server.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(world.server.pid) == ["T"], "a stopped server")
    world.touch(5)
    wait_until(lambda: world.why("g")[0]["cause"] == "source_hangs", "a read that is old")
    world.stop_daemon()
    answer = expect(world, "a file system whose server is stopped", "source_hangs", is_stopped=True)
    expect_cure(world, "a file system whose server is stopped", answer, 5)


def source_error(stack):
    world = make_world(stack)
    world.server.ask("eio")
    world.touch(7)
    world.ledger_says("stalled")
    answer = expect(world, "a file that fails", "source_error")
    check("its errno is named", "EIO" in answer["sentence"] and answer["pages"][0]["error"] == "EIO", answer)
    world.stop_daemon()
    expect(world, "a file that fails", "source_error", is_stopped=True)
    world.server.ask("ok")
    answer = expect(world, "a file that is mended while nobody looks", "daemon_stopped", is_stopped=True)
    expect_cure(world, "a file that is mended while nobody looks", answer, 7)


def source_changed(stack):
    world = make_world(stack, attach=False)
    image = os.path.join(world.folder, "image")
    with open(image, "wb") as file:
        file.truncate(8 << 20)
        file.write(bytes(range(256)) * 4096)
    world.attach(source=image)
    os.truncate(image, 100)
    world.touch(11)
    world.ledger_says("stalled")
    answer = expect(world, "a file that was cut", "source_changed")
    check("it is said how", "8388608" in answer["sentence"] and " 100 " in answer["sentence"], answer["sentence"])


def page_poisoned(stack):
    world = make_world(stack, options=("--background", "no", "--policy", "poison", "--fault-deadline", "0"))
    world.server.ask("eio")
    check("a poisoned page fails", world.target.ask("read 9") == "EFAULT")
    expect(world, "a poisoned page", "page_poisoned", is_us=False)
    world.stop_daemon()
    answer = expect(world, "a poisoned page", "page_poisoned", is_us=False, is_stopped=True)
    check("it is said which", "page 9 of memory" in answer["sentence"], answer["sentence"])


def hugetlb_exhausted(stack):
    before = int(read_text(POOL + "nr_hugepages") or 0)
    stack.callback(write_text, POOL + "nr_hugepages", before)
    write_text(POOL + "nr_hugepages", before + 8)
    if int(read_text(POOL + "free_hugepages")) < 4:
        skip("an empty pool of huge pages", "the machine gives no huge pages")
        return
    world = make_world(stack, kind="hugetlb")
    hog = subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                           preexec_fn=die_with_parent)
    stack.callback(hog.wait)
    stack.callback(hog.kill)
    hog.stdout.readline()
    world.touch(HUGE_BLOCKS)
    wait_until(lambda: world.why("g")[0]["cause"] == "hugetlb_exhausted", "an exhausted pool")
    expect(world, "an empty pool of huge pages", "hugetlb_exhausted")
    world.stop_daemon()
    wait_until(lambda: world.why("g")[0]["cause"] == "hugetlb_exhausted", "a pool that stays empty")
    answer = expect(world, "an empty pool of huge pages", "hugetlb_exhausted", is_stopped=True)
    hog.stdin.write("stop\n")
    hog.stdin.flush()
    hog.stdout.readline()
    expect_cure(world, "an empty pool of huge pages", answer, HUGE_BLOCKS)


def daemon_stopped(stack):
    world = make_world(stack)
    world.stop_daemon()
    world.touch(13)
    answer = expect(world, "a stopped daemon", "daemon_stopped", is_stopped=True)
    check("a fault that nobody has read has no address, and that is said",
          answer["threads"][0]["address"] is None and answer["threads"][0]["ours"] == "likely", answer)
    expect_cure(world, "a stopped daemon", answer, 13)


def kernel_fault(stack):
    world = make_world(stack)
    world.stop_daemon()
    world.target.tell("read 21")
    world.target.wait_in("handle_userfault")
    answer, _ = world.why("g")
    thread = answer["threads"][0]
    check("a fault in a system call is found by its arguments",
          thread["address_from"] == "syscall" and thread["page"] == 21, answer)


def daemon_gone(stack):
    world = make_world(stack)
    world.daemon.kill()
    world.daemon.wait()
    world.touch(17)
    answer = expect(world, "a daemon that is gone", "daemon_gone")
    check("its ledger is a file by then", answer["ledger"]["from"] == "directory", answer["ledger"])


# ---- not ours ----

def other_userfaultfd(stack):
    world = make_world(stack)
    child = int(world.target.ask("foreign"))
    world.target.wait_in("handle_userfault")
    answer = expect(world, "a userfaultfd of others", "other_userfaultfd", is_us=False)
    check("its handler is named", f"process {child} " in answer["sentence"], answer["sentence"])
    world.stop_daemon()
    expect(world, "a userfaultfd of others", "other_userfaultfd", is_us=False, is_stopped=True)


def blocked_elsewhere(stack):
    world = make_world(stack)
    world.target.ask("wait")
    wait_until(lambda: "pipe" in read_text(f"/proc/{world.target.pid}/wchan"), "a read of a pipe")
    answer = expect(world, "a pipe that nobody writes to", "blocked_elsewhere", is_us=False)
    check("the pipe is named", "pipe:[" in answer["sentence"], answer["sentence"])
    world.stop_daemon()
    expect(world, "a pipe that nobody writes to", "blocked_elsewhere", is_us=False, is_stopped=True)


def target_stopped(stack):
    world = make_world(stack)
    os.kill(world.target.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(world.target.pid) == ["T"], "a stopped target")
    expect(world, "a stopped target", "target_stopped", is_us=False)
    world.stop_daemon()
    answer = expect(world, "a stopped target", "target_stopped", is_us=False, is_stopped=True)
    world.daemon.send_signal(signal.SIGCONT)
    world.target.tell("touch 19")
    expect_cure(world, "a stopped target", answer, 19)


def target_traced(stack):
    world = make_world(stack)
    tracer = subprocess.Popen([sys.executable, "-c", (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.prctl(1, 9)\n"
        "pid = int(sys.argv[1])\n"
        "libc.ptrace(16, pid, 0, 0)\n"
        "os.waitpid(pid, 0x40000000)\n"
        "print('attached', flush=True)\n"
        "sys.stdin.read()\n"), str(world.target.pid)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    stack.callback(tracer.wait)
    stack.callback(tracer.kill)
    tracer.stdout.readline()
    wait_until(lambda: state_of(world.target.pid) == ["t"], "a traced target")
    answer = expect(world, "a debugger", "target_traced", is_us=False)
    world.target.tell("touch 23")
    expect_cure(world, "a debugger", answer, 23)


def target_frozen(stack):
    group, is_v1 = make_group(stack, "freezer")
    if not group:
        skip("a frozen control group", "no control group with a freezer can be made here")
        return
    world = make_world(stack)
    write_text(group + "/cgroup.procs", world.target.pid)
    thaw = ("freezer.state", "THAWED") if is_v1 else ("cgroup.freeze", "0")
    stack.callback(write_text, f"{group}/{thaw[0]}", thaw[1])
    write_text(f"{group}/{thaw[0]}", "FROZEN" if is_v1 else "1")
    wait_until(lambda: read_text(f"/proc/{world.target.pid}/wchan") in ("__refrigerator", "do_freezer_trap"),
               "a frozen target")
    answer = expect(world, "a frozen control group", "target_frozen", is_us=False)
    world.target.tell("touch 29")
    expect_cure(world, "a frozen control group", answer, 29)


def memory_limit(stack):
    group, is_v1 = make_group(stack, "memory")
    if not group:
        skip("a memory limit", "no control group with the memory controller can be made here")
        return
    world = make_world(stack, mib=64, attach=False)
    write_text(group + "/cgroup.procs", world.target.pid)
    world.attach(("--background", "yes", "--background-rate", "16M"))
    # what will not do for all of it is refused at attach: the limit comes down later
    used = int(read_text(f"{group}/{'memory.usage_in_bytes' if is_v1 else 'memory.current'}"))
    write_text(f"{group}/{'memory.limit_in_bytes' if is_v1 else 'memory.max'}", used + (40 << 20))
    wait_until(lambda: world.why("g")[0]["cause"] == "memory_limit", "a limit that is near")
    answer = expect(world, "a memory limit", "memory_limit")
    check("its group is named", group in answer["sentence"], answer["sentence"])
    ok, error = world.remedy(answer)
    run = world.ctl("guest", "prefetch", "g", "-j")
    check("a memory limit: its remedy works", ok and json.loads(run.stdout)["complete"] is True,
          error + run.stderr + run.stdout)


def guest_paused(stack):
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu or not shutil.which("socat"):
        skip("a paused guest", "needs qemu-system-x86_64 and socat")
        return
    monitor = os.path.join(scratch, "qmp")
    vmm = subprocess.Popen([qemu, "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "32M",
                            "-qmp", f"unix:{monitor},server=on,wait=off"], preexec_fn=die_with_parent)
    stack.callback(vmm.wait)
    stack.callback(vmm.kill)
    wait_until(lambda: os.path.exists(monitor), "a monitor")
    world = make_world(stack, attach=False)
    wait_until(lambda: world.why(vmm.pid)[0]["cause"] == "guest_paused", "a monitor that answers")
    answer = expect(world, "a paused guest", "guest_paused", asked=vmm.pid, is_us=False)
    ok, error = world.remedy(answer)
    check("a paused guest: its remedy works", ok and world.why(vmm.pid)[0]["cause"] != "guest_paused", error)


def nothing_is_wrong(stack):
    world = make_world(stack)
    check("a served page comes", world.target.ask("touch 2") == (3).to_bytes(8, "little").hex())
    answer, _ = world.why("g")
    check("nobody is accused when nothing is wrong",
          answer["cause"] in ("running", "blocked_elsewhere") and not answer["is_us"] and
          answer["pager"]["state"] == "answers" and answer["ledger"]["from"] == "daemon", answer)
    run = world.ctl("why", "nobody")
    check("an unknown guest is status 4", run.returncode == 4 and "nobody" in run.stderr, run)
    check("and so is an unknown pid", world.ctl("why", "999999999").returncode == 4)
    check("why wants one argument", world.ctl("why").returncode == 2)
    check("replies with fds keep their order", ledgers_in_a_row(world, 20))
    check("a ledger that is handed out cannot be written", may_not_write(world), "it can")


def ledgers_in_a_row(world, n):
    """Several replies with fds on one connection, asked at once: each fd comes with its own reply."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(world.socket)
        client.sendall(b'{"method":"io.ufd.guest.Ledger","parameters":{"name":"g"}}\0' * n)
        n_replies = n_fds = 0
        while n_replies < n:
            data, fds, _, _ = socket.recv_fds(client, 65536, 8)
            n_replies += data.count(b"\0")
            n_fds += len(fds)
            if n_fds != n_replies:
                return False
            for fd in fds:
                os.close(fd)
    return True


def may_not_write(world):
    """Another user's copy of the ledger: neither the fd nor a new one of the same file takes a write."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(world.socket)
        client.sendall(b'{"method":"io.ufd.guest.Ledger","parameters":{"name":"g"}}\0')
        _, fds, _, _ = socket.recv_fds(client, 65536, 1)
    child = os.fork()
    if child == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        libc.prctl(4, 1)  # a new user's /proc is its own again
        for attempt in (lambda: os.write(fds[0], b"x"),
                        lambda: os.open(f"/proc/self/fd/{fds[0]}", os.O_RDWR)):
            try:
                attempt()
                os._exit(1)
            except OSError:
                pass
        os._exit(0)
    os.close(fds[0])
    return os.waitpid(child, 0)[1] == 0


def others(stack):
    """Who may not see: told what, and by which command it is seen; and given no ledger."""
    world = make_world(stack)
    world.server.ask("hang")
    world.touch(31)
    for path in (scratch, world.folder):
        os.chmod(path, 0o755)
    os.chmod(world.socket, 0o666)
    run = subprocess.run([UFDCTL, "--socket", world.socket, "why", "g", "-j"], capture_output=True, text=True,
                         timeout=60, user=65534, group=65534, extra_groups=[], preexec_fn=die_with_parent)
    check("a guest of others is not shown", run.returncode == 5 and "sudo ufdctl why g" in run.stderr, run)
    run = subprocess.run([UFDCTL, "--socket", world.socket, "why", str(world.target.pid), "--json=short"],
                         capture_output=True, text=True, timeout=60, user=65534, group=65534, extra_groups=[])
    answer = json.loads(run.stdout)
    check("of a process of others it is said what was not seen, and how to see it",
          run.returncode == 0 and answer["unseen"] and
          all("sudo ufdctl why" in entry["command"] for entry in answer["unseen"]), answer)


def main():
    global scratch
    if os.getuid() != 0 or os.uname().machine != "x86_64":
        print("1..0 # SKIP attaches by pid, which needs root on x86-64")
        return 0
    for name in ("UFD_SOCKET", "NOTIFY_SOCKET", "JOURNAL_STREAM", "LISTEN_FDS"):
        os.environ.pop(name, None)
    # mounts of our own, which end with us
    if libc.unshare(0x20000) < 0 or libc.mount(b"none", b"/", None, (1 << 18) | (1 << 14), None) < 0:
        print("1..0 # SKIP no mount namespace")
        return 0
    cases = [source_hangs, source_server_stopped, source_error, source_changed, page_poisoned, hugetlb_exhausted,
             daemon_stopped, kernel_fault, daemon_gone, other_userfaultfd, blocked_elsewhere, target_stopped,
             target_traced, target_frozen, memory_limit, guest_paused, others, nothing_is_wrong]
    wanted = sys.argv[4:]
    with tempfile.TemporaryDirectory(prefix="ufd-why-") as scratch:
        libc.mount(b"why", scratch.encode(), b"tmpfs", 0, None)
        for case in cases:
            if wanted and case.__name__ not in wanted:
                continue
            try:
                with contextlib.ExitStack() as stack:
                    case(stack)
            except Exception as error:  # one broken case must not hide the others
                check(f"{case.__name__} runs", False, repr(error))
        libc.umount2(scratch.encode(), 2)
    print(f"1..{len(results)}")
    return 0 if all(results) else 1


sys.exit(main())
