"""Devices of the host's in a runtime specification: nodes, rules, and how much may be read and written."""

from __future__ import annotations

import os
import re

from sampan.engine import model
from sampan.engine.errors import BadRequest
from sampan.engine.model import Device, Limits
from sampan.linux.spec_types import BlockLimits, DeviceRate, DeviceRule
from sampan.oci.runtime_spec import Device as DeviceEntry


class Node(DeviceEntry, total=False):
    access: str


def node(item: Device) -> Node:
    """The node of a device of the host's in a container. Raises BadRequest."""
    source = item.host_path
    try:
        info = os.stat(source)
    except OSError as error:
        raise BadRequest(
            f"error gathering device information while adding custom device {source!r}: {error.strerror}"
        ) from error
    kind = "c" if info.st_mode & 0o170000 == 0o020000 else "b" if info.st_mode & 0o170000 == 0o060000 else ""
    if not kind:
        raise BadRequest(f"error gathering device information while adding custom device {source!r}: not a device node")
    return {
        "path": item.path or source,
        "type": kind,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": info.st_mode & 0o777,
        "uid": info.st_uid,
        "gid": info.st_gid,
        "access": item.access or "rwm",
    }


def allowed(found: Node) -> DeviceRule:
    """The rule that lets a container use a node of its own."""
    return {
        "allow": True,
        "type": found["type"],
        "major": found["major"],
        "minor": found["minor"],
        "access": found["access"],
    }


def block_io(limits: Limits) -> BlockLimits:
    """`linux.resources.blockIO` for the limits. Raises BadRequest."""
    found: BlockLimits = {"weight": limits.blkio_weight}
    for row in limits.device_weights:
        major, minor = _number(row.path)
        found.setdefault("weightDevice", []).append({"major": major, "minor": minor, "weight": row.weight})
    if limits.read_bps:
        found["throttleReadBpsDevice"] = [_rate(row) for row in limits.read_bps]
    if limits.write_bps:
        found["throttleWriteBpsDevice"] = [_rate(row) for row in limits.write_bps]
    if limits.read_iops:
        found["throttleReadIOPSDevice"] = [_rate(row) for row in limits.read_iops]
    if limits.write_iops:
        found["throttleWriteIOPSDevice"] = [_rate(row) for row in limits.write_iops]
    return found


def _rate(row: model.DeviceRate) -> DeviceRate:
    major, minor = _number(row.path)
    return {"major": major, "minor": minor, "rate": row.rate}


def _number(path: str) -> tuple[int, int]:
    """The number of a block device of the host's. Raises BadRequest."""
    found = node(Device(path))
    if found["type"] != "b":
        raise BadRequest(f"{path} is no block device: limits of reading and writing are for those")
    return found["major"], found["minor"]


_CGROUP_RULE = re.compile(r"([acb]) (\d{1,7}|\*):(\d{1,7}|\*) ([rwm]{1,3})")


def rules(text: str) -> list[DeviceRule]:
    """The rules of text such as "c 10:* rw"; "a" is for both kinds. Raises BadRequest."""
    parts = _CGROUP_RULE.fullmatch(text)
    if parts is None:
        raise BadRequest(f"invalid device cgroup rule format: '{text}'")
    major, minor = (-1 if number == "*" else int(number) for number in parts.group(2, 3))
    # One for each kind: for "a" alone the kernel's v1 looks at nothing that follows it, and lets everything through.
    return [
        {"allow": True, "type": kind, "major": major, "minor": minor, "access": parts[4]}
        for kind in ("bc" if parts[1] == "a" else parts[1])
    ]
