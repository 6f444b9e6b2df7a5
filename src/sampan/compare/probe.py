"""What is measured: a program that runs unchanged on the host, in a container and in a guest. Standard library only.

    probe.py measure DIRECTORY       one sample of everything, as JSON
    probe.py serve PORT              answers the network's measurements until it is killed

Each measurement runs for a fixed time and counts what it got done, so it takes as long on a slow kind as on a fast one.
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 0.15
_FILE = 32 << 20
_BLOCK = 4096


def rate(work: Callable[[], int], seconds: float = _SECONDS) -> float:
    """How much `work` does per second; it returns how much it did in one call."""
    work()
    done, began = 0, time.perf_counter()
    while True:
        done += work()
        spent = time.perf_counter() - began
        if spent >= seconds:
            return done / spent


def integers() -> int:
    """Integer arithmetic in the interpreter."""
    value = 1
    for number in range(2000):
        value = (value * 1103515245 + number) & 0x7FFFFFFF
    return 2000


def floats() -> int:
    """Floating point arithmetic in the interpreter and the C library."""
    value = 0.0
    for number in range(1000):
        value += math.sqrt(number) * math.sin(value)
    return 1000


def copies() -> Callable[[], int]:
    """Copies memory that is larger than the processor's caches."""
    source, target = bytearray(24 << 20), bytearray(24 << 20)

    def copy() -> int:
        target[:] = source
        return len(source)

    return copy


def calls() -> int:
    """A system call that does nothing but enter the kernel (getppid(2))."""
    for _ in range(500):
        os.getppid()
    return 500


def switches() -> float:
    """Seconds from one process to another and back by way of two pipes, halved."""
    there, back = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(there[1])
        while os.read(there[0], 1):
            os.write(back[1], b"x")
        os._exit(0)

    def once() -> int:
        for _ in range(20):
            os.write(there[1], b"x")
            os.read(back[0], 1)
        return 40

    found = 1 / rate(once)
    for fd in (*there, *back):
        os.close(fd)
    os.waitpid(pid, 0)
    return found


def forget(fd: int) -> None:
    """Drops a file's pages, so that they come from the disk the next time (posix_fadvise(2))."""
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sequential(path: str) -> tuple[float, float]:
    """(bytes per second written, and read from the disk) of one file from beginning to end."""
    data = os.urandom(1 << 20)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    began = time.perf_counter()
    for _ in range(_FILE >> 20):
        os.write(fd, data)
    os.fsync(fd)
    written = _FILE / (time.perf_counter() - began)
    forget(fd)
    began = time.perf_counter()
    os.lseek(fd, 0, os.SEEK_SET)
    while os.read(fd, 1 << 20):
        pass
    read = _FILE / (time.perf_counter() - began)
    os.close(fd)
    return written, read


def scattered(path: str) -> float:
    """Blocks per second read at random places of a file that is not in memory."""
    fd = os.open(path, os.O_RDONLY)
    places = random.Random(1)

    def once() -> int:
        for _ in range(8):
            os.pread(fd, _BLOCK, places.randrange(_FILE // _BLOCK) * _BLOCK)
        return 8

    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    found = rate(once)
    os.close(fd)
    return found


def syncs(path: str) -> float:
    """Seconds until a block is safe on the disk."""
    fd = os.open(path, os.O_RDWR)

    def once() -> int:
        os.pwrite(fd, b"x" * _BLOCK, 0)
        os.fsync(fd)
        return 1

    found = 1 / rate(once)
    os.close(fd)
    return found


def names(directory: str) -> float:
    """Files made, looked at and deleted per second."""

    def once() -> int:
        for number in range(10):
            path = f"{directory}/f{number}"
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            os.stat(path)
            os.unlink(path)
        return 10

    return rate(once)


def measure(directory: str) -> dict[str, float]:
    """One sample of each, in units per second or seconds (docs/compare.md)."""
    os.makedirs(directory, exist_ok=True)
    path = f"{directory}/data"
    found = {
        "cpu.integer": rate(integers),
        "cpu.float": rate(floats),
        "memory.copy": rate(copies()),
        "kernel.call": 1 / rate(calls),
        "kernel.switch": switches(),
    }
    try:
        found["file.write"], found["file.read"] = sequential(path)
        found["file.random"] = scattered(path)
        found["file.fsync"] = syncs(path)
        found["file.names"] = names(directory)
    finally:
        if os.path.exists(path):
            os.unlink(path)
    return found


def serve(port: int) -> None:
    """Echoes single bytes to a client that begins with "e", and sends zeros for ever to one that begins with "s"."""
    listener = socket.create_server(("", port), reuse_port=False)
    zeros = bytes(256 << 10)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if client.recv(1) == b"e":
                while data := client.recv(1):
                    client.sendall(data)
            else:
                while True:
                    client.sendall(zeros)
        except OSError:
            pass
        client.close()


def memory() -> dict[str, int]:
    """Bytes that process 1 here holds: of files (libraries and programs), and of its own (smaps_rollup, proc(5))."""
    with open("/proc/1/smaps_rollup", encoding="ascii") as file:
        rows = {line.split()[0]: int(line.split()[1]) << 10 for line in file if line.startswith("Pss_")}
    return {"files": rows["Pss_File:"], "own": rows["Pss_Anon:"] + rows["Pss_Shmem:"]}


def main() -> None:
    """The command line above."""
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(json.dumps(memory() if sys.argv[1] == "memory" else measure(sys.argv[2])))


if __name__ == "__main__":
    main()
