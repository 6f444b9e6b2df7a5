"""What runs as process 1 of a guest: makes it a machine that waits, and then does what the host asks.

The container's processes are made by the same runtime as on the host (ADR 13). Standard library only.
"""

from __future__ import annotations

import gc
import os
import signal
import time

from sampan import logline
from sampan.linux import mount
from sampan.linux import namespaces as ns
from sampan.linux.eventloop import Loop
from sampan.linux.syscall import syscall
from sampan.vm import requests
from sampan.vm.guest import Guest
from sampan.vm.mux import Mux

PORT = "sampan.agent"


def main() -> None:
    """Process 1. Never returns: when it can't go on, the guest is switched off."""
    try:
        leave_rootfs()
        mount_basics()
        load_modules()
        ns.loopback_up()
        ns.let_users_ping()
        port = find_port(5.0)
        if port < 0:
            raise FileNotFoundError(f"no port {PORT}")
        _serve(port)
    except BaseException as error:
        logline.write("agent", "error", repr(error))
    restart()


def leave_rootfs() -> None:
    """The kernel's first root can't be pivoted away (pivot_root(2)), a bind mount of it can."""
    os.makedirs("/run/self", exist_ok=True)
    mount.mount("/", "/run/self", None, mount.MS_BIND)
    os.chdir("/run/self")
    mount.mount(".", "/", None, mount.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def mount_basics() -> None:
    """The kernel's file systems."""
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")):
        mount.mount(kind, target, kind)
    os.makedirs("/dev/pts", exist_ok=True)
    mount.mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=0666,mode=0620,gid=5")
    mount.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")


def load_modules() -> None:
    """In the order that was computed when the archive was made. One that does not load is told, and not the end.

    A driver without its device (ENODEV), and what needs such a driver (ENOENT), is no news.
    """
    import ctypes

    with open("/modules/order", encoding="ascii") as file:
        for line in file:
            fd = os.open(f"/modules/{line.strip()}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscall("finit_module", ctypes.c_int(fd), ctypes.c_char_p(b""), ctypes.c_int(0), subject=line.strip())
            except OSError as error:
                if error.errno not in (2, 17, 19):  # EEXIST: it is built in or loaded
                    logline.write("agent", "warn", str(error))
            finally:
                os.close(fd)
            os.unlink(f"/modules/{line.strip()}")  # the archive's files are memory


def find_port(patience: float) -> int:
    """The virtio-serial port with our name (/sys/class/virtio-ports), or -1 when none comes in `patience` seconds."""
    top = "/sys/class/virtio-ports"
    for _ in range(int(patience * 100)):
        for name in os.listdir(top) if os.path.isdir(top) else []:
            with open(f"{top}/{name}/name", encoding="ascii") as file:
                if file.read().strip() == PORT:
                    return os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.01)
    return -1


def _serve(port: int) -> None:
    loop = Loop()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def received(message: object) -> None:
        if isinstance(message, dict):
            guest.handle(message)

    mux = Mux(loop, port, received, lambda _: None)
    guest = Guest(mux)
    gc.collect()
    gc.freeze()
    mux.send({"event": "ready", "release": os.uname().release, "version": requests.VERSION})
    while True:
        if not loop.turn(guest.patience):
            guest.idle()


def restart() -> None:
    """Ends the machine: it has no power to switch off, and QEMU is told to end instead (-no-reboot)."""
    _reboot(0x01234567)


def power_off() -> None:
    """Switches the machine off."""
    _reboot(0x4321FEDC)


def _reboot(command: int) -> None:
    """reboot(2)"""
    import ctypes

    os.sync()
    ctypes.CDLL(None).reboot(ctypes.c_int(command))
