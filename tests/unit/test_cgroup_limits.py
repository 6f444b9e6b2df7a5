"""Limits as writes to v1 and v2 files, and device rules as eBPF."""

from __future__ import annotations

import struct

import pytest

from sampan.linux import devicefilter
from sampan.linux.cgroup_limits import before, changes, cpu_weight

V1 = ("memory", "cpu", "cpuset", "pids", "blkio")
V2 = ("memory", "cpu", "cpuset", "pids", "io")


def files(resources: dict, v1: tuple[str, ...] = (), v2: tuple[str, ...] = ()) -> dict[str, str]:
    return {change.file: change.value for change in changes(resources, v1, v2)}


def test_half_a_cpu() -> None:
    limits = {"cpu": {"quota": 50000, "period": 100000}}
    assert files(limits, v2=V2) == {"cpu.max": "50000 100000"}
    assert files(limits, v1=V1) == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}


def test_swap_counts_memory_on_v1_only() -> None:
    limits = {"memory": {"limit": 100, "swap": 150}}
    assert files(limits, v2=V2) == {"memory.max": "100", "memory.swap.max": "50"}
    assert files(limits, v1=V1) == {"memory.limit_in_bytes": "100", "memory.memsw.limit_in_bytes": "150"}


def test_unlimited_pids() -> None:
    assert files({"pids": {"limit": -1}}, v2=V2) == {"pids.max": "max"}
    assert files({"pids": {"limit": 0}}, v2=V2) == {}


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (0, 1), (10**9, 10000)])
def test_weights(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


def evaluate(code: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """Runs the few eBPF instructions that the device filter uses."""
    registers = [0] * 11
    context = {0: access << 16 | kind, 4: major, 8: minor}
    program = list(struct.iter_unpack("<BBhi", code))
    position = 0
    while True:
        op, pair, offset, imm = program[position]
        target, source = pair & 15, pair >> 4
        position += 1
        if op == 0x61:
            registers[target] = context[offset]
        elif op == 0xBC:
            registers[target] = registers[source]
        elif op == 0xB4:
            registers[target] = imm
        elif op == 0x54:
            registers[target] &= imm
        elif op == 0x74:
            registers[target] >>= imm
        elif op == 0x56:
            position += offset if registers[target] != imm else 0
        elif op == 0x5E:
            position += offset if registers[target] != registers[source] else 0
        elif op == 0x95:
            return registers[0]
        else:
            raise AssertionError(hex(op))


def test_device_filter() -> None:
    code = devicefilter.build(
        [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "access": "m"},
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": True, "type": "c", "major": 136, "access": "rw"},
        ]
    )
    block, char, make, read, write = 1, 2, 1, 2, 4
    assert evaluate(code, char, read | write, 1, 3) == 1
    assert evaluate(code, block, read, 1, 3) == 0
    assert evaluate(code, char, read, 8, 0) == 0
    assert evaluate(code, char, make, 8, 0) == 1
    assert evaluate(code, char, read, 136, 77) == 1
    assert evaluate(code, char, read | make, 136, 77) == 0


@pytest.mark.parametrize(
    ("content", "value", "written"),
    [
        ("100000\n", "50000", ["100000"]),
        ("max 100000\n", "50000 100000", ["max 100000"]),
        ("default 100\n8:0 200\n", "default 50", ["default 100", "8:0 200"]),
        ("8:16 1000\n", "8:0 500", ["8:0 0"]),
        ("8:0 1000\n8:16 7\n", "8:0 500", ["8:0 1000"]),
        ("", "8:0 rbps=5", ["8:0 rbps=max"]),
        ("8:0 rbps=9 wbps=max riops=max wiops=max\n", "8:0 rbps=5", ["8:0 rbps=max", "8:0 rbps=9 wbps=max riops=max wiops=max"]),
        ("", "0-1", []),
    ],
)  # fmt: skip
def test_what_puts_a_file_back(content: str, value: str, written: list[str]) -> None:
    assert before(content, value) == written
