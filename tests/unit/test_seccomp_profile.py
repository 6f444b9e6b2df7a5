"""Seccomp profiles in Docker's form: what holds here is taken, and what is no profile is refused by its member's name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine import spec
from sampan.engine.errors import BadRequest
from sampan.engine.seccomp_profile import section

RULE: dict[str, Any] = {
    "names": ["chmod"],
    "action": "SCMP_ACT_ERRNO",
    "errnoRet": 1,
    "args": [],
    "comment": "",
    "includes": {},
    "excludes": {},
}
PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [RULE],
}  # fmt: skip


def names(**rule: Any) -> list[str]:
    found = section(json.dumps({**PROFILE, "syscalls": [{**RULE, **rule}]}), ["CAP_CHOWN"])
    return [name for each in found["syscalls"] for name in each["names"]]


def test_the_whole_of_one() -> None:
    condition = {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}
    profile = {
        **PROFILE,
        "defaultErrnoRet": 3,
        "syscalls": [{**RULE, "args": [condition]}, {"name": "open", "action": "SCMP_ACT_ALLOW"}],
    }
    assert section(json.dumps(profile), []) == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "defaultErrnoRet": 3,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": [],
        "syscalls": [
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{**condition, "valueTwo": 0}]},
            {"names": ["open"], "action": "SCMP_ACT_ALLOW"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({}, True),
        ({"includes": None, "excludes": None, "args": None}, True),
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_CHOWN"]}}, False),
        ({"includes": {"arches": ["amd64", "s390x"]}}, True),
        ({"includes": {"arches": ["s390x"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "3.0"}}, True),
        ({"includes": {"minKernel": "99.1"}}, False),
        ({"excludes": {"minKernel": "3.0"}}, False),
    ],
)
def test_rules_of_what_is_here(rule: dict[str, Any], holds: bool) -> None:
    assert names(**rule) == (["chmod"] if holds else [])


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ([], "Expected `object`"),
        ("x", "Expected `object`"),
        ({}, "defaultAction"),
        ({**PROFILE, "syscalls": {}}, "syscalls"),
        ({**PROFILE, "syscalls": ["chmod"]}, r"syscalls\[0\]"),
        ({**PROFILE, "syscalls": [{**RULE, "names": "chmod"}]}, r"syscalls\[0\].names"),
        ({**PROFILE, "syscalls": [{**RULE, "names": []}]}, "no names"),
        ({**PROFILE, "syscalls": [{**RULE, "includes": []}]}, "includes"),
        ({**PROFILE, "syscalls": [{**RULE, "includes": {"caps": "ALL"}}]}, "caps"),
        ({**PROFILE, "syscalls": [{**RULE, "includes": {"minKernel": "new"}}]}, "new"),
        ({**PROFILE, "syscalls": [{**RULE, "args": [5]}]}, "args"),
        ({**PROFILE, "architectures": ["SCMP_ARCH_X86_64"]}, "archMap"),
    ],
)
def test_what_is_none(profile: Any, named: str) -> None:
    with pytest.raises(BadRequest, match=f"decoding seccomp profile failed.*{named}"):
        spec.seccomp_program({"seccomp": json.dumps(profile)}, False, [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PROFILE, *RULE, "caps", "index"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_anything(profile: object) -> None:
    try:
        spec.seccomp_program({"seccomp": json.dumps(profile)}, False, [])
    except BadRequest:
        pass
