"""What of a container's configuration is the machine's, what the guest's kernel's, what the host's; and what is impossible."""

from __future__ import annotations

import os
from typing import Any

from sampan import sizes
from sampan.engine.errors import BadRequest
from sampan.vm import guestroot

DEFAULT_MEMORY = 512  # MiB, of a machine without a limit
# What the guest's kernel, agent and initramfs take beside the container, and what QEMU takes beside the guest.
_GUEST_OVERHEAD, HOST_OVERHEAD, _STEP, _LEAST = 96, 512, 32, 192
FILES = ("hosts", "resolv.conf", "hostname")


def share(entries: list[dict[str, Any]], directory: str) -> list[dict[str, Any]]:
    """Turns the bind mounts of a specification into ones of what the guest sees; returns what it is to see, by descriptors
    of the engine's where it has looked at them (vm/shim)."""
    shares: list[dict[str, Any]] = []
    for entry in entries:
        if entry["type"] != "bind":
            continue
        name = os.path.basename(entry["source"])
        if entry["source"] == f"{directory}/{name}" and name in FILES:
            entry["source"] = f"{guestroot.FILES}/{name}"
            continue
        follow = any(option.lstrip("r") in ("shared", "slave") for option in entry["options"])
        shares.append(
            {"path": entry["source"], "name": str(len(shares)), "read_only": "ro" in entry["options"], "follow": follow}
        )
        if "source_fd" in entry:
            shares[-1]["source_fd"] = entry.pop("source_fd")
        entry["source"] = f"{guestroot.SHARES}/{shares[-1]['name']}"
    return shares


def inner_limits(resources: dict[str, Any]) -> dict[str, Any]:
    """The limits that the guest's kernel enforces. Host CPUs and disks are not its."""
    cpu = {**resources["cpu"], "cpus": None, "mems": None}
    return {**resources, "cpu": cpu, "blockIO": {}}


def outer_limits(resources: dict[str, Any], machine: int) -> dict[str, Any]:
    """The limits that the host's kernel enforces on QEMU: of the container's, and of the machine itself (MiB)."""
    return {
        "cpu": resources["cpu"],
        "blockIO": resources["blockIO"],
        "memory": {"limit": machine + HOST_OVERHEAD << 20},
    }


def cpus(host: dict[str, Any]) -> int:
    """Virtual CPUs: enough for --cpus, else one."""
    wanted = host.get("NanoCpus") or 0
    if not wanted and host.get("CpuQuota"):
        wanted = host["CpuQuota"] * 10**9 // (host.get("CpuPeriod") or 100000)
    return max(1, min(-(-int(wanted) // 10**9), os.cpu_count() or 1))


def memory(host: dict[str, Any]) -> int:
    """MiB of a machine in which the container can use all of its limit; never more than the host has."""
    limit = int(host.get("Memory") or 0)
    if not limit:
        return DEFAULT_MEMORY
    wanted = max((limit >> 20) + _GUEST_OVERHEAD, _LEAST)
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return int(min(-(-wanted // _STEP) * _STEP, max(most // _STEP * _STEP, DEFAULT_MEMORY)))


def system_memory(settings: dict[str, Any]) -> int:
    """MiB of a machine with an operating system."""
    return int(settings.get("Memory") or 0) >> 20 or 1024


def disk_size(host: dict[str, Any]) -> int:
    """Bytes of a container's own file system, or 0 for the default."""
    text = (host.get("StorageOpt") or {}).get("size")
    return sizes.parse(text) if text else 0


_REFUSED = (("NetworkMode", "host", "--network host"), ("PidMode", "host", "--pid host"), ("IpcMode", "host", "--ipc host"),
            ("UTSMode", "host", "--uts host"), ("CgroupnsMode", "host", "--cgroupns host"), ("UsernsMode", "host", "--userns host"))  # fmt: skip
_OWN_DEVICES = {
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (10, 229),
    (10, 200),
}  # null, zero, full, random, urandom, fuse, net/tun


def check(host: dict[str, Any]) -> None:
    """Refuses what a kernel of its own can't give. Raises BadRequest."""
    for key, value, flag in _REFUSED:
        mode = host.get(key) or ""
        if mode == value:
            raise BadRequest(
                f"{flag} is impossible with --isolation vm: a virtual machine shares nothing of the host's kernel"
            )
        if mode.startswith("container:"):
            raise BadRequest(
                f"{flag.replace('host', mode)} is impossible with --isolation vm: other containers have another kernel"
            )
    for item in host.get("Devices") or []:
        try:
            number = os.stat(item["PathOnHost"]).st_rdev
        except OSError:
            continue  # complained of elsewhere
        if (os.major(number), os.minor(number)) not in _OWN_DEVICES:
            raise BadRequest(
                f"--device {item['PathOnHost']} is impossible with --isolation vm: the device is the host's"
            )
    if host.get("DeviceRequests"):
        raise BadRequest("--gpus is impossible with --isolation vm: the devices are the host's")
    options = host.get("StorageOpt") or {}
    if options.get("medium") not in (None, "disk", "memory"):
        raise BadRequest(f"invalid --storage-opt medium={options['medium']}: disk or memory")
    try:
        size = sizes.parse(options["size"]) if options.get("size") else 0
    except ValueError as error:
        raise BadRequest(f"invalid --storage-opt size: {error}") from None
    if size and not 32 << 20 <= size <= 64 << 30:
        raise BadRequest(f"invalid --storage-opt size={options['size']}: 32m to 64g")
