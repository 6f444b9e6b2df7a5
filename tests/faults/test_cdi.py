"""Devices by name (CDI), with descriptions that are made up here: what they say is what a container gets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, end_daemon, new_daemon
from tests.support.commands import NONE

HOOK = """#!/bin/sh
# As vendors' hooks do: the bundle is in the state on standard input, the root in the bundle's configuration.
state=$(cat)
bundle=$(echo "$state" | sed 's/.*"bundle": *"\\([^"]*\\)".*/\\1/')
test -f "$bundle/config.json" || exit 3
echo "$1 $COLOUR" > "$bundle/rootfs/made-by-hook"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("cdi")
    (top / "lib.so").write_text("the driver's library")
    hook = top / "hook"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (top / "specs").mkdir()
    edits = {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/kmsg", "permissions": "r"}]}
    write(top, "vendor", {"cdiVersion": "0.6.0", "kind": "vendor.com/class", "containerEdits": {"env": ["OF_ALL=1"]}, "devices": [
        {"name": "one", "containerEdits": {"env": ["DEVICE=one", "PATH=/from/cdi:/bin"], "mounts": [
            {"hostPath": str(top / "lib.so"), "containerPath": "/usr/lib/driver.so", "options": ["ro", "nosuid", "bind"]}]} | edits},
        {"name": "hooked", "containerEdits": {"hooks": [
            {"hookName": "createContainer", "path": str(hook), "args": ["hook", "argument"], "env": ["COLOUR=red", "PATH=/usr/bin:/bin"]}]}},
        {"name": "failing", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/false"}]}},
        {"name": "late", "containerEdits": {"hooks": [{"hookName": "poststart", "path": "/bin/true"}]}},
    ]})  # fmt: skip
    nvidia = {name: {"name": name, "containerEdits": {"env": [f"GPU_{name}=yes"]}} for name in ("0", "1", "all")}
    write(top, "nvidia", {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": list(nvidia.values())})
    return top


def write(top: Path, name: str, document: Any) -> None:
    (top / f"specs/{name}.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def own(place: Path) -> Iterator[Daemon]:
    daemon = new_daemon("container", "--cdi-spec-dir", str(place / "specs"))
    yield daemon
    end_daemon(daemon)


def test_a_device_by_name(own: Daemon) -> None:
    script = "echo $DEVICE $OF_ALL $PATH; cat /usr/lib/driver.so; head -c1 /dev/gpu0 >/dev/null && echo; (true > /dev/gpu0) 2>/dev/null || echo only read"
    got = own.ok(
        "run",
        "--rm",
        *NONE,
        "--cap-add",
        "SYSLOG",
        "--device",
        "vendor.com/class=one",
        "busybox",
        "/bin/sh",
        "-c",
        script,
    )
    assert got.splitlines() == ["one 1 /from/cdi:/bin", "the driver's library", "only read"]
    assert (
        own.ok("run", "--rm", *NONE, "busybox", "sh", "-c", "echo -$DEVICE; test -e /dev/gpu0 || echo none")
        == "-\nnone\n"
    )


def test_hooks(own: Daemon) -> None:
    for _ in range(2):  # the second start may be by a process that waited for it
        assert (
            own.ok("run", "--rm", *NONE, "--device", "vendor.com/class=hooked", "busybox", "cat", "/made-by-hook")
            == "argument red\n"
        )
    done = own.sampan("run", "--rm", *NONE, "--device", "vendor.com/class=failing", "busybox", "true")
    assert (done.returncode, b"createContainer hook /bin/false: exit status 1" in done.stderr) == (125, True), (
        done.stderr
    )
    done = own.sampan("run", "--rm", *NONE, "--device", "vendor.com/class=late", "busybox", "true")
    assert b"poststart hooks are not run here" in done.stderr


@pytest.mark.parametrize(
    ("gpus", "names"),
    [("all", ["all"]), ("1", ["0"]), ("2", ["0", "1"]), ("device=1", ["1"]), ('"device=0,1"', ["0", "1"])],
)
def test_gpus(own: Daemon, gpus: str, names: list[str]) -> None:
    got = own.ok("run", "--rm", *NONE, "--gpus", gpus, "busybox", "env")
    assert sorted(line.partition("=")[0] for line in got.splitlines() if line.startswith("GPU_")) == [
        f"GPU_{name}" for name in names
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--device", "vendor.com/class=none"), "unresolvable CDI devices vendor.com/class=none"),
        (("--device", "other.com/class=one"), "unresolvable CDI devices other.com/class=one"),
        (("--gpus", "3"), "could not select 3 GPUs: there are 2"),
        (("--gpus", "driver=amd"), 'could not select device driver "amd"'),
        (("--gpus", "all", "--isolation", "vm"), "--gpus is impossible with --isolation vm"),
    ],
)
def test_what_there_is_not(own: Daemon, options: tuple[str, ...], why: str) -> None:
    done = own.sampan("run", "--rm", *NONE, *options, "busybox", "true")
    assert (done.returncode, why in done.stderr.decode()) == (125, True), done.stderr


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"kind": 1}', '{"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": [{"name": 5}]}']
)
def test_a_description_that_is_none(own: Daemon, place: Path, text: str) -> None:
    broken = place / "specs/broken.json"
    broken.write_text(text)
    try:
        done = own.sampan("run", "--rm", *NONE, "--device", "vendor.com/class=one", "busybox", "true")
        assert (done.returncode, b"broken.json is no CDI specification" in done.stderr) == (125, True), done.stderr
        assert own.ok("run", "--rm", *NONE, "busybox", "echo", "unharmed") == "unharmed\n"
    finally:
        broken.unlink()


def test_yaml_too(own: Daemon, place: Path) -> None:
    pytest.importorskip("yaml")
    path = place / "specs/more.yaml"
    path.write_text(
        "cdiVersion: 0.6.0\nkind: vendor.com/yaml\ndevices:\n- name: x\n  containerEdits: {env: [FROM=yaml]}\n"
    )
    assert "FROM=yaml" in own.ok("run", "--rm", *NONE, "--device", "vendor.com/yaml=x", "busybox", "env")
    os.unlink(path)
