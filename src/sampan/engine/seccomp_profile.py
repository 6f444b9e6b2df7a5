"""Seccomp profiles as Docker has them (`--security-opt seccomp=PROFILE`): of the capabilities, the machine and the kernel there are."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

import msgspec

from sampan.linux.spec_types import SeccompCondition, SeccompRule, SeccompSection

_ARCHES = {"amd64", "x86_64"}  # this machine's names in a profile
_NATIVE = "SCMP_ARCH_X86_64"


class _Where(msgspec.Struct, rename="camel"):
    """A rule's includes or excludes."""

    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str | None = None


class _Condition(msgspec.Struct, rename="camel"):
    index: int
    value: int
    op: str
    value_two: int = 0


class _Rule(msgspec.Struct, rename="camel"):
    action: str
    names: list[str] | None = None
    name: str | None = None  # of one
    errno_ret: int | None = None
    args: list[_Condition] | None = None
    includes: _Where | None = None
    excludes: _Where | None = None

    def holds(self, capabilities: Collection[str]) -> bool:
        """Whether it is one for a container with these capabilities, here."""
        includes, excludes = self.includes or _Where(), self.excludes or _Where()
        if any(cap not in capabilities for cap in includes.caps or ()):
            return False
        if any(cap in capabilities for cap in excludes.caps or ()):
            return False
        if not _ARCHES & set(includes.arches or _ARCHES) or _ARCHES & set(excludes.arches or ()):
            return False
        since, until = includes.min_kernel, excludes.min_kernel
        return not ((since and not _kernel_is(since)) or (until and _kernel_is(until)))

    def section(self) -> SeccompRule:
        """As the specification has it. Raises ValueError."""
        names = self.names or ([self.name] if self.name else [])
        if not names:
            raise ValueError("a rule has no names")
        found: SeccompRule = {"names": names, "action": self.action}
        if self.errno_ret is not None:
            found["errnoRet"] = self.errno_ret
        if self.args:
            found["args"] = [_condition(each) for each in self.args]
        return found


class _Architecture(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_Architecture] | None = None
    flags: list[str] | None = None
    syscalls: list[_Rule] | None = None

    def all_architectures(self) -> list[str]:
        """The native one with those that its entry of `archMap` runs besides (32-bit programs). Raises ValueError."""
        if self.architectures and self.arch_map:
            raise ValueError("both 'architectures' and 'archMap' are specified, use either of them")
        for entry in self.arch_map or ():
            if entry.architecture == _NATIVE:
                return [entry.architecture, *(entry.sub_architectures or ())]
        return self.architectures or []


def section(text: str, capabilities: Collection[str]) -> SeccompSection:
    """The profile as the runtime specification has one. Raises ValueError that names the member which is wrong."""
    profile = msgspec.json.decode(text, type=_Profile)
    found: SeccompSection = {
        "defaultAction": profile.default_action,
        "architectures": profile.all_architectures(),
        "flags": profile.flags or [],
        "syscalls": [rule.section() for rule in profile.syscalls or () if rule.holds(capabilities)],
    }
    if profile.default_errno_ret is not None:
        found["defaultErrnoRet"] = profile.default_errno_ret
    return found


def _condition(found: _Condition) -> SeccompCondition:
    return {"index": found.index, "value": found.value, "valueTwo": found.value_two, "op": found.op}


def _kernel_is(version: str) -> bool:
    """Whether the kernel is at least `version`, such as 4.8. Raises ValueError."""
    major, minor = (int(part) for part in version.split("."))
    running = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return running is None or (int(running[1]), int(running[2])) >= (major, minor)
