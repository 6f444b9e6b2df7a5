"""T64, S030: what a filter compares is what the kernel takes, whatever else is in the register; rules as they are meant.

The compiled filters run in an interpreter of BPF against a second reading of the rules, in plain Python.
"""

from __future__ import annotations

import base64
import ctypes
import json
import mmap
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine import spec
from sampan.engine.errors import BadRequest
from sampan.linux import prctl, seccomp, syscalls
from sampan.linux.syscall import ARCH
from sampan.runtime import seccomp_default
from tests.support.effort import tries
from tests.unit.cbpf import I386, X86_64, evaluate

ACTIONS = {"SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_TRAP": 0x30000,
           "SCMP_ACT_ERRNO": 0x50001, "SCMP_ACT_TRACE": 0x7FF00001, "SCMP_ACT_LOG": 0x7FFC0000,
           "SCMP_ACT_ALLOW": 0x7FFF0000}  # fmt: skip
STRICTEST_FIRST = list(ACTIONS)
# With arguments of 64, 32 and 16 bits; chown has 16 on i386 only.
NAMES = ["socket", "clone", "ioctl", "fchmod", "chown", "ptrace", "openat", "mmap", "setuid", "getpid"]
OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
ARCHES = {"x86_64": X86_64, "i386": I386}
EDGES = [0, 1, 5, 38, 39, 40, 0xFFFF, 0x10000, 0x10005, 0xFFFFFFFF, 1 << 32, 1 << 32 | 5, 1 << 32 | 40, (1 << 64) - 1,
         (1 << 64) - (1 << 31), 0x7E020000, 1 << 63]  # fmt: skip
values = st.sampled_from(EDGES) | st.integers(0, (1 << 64) - 1)
conditions = st.fixed_dictionaries({
    "index": st.integers(0, 2), "value": values, "valueTwo": values,
    "op": st.sampled_from([f"SCMP_CMP_{op}" for op in OPERATORS]),
})  # fmt: skip
rules = st.fixed_dictionaries({
    "names": st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    "action": st.sampled_from(STRICTEST_FIRST),
    "args": st.lists(conditions, max_size=4),
})  # fmt: skip
sections = st.fixed_dictionaries({
    "defaultAction": st.sampled_from(STRICTEST_FIRST),
    "architectures": st.just(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
    "syscalls": st.lists(rules, max_size=5),
})  # fmt: skip


def holds(condition: dict[str, Any], register: int, bits: int) -> bool:
    """Whether a condition is met by what the kernel takes of a register."""
    seen = register % (1 << bits)

    def same(value: int) -> int:
        return value % (1 << bits) if value >= (1 << 64) - (1 << bits - 1) else value

    value = condition["value"]
    met: dict[str, bool] = {
        "NE": seen != same(value), "EQ": seen == same(value), "LT": seen < value, "LE": seen <= value,
        "GT": seen > value, "GE": seen >= value, "MASKED_EQ": seen & value == same(condition["valueTwo"]),
    }  # fmt: skip
    return met[condition["op"].removeprefix("SCMP_CMP_")]


def applies(rule: dict[str, Any], arch: str, name: str, args: tuple[int, ...], denying: bool) -> bool:
    found: dict[int, list[tuple[str, bool]]] = {}
    for condition in rule["args"]:
        index = condition["index"]
        met = holds(condition, args[index], syscalls.width(arch, name, index))
        found.setdefault(index, []).append((condition["op"], met))
    if denying and any(len(met) > 1 for met in found.values()):
        return any(met for each in found.values() for _, met in each)
    return all(
        any(met for _, met in each) if all(op.endswith("EQ") for op, _ in each) else all(met for _, met in each)
        for each in found.values()
    )


def reference(section: dict[str, Any], arch: str, name: str, args: tuple[int, ...]) -> int:
    default = section["defaultAction"]
    order = STRICTEST_FIRST.index
    found = [
        rule["action"]
        for rule in section["syscalls"]
        if name in rule["names"] and applies(rule, arch, name, args, order(rule["action"]) < order(default))
    ]
    return ACTIONS[min(found, key=order) if found else default]


@settings(max_examples=tries(150, 2000), deadline=None)
@given(section=sections, name=st.sampled_from(NAMES), arch=st.sampled_from(list(ARCHES)), data=st.data())
def test_a_filter_does_what_its_rules_say(section: dict[str, Any], name: str, arch: str, data: st.DataObject) -> None:
    program = seccomp.compile_filter(section)
    for _ in range(8):
        args: tuple[int, ...] = data.draw(st.tuples(values, values, values))
        if arch == "i386":
            args = tuple(value % (1 << 32) for value in args)  # its registers have no more
        got = evaluate(program, syscalls.numbers(arch)[name], args, ARCHES[arch])
        assert got == reference(section, arch, name, args), args


@settings(max_examples=tries(100, 2000), deadline=None)
@given(section=sections, data=st.data())
def test_what_the_kernel_ignores_of_a_register_decides_nothing(section: dict[str, Any], data: st.DataObject) -> None:
    program = seccomp.compile_filter(section)
    name = data.draw(st.sampled_from(NAMES))
    args = data.draw(st.tuples(values, values, values))
    changed = list(args)
    for index in range(3):
        bits = syscalls.width("x86_64", name, index)
        changed[index] = args[index] % (1 << bits) | data.draw(st.integers(0, (1 << 64 - bits) - 1)) << bits
    number = syscalls.numbers("x86_64")[name]
    assert evaluate(program, number, args) == evaluate(program, number, tuple(changed))


def deny(name: str, *args: dict[str, Any], default: str = "SCMP_ACT_ALLOW", action: str = "SCMP_ACT_ERRNO") -> bytes:
    return seccomp.compile_filter({
        "defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": [name], "action": action, "args": list(args)}],
    })  # fmt: skip


def test_every_narrow_argument_of_every_call() -> None:
    """A call that is denied for a value is denied for it with any rubbish above, in all calls of the table."""
    tried = 0
    for name, number in syscalls.numbers("x86_64").items():
        for index in range(6):
            bits = syscalls.width("x86_64", name, index)
            program = deny(name, {"index": index, "value": 40, "op": "SCMP_CMP_EQ"})
            for rubbish in (1 << bits, 5 << 60) if bits < 64 else ():
                args = (0,) * index + (rubbish | 40,)
                assert evaluate(program, number, args) == ACTIONS["SCMP_ACT_ERRNO"], (name, index)
                tried += 1
            if bits == 64:
                args = (0,) * index + (1 << 32 | 40,)
                assert evaluate(program, number, args) == ACTIONS["SCMP_ACT_ALLOW"], (name, index)
    assert tried > 900


def test_two_unequals_in_one_rule_allow_neither() -> None:
    """S030: "!= 38 or != 40" is everything; as something to allow it means neither."""
    twice = [{"index": 0, "value": value, "op": "SCMP_CMP_NE"} for value in (38, 40)]
    program = deny("socket", *twice, default="SCMP_ACT_ERRNO", action="SCMP_ACT_ALLOW")
    number = syscalls.numbers("x86_64")["socket"]
    assert [evaluate(program, number, (f,)) == ACTIONS["SCMP_ACT_ALLOW"] for f in (37, 38, 39, 40)] == [1, 0, 1, 0]


def test_a_denied_call_is_not_made_by_another() -> None:
    vsock = deny("socket", {"index": 0, "value": 40, "op": "SCMP_CMP_EQ"})
    socketcall = syscalls.numbers("i386")["socketcall"]
    assert evaluate(vsock, socketcall, (1, 0), I386) == ACTIONS["SCMP_ACT_ERRNO"]
    assert evaluate(vsock, socketcall, (2, 0), I386) == ACTIONS["SCMP_ACT_ALLOW"]
    shmget = deny("shmget")
    assert evaluate(shmget, syscalls.numbers("i386")["ipc"], (1 << 16 | 23,), I386) == ACTIONS["SCMP_ACT_ERRNO"]
    flags = {"index": 0, "value": 0x10000000, "valueTwo": 0x10000000, "op": "SCMP_CMP_MASKED_EQ"}
    assert evaluate(deny("clone", flags), syscalls.numbers("x86_64")["clone3"]) == 0x50026


def test_an_argument_that_is_none_is_named() -> None:
    with pytest.raises(seccomp.SeccompError, match="socket has no argument 6"):
        deny("socket", {"index": 6, "value": 40, "op": "SCMP_CMP_EQ"})


@pytest.mark.skipif(ARCH != "x86_64", reason="machine code of x86-64")
@pytest.mark.parametrize(
    ("entry", "call", "first", "answer"),
    [("64", "socket", 40, 1), ("64", "socket", 1 << 32 | 40, 1), ("64", "socket", 0xDEAD << 32 | 38, 1),
     ("64", "socket", 1 << 32 | 1, 0), ("32", "socket", 40, 1), ("32", "socketcall", 1, 1), ("x32", "socket", 40, 38),
     ("64", "clone", 1 << 40 | 0x10000011, 1)],
)  # fmt: skip
def test_the_kernel_under_the_default_filter(entry: str, call: str, first: int, answer: int) -> None:
    """T64 for real: each way into the kernel, with rubbish above the argument. 0 is success."""
    program = seccomp_default.compiled(())
    number = syscalls.numbers("i386" if entry == "32" else "x86_64")[call] | (0x40000000 if entry == "x32" else 0)
    if entry == "32":  # push rbx; eax, ebx, ecx, edx; int 0x80; pop rbx
        moves = b"".join(bytes([op]) + value.to_bytes(4, "little") for op, value in
                         ((0xB8, number), (0xBB, first), (0xB9, 1), (0xBA, 0)))  # fmt: skip
        code = b"\x53" + moves + b"\xcd\x80\x5b\x48\x98\xc3"
    else:  # rax, rdi, rsi = 1, rdx = r10 = r8 = 0; syscall
        code = (b"\x48\xb8" + number.to_bytes(8, "little") + b"\x48\xbf" + first.to_bytes(8, "little")
                + b"\xbe\x01\x00\x00\x00\x31\xd2\x45\x31\xd2\x45\x31\xc0\x0f\x05\xc3")  # fmt: skip
    if entry == "64" and call == "clone":
        code = code.replace(b"\xbe\x01\x00\x00\x00", b"\xbe\x00\x00\x00\x00")
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    page.write(code)
    function = ctypes.PYFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    pid = os.fork()
    if pid == 0:
        try:
            prctl.set_no_new_privs()
            seccomp.install(program)
            result = function()
            os._exit(-result if result < 0 else 0)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == answer


def test_a_profile_as_dockers_own_is_written() -> None:
    """`archMap` lets 32-bit programs in; rules may be for kernels and architectures."""
    rule = {"action": "SCMP_ACT_ALLOW"}
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [{**rule, "names": ["getpid"]},
                     {**rule, "names": ["openat"], "includes": {"minKernel": "4.8"}},
                     {**rule, "names": ["ptrace"], "includes": {"minKernel": "99.0"}},
                     {**rule, "names": ["fchmod"], "excludes": {"minKernel": "4.8"}},
                     {**rule, "names": ["chown"], "excludes": {"arches": ["amd64"]}},
                     {**rule, "names": ["setuid"], "excludes": {"arches": ["s390x"]}}],
    }  # fmt: skip
    encoded = spec.seccomp_program({"seccomp": json.dumps(profile)}, privileged=False, capabilities=[])
    assert encoded is not None
    program = base64.b64decode(encoded)
    for arch in ARCHES:
        allowed = [
            name
            for name in NAMES
            if evaluate(program, syscalls.numbers(arch)[name], (), ARCHES[arch]) == ACTIONS["SCMP_ACT_ALLOW"]
        ]
        assert sorted(allowed) == ["getpid", "openat", "setuid"]
    both = json.dumps({**profile, "architectures": ["SCMP_ARCH_X86_64"]})
    with pytest.raises(BadRequest, match="archMap"):
        spec.seccomp_program({"seccomp": both}, privileged=False, capabilities=[])
