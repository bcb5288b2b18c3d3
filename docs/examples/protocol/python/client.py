#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A guest handed to ufdd by ufd-protocol(7) alone: nothing but the standard library.

    ./client.py NAME SAVED-MEMORY

Each byte of a memfd is compared with the file that it comes from: half of them at once, the rest
after a line of input. Kill ufdd meanwhile, and start it again: the guest waits, and goes on.
"""
import ctypes
import fcntl
import json
import mmap
import os
import socket
import struct
import sys
import threading
import time

PAGE = 4096
USERFAULTFD_IOC_NEW, UFFDIO_API, UFFD_API = 0xAA00, 0xC018AA3F, 0xAA


class Refused(Exception):
    pass


def open_userfaultfd():
    device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    uffd = fcntl.ioctl(device, USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(device)
    try:
        fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0xB109, 0))
    except OSError:  # an older kernel
        fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0x1109, 0))
    return uffd


def reach():
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(os.environ.get("UFD_SOCKET", "/run/ufd/io.ufd.manager"))
    return connection


def call(connection, method, parameters, fds=()):
    """Return: the reply's parameters. Raises Refused, or OSError if ufdd is gone."""
    message = json.dumps({"method": method, "parameters": parameters}).encode() + b"\0"
    sent = socket.send_fds(connection, [message], fds)
    connection.sendall(message[sent:])
    reply = b""
    while not reply.endswith(b"\0"):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the connection has ended")
        reply += piece
    reply = json.loads(reply[:-1])
    if "error" in reply:
        raise Refused(reply["error"], reply.get("parameters"))
    return reply["parameters"]


class Guest:
    def __init__(self, name, path):
        self.name = name
        self.saved = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.length = os.fstat(self.saved).st_size // PAGE * PAGE
        self.backing = os.memfd_create("ram")
        os.ftruncate(self.backing, self.length)
        self.ram = mmap.mmap(self.backing, self.length)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.ram))
        self.uffd = open_userfaultfd()

    def attach(self, connection, populated):
        region = {"memory": "ram", "address": self.address, "length_bytes": self.length,
                  "backing_fd": 1, "source": "file:", "source_fd": 2}
        call(connection, "io.ufd.guest.Attach",
             {"name": self.name, "uffd": 0, "regions": [region],
              "settings": {"populated": populated, "background": False}},
             [self.uffd, self.backing, self.saved])

    def watch(self, connection):
        """Touches no paged memory. Nothing comes unasked: recv() returns at the end."""
        while True:
            try:
                connection.recv(1)
            except OSError:
                pass
            print("ufdd is gone", file=sys.stderr)
            while True:
                connection.close()
                time.sleep(0.1)
                try:
                    connection = reach()
                    self.attach(connection, "keep")
                    break
                except Refused as refused:
                    print("ufdd refuses:", refused, file=sys.stderr)
                except OSError:
                    pass
            print("ufdd is back", file=sys.stderr)

    def compare(self, at):
        """A plain read of self.ram would wait for its page with the interpreter's lock held, and
        so hold up watch(), too; a foreign function is called without it."""
        page = ctypes.create_string_buffer(PAGE)
        ctypes.memmove(page, self.address + at, PAGE)
        if page.raw != os.pread(self.saved, PAGE, at):
            sys.exit(f"the page at {at} is wrong")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: client.py NAME SAVED-MEMORY")
    guest = Guest(sys.argv[1], sys.argv[2])
    connection = reach()
    guest.attach(connection, "refuse")
    threading.Thread(target=guest.watch, args=(connection,), daemon=True).start()

    for at in range(0, guest.length, PAGE):
        if at == guest.length // 2 // PAGE * PAGE:
            print("half is as saved; a line goes on", file=sys.stderr)
            sys.stdin.readline()
        guest.compare(at)

    call(reach(), "io.ufd.guest.Detach", {"name": guest.name})
    print(f"{guest.length} bytes are as saved")


main()
