"""Process 1 of a disk made by `bootdisk`, on any hypervisor: mounts it, and runs its init or an image's command.

Standard library only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sampan import logline, quickjson
from sampan.linux import mount
from sampan.linux import namespaces as ns
from sampan.linux.eventloop import Loop
from sampan.linux.pidfd import exit_code
from sampan.runtime import spawn
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.setup import Setup
from sampan.vm import agent, dhcp, requests
from sampan.vm.guest import Guest
from sampan.vm.mux import Mux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Launch
    from sampan.vm.machine_types import DiskSettings

_ROOT = "/run/root"


def main() -> None:
    """Never returns: the machine is switched off at the end of what it is for."""
    code = 125
    try:
        agent.leave_rootfs()
        agent.mount_basics()
        agent.load_modules()
        ns.loopback_up()
        _mount_root()
        with open(f"{_ROOT}/boot/sampan.json", "rb") as file:
            settings = quickjson.loads(file.read())
        code = _serve(settings)
    except BaseException as error:
        logline.write("sampan", "error", repr(error))
    logline.write("sampan", "info", f"ended with {code}")
    os.sync()
    agent.power_off()


def _mount_root() -> None:
    """The partition with our file system: by its label, as drivers name disks as they like."""
    with open("/proc/cmdline", encoding="ascii") as file:
        label = next(word.partition("=")[2] for word in file.read().split() if word.startswith("sampan.root="))
    os.makedirs(_ROOT, exist_ok=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for name in _partitions():
            if _label(f"/dev/{name}") == label:
                mount.mount(f"/dev/{name}", _ROOT, "ext4", mount.MS_NOATIME)
                return
        time.sleep(0.05)
    raise FileNotFoundError(f"no disk with the file system {label}")


def _partitions() -> list[str]:
    with open("/proc/partitions", encoding="ascii") as file:
        return [line.split()[3] for line in file.readlines()[2:]]


def _label(device: str) -> str:
    """The volume name of an ext4 (ext4/super.rst: superblock at 1024, s_magic at 0x38, s_volume_name at 0x78)."""
    try:
        with open(device, "rb") as file:
            file.seek(1024)
            block = file.read(1024)
    except OSError:
        return ""
    return block[0x78:0x88].rstrip(b"\0").decode(errors="replace") if block[0x38:0x3A] == b"\x53\xef" else ""


def _serve(settings: DiskSettings) -> int:
    """Has a process for the host's requests, if there is a host of ours; and becomes what the disk is for."""
    port = agent.find_port(0.5)
    if settings["mode"] == "init":
        _serve_beside(port)
        _switch(settings["init"])
    if port < 0:
        dhcp.configure_all(_ROOT)
    return _run_command(settings, port)


def _serve_beside(port: int) -> None:
    """The agent, in a process that the guest's own init leaves alone, and whose files are the initramfs."""
    if port < 0 or os.fork():
        return
    os.setsid()
    loop = Loop()
    lost: list[bool] = []
    _answer(loop, port, lambda _: lost.append(True), 1, root="/proc/1/root")
    while not lost:
        loop.turn()
    os._exit(0)


def _answer(loop: Loop, port: int, lost: Callable[[str], None], pid: int, group: str = "", root: str = "") -> None:
    """Takes the host's requests from now on, for what runs already (Guest.adopt)."""

    def received(message: object) -> None:
        if isinstance(message, dict):
            guest.handle(message)

    mux = Mux(loop, port, received, lost)
    guest = Guest(mux, slots=False)
    guest.adopt(pid, group, root)
    mux.send({"event": "ready", "release": os.uname().release, "version": requests.VERSION})


def _switch(init: str) -> None:
    """Gives the machine to the guest's own init, as switch_root(8) does."""
    for name in ("proc", "sys", "dev", "run"):
        os.makedirs(f"{_ROOT}/{name}", exist_ok=True)
    for name in ("proc", "sys", "dev"):  # and not moved: the agent beside has its own root still
        mount.mount(f"/{name}", f"{_ROOT}/{name}", None, mount.MS_BIND | mount.MS_REC)
    os.chdir(_ROOT)
    mount.mount(".", "/", None, mount.MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    os.execve(init, [init], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "linux"})


def _run_command(settings: DiskSettings, port: int) -> int:
    """The image's command in a container of its own on the console; its exit code."""
    request: Launch = {**settings["request"], "overlay": None, "where": _ROOT}
    loop = Loop()
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    child = spawn.start(request, (console, console, console))
    setup = Setup(child)
    while not setup.advance():
        pass
    try:
        setup.check()
    except RuntimeFailure as failure:
        logline.write("sampan", "error", str(failure))
        return 127
    if port >= 0:
        _answer(loop, port, lambda _: None, child.pid, request["cgroup"] or "")
    status: list[int] = []
    loop.watch(child.pidfd, lambda _: status.append(os.waitpid(child.pid, 0)[1]))
    while not status:
        loop.turn()
    return exit_code(status[0])
