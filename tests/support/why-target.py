#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process to be paged, and to be stuck in several ways. Lines on stdin say what it does; each answers by a line.

Arguments: MiB, `shmem` or `hugetlb`.
    touch N     read the first word of 4 KiB block N, in user mode
    read N      let the kernel write into block N (read(2) from /dev/zero); says the errno's name if it fails
    wait        read from a pipe that nobody writes to
    foreign     wait for a userfaultfd of its own, which it hands to a child that does nothing
"""
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
import sys

BLOCK = 4096
HUGE = 2 << 20
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00

libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(1, signal.SIGKILL)
length = int(sys.argv[1]) << 20
is_huge = sys.argv[2] == "hugetlb"
memory_fd = os.memfd_create("guest-ram", os.MFD_HUGETLB if is_huge else 0)
os.ftruncate(memory_fd, length)
memory = mmap.mmap(memory_fd, length, flags=mmap.MAP_SHARED | 0x4000)  # no reservation of huge pages


def address_of(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def say(text):
    print(text, flush=True)


def foreign():
    other = mmap.mmap(-1, BLOCK * 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    uffd = libc.syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(uffd, UFFDIO_API, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
    fcntl.ioctl(uffd, UFFDIO_REGISTER,
                bytearray(struct.pack("QQQQ", address_of(other), BLOCK * 16, 1, 0)))
    ends = os.pipe()
    child = os.fork()
    if child == 0:
        libc.prctl(1, signal.SIGKILL)
        os.close(ends[1])
        memory.close()
        os.read(ends[0], 1)  # until its parent ends
        os._exit(0)
    os.close(ends[0])
    say(str(child))
    return other[0]


say("ready")
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "touch":
        start = int(number) * BLOCK
        say(memory[start:start + 8].hex())
    elif word == "read":
        with open("/dev/zero", "rb", buffering=0) as zero:
            start = ctypes.c_void_p(address_of(memory) + int(number) * BLOCK)
            n = libc.read(zero.fileno(), start, 8)
        say(errno.errorcode[ctypes.get_errno()] if n < 0 else str(n))
    elif word == "wait":
        ends = os.pipe()
        say("waits")
        os.read(ends[0], 1)
    elif word == "foreign":
        foreign()
