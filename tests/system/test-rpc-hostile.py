#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""ufdd's socket against clients that cut, flood, stall, lie and leave. TAP on stdout.

Argument: ufdd. Every case ends with the same question: does the daemon still answer, with no more
fds open than before?
"""
import array
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

UFDD = sys.argv[1]
MIB = 1 << 20
INFO = b'{"method":"org.varlink.service.GetInfo"}\0'
LIST = b'{"method":"io.ufd.guest.List"}\0'
WATCH = b'{"method":"io.ufd.manager.WatchEvents","more":true}\0'

results = []
folder = tempfile.mkdtemp(prefix="ufd-hostile-")
path = os.path.join(folder, "s")


def check(what, ok, detail=""):
    results.append(bool(ok))
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {what}", flush=True)
    if not ok:
        print(f"# {detail!r}"[:600], flush=True)


def start():
    config = os.path.join(folder, "conf")
    with open(config, "w", encoding="ascii") as file:
        file.write("[limits]\nconnections = 20\nconnections-per-user = 12\nguests = 4\n")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(folder, 0o755)
    os.chmod(path, 0o666)
    listener.listen(64)
    os.set_inheritable(listener.fileno(), True)

    def child():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.dup2(listener.fileno(), 3)
        os.environ["LISTEN_PID"] = str(os.getpid())

    os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="varlink")
    with open(os.path.join(folder, "log"), "wb") as log:
        process = subprocess.Popen([UFDD, "--config", config], stdout=log, stderr=log,
                                   preexec_fn=child, close_fds=False)
    listener.close()
    return process


def connect():
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(path)
    return client


def frames(client, n):
    """The next n frames; fewer if the connection ends."""
    data = b""
    try:
        while data.count(b"\0") < n:
            more = client.recv(1 << 16)
            if not more:
                break
            data += more
    except ConnectionResetError:
        pass
    return [json.loads(frame) for frame in data.split(b"\0")[:-1]]


def is_closed(client):
    try:
        while client.recv(1 << 16):
            pass
    except (ConnectionResetError, BrokenPipeError):
        pass
    except socket.timeout:
        return False
    return True


def send(client, data):
    try:
        client.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def ask(data):
    with connect() as client:
        send(client, data)
        replies = frames(client, 1)
        return replies[0] if replies else None


def n_fds():
    """Asked on a connection of its own, so what earlier ones held has been put away."""
    with connect() as client:
        client.sendall(INFO)
        frames(client, 1)
        return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def settles(n):
    """Work of callers that left is finished first, and the daemon's own look at the kernel: wait for no more than n fds."""
    deadline = time.monotonic() + 20
    while n_fds() > n and time.monotonic() < deadline:
        time.sleep(0.05)
    return n_fds() <= n


def error(data):
    reply = ask(data)
    return (reply or {}).get("error")


def call(method, **parameters):
    return json.dumps({"method": method, "parameters": parameters}).encode() + b"\0"


BROKEN = "io.ufd.manager.BadMessage"


def broken_streams():
    for what, data in (
            ("garbage", b"GET / HTTP/1.0\r\n\r\n\0"),
            ("an empty frame", b"\0"),
            ("an array", b"[]\0"),
            ("bad UTF-8", b'{"method":"\xff\xfe"}\0'),
            ("a key twice", b'{"method":"a.B","method":"a.B"}\0'),
            ("no method", b"{}\0"),
            ("parameters that are no object", b'{"method":"a.B","parameters":[1]}\0'),
            ("an unknown member", b'{"method":"a.B","mehr":true}\0'),
            ("one byte more than a frame may have", b'{"a":"' + b"x" * MIB + b'"}\0'),
            ("a frame without an end", b'{"a":"' + b"x" * (MIB + 100)),
            ("a depth bomb", b'{"a":' + b"[" * 500000 + b"\0"),
            ("depth 33", b'{"method":"a.B","parameters":' + b'{"a":' * 32 + b"1" + b"}" * 33
             + b"\0")):
        with connect() as client:
            send(client, data)
            replies = frames(client, 1)
            check(f"{what}: a named error, and the end", len(replies) == 1
                  and replies[0].get("error") == BROKEN and replies[0]["parameters"]["message"]
                  and is_closed(client), replies)


def named_errors():
    for what, data, name in (
            ("no such interface", b'{"method":"io.ufd.vm.List"}\0', "InterfaceNotFound"),
            ("no interface", b'{"method":"List"}\0', "InterfaceNotFound"),
            ("no such method", b'{"method":"io.ufd.guest.Explode"}\0', "MethodNotFound"),
            ("a stream not asked for", WATCH.replace(b',"more":true', b""), "ExpectedMore"),
            ("an upgrade", LIST.replace(b"}", b',"upgrade":true}'), "InvalidParameter"),
            ("a number for a name", call("io.ufd.guest.Show", name=1), "InvalidParameter"),
            ("a float for an int", call("io.ufd.guest.RemoveRegion", name="g", address=1.5,
                                        length_bytes=1), "InvalidParameter"),
            ("an unknown interface described",
             call("org.varlink.service.GetInterfaceDescription", interface="a.b"),
             "InterfaceNotFound"),
            ("an unknown level", call("io.ufd.manager.SetLog", level="loud"), "InvalidParameter"),
            ("two ways to name a process",
             call("io.ufd.guest.AttachProcess", name="g", pid=1, qmp="/x", source="zero"),
             "InvalidParameter"),
            ("a negative pid", call("io.ufd.guest.AttachProcess", name="g", pid=-1, source="zero"),
             "InvalidParameter")):
        reply = ask(data)
        check(f"{what}: {name}", reply and reply.get("error") == f"org.varlink.service.{name}",
              reply)
    for what, data, name in (
            ("no such guest", call("io.ufd.guest.Detach", name="nobody"), "NoSuchGuest"),
            ("ufdd itself", call("io.ufd.guest.AttachProcess", name="g", pid=daemon.pid,
                                 source="zero"), "CannotAttach"),
            ("a process that is not there",
             call("io.ufd.guest.AttachProcess", name="g", pid=(1 << 22) - 1, source="zero"),
             "CannotAttach"),
            ("a fd that did not come",
             call("io.ufd.guest.AttachProcess", name="g", pidfd=0, source="zero"), "BadFd"),
            ("a monitor that is not there",
             call("io.ufd.guest.AttachProcess", name="g", qmp=folder + "/none", source="zero"),
             "DriverFailed"),
            ("a snapshot of nothing",
             call("io.ufd.guest.Restore", directory=folder + "/none", qmp=folder + "/none"),
             "BadSnapshot"),
            ("a guest without a monitor",
             call("io.ufd.guest.SnapshotSave", directory=folder + "/none"), "DriverFailed")):
        reply = ask(data)
        check(f"{what}: {name}", reply and reply.get("error") == f"io.ufd.guest.{name}"
              and reply["parameters"]["message"], reply)


def cut_everywhere():
    ok = True
    for cut in range(len(LIST) + 1):
        with connect() as client:
            client.sendall(LIST[:cut])
            client.sendall(INFO[:0] + LIST[cut:] + INFO)
            replies = frames(client, 2)
            ok = ok and len(replies) == 2 and replies[0] == {"parameters": {"guests": []}}
    check("a call cut at each byte is one call", ok)
    with connect() as client:
        for byte in LIST:
            client.sendall(bytes([byte]))
        check("a call byte by byte is one call", len(frames(client, 1)) == 1)


def pipelined():
    with connect() as client:
        client.sendall((LIST + INFO) * 500)
        replies = frames(client, 1000)
        check("a thousand calls at once get a thousand replies in order", len(replies) == 1000
              and all(("guests" in r["parameters"]) == (i % 2 == 0)
                      for i, r in enumerate(replies)))
    with connect() as client:
        client.sendall(call("io.ufd.guest.AttachProcess", name="g", pid=daemon.pid,
                            source="zero") + LIST)
        replies = frames(client, 2)
        check("a call behind one that takes its time waits for it", len(replies) == 2
              and "error" in replies[0] and "guests" in replies[1]["parameters"], replies)
    with connect() as client:
        client.sendall(INFO)
        client.shutdown(socket.SHUT_WR)
        check("who stops writing still gets the reply", len(frames(client, 2)) == 1)


def oneway():
    with connect() as client:
        client.sendall(LIST.replace(b"}", b',"oneway":true}')
                       + b'{"method":"a.B","oneway":true}\0' + INFO)
        replies = frames(client, 1)
        check("who wants no reply gets none, not even an error",
              replies and replies[0]["parameters"]["product"] == "ufdd", replies)


def fds():
    null = os.open("/dev/null", os.O_RDONLY)
    before = n_fds()
    with connect() as client:
        for _ in range(20):
            socket.send_fds(client, [LIST], [null] * 200)
        check("fds that nobody asked for are closed", len(frames(client, 20)) == 20
              and n_fds() == before + 1)
    with connect() as client:
        socket.send_fds(client, [LIST[:5]], [null] * 200)
        try:
            socket.send_fds(client, [LIST[5:9]], [null] * 200)
        except (BrokenPipeError, ConnectionResetError):
            pass
        replies = frames(client, 1)
        check("more fds than a message may have: a named error, and the end",
              replies and replies[0]["error"] == BROKEN and is_closed(client), replies)
    with connect() as client:
        socket.send_fds(client, [LIST[:5]], [null] * 100)
    with connect() as client:
        # a message that holds its own connection open: it must end, or it is ended
        client.sendmsg([LIST[:5]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                     array.array("i", [client.fileno()]))])
    with connect() as client:
        # and a stream that does: streams take no fds
        client.sendmsg([WATCH], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                  array.array("i", [client.fileno()]))])
        frames(client, 1)
    os.close(null)
    check("a message that never ends is given up, and its fds are closed", settles(before),
          (n_fds(), before))


def limits():
    clients = []
    for _ in range(12):
        clients.append(connect())
        clients[-1].sendall(INFO)
        frames(clients[-1], 1)
    with connect() as client:
        replies = frames(client, 1)
        check("a connection beyond the user's limit is turned away by name",
              replies and replies[0]["error"] == "io.ufd.manager.LimitReached"
              and replies[0]["parameters"]["limit"] == "connections-per-user"
              and is_closed(client), replies)
    clients[0].sendall(LIST)
    check("those that are in are served", len(frames(clients[0], 1)) == 1)
    for client in clients:
        client.close()
    check("when they leave there is room again", ask(LIST) == {"parameters": {"guests": []}})


def slow_readers():
    with connect() as client:
        description = call("org.varlink.service.GetInterfaceDescription",
                           interface="io.ufd.guest")
        n_sent = 0
        try:
            client.settimeout(20)
            for _ in range(4000):
                client.sendall(description)
                n_sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        check("who never reads loses the connection", n_sent < 4000, n_sent)
    watcher = connect()
    watcher.sendall(WATCH)
    check("an event stream says first that it is live", frames(watcher, 1)
          == [{"parameters": {}, "continues": True}])
    watcher.close()
    check("a watcher that leaves is forgotten", ask(LIST) is not None)


def leavers():
    before = n_fds()
    for _ in range(10):
        client = connect()
        client.sendall(call("io.ufd.guest.AttachProcess", name="leaver", pid=os.getpid(),
                            source="zero", memories=["size:1"]))
        client.close()
    check("callers that leave while their call is at work leave nothing behind",
          settles(before) and error(call("io.ufd.guest.Show", name="leaver"))
          == "io.ufd.guest.NoSuchGuest", (n_fds(), before))


def strangers():
    """As a user who is neither root nor ufdd's own. In a child: there is no way back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        source = os.memfd_create("ram")
        os.ftruncate(source, 4096)
        region = {"memory": "m", "address": 4096, "length_bytes": 4096,
                  "source": "file:/etc/passwd"}
        said = [
            ("reads", ask(LIST).get("error")),
            ("status", ask(call("io.ufd.manager.Status")).get("error")),
            ("log", error(call("io.ufd.manager.SetLog", level="debug"))),
            ("snapshot", error(call("io.ufd.guest.SnapshotSave", qmp="/x", directory="/y"))),
            ("restore", error(call("io.ufd.guest.Restore", qmp="/x", directory="/y"))),
            ("root's process", error(call("io.ufd.guest.AttachProcess", name="g",
                                          pid=os.getppid(), source="zero"))),
            ("a monitor's path", error(call("io.ufd.guest.AttachProcess", name="g", qmp="/x",
                                            source="zero"))),
            ("a source's path", error(call("io.ufd.guest.AttachProcess", name="g",
                                           pid=os.getpid(), source="file:/etc/passwd"))),
        ]
        # a comma before a path is no option of an open file
        for source_spec in ("file:,,x", "image:,,x", "image:,,,memory=x"):
            reply = ask(call("io.ufd.guest.AttachProcess", name="g", pid=os.getpid(),
                             source=source_spec))
            said.append((f"the path {source_spec}", "a path" in json.dumps(reply)))
        uffd = ctypes.CDLL(None).syscall(323, 0o2000000 | 0o4000 | 1)
        if uffd >= 0 and os.uname().machine == "x86_64":
            import fcntl
            fcntl.ioctl(uffd, 0xc018aa3f, bytes([0xaa]) + bytes(23))
            with connect() as client:
                socket.send_fds(client, [call("io.ufd.guest.Attach", name="g", uffd=0,
                                              regions=[region])], [uffd])
                said.append(("a region's path", frames(client, 1)[0].get("error")))
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = dict(json.loads(file.read() or b"[]"))
    os.waitpid(child, 0)
    denied = "org.varlink.service.PermissionDenied"
    expected = {"reads": None, "status": None, "log": denied, "snapshot": denied,
                "restore": denied, "root's process": denied, "a monitor's path": denied,
                "a source's path": "io.ufd.guest.BadSource",
                "a region's path": "io.ufd.guest.BadSource"}
    expected.update((what, True) for what in said if what.startswith("the path"))
    for what, name in said.items():
        check(f"a stranger, {what}: {name}", name == expected[what], (name, expected[what]))
    check("a stranger was heard", len(said) >= 8, said)


if os.geteuid() != 0:
    print("1..0 # SKIP needs root, to become somebody else")
    sys.exit(0 if "UNIT_TAP" in os.environ else 77)
daemon = start()
try:
    for case in (broken_streams, named_errors, cut_everywhere, pipelined, oneway, fds, limits,
                 slow_readers, leavers, strangers):
        n_before = n_fds()
        case()
        check(f"{case.__name__}: the daemon answers and holds no more fds",
              settles(n_before), (n_before, n_fds()))
finally:
    daemon.terminate()
    status = daemon.wait(timeout=20)
check("the daemon ends well", status == 0, status)
if all(results):
    subprocess.run(["rm", "-r", folder], check=True)
else:
    print(f"# log: {folder}/log")
print(f"1..{len(results)}")
sys.exit(0 if all(results) else 1)
