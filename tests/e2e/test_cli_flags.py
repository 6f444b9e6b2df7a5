"""Every command and flag of Docker's client, as its `--help` has them, is one of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from sampan.cli import globals, help
from sampan.cli.table import MODULES, find

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client on this machine")

# Not ours: swarm, plugins and content trust (Notary), which the engine does not have; Windows.
ELSEWHERE = {"config", "node", "secret", "service", "stack", "swarm", "plugin", "trust"}
WINDOWS = {"cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"}
SWARM = {"availability", "cluster", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing", "topology-preferred",
         "topology-required", "type"}  # fmt: skip
TRUST = {"disable-content-trust"}


def docker(*path: str) -> str:
    """The help of a command, in one line a flag."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "400"}
    return subprocess.run(["docker", *path, "--help"], capture_output=True, text=True, check=True, env=env).stdout


def flags_of(text: str) -> dict[str, str]:
    """The short form by the long one."""
    return {name: short or "" for short, name in re.findall(r"^ +(?:-(\w), )? *--([\w-]+)", text, re.MULTILINE)}


def commands_of(text: str) -> list[str]:
    return re.findall(r"^  ([\w-]+)\*? {2,}\S", "".join(re.findall(r"Commands:\n((?:  .*\n)+)", text)), re.MULTILINE)


@pytest.fixture(scope="module")
def theirs() -> dict[str, dict[str, str]]:
    """The flags of all commands of Docker's client that are not elsewhere."""
    first = [name for name in commands_of(docker()) if name not in ELSEWHERE]
    with ThreadPoolExecutor(4) as pool:
        texts = dict(zip(first, pool.map(docker, first), strict=True))
        deeper = [(group, name) for group, text in texts.items() for name in commands_of(text)]
        texts |= {
            " ".join(path): text
            for path, text in zip(deeper, pool.map(lambda path: docker(*path), deeper), strict=True)
        }
    return {
        name: flags_of(text) for name, text in texts.items() if not commands_of(text) and name != "volume update"
    } | {"": flags_of(docker())}


def test_every_command_is_there(theirs: dict[str, dict[str, str]]) -> None:
    ours = set(MODULES)
    assert len(theirs) > 80
    assert set(theirs) - ours - {""} == set()


def test_every_flag_is_there(theirs: dict[str, dict[str, str]]) -> None:
    missing: dict[str, set[str]] = {}
    for name, flags in theirs.items():
        found = find(name.split()) if name else None
        command = found[0] if found else None
        known = {flag.name: flag.short for flag in (command.flags if command else globals.FLAGS)} | {"help": ""}
        exempt = WINDOWS | TRUST | (SWARM if name.startswith("volume ") else set())
        key = command.name if command else ""
        missing.setdefault(key, set()).update(flag for flag in set(flags) - set(known) - exempt)
        for flag in set(flags) & set(known) - {"help"}:
            assert known[flag] == flags[flag], f"{name} --{flag} has another short form"
    assert {name: flags for name, flags in missing.items() if flags} == {}


def test_both_forms_are_one_command() -> None:
    for short, long in (
        ("ps", "container ls"),
        ("rmi", "image rm"),
        ("images", "image list"),
        ("build", "builder build"),
        ("info", "system info"),
    ):
        first, second = find([short]), find(long.split())
        assert first is not None
        assert second is not None
        assert first[0] is second[0]
    assert "run" in help.COMMON
