"""What of a container's configuration is the machine's, what the guest's kernel's, what the host's; and what is impossible."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sampan import sizes
from sampan.engine.errors import BadRequest
from sampan.engine.model import HostConfig, SystemVm
from sampan.linux.spec_types import CpuLimits, Resources
from sampan.oci.runtime_spec import Mount as MountEntry
from sampan.vm import guestroot
from sampan.vm.machine_types import ShareRow

DEFAULT_MEMORY = 512  # MiB, of a machine without a limit
# What the guest's kernel, agent and initramfs take beside the container, and what QEMU takes beside the guest.
_GUEST_OVERHEAD, HOST_OVERHEAD, _STEP, _LEAST = 96, 512, 32, 192
FILES = ("hosts", "resolv.conf", "hostname")


def share(entries: Iterable[MountEntry], directory: str) -> list[ShareRow]:
    """Turns the bind mounts of a specification into ones of what the guest sees; returns what it is to see, by descriptors
    of the engine's where it has looked at them (vm/microvm_shim)."""
    shares: list[ShareRow] = []
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


def inner_limits(resources: Resources) -> Resources:
    """The limits that the guest's kernel enforces. Host CPUs and disks are not its."""
    cpu: CpuLimits = {**resources["cpu"], "cpus": "", "mems": ""}
    return {**resources, "cpu": cpu, "blockIO": {}}


def outer_limits(resources: Resources, machine: int) -> Resources:
    """The limits that the host's kernel enforces on QEMU: of the container's, and of the machine itself (MiB)."""
    return {
        "cpu": resources["cpu"],
        "blockIO": resources["blockIO"],
        "memory": {"limit": machine + HOST_OVERHEAD << 20},
    }


def cpus(host: HostConfig) -> int:
    """Virtual CPUs: enough for --cpus, else one."""
    wanted = host.limits.nano_cpus
    if not wanted and host.limits.cpu_quota:
        wanted = host.limits.cpu_quota * 10**9 // (host.limits.cpu_period or 100000)
    return max(1, min(-(-int(wanted) // 10**9), os.cpu_count() or 1))


def memory(host: HostConfig) -> int:
    """MiB of a machine in which the container can use all of its limit; never more than the host has."""
    limit = host.limits.memory
    if not limit:
        return DEFAULT_MEMORY
    wanted = max((limit >> 20) + _GUEST_OVERHEAD, _LEAST)
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return int(min(-(-wanted // _STEP) * _STEP, max(most // _STEP * _STEP, DEFAULT_MEMORY)))


def system_memory(settings: SystemVm) -> int:
    """MiB of a system VM."""
    return settings.memory >> 20 or 1024


def disk_size(host: HostConfig) -> int:
    """Bytes of a container's own file system, or 0 for the default."""
    text = host.storage_options.get("size")
    return sizes.parse(text) if text else 0


_REFUSED = (
    ("network_mode", "--network host"),
    ("pid_mode", "--pid host"),
    ("ipc_mode", "--ipc host"),
    ("uts_mode", "--uts host"),
    ("cgroup_namespace", "--cgroupns host"),
    ("user_namespace", "--userns host"),
)
_OWN_DEVICES = {
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (10, 229),
    (10, 200),
}  # null, zero, full, random, urandom, fuse, net/tun


def check(host: HostConfig) -> None:
    """Refuses what a kernel of its own can't give. Raises BadRequest."""
    for attribute, flag in _REFUSED:
        mode = getattr(host, attribute)
        if mode == "host":
            raise BadRequest(
                f"{flag} is impossible with --isolation vm: a virtual machine shares nothing of the host's kernel"
            )
        if mode.startswith("container:"):
            raise BadRequest(
                f"{flag.replace('host', mode)} is impossible with --isolation vm: other containers have another kernel"
            )
    for item in host.devices:
        try:
            number = os.stat(item.host_path).st_rdev
        except OSError:
            continue  # complained of elsewhere
        if (os.major(number), os.minor(number)) not in _OWN_DEVICES:
            raise BadRequest(f"--device {item.host_path} is impossible with --isolation vm: the device is the host's")
    limits = host.limits
    if limits.device_weights or limits.read_bps or limits.write_bps or limits.read_iops or limits.write_iops:
        raise BadRequest(
            "limits of single block devices are impossible with --isolation vm: the devices are the host's"
        )
    if host.device_cgroup_rules:
        raise BadRequest("--device-cgroup-rule is impossible with --isolation vm: the devices are the host's")
    if host.device_requests:
        raise BadRequest("--gpus is impossible with --isolation vm: the devices are the host's")
    options = host.storage_options
    if options.get("medium") not in (None, "disk", "memory"):
        raise BadRequest(f"invalid --storage-opt medium={options['medium']}: disk or memory")
    try:
        size = sizes.parse(options["size"]) if options.get("size") else 0
    except ValueError as error:
        raise BadRequest(f"invalid --storage-opt size: {error}") from None
    if size and not 32 << 20 <= size <= 64 << 30:
        raise BadRequest(f"invalid --storage-opt size={options['size']}: 32m to 64g")
