"""doctor: what this machine can and can't do, and the command that fixes it."""

from __future__ import annotations

import os
import shutil
from typing import Any

from sampan.cli.flags import Values


def _checks() -> list[tuple[str, bool, str]]:
    """(what, whether it works, what to do when it does not)."""
    from importlib import import_module

    cgroup = import_module("sampan.linux.cgroup")
    found = cgroup.hierarchies()
    with open("/proc/filesystems", encoding="ascii") as file:
        filesystems = file.read()
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return [
        *([] if os.geteuid() == 0 else _without_root()),
        (f"kernel {os.uname().release} (5.12 or newer)", release >= (5, 12), "boot a newer kernel"),
        ("overlay file system", "overlay" in filesystems, "modprobe overlay"),
        (f"cgroups, version {found.version}", found.usable, "mount -t cgroup2 none /sys/fs/cgroup"),
        (
            "memory limits",
            "memory" in found.v1 or "memory" in found.v2_controllers,
            "enable the memory controller: cgroup_enable=memory",
        ),
        ("user namespaces", os.path.exists("/proc/self/ns/user"), "sysctl user.max_user_namespaces=15000"),
        (
            "static init for --init",
            import_module("sampan.runtime.init_program").find() is not None,
            "apt-get install tini",
        ),
        ("static busybox for `bootstrap busybox`", os.path.exists("/bin/busybox"), "apt-get install busybox-static"),
        (
            "bootstrap tool for `bootstrap debian:...`",
            bool(shutil.which("mmdebstrap") or shutil.which("debootstrap")),
            "apt-get install mmdebstrap",
        ),
        (
            "QEMU for virtual machines (`sampan vm prepare` tries KVM)",
            bool(shutil.which(f"qemu-system-{os.uname().machine}")),
            "apt-get install qemu-system-x86",
        ),
        *_left(),
    ]


def _left() -> list[tuple[str, bool, str]]:
    """What engines have left on the host whose data is gone, so that no daemon will ever take it away."""
    from importlib import import_module

    try:
        found = import_module("sampan.network.bridge").abandoned()
    except OSError:
        return []
    return [
        (
            f"interface {name}: its engine {short} is gone",
            False,
            f"ip link delete {name}; nft delete table inet sampan-{short}; nft delete table bridge sampan-{short}",
        )
        for name, short in found
    ]


def _without_root() -> list[tuple[str, bool, str]]:
    import pwd
    from importlib import import_module

    user = pwd.getpwuid(os.geteuid()).pw_name
    rootless, engine_error = import_module("sampan.engine.rootless"), import_module("sampan.engine.errors").EngineError
    found = []
    for path, own, flag in (("/etc/subuid", os.geteuid(), "uids"), ("/etc/subgid", os.getegid(), "gids")):
        try:
            works = len(rootless.id_rows(path, own)) > 1
        except engine_error:
            works = False
        found.append((f"{path} has ids for {user}", works, f"usermod --add-sub{flag} 100000-165535 {user}"))
    return [
        *found,
        ("newuidmap and newgidmap", bool(shutil.which("newuidmap")), "apt-get install uidmap"),
        ("/dev/net/tun for everybody", os.access("/dev/net/tun", os.W_OK), "modprobe tun; chmod 666 /dev/net/tun"),
        ("slirp4netns", bool(shutil.which("slirp4netns")), "apt-get install slirp4netns"),
    ]


def _info() -> dict[str, Any]:
    """What the engine says of itself; empty when none runs."""
    from sampan import paths
    from sampan.client.http import APIError, Http, NoEngine

    host = os.environ.get("SAMPAN_HOST") or f"unix://{paths.socket()}"
    try:
        found: dict[str, Any] = Http(host.removeprefix("unix://")).call("GET", "/info")
        return found
    except (NoEngine, APIError, OSError):
        return {}


def _accelerator(found: dict[str, Any]) -> str:
    """One line on how virtual machines run here, from the engine if it runs and has tried."""
    found = found.get("VirtualMachines") or {}
    if not found.get("Accelerator"):
        return "virtual machines: not tried yet, which `sampan vm prepare` does"
    return f"virtual machines: {found['Accelerator']}: {found['Reason']}"


def doctor(v: Values, names: list[str]) -> int:
    """doctor"""
    bad = 0
    engine = _info()
    print(f"      {_accelerator(engine)}")
    for what, works, remedy in _checks():
        print(f"{'ok  ' if works else 'FAIL'}  {what}" + ("" if works else f"\n      to fix: {remedy}"))
        bad += not works
    for text in engine.get("Trouble") or []:
        print(f"FAIL  {text}")
        bad += 1
    return 1 if bad else 0
