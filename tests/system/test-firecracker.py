#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdd-firecracker serves VMs of every version, whatever happens to them. TAP on stdout.

Arguments: ufdd-firecracker, sim-firecracker. The simulated VMs compare every byte themselves; processes are ended by pid.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../support"))
from children import die_with_parent, end, end_all, running, wait_until
from tap import check, finish, skip

HANDLER, SIM = (os.path.realpath(path) for path in sys.argv[1:3])
MIB = 12
PAGES = {4096: MIB << 8, 2097152: MIB >> 1}
DEADLINE = 100
AT_ONCE = 3  # runs
ENDS_WITHIN = 20  # promised are 2 seconds, of a machine that has time
NOBODY = 65534
REFUSED, SKIPPED = 3, 77

VERSIONS = ("1.1", "1.5", "1.7", "1.12", "main", "e2b")
WAYS = ((), ("--early-close",), ("--split-body",), ("--extra-keys",), ("--no-page-size",), ("--discards", "60"),
        ("--die-in-fault",), ("--stop",))
HUGE = ("--page-size", "2097152")
HUGE_WAYS = ((), ("--split-body", "--extra-keys"), ("--discards", "10"), ("--die-in-fault",), ("--stop",))
OTHERS = (("--virtio-mem", "--regions", "3"), ("--regions", "1", "--threads", "6"), ("--empty-first",), ("--kvm",),
          ("--discards", "1500", "--threads", "3"), ("--version", "e2b", "--discards", "60", "--write-every", "7"),
          ("--version", "e2b", "--sync-wp", "--write-every", "7"),
          ("--version", "e2b", "--no-memfd", "--discards", "60", "--write-every", "7"),
          ("--version", "e2b", "--no-memfd", "--sync-wp", "--write-every", "7"),
          ("--version", "e2b", "--no-memfd", "--write-every", "2", *HUGE))
# what ends the program, for its VM can never be served
FATAL = (("secret-freedom", "secret freedom"), ("uffd-block", "uffd_block"), ("blocking-uffd", "O_NONBLOCK"),
         ("no-handshake", "UFFDIO_API"), ("foreign-uffd", "does not belong"))
# what costs nobody else anything
HARMLESS = ("silent", "half", "no-fd", "garbage")


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


class Run:
    """A handler, and those that come to it, in a folder of their own."""

    def __init__(self, world, *options, memory=None):
        self.folder = tempfile.mkdtemp(dir=world.folder)
        os.chmod(self.folder, 0o755)
        self.memory = memory or world.memory
        self.socket = os.path.join(self.folder, "s")
        self.sims = []
        self.handler = subprocess.Popen([HANDLER, *options, self.socket, self.memory], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_parent)
        running.append(self.handler)
        self.is_there = wait_until(lambda: os.path.exists(self.socket) or self.handler.poll() is not None)

    def start(self, *options, memory=None, sim=SIM, **keys):
        vm = subprocess.Popen([sim, "--socket", self.socket, "--file", memory or self.memory, "--deadline",
                               str(DEADLINE), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, **keys)
        running.append(vm)
        self.sims.append(vm)
        return vm

    @staticmethod
    def end(process, seconds=DEADLINE + 20):
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            end(process)
            return None, *process.communicate()
        return process.returncode, out, err

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.handler.pid}/fd"))

    def finish(self, status=0):
        """The handler ends by itself, with @status, and leaves nothing. Return: what is wrong."""
        got, out, err = self.end(self.handler, ENDS_WITHIN)
        wrong = [f"{out}{err}"] if got != status or os.path.exists(self.socket) else []
        for vm in self.sims:
            end(vm)
        return out + err, wrong


def wait_for_stop(vm):
    return wait_until(lambda: vm.poll() is not None or state(vm.pid) == "T") and vm.poll() is None


def wrong_counts(said, options):
    """What the VM should have done and seen."""
    page_bytes = int(options[options.index("--page-size") + 1]) if "--page-size" in options else 4096
    wrong = [] if said.get("pages") == PAGES[page_bytes] and said["wrong"] == 0 else [said]
    if "--discards" in options and not (said["discarded"] and said["zero"]):
        wrong.append("nothing was discarded")
    if "--write-every" in options:
        # e2b's VMs take what is not protected for written, and those pages are the written ones
        every = int(options[options.index("--write-every") + 1])
        written = (PAGES[page_bytes] + every - 1) // every
        if (said["written"], said["shown_dirty"]) != (written, written):
            wrong.append(f"{written} pages were written")
    return wrong


def serve(world, options):
    """One VM from its beginning to its end. Return: (is_skipped, what is wrong)."""
    run = Run(world)
    vm = run.start(*options)
    if "--stop" in options:
        if not wait_for_stop(vm) or run.handler.poll() is not None:
            return False, ["it did not stop", *run.finish()[1]]
        os.kill(vm.pid, signal.SIGCONT)
    status, out, err = run.end(vm)
    if status == SKIPPED:
        end(run.handler)
        return True, [err]
    wrong = run.finish()[1]
    if "--die-in-fault" in options:
        return False, wrong + ([] if status == -signal.SIGKILL else [status, err])
    if status != 0:
        return False, wrong + [status, out, err]
    return False, wrong + wrong_counts(json.loads(out.splitlines()[-1]), options)


def cases():
    for version in VERSIONS:
        for way in WAYS:
            yield ("--version", version, *way)
    for version in ("1.7", "main", "e2b"):
        for way in HUGE_WAYS:
            yield ("--version", version, *HUGE, *way)
    yield from OTHERS


def test_versions(world):
    small = [one for one in cases() if HUGE[1] not in one]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(zip(small, pool.map(lambda one: serve(world, one), small)))
    # one by one: the pool of huge pages is not ours
    results += [(one, serve(world, one)) for one in cases() if HUGE[1] in one]
    for options, (is_skipped, wrong) in results:
        name = "a VM is served: " + " ".join(options)
        if is_skipped:
            skip(name, wrong[0].strip())
        else:
            check(name, not wrong, wrong)


def test_fatal(world):
    for sin, word in FATAL:
        run = Run(world)
        status, out, err = run.end(run.start("--" + sin))
        text, wrong = run.finish(1)
        check(f"what cannot be served is refused with the reason: {sin}",
              status == REFUSED and word in text and not wrong, (status, out, err, text, wrong))


def test_harmless(world):
    """Somebody who says nothing, half, or nonsense, while the VM comes; and once the handler knows how long to wait."""
    run = Run(world)
    n_before = run.n_fds()
    sinners = [run.start("--" + sin) for sin in HARMLESS]
    refused = [run.end(one)[0] for one in sinners]
    check("who says nothing whole is shown the door", refused == [REFUSED] * len(HARMLESS), refused)
    check("nothing of them is left", wait_until(lambda: run.n_fds() == n_before), (n_before, run.n_fds()))
    silent = run.start("--silent")
    wait_until(lambda: run.n_fds() > n_before)
    status, out, err = run.end(run.start())
    check("a VM is served while another visitor says nothing", status == 0, (status, out, err))
    check("the other visitor is not kept", run.end(silent)[0] == REFUSED)
    text, wrong = run.finish()
    check("all of it is told", not wrong and text.count("is not served") == 2 and text.count("in time") == 2, text)


def test_jail(world):
    """The socket is given away after it was made, as Firecracker's tests do."""
    if os.geteuid() != 0:
        skip("a VM of another user is served", "only root can give a socket away")
        return
    sim = os.path.join(world.folder, "sim")
    shutil.copy(SIM, sim)
    run = Run(world)
    os.chown(run.socket, NOBODY, NOBODY)
    status, out, err = run.end(run.start("--version", "1.1", sim=sim, user=NOBODY, group=NOBODY))
    _, wrong = run.finish()
    check("a VM of another user is served", status == 0 and not wrong, (status, out, err, wrong))


def test_end(world):
    run = Run(world)
    run.handler.terminate()
    text, wrong = run.finish()
    check("asked to end before a VM came, it ends", not wrong, text)

    run = Run(world, "--no-background")
    vm = run.start("--stop")
    stopped = wait_for_stop(vm)
    run.handler.terminate()
    status, out, err = run.end(run.handler)
    check("asked to end, it fills what is absent first", stopped and status == 0 and "no more" in out, out + err)
    os.kill(vm.pid, signal.SIGCONT)
    status, out, err = run.end(vm)
    check("the VM goes on without it", status == 0, (status, out, err))


def test_bad_files(world):
    run = Run(world, memory="/nowhere")
    text, wrong = run.finish(1)
    check("a memory file that is not there", not wrong and "/nowhere" in text, text)

    short = os.path.join(world.folder, "short")
    shutil.copy(world.memory, short)
    os.truncate(short, 4 << 20)
    run = Run(world, memory=short)
    vm = run.start(memory=world.memory)
    text, wrong = run.finish(1)
    check("a memory file that is too short", not wrong and "shorter" in text, text)

    run = Run(world)
    again = subprocess.run([HANDLER, run.socket, world.memory], capture_output=True, text=True, timeout=DEADLINE,
                           check=False)
    check("a socket that somebody listens at", again.returncode == 1 and "in use" in again.stderr, again.stderr)
    end(run.handler)
    check("a handler that is killed leaves its socket", os.path.exists(run.socket))
    again = subprocess.Popen([HANDLER, run.socket, world.memory], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, preexec_fn=die_with_parent)
    running.append(again)
    check("which the next one replaces", again.stdout.readline().startswith("waiting"))
    run.handler = again
    status, out, err = run.end(run.start())
    text, wrong = run.finish()
    check("and serves a VM at", status == 0 and not wrong, (status, out, err, text, wrong))


class World:
    def __init__(self, folder):
        os.chmod(folder, 0o755)
        self.folder = folder
        self.memory = os.path.join(folder, "memory")
        subprocess.run([SIM, "--write", self.memory, "--mib", str(MIB)], check=True)


def main():
    with tempfile.TemporaryDirectory(prefix="ufd-firecracker-") as folder:
        world = World(folder)
        try:
            if serve(world, ())[0]:
                print("1..0 # SKIP no userfaultfd")
                return
            test_bad_files(world)
            test_end(world)
            test_fatal(world)
            test_jail(world)
            test_harmless(world)
            test_versions(world)
        finally:
            end_all()
    finish()


main()
