"""What runs as process 1 of a guest: loads modules, finds its port to the host, and does what it is told there.

The messages are JSON, a line each. Standard library only.
"""

from __future__ import annotations

import os
import sys
import time

from sampan import quickjson
from sampan.linux import mount
from sampan.linux.syscall import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PORT = "sampan.agent"


def main() -> None:
    """Process 1. Never returns: when it can't go on, the guest is switched off."""
    try:
        _mount_basics()
        _load_modules()
        _serve(_open_port())
    except BaseException as error:
        print(f"agent: {error!r}", file=sys.stderr, flush=True)
    _power_off()


def _mount_basics() -> None:
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")):
        mount.mount(kind, target, kind)
    os.makedirs("/sys/fs/cgroup", exist_ok=True)
    mount.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")


def _load_modules() -> None:
    """In the order that was computed when the archive was made. One that does not load is told, and not the end."""
    import ctypes

    with open("/modules/order", encoding="ascii") as file:
        for line in file:
            fd = os.open(f"/modules/{line.strip()}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscall("finit_module", ctypes.c_int(fd), ctypes.c_char_p(b""), ctypes.c_int(0), subject=line.strip())
            except OSError as error:
                if error.errno != 17:  # EEXIST: it is built in or loaded
                    print(f"agent: {error}", file=sys.stderr, flush=True)
            finally:
                os.close(fd)


def _open_port() -> int:
    """The virtio-serial port with our name (/sys/class/virtio-ports)."""
    top = "/sys/class/virtio-ports"
    for _ in range(500):
        for name in os.listdir(top) if os.path.isdir(top) else []:
            with open(f"{top}/{name}/name", encoding="ascii") as file:
                if file.read().strip() == PORT:
                    return os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.01)
    raise FileNotFoundError(f"no port {PORT}")


def _serve(port: int) -> None:
    buffer = b""
    while True:
        data = os.read(port, 65536)
        if not data:
            time.sleep(0.01)  # the host has not opened its end, or has closed it
            continue
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            try:
                answer = _answer(quickjson.loads(line))
            except Exception as error:
                answer = {"error": str(error) or repr(error)}
            _write(port, quickjson.dumps(answer).encode() + b"\n")


def _write(port: int, data: bytes) -> None:
    while data:
        data = data[os.write(port, data) :]


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    operation = message["op"]
    if operation == "ping":
        return {"pong": os.uname().release, "time": time.time()}
    if operation == "clock":
        time.clock_settime(time.CLOCK_REALTIME, message["time"])
        _reseed(message["entropy"])
        return {}
    if operation == "run":
        return _run(message["args"], message.get("root", ""))
    raise ValueError(f"unknown operation {operation}")


def _reseed(entropy: str) -> None:
    """Guests of one template have one random state until they are told apart (RNDADDENTROPY in random(4))."""
    import fcntl
    import struct

    data = bytes.fromhex(entropy)
    with open("/dev/urandom", "wb", buffering=0) as device:
        fcntl.ioctl(device, 0x40085203, struct.pack("ii", len(data) * 8, len(data)) + data)
        fcntl.ioctl(device, 0x5207)  # RNDRESEEDCRNG


def _run(args: list[str], root: str) -> dict[str, Any]:
    """Runs a program, in the file system on the block device `root` if one is named, under a writable overlay."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            if root:
                _enter(root)
            os.execve(args[0], args, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        except BaseException as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(127)
    os.close(writer)
    output = b""
    while data := os.read(reader, 65536):
        output += data
    os.close(reader)
    return {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "output": output.decode(errors="replace")}


def _enter(device: str) -> None:
    if not os.path.isdir("/run/lower"):
        for name in ("lower", "rw", "root"):
            os.mkdir(f"/run/{name}")
        mount.mount(device, "/run/lower", "erofs", mount.MS_RDONLY)
        mount.mount("tmpfs", "/run/rw", "tmpfs")
        os.mkdir("/run/rw/upper")
        os.mkdir("/run/rw/work")
        mount.mount(
            "overlay", "/run/root", "overlay", 0, "lowerdir=/run/lower,upperdir=/run/rw/upper,workdir=/run/rw/work"
        )
    os.chroot("/run/root")
    os.chdir("/")


def _power_off() -> None:
    import ctypes

    os.sync()
    # LINUX_REBOOT_CMD_RESTART: the machine has no power to switch off, and QEMU is told to end instead (reboot(2)).
    ctypes.CDLL(None).reboot(ctypes.c_int(0x01234567))
