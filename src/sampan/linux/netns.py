"""Network namespaces from a process with threads: making one, and working inside one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from sampan.linux import namespaces as ns

T = TypeVar("T")


def new() -> int:
    """A descriptor of a new network namespace with its loopback interface up, where users may ping; it lives as long as that."""

    def make() -> int:
        ns.unshare(ns.CLONE_NEWNET)
        ns.loopback_up()
        believe_no_router("all", "default")
        ns.let_users_ping()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _in_thread(make)


def inside(fd: int, work: Callable[..., T], *arguments: object) -> T:
    """Runs `work` in the namespace `fd`, in a thread of its own: setns(2) moves the calling thread only.

    /proc/sys/net, sockets and netlink are those of the namespace; mounts and all else are ours.
    """

    def enter() -> T:
        ns.setns(fd, ns.CLONE_NEWNET)
        return work(*arguments)

    return _in_thread(enter)


def stay_in(fd: int, work: Callable[..., T], *arguments: object) -> T:
    """As inside(), in the calling thread, which stays in that namespace: for the threads of a pool that does nothing else."""
    ns.setns(fd, ns.CLONE_NEWNET)
    return work(*arguments)


def _in_thread(work: Callable[[], T]) -> T:
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def believe_no_router(*interfaces: str) -> None:
    """What others on the link say of the way out is not taken: advertisements and redirects (networking/ip-sysctl.rst).

    `all` and `default`, in a new namespace, are for the interfaces that it will have.
    """
    for name in interfaces:
        for key in ("accept_redirects", "secure_redirects", "accept_source_route"):
            write_sysctl(f"ipv4/conf/{name}/{key}", "0")
        for key in ("accept_ra", "accept_redirects"):
            write_sysctl(f"ipv6/conf/{name}/{key}", "0")


def write_sysctl(path: str, value: str) -> None:
    """A setting below /proc/sys/net of the current thread's namespace; one the kernel lacks is skipped."""
    try:
        fd = os.open(f"/proc/sys/net/{path}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
