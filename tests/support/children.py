# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes of a test: they die with it, are waited for with a deadline, and are ended by pid."""
import ctypes
import signal
import time

running = []  # who starts one appends it


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def end(process):
    if process.poll() is None:
        process.kill()
        process.wait()


def end_all():
    for process in reversed(running):
        end(process)
