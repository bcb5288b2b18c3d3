#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that is attached as a QEMU would be: shared memory, a monitor, files, and no guest.

    fake-qemu.py MONITOR MIB [UID]

Its devices are the word `devices`. Says READY, then takes a command a line and answers each with one line:
    w PAGE...     write these pages
    punch PAGE... punch holes into its file there, as a balloon does
    open PATH     open a file with O_DIRECT (a plain one if the file system has none: `plain` is the answer)
    close         and close it again
    mute COMMAND  this one is neither obeyed nor answered from now on (`greeting`: nobody is greeted)
    speak         all are again, also what was asked meanwhile, as long as who asked is there to hear the answer
    asked         the command that is muted and was asked for
    log           commands that the monitor got since the last time, and whether the guest runs
"""
import ctypes
import json
import mmap
import os
import socket
import sys
import threading

PAGE = 4096


class Monitor:
    def __init__(self, listener):
        self.listener = listener
        self.lock = threading.Condition()
        self.status = "running"
        self.muted = set()
        self.seen = []
        self.asked = ""
        self.stream = -1
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            try:
                self.talk(client)
            except OSError:
                pass
            client.close()

    def wait(self, what):
        with self.lock:
            self.lock.wait_for(lambda: what not in self.muted)

    def talk(self, client):
        self.wait("greeting")
        version = {"qemu": {"major": 7, "minor": 2, "micro": 0}}
        self.say(client, {"QMP": {"version": version, "capabilities": []}})
        text = ""
        while True:
            more, fds, _, _ = socket.recv_fds(client, 65536, 1)
            if not more:
                break
            self.stream = fds[0] if fds else self.stream
            text += more.decode()
            while text:  # one object after another, with nothing in between
                try:
                    call, end = json.JSONDecoder().raw_decode(text)
                except ValueError:
                    break
                text = text[end:].lstrip()
                self.obey(client, call["execute"], call.get("id"))

    def obey(self, client, command, number):
        self.asked = command
        self.wait(command)
        self.asked = ""
        with self.lock:
            if command in ("stop", "cont"):
                self.seen.append(command)
            self.status = {"stop": "paused", "cont": "running"}.get(command, self.status)
            answer = {"query-status": {"status": self.status, "running": self.status == "running"},
                      "query-migrate-capabilities": [{"capability": "x-ignore-shared", "state": False}],
                      "qom-get": "none", "query-kvm": {"enabled": False}}.get(command, {})
        self.say(client, {"return": answer, "id": number})
        if command == "migrate":
            os.write(self.stream, b"devices")
            os.close(self.stream)
            self.say(client, {"event": "MIGRATION", "data": {"status": "completed"}})

    @staticmethod
    def say(client, message):
        client.sendall(json.dumps(message).encode() + b"\r\n")

    def mute(self, command):
        with self.lock:
            self.muted = {command} if command else set()
            self.lock.notify_all()

    def log(self):
        with self.lock:
            seen, self.seen = self.seen, []
            return " ".join([*seen, self.status])


def open_direct(path):
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT), "ok"
    except OSError:
        return os.open(path, os.O_RDWR | os.O_CREAT), "plain"


def punch(fd, offset):
    libc = ctypes.CDLL(None, use_errno=True)
    keep_size, punch_hole = 1, 2
    if libc.fallocate(fd, keep_size | punch_hole, ctypes.c_long(offset), ctypes.c_long(PAGE)):
        raise OSError(ctypes.get_errno(), "fallocate")


def become(uid):
    os.setgid(uid)
    os.setuid(uid)
    ctypes.CDLL(None).prctl(4, 1)  # dumpable: /proc says whose it is


def main():
    if len(sys.argv) > 3:
        become(int(sys.argv[3]))
    ctypes.CDLL(None).prctl(1, 9)
    length = int(sys.argv[2]) << 20
    ram = os.memfd_create("fake-ram")
    os.ftruncate(ram, length)
    memory = mmap.mmap(ram, length)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(1)
    monitor = Monitor(listener)
    disk = -1
    print("READY", flush=True)
    for line in sys.stdin:
        verb, *words = line.split()
        answer = "ok"
        if verb == "w":
            for page in words:
                memory[int(page) * PAGE] = (memory[int(page) * PAGE] + 1) & 255
        elif verb == "punch":
            for page in words:
                punch(ram, int(page) * PAGE)
        elif verb == "open":
            disk, answer = open_direct(words[0])
        elif verb == "close":
            os.close(disk)
        elif verb == "mute":
            monitor.mute(words[0])
        elif verb == "speak":
            monitor.mute(None)
        elif verb == "asked":
            answer = monitor.asked
        elif verb == "log":
            answer = monitor.log()
        print(answer, flush=True)


if __name__ == "__main__":
    main()
