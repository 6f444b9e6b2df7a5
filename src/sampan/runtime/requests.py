"""Types of what is asked of the runtime: a container's first process, a further one in it, a process of our own program.

Type checkers alone import this: at run time these are plain dicts, since they come as JSON and go on as JSON to the prefork.
"""

from __future__ import annotations

from typing import TypedDict

from sampan.linux.spec_types import DeviceRule
from sampan.oci.runtime_spec import Device, Mount, Process, Spec, State


class Overlay(TypedDict, total=False):
    """An overlay to be mounted: directories from the uppermost down; without `upper` it can't be written to."""

    lower: list[str]
    upper: str | None
    work: str | None


class Common(TypedDict, total=False):
    """What both kinds have. `cgroup` is a path below the roots, None for our own; `seccomp` is BPF in base64.

    With `entry` ("module:function") it is for `spawn.start_entry`: a process of our own program, with what that takes.
    """

    cgroup: str | None
    seccomp: str | None
    seccomp_flags: int
    preserve_fds: int
    gate: int  # a listening socket: the process waits until somebody connects to it
    state: State  # for hooks
    warnings: list[str]
    machine: bool  # the kernel is the container's own
    spec: Spec
    process: Process
    entry: str
    descriptors: list[str]  # the names of those that such a process gets, in order
    sources: int  # the engine's table of descriptors (runtime/sources)


class Launch(Common, total=False):
    """For `spawn.start`: a container's first process."""

    overlay: Overlay | None
    where: str  # an empty directory, or the root when there is no overlay
    sandbox: str  # the network namespace that a prefork is in, by its name
    mounted: int  # the overlay, mounted ahead; -1: it is not
    root: int  # an index into `trees`
    trees: list[int]
    hooks: bool
    no_pivot: bool
    keep_keyring: bool
    ping: bool  # in a network of its own any user may ping, and listen on any port


class Join(Common, total=False):
    """For `spawn.join`: a further process in the container whose first is `pid`; with a `start_time` it is that one for sure."""

    pid: int
    start_time: int
    chroot: str


class HandOver(TypedDict, total=False):
    """For a process that was cloned ahead: what it is to become, a container's first process or a further one."""

    launch: Launch
    joined: bool  # it is in the container's cgroup
    premounted: bool  # its mounts are the container's
    join: Join
    namespaces: int  # those that it joins
    stdio: bool  # there are streams


class Outline(TypedDict):
    """The parts of a specification that a prefork's mounts are made from."""

    mounts: list[Mount]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    devices: list[Device]
    propagation: str


class Expectation(TypedDict):
    """What the next container will probably have."""

    outline: Outline
    devices: list[DeviceRule]
    cgroup_parent: str
