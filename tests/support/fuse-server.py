#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A FUSE file system with one file, `image`, that can be told to hang or to fail.

Arguments: mount point, bytes, and for how many seconds the kernel need not ask for attributes (3600). Each 4 KiB block of the file begins with its number plus 1. A line on stdin sets what
reads do from then on: `ok`, `hang` (they are never answered) or `eio`. Says `ready` once it serves.

It speaks the kernel's protocol on /dev/fuse itself, so that nothing needs to be installed.
"""
import ctypes
import errno
import os
import select
import struct
import sys

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, INIT, INTERRUPT, BATCH_FORGET = \
    1, 2, 3, 14, 15, 18, 26, 36, 42
ROOT, IMAGE = 1, 2
BLOCK = 4096


class Server:
    def __init__(self, point, length, seconds=3600):
        self.length = length
        self.seconds = seconds
        self.mode = "ok"
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        if libc.mount(b"fuse-server", point.encode(), b"fuse", 0, options.encode()) < 0:
            sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")

    def attributes(self, node):
        is_root = node == ROOT
        return struct.pack("6Q10I", node, 0 if is_root else self.length, 8, 1, 1, 1, 0, 0, 0,
                           0o40755 if is_root else 0o100644, 1, 0, 0, 0, BLOCK, 0)

    def blocks(self, offset, n):
        first = offset // BLOCK
        data = b"".join((block + 1).to_bytes(8, "little") + bytes(BLOCK - 8)
                        for block in range(first, (offset + n + BLOCK - 1) // BLOCK))
        start = offset - first * BLOCK
        return data[start:start + min(n, self.length - offset)]

    def answer(self, unique, payload=b"", error=0):
        os.write(self.fd, struct.pack("IiQ", 16 + len(payload), -error, unique) + payload)

    def read(self, unique, body):
        _, offset, size = struct.unpack_from("QQI", body)
        if self.mode == "eio":
            self.answer(unique, error=errno.EIO)
        elif self.mode == "ok":
            self.answer(unique, self.blocks(offset, size))

    def serve_one(self):
        """Return: false when the connection was cut off."""
        try:
            request = os.read(self.fd, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        self.serve(request)
        return True

    def serve(self, request):
        _, operation, unique, node = struct.unpack_from("IIQQ", request)
        body = request[40:]
        if operation == INIT:
            self.answer(unique, struct.pack("IIIIHHI", 7, 31, 65536, 0, 16, 12, 131072).ljust(64, b"\0"))
        elif operation == GETATTR:
            self.answer(unique, struct.pack("QII", self.seconds, 0, 0) + self.attributes(node))
        elif operation == LOOKUP and body.startswith(b"image\0"):
            self.answer(unique, struct.pack("4Q2I", IMAGE, 1, 3600, self.seconds, 0, 0) + self.attributes(IMAGE))
        elif operation == LOOKUP:
            self.answer(unique, error=errno.ENOENT)
        elif operation == OPEN:
            self.answer(unique, struct.pack("QII", 1, 1, 0))  # nothing is cached
        elif operation == READ:
            self.read(unique, body)
        elif operation == RELEASE:
            self.answer(unique)
        elif operation not in (FORGET, BATCH_FORGET, INTERRUPT):
            self.answer(unique, error=errno.ENOSYS)

    def run(self):
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([self.fd, 0], [], [])
            if 0 in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                self.mode = line.strip()
                print(self.mode, flush=True)
            if self.fd in ready and not self.serve_one():
                return


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 9)
    Server(sys.argv[1], *map(int, sys.argv[2:])).run()
