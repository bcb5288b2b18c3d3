#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdctl probe on the running kernel: as root, as anybody, as on older kernels. TAP on stdout.

Arguments: ufdctl, ufdd, the directory of tests/support.
"""
import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

UFDCTL, UFDD, SUPPORT = map(os.path.abspath, sys.argv[1:4])
sys.path.insert(0, SUPPORT)
from children import die_with_parent, wait_until  # noqa: E402
from tap import check, finish, skip  # noqa: E402

LONGEST_S = 20 * int(os.environ.get("CK_TIMEOUT_MULTIPLIER", "1"))  # more where all deadlines are
FIELDS = ["id", "group", "title", "result", "detail", "consequence", "remedy"]
RESULTS = ["ok", "differs", "missing", "failed", "skipped"]
GROUPS = ["host", "trackable", "fill", "continue", "access", "mapper", "zap", "scan", "event", "uring"]
NOBODY = 65534
RELEASE = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
PR_SET_CHILD_SUBREAPER = 36
TIERS = {"1fff": "6.1", "7fff": "6.6"}


class Probe:
    """One run of ufdctl probe; its report if it gave one."""

    def __init__(self, *words, mask=None, **popen):
        environment = {key: value for key, value in os.environ.items() if key != "UFD_FEATURES_MASK"}
        if mask:
            environment["UFD_FEATURES_MASK"] = mask
        began = time.monotonic()
        ran = subprocess.run([UFDCTL, "probe", *words], capture_output=True, text=True, timeout=120,
                             env=environment, preexec_fn=die_with_parent, cwd="/", **popen)
        self.took_s = time.monotonic() - began
        self.status, self.stdout, self.stderr = ran.returncode, ran.stdout, ran.stderr
        self.report = json.loads(ran.stdout) if "--json" in words and ran.stdout else {}

    def rows(self, *results):
        return [row for row in self.report["checks"] if row["result"] in results]

    def texts(self, *results):
        return "\n".join(f'{row["id"]}: {row["detail"]}' for row in self.rows(*results))

    def of(self, identifier):
        return next(row for row in self.report["checks"] if row["id"] == identifier)


def pools():
    """Huge pages in the pools, and in use of them."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("HugePages_")}


def knobs():
    """What experiments may not change: settings of memory, and swap."""
    said = {}
    for folder in ("/proc/sys/vm", "/sys/kernel/mm/transparent_hugepage", "/sys/kernel/mm/hugepages"):
        for where, _, names in os.walk(folder):
            for name in names:
                # what tells and is no setting, and what other tests set meanwhile
                if re.match(r"(free|surplus|resv|stat_|nr_hugepages|nr_overcommit|full_scans|pages_collapsed)", name) or "hugepages-" in where:
                    continue
                try:
                    with open(os.path.join(where, name), encoding="ascii") as file:
                        said[where, name] = file.read()
                except OSError:
                    pass
    with open("/proc/swaps", encoding="ascii") as swaps:
        said["swaps"] = [line.split()[0] for line in swaps]
    return said


def expect_form(report):
    wrong = []
    if list(report) != ["kernel", "summary", "checks"] or report["kernel"] != os.uname().release:
        wrong.append("the outermost object")
    if list(report["summary"]) != RESULTS:
        wrong.append("the summary")
    for row in report["checks"]:
        if list(row) != FIELDS or not all(isinstance(value, str) for value in row.values()):
            wrong.append(f"the fields of {row}")
        elif row["group"] not in GROUPS or row["result"] not in RESULTS:
            wrong.append(f"the names in {row}")
        elif bool(row["consequence"]) != (row["result"] in ("differs", "missing")):
            wrong.append(f"the consequence of {row}")
        elif not row["detail"] or not row["title"] or not row["id"].startswith(row["group"] + "."):
            wrong.append(f"the texts of {row}")
    for name, number in report["summary"].items():
        if number != sum(row["result"] == name for row in report["checks"]):
            wrong.append(f"the number of {name}")
    if len({row["id"] for row in report["checks"]}) != len(report["checks"]):
        wrong.append("an id twice")
    check("the report has the promised form", not wrong, "\n".join(wrong))


def whole_probe():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # whatever it leaves becomes our child
    before = knobs()
    segments = sysv_segments()
    probe = Probe("--json")
    print(f"# {probe.report['summary']}, {probe.took_s:.1f} s", flush=True)
    expect_form(probe.report)
    check("JSON stands alone", probe.stdout.count("\n") == 1 and not probe.stderr, probe.stderr)
    check("at least 90 checks", len(probe.report["checks"]) >= 90)
    check("nothing that is needed is missing, and it succeeds",
          not probe.rows("missing") and probe.status == 0, f'{probe.status}\n{probe.texts("missing")}')
    check("no experiment failed", not probe.rows("failed"), probe.texts("failed"))
    check(f"it took less than {LONGEST_S} s", probe.took_s < LONGEST_S, probe.took_s)
    strange = [row for row in probe.report["checks"] if "(unexpected: " in row["detail"]]
    if RELEASE == (6, 18):
        check("every answer is the known one", not strange, "\n".join(map(str, strange)))
    check("each of the five families tried something",
          {row["group"] for row in probe.rows("ok", "differs")} >= {"trackable", "continue", "access", "mapper", "zap"}
          or not os.path.exists("/dev/kvm"))
    expect_nothing_left(before, segments)
    return probe


def sysv_segments():
    with open("/proc/sysvipc/shm", encoding="ascii") as segments:
        return {line.split()[1] for line in segments if line.split()[0] == "0"}


def expect_nothing_left(before, segments):
    def no_child():
        try:
            return os.waitpid(-1, os.WNOHANG) and False
        except ChildProcessError:
            return True

    check("no process is left", wait_until(no_child, 10))
    check("no setting has changed", knobs() == before,
          {key for key, value in knobs().items() if before.get(key) != value})
    left = sysv_segments() - segments
    check("no segment of shared memory is left", wait_until(lambda: not left & sysv_segments(), 10), left)


def no_file_is_left():
    """Where experiments may put files: a folder of ours, and the current one."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        ran = subprocess.run([UFDCTL, "probe", "--only", "trackable", "access", "--json"], cwd=folder, env=environment,
                             capture_output=True, text=True, timeout=120, preexec_fn=die_with_parent)
        check("no file is left", ran.returncode == 0 and not os.listdir(folder), os.listdir(folder))


def huge_pages():
    """Given back: whatever others do to the pool meanwhile, none stays in use of ours."""
    before = pools()
    if before.get("HugePages_Free", 0) < 8:
        skip("huge pages are given back", "fewer than 8 are free")
        return
    probe = Probe("--json", "--only", "trackable.hugetlb", "continue", "zap")
    used = [row for row in probe.rows("ok", "differs") if "hugetlb" in row["id"]]
    check("huge pages are tried where there are some", used, probe.texts("skipped"))
    check("huge pages are given back", wait_until(lambda: pools() == before, 20), f"{before} {pools()}")


def tiers(whole):
    """All of it as on the oldest kernel that ufd runs on, and what tells the next ones apart."""
    for mask, release in TIERS.items():
        only = [] if release == "6.1" else ["--only", "host", "trackable"]
        probe = Probe("--json", *only, mask=mask)
        check(f"nothing fails or is missing with the features of Linux {release}",
              probe.status == 0 and not probe.rows("failed", "missing"), probe.texts("failed", "missing"))
        check(f"Linux {release} tracks by faults, it is told",
              probe.of("host.wp-async")["result"] == "differs" and probe.of("host.pagemap-scan")["result"] == "differs")
        asynchronous = [row for row in probe.report["checks"] if row["id"].startswith("trackable.async-")]
        by_name = [row for row in asynchronous if "UFFD_FEATURE_WP_ASYNC" in row["detail"]]
        check(f"what needs WP_ASYNC is skipped by that name, as on Linux {release}",
              len(by_name) > 5 and all(row["result"] == "skipped" for row in asynchronous), asynchronous)
        check(f"as many checks as ever, less of them tried, as on Linux {release}",
              only or (len(probe.report["checks"]) == len(whole.report["checks"])
                       and len(probe.rows("skipped")) > len(whole.rows("skipped"))))


def without_features():
    probe = Probe("--json", mask="0")
    check("a kernel without any feature lacks what is needed: status 1",
          probe.status == 1 and len(probe.rows("missing")) >= 3 and not probe.rows("failed"),
          f'{probe.status}\n{probe.texts("failed")}')
    check("what is missing comes with a consequence and a remedy",
          all(row["consequence"] and row["remedy"] for row in probe.rows("missing")), probe.rows("missing"))


def as_nobody(whole):
    if os.geteuid() != 0:
        skip("as an ordinary user", "this is one already")
        return
    global UFDCTL
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program, UFDCTL = UFDCTL, shutil.copy(UFDCTL, folder)  # the build may lie where nobody may go
        probe = Probe("--json", user=NOBODY, group=NOBODY, extra_groups=[])
        UFDCTL = program
    expect_form(probe.report)
    check("for an ordinary user nothing fails, nothing is missing",
          probe.status == 0 and not probe.rows("failed", "missing"), probe.texts("failed", "missing"))
    check("it says what it could not try", len(probe.rows("skipped")) > len(whole.rows("skipped")))
    check("and that he may not trap the kernel's accesses, with the remedy",
          probe.of("host.userfaultfd-kernel")["result"] != "differs" or "70-ufd.rules" in probe.of("host.userfaultfd-kernel")["remedy"],
          probe.of("host.userfaultfd-kernel"))


def under_alarms():
    """A timer of whoever starts it goes on ticking in it: a signal ten thousand times a second."""
    storm = ("import os, signal, sys; signal.signal(signal.SIGALRM, signal.SIG_IGN); "
             "signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001); os.execv(sys.argv[1], sys.argv[1:])")
    ran = subprocess.run([sys.executable, "-c", storm, UFDCTL, "probe", "--json", "--only", "continue", "event"],
                         capture_output=True, text=True, timeout=120, preexec_fn=die_with_parent)
    report = json.loads(ran.stdout)
    failed = [row for row in report["checks"] if row["result"] in ("failed", "missing")]
    check("alarms disturb no experiment", ran.returncode == 0 and not failed, failed)


def behind_filter(call, *identifiers):
    """Results by name, started by somebody whose seccomp filter says EPERM to one system call, with 256 descriptors."""
    filtered = ("import ctypes, os, resource, struct, sys\n"
                "steps = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[1])), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]\n"
                "steps = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps), 32)\n"
                "program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 4, ctypes.addressof(steps)), 16)\n"
                "libc = ctypes.CDLL(None)\n"
                "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
                "if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0): sys.exit(77)\n"
                "os.execv(sys.argv[2], sys.argv[2:])\n")
    ran = subprocess.run([sys.executable, "-c", filtered, str(call), UFDCTL, "probe", "--json", "--only", *identifiers],
                         capture_output=True, text=True, timeout=60, preexec_fn=die_with_parent)
    rows = json.loads(ran.stdout)["checks"] if ran.returncode < 2 else []
    return {row["id"]: f'{row["result"]}: {row["detail"]}' for row in rows}, ran.returncode


def filters():
    said, status = behind_filter(438, "host.calls", "host.seccomp", "host.nofile")  # pidfd_getfd
    check("a system call that a filter refuses is named, and the filter, and a limit that is low",
          status == 0 and said["host.calls"].startswith("differs: not pidfd_getfd")
          and said["host.seccomp"].startswith("differs: a filter") and said["host.nofile"].startswith("differs: few"), said)
    said, status = behind_filter(425, "host.io-uring", "uring.read")  # io_uring_setup
    check("without io_uring something needed is missing, and what would use it is skipped by that name",
          status == 1 and said["host.io-uring"].startswith("missing: EPERM")
          and said["uring.read"] == "skipped: io_uring is not there for us: EPERM", said)


def few_resources():
    """What it may not have is a row of the result, not the end of it."""
    def limit():
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    ran = subprocess.run([UFDCTL, "probe", "--json", "--only", "continue", "trackable"], capture_output=True, text=True,
                         timeout=120, preexec_fn=limit)
    report = json.loads(ran.stdout)
    check("with ten file descriptors and no locked memory it goes on to its end",
          ran.returncode == 0 and report["summary"]["ok"] > 10, report["summary"])


def daemon_says(mask, *words):
    """The lines of a daemon with these features that begin with its start and end with the last of @words; its status,
    if it ended by itself."""
    with tempfile.TemporaryDirectory() as folder:
        ufdd = subprocess.Popen([UFDD, "--socket", f"{folder}/socket"], stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "UFD_FEATURES_MASK": mask}, preexec_fn=die_with_parent)
        said = []
        for line in ufdd.stderr:
            said.append(line)
            if words and words[-1] in line:
                break
        else:
            return said, ufdd.wait(timeout=30)
        ufdd.terminate()
        ufdd.stderr.read()
        return said, ufdd.wait(timeout=30)


def daemon_asks():
    said, status = daemon_says("7fff", "host.wp-async", "host.pagemap-scan")
    text = "".join(said)
    check("ufdd says after its start what its kernel does not do, and what that means",
          status == 0 and text.index("is ready") < text.index("host.wp-async: ") and "the tracker scan is refused" in text
          and "says 'no' where paging wants 'yes'" in text, text)
    check("and nothing of what it does", "host.userfaultfd" not in text and text.count(" where paging wants ") == 2, text)
    said, status = daemon_says("0")
    check("with a kernel on which nothing can be paged it does not start, by that name",
          status == 1 and "has no userfaultfd" in "".join(said), said)
    seen = {name: value for name, value in os.environ.items() if name != "UFD_FEATURES_MASK"}
    ran = subprocess.run([UFDD, "--probe-start"], capture_output=True, text=True, timeout=60, preexec_fn=die_with_parent, env=seen)
    answers = [line.split() for line in ran.stdout.splitlines()]
    check("on a kernel of this age there is nothing to say",
          ran.returncode == 0 and len(answers) > 5 and (RELEASE < (6, 7) or all(a[0] == "ok" for a in answers)),
          ran.stdout)


def command_line():
    probe = Probe("--only", "none.such")
    check("an unknown check is named", probe.status == 2 and "'none.such'" in probe.stderr and not probe.stdout,
          probe.stderr)
    probe = Probe("--only", "continue.hole", "--verbose")
    check("one check by its name, with its steps",
          probe.status == 0 and "continue.hole: EFAULT" in probe.stdout and "1 checks on Linux" in probe.stdout,
          probe.stdout)
    probe = Probe("--list")
    check("the list names them all", probe.status == 0 and "continue.hole" in probe.stdout)


def main():
    command_line()
    whole = whole_probe()
    if not whole.rows("ok", "differs"):
        sys.exit("nothing was tried")
    no_file_is_left()
    huge_pages()
    tiers(whole)
    without_features()
    as_nobody(whole)
    under_alarms()
    filters()
    few_resources()
    daemon_asks()
    finish()


main()
