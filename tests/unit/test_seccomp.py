"""The compiled policy, run by an interpreter of classic BPF (S030)."""

from __future__ import annotations

import pytest

from sampan.linux import seccomp, syscalls
from sampan.runtime import seccomp_default
from tests.unit.cbpf import I386, evaluate

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026


@pytest.fixture(scope="module")
def program() -> bytes:
    return seccomp_default.compiled(())


def number(name: str, arch: str = "x86_64") -> int:
    return syscalls.numbers(arch)[name]


@pytest.mark.parametrize("name", ["read", "openat", "execve", "mmap", "futex", "statx", "getrandom"])
def test_ordinary_calls_are_allowed(program: bytes, name: str) -> None:
    assert evaluate(program, number(name)) == ALLOW


@pytest.mark.parametrize(
    "name", ["keyctl", "mount", "bpf", "io_uring_setup", "kexec_load", "unshare", "open_by_handle_at", "reboot"]
)
def test_dangerous_calls_are_denied(program: bytes, name: str) -> None:
    assert evaluate(program, number(name)) == EPERM


@pytest.mark.parametrize(
    ("family", "allowed"), [(1, True), (2, True), (37, True), (38, False), (39, True), (40, False), (41, True)]
)
def test_socket_families(program: bytes, family: int, allowed: bool) -> None:
    expected = ALLOW if allowed else EPERM
    assert evaluate(program, number("socket"), (family,)) == expected
    assert evaluate(program, number("socket", "i386"), (family,), I386) == expected


def test_socketcall_would_hide_the_family(program: bytes) -> None:
    assert evaluate(program, number("socketcall", "i386"), (1,), I386) == EPERM


def test_x32_and_unknown_calls_get_enosys(program: bytes) -> None:
    assert evaluate(program, 0x40000000 | number("read")) == ENOSYS
    assert evaluate(program, 9999) == ENOSYS


def test_unknown_architecture_is_killed(program: bytes) -> None:
    assert evaluate(program, 0, arch=0x1234) == 0x80000000


def test_clone_may_not_make_namespaces(program: bytes) -> None:
    assert evaluate(program, number("clone"), (0x11,)) == ALLOW
    assert evaluate(program, number("clone"), (0x10000011,)) == EPERM
    assert evaluate(program, number("clone3")) == ENOSYS


def test_capability_opens_its_calls() -> None:
    with_admin = seccomp_default.compiled(("CAP_SYS_ADMIN",))
    assert evaluate(with_admin, number("mount")) == ALLOW
    assert evaluate(with_admin, number("clone"), (0x10000011,)) == ALLOW


@pytest.mark.parametrize(
    ("op", "value", "argument", "holds"),
    [("EQ", 1 << 40, 1 << 40, True), ("EQ", 1 << 40, 0, False), ("NE", 5, 5, False), ("NE", 5, 1 << 33 | 5, True),
     ("GT", 1 << 32, 1 << 32, False), ("GT", 1 << 32, (1 << 32) + 1, True), ("GE", 7, 7, True), ("LT", 7, 7, False),
     ("LT", 1 << 32, 5, True), ("LE", 7, 7, True), ("LE", 7, 8, False)],
)  # fmt: skip
def test_64_bit_comparisons(op: str, value: int, argument: int, holds: bool) -> None:
    rule = {
        "names": ["read"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 1, "value": value, "op": f"SCMP_CMP_{op}"}],
    }
    program = seccomp.compile_filter(
        {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]}
    )
    assert (evaluate(program, 0, (0, argument)) == ALLOW) is holds


def test_a_passage_is_for_who_knows_the_cookie() -> None:
    cookie = 0x1122334455667788
    denying = seccomp.compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []})
    listed = {number(name) for name in ("execve", "clone", "sendto", "accept4")}
    program = seccomp.passage(denying, listed, cookie)
    for call in listed:
        assert evaluate(program, call, (1, 2, 3, 4, 5, cookie)) == ALLOW
        for wrong in (0, cookie + 1, cookie ^ 1 << 63, cookie & 0xFFFFFFFF, cookie >> 32):
            assert evaluate(program, call, (1, 2, 3, 4, 5, wrong)) == EPERM
        assert evaluate(program, call, (cookie, cookie, cookie, cookie, cookie)) == EPERM
        assert evaluate(program, call, (0, 0, 0, 0, 0, cookie), I386) == evaluate(denying, call, (), I386)
    assert evaluate(program, number("read"), (0, 0, 0, 0, 0, cookie)) == EPERM
