#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk that takes its time, and whose boot sector reads it for ever, into one page after another.

Arguments: mount point, milliseconds a read takes. The disk is the file `image` there. Whoever reads it with
O_DIRECT has the pages pinned for that long, and gets the bytes at the end. Says `ready` once it serves.

The boot sector runs on any PC with a BIOS that knows extended reads (int 13h, AH=42h): 4 KiB at a time from
the next blocks of the disk, to addresses from 64 KiB to 576 KiB, and again from the beginning. Each 4 KiB
block begins with its number plus 1, so that a page is never the same twice.
"""
import ctypes
import errno
import importlib.util
import os
import select
import sys
import time

LENGTH = 1 << 30
FIRST, END = 0x1000, 0x9000  # segments
BLOCK_SECTORS, BLOCK_PARAGRAPHS = 8, 0x100

spec = importlib.util.spec_from_file_location(
    "fuse_server", os.path.join(os.path.dirname(os.path.realpath(__file__)), "fuse-server.py"))
fuse_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuse_server)


def boot_sector():
    def word(value):
        return value.to_bytes(2, "little")

    packet = 0x7c00 + 0x40
    segment, number = word(packet + 6), word(packet + 8)
    code = b"\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c"          # xor ax,ax; ds = ss = 0; sp = 7c00
    again = len(code)
    code += b"\xc7\x06" + segment + word(FIRST)             # again: packet.segment = FIRST
    read = len(code)
    code += b"\xbe" + word(packet) + b"\xb4\x42\xb2\x80\xcd\x13"    # read: int 13h
    code += b"\x66\x83\x06" + number + bytes([BLOCK_SECTORS])       # packet.block += 8
    code += b"\x81\x06" + segment + word(BLOCK_PARAGRAPHS)          # packet.segment += 4096
    code += b"\x81\x3e" + segment + word(END)
    code += b"\x72" + ((read - len(code) - 2) & 0xff).to_bytes(1, "little")  # jb read
    code += b"\xeb" + ((again - len(code) - 2) & 0xff).to_bytes(1, "little")  # jmp again
    sector = code.ljust(0x40, b"\0")
    sector += b"\x10\0" + word(BLOCK_SECTORS) + word(0) + word(FIRST) + BLOCK_SECTORS.to_bytes(8, "little")
    return sector.ljust(510, b"\0") + b"\x55\xaa"


class SlowDisk(fuse_server.Server):
    def __init__(self, point, delay):
        super().__init__(point, LENGTH)
        self.delay = delay
        self.waiting = []  # (when, request, bytes), in this order

    def blocks(self, offset, n):
        data = super().blocks(offset, n)
        return (boot_sector()[offset:] + data[512 - offset:])[:n] if offset < 512 else data

    def read(self, unique, body):
        offset, size = int.from_bytes(body[8:16], "little"), int.from_bytes(body[16:20], "little")
        self.waiting.append((time.monotonic() + self.delay, unique, self.blocks(offset, size)))

    def answer_due(self):
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            _, unique, data = self.waiting.pop(0)
            try:
                self.answer(unique, data)
            except OSError as error:  # whoever asked has gone
                if error.errno != errno.ENOENT:
                    raise

    def run(self):
        print("ready", flush=True)
        while True:
            left = max(0, self.waiting[0][0] - time.monotonic()) if self.waiting else None
            ready, _, _ = select.select([self.fd], [], [], left)
            if ready and not self.serve_one():
                return
            self.answer_due()


ctypes.CDLL(None).prctl(1, 9)
SlowDisk(sys.argv[1], int(sys.argv[2]) / 1000).run()
