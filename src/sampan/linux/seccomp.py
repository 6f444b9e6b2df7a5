"""seccomp(2): an OCI seccomp section compiled to BPF, and its installation."""

from __future__ import annotations

import ctypes
import functools
import os
import struct

from sampan.linux import bpf
from sampan.linux.syscall import ARCH, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ALLOW = 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": _ALLOW,
}
_FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7}
_OCI_ARCH = {"SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "i386", "SCMP_ARCH_AARCH64": "aarch64"}
_COLUMN = {"x86_64": 1, "i386": 2, "aarch64": 3}
_ENOSYS = 38


class SeccompError(ValueError):
    """The seccomp section asks for something that cannot be compiled."""


def _table() -> str:
    with open(os.path.join(os.path.dirname(__file__), "syscalls.tbl"), encoding="ascii") as file:
        return file.read()


@functools.cache
def numbers(arch: str) -> dict[str, int]:
    """System call numbers of an architecture by name ("x86_64", "i386" or "aarch64")."""
    text = _table()
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {row[0]: int(row[_COLUMN[arch]]) for row in rows if row[_COLUMN[arch]] != "-"}


def compile_filter(section: dict[str, Any]) -> bytes:
    """Compiles `linux.seccomp` of the runtime specification to BPF. Raises SeccompError.

    Calls newer than the newest in our table get ENOSYS instead of the default errno, so that
    programs fall back to older calls (moby/moby#42871). The x32 entry gets ENOSYS too.
    """
    default = _action(section["defaultAction"], section.get("defaultErrnoRet"))
    listed = section.get("architectures") or [f"SCMP_ARCH_{ARCH.upper()}"]
    arches = [_OCI_ARCH[name] for name in listed if name in _OCI_ARCH]
    program = bpf.Program()
    program.load(4)  # seccomp_data.arch
    for arch in arches:
        following = program.new_label()
        body = program.new_label()
        program.jump(bpf.JEQ, _AUDIT_ARCH[arch], body, "")
        program.goto(following)
        program.place(body)
        _compile_arch(program, arch, section.get("syscalls") or [], default)
        program.place(following)
    program.ret(_ACTIONS["SCMP_ACT_KILL_PROCESS"])
    return program.assemble()


def known_actions() -> list[str]:
    """The actions compile_filter() takes."""
    return sorted(_ACTIONS)


def known_operators() -> list[str]:
    """The comparisons compile_filter() takes."""
    return [f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")]


def known_archs() -> list[str]:
    """The architectures compile_filter() takes."""
    return sorted(_OCI_ARCH)


def known_flags() -> list[str]:
    """The flags of seccomp(2) that flags() takes."""
    return sorted(_FLAGS)


def flags(section: dict[str, Any]) -> int:
    """The filter flags of the section as seccomp(2) takes them."""
    value = 0
    for name in section.get("flags") or []:
        if name not in _FLAGS:
            raise SeccompError(f"unknown seccomp flag {name}")
        value |= _FLAGS[name]
    return value


def install(program: bytes, filter_flags: int = 0) -> None:
    """Puts the calling process under a filter, for ever. Needs no_new_privs or CAP_SYS_ADMIN."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    syscall("seccomp", ctypes.c_uint(1), ctypes.c_uint(filter_flags), ctypes.c_char_p(header))


def _action(name: str, errno: int | None) -> int:
    if name not in _ACTIONS:
        raise SeccompError(f"unsupported seccomp action {name}")
    value = _ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= (1 if errno is None else errno) & 0xFFFF
    return value


def _compile_arch(program: bpf.Program, arch: str, rules: list[dict[str, Any]], default: int) -> None:
    table = numbers(arch)
    plain: dict[int, int] = {}
    conditional: dict[int, list[tuple[list[dict[str, Any]], int]]] = {}
    for rule in rules:
        action = _action(rule["action"], rule.get("errnoRet"))
        for name in rule["names"]:
            number = table.get(name)
            if number is None:
                continue
            if not rule.get("args"):
                plain.setdefault(number, action)
            else:
                conditional.setdefault(number, []).extend((group, action) for group in _groups(rule["args"]))
    program.load(0)  # seccomp_data.nr
    newest = max(table.values())
    blocks = {number: program.new_label() for number in conditional if number not in plain}
    _search(program, _ranges(plain, blocks, default, newest))
    for number, label in blocks.items():
        program.place(label)
        for conditions, action in conditional[number]:
            _check(program, conditions, action)
        program.ret(default)


def _groups(args: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Conditions on one argument twice are alternatives, as runc reads them."""
    indexes = [arg["index"] for arg in args]
    return [list(args)] if len(set(indexes)) == len(indexes) else [[arg] for arg in args]


_Range = tuple[int, int | str]


def _ranges(plain: dict[int, int], blocks: dict[int, str], default: int, newest: int) -> list[_Range]:
    """(first number, action or label) rows, sorted, neighbours with one action joined."""
    rows: list[_Range] = []
    for number in range(newest + 1):
        target: int | str = plain.get(number, default)
        if number in blocks:
            target = blocks[number]
        if not rows or rows[-1][1] != target:
            rows.append((number, target))
    rows.append((newest + 1, _ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS))
    return rows


def _search(program: bpf.Program, rows: list[_Range]) -> None:
    """A binary search over the ranges for the call number in A."""
    if len(rows) == 1:
        target = rows[0][1]
        if isinstance(target, str):
            program.goto(target)
        else:
            program.ret(target)
        return
    middle = len(rows) // 2
    upper = program.new_label()
    program.jump(bpf.JGE, rows[middle][0], upper, "")
    _search(program, rows[:middle])
    program.place(upper)
    _search(program, rows[middle:])


def _check(program: bpf.Program, conditions: list[dict[str, Any]], action: int) -> None:
    fail = program.new_label()
    for condition in conditions:
        success = program.new_label()
        _compare(program, condition, success, fail)
        program.place(success)
    program.ret(action)
    program.place(fail)


def _compare(program: bpf.Program, condition: dict[str, Any], success: str, fail: str) -> None:
    """A comparison of a 64-bit argument, as two 32-bit halves (little endian)."""
    low = 16 + 8 * int(condition["index"])
    high = low + 4
    value = int(condition["value"]) & (1 << 64) - 1
    op = condition["op"]
    if op == "SCMP_CMP_MASKED_EQ":
        expected = int(condition.get("valueTwo") or 0)
        for offset, shift in ((high, 32), (low, 0)):
            program.load(offset)
            program.and_(value >> shift & 0xFFFFFFFF)
            program.jump(bpf.JEQ, expected >> shift & 0xFFFFFFFF, "", fail)
        return
    value_high, value_low = value >> 32, value & 0xFFFFFFFF
    if op in ("SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_NE"):
        success, fail = fail, success
    program.load(high)
    if op in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        program.jump(bpf.JEQ, value_high, "", fail)
        program.load(low)
        program.jump(bpf.JEQ, value_low, success, fail)
    elif op in ("SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_LT"):
        program.jump(bpf.JGT, value_high, success, "")
        program.jump(bpf.JEQ, value_high, "", fail)
        program.load(low)
        test = bpf.JGT if op in ("SCMP_CMP_GT", "SCMP_CMP_LE") else bpf.JGE
        program.jump(test, value_low, success, fail)
    else:
        raise SeccompError(f"unknown seccomp operator {op}")
