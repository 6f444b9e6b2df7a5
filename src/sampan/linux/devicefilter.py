"""Device access on cgroup v2: an eBPF program made from the rules of the runtime specification."""

from __future__ import annotations

import ctypes
import os
import struct

from sampan.linux.syscall import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import DeviceRule

_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPE = {"b": 1, "c": 2}


def _insn(code: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, offset, imm)


def build(rules: list[DeviceRule]) -> bytes:
    """eBPF instructions for the device rules; the last rule that matches decides, none denies.

    The context is struct bpf_cgroup_dev_ctx: access_type (access << 16 | type), major, minor.
    Source: Documentation/bpf/prog_cgroup_sysctl.rst's sibling, uapi/linux/bpf.h.
    """
    code = b"".join(
        [
            _insn(0x61, 2, 1, 0),  # r2 = ctx->access_type
            _insn(0xBC, 3, 2),  # w3 = w2
            _insn(0x54, 2, imm=0xFFFF),  # w2 &= 0xffff: type
            _insn(0x74, 3, imm=16),  # w3 >>= 16: access
            _insn(0x61, 4, 1, 4),  # r4 = ctx->major
            _insn(0x61, 5, 1, 8),  # r5 = ctx->minor
        ]
    )
    for rule in reversed(rules):
        code += _block(rule)
        if _matches_all(rule):
            return code
    return code + _insn(0xB4, 0, imm=0) + _insn(0x95)


def _matches_all(rule: DeviceRule) -> bool:
    anything = all(rule.get(key) in (None, -1) for key in ("major", "minor"))
    return anything and (rule.get("type") or "a") == "a" and set(rule.get("access") or "rwm") >= set("rwm")


def _block(rule: DeviceRule) -> bytes:
    tests: list[bytes] = []
    kind = rule.get("type") or "a"
    if kind in _TYPE:
        tests.append(_insn(0x56, 2, imm=_TYPE[kind]))
    access = sum(_ACCESS[letter] for letter in set(rule.get("access") or "rwm") if letter in _ACCESS)
    if access != 7:
        # Leave when an access outside of the rule is asked: w1 = w3 & access; if w1 != w3.
        tests.append(_insn(0xBC, 1, 3) + _insn(0x54, 1, imm=access) + _insn(0x5E, 1, 3))
    for register, number in ((4, rule.get("major")), (5, rule.get("minor"))):
        if number is not None and number != -1:
            tests.append(_insn(0x56, register, imm=int(number)))
    end = _insn(0xB4, 0, imm=int(bool(rule["allow"]))) + _insn(0x95)
    length = sum(len(test) for test in tests) // 8
    code, position = b"", 0
    for test in tests:
        position += len(test) // 8
        jump = bytearray(test)
        # Every test ends in a conditional jump over the rest of this block.
        struct.pack_into("<h", jump, len(jump) - 8 + 2, length - position + 2)
        code += bytes(jump)
    return code + end


def attach(cgroup: str, rules: list[DeviceRule]) -> None:
    """Loads the rules' program and attaches it to the cgroup v2 directory. Raises OSError."""
    code = ctypes.create_string_buffer(build(rules))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attr = bytearray(120)
    count = (len(code) - 1) // 8
    struct.pack_into("<IIQQ", attr, 0, _PROG_TYPE_CGROUP_DEVICE, count, ctypes.addressof(code),
                     ctypes.addressof(licence))  # fmt: skip
    program = _bpf(_PROG_LOAD, attr)
    try:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attr = bytearray(120)
            struct.pack_into("<IIII", attr, 0, directory, program, _ATTACH_CGROUP_DEVICE, 0)
            _bpf(_PROG_ATTACH, attr)
        finally:
            os.close(directory)
    finally:
        os.close(program)


def _bpf(command: int, attr: bytearray) -> int:
    buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
    return syscall("bpf", ctypes.c_int(command), buffer, ctypes.c_uint(len(attr)), subject=f"cmd {command}")
