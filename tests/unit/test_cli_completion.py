"""Completion in a real bash, and manual pages through a real groff."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
# An engine with one thing of each kind.
FAKE = """
sampan() {
  [[ $SAMPAN_AUTOSTART == 0 ]] || echo started
  case "$*" in
    ps*) echo box; echo web ;;
    images*) echo busybox:latest ;;
    "network ls"*) echo front ;;
    "volume ls"*) echo data ;;
    "vm ls"*) echo srv ;;
  esac
}
"""


def complete(*words: str) -> list[str]:
    code = f"""{FAKE}
source completions/sampan.bash
COMP_WORDS=(sampan "$@"); COMP_CWORD=$#
_sampan
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", *words], capture_output=True, text=True, cwd=TOP, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sto"], ["stop"]),
        (["container", "re"], ["remove", "rename", "restart"]),
        (["ps", "--no"], ["--no-trunc"]),
        (["container", "ls", "--lat"], ["--latest"]),
        (["stop", ""], ["box", "web"]),
        (["stop", "-t", "5", "box", "w"], ["web"]),
        (["-D", "container", "rm", "-f", ""], ["box", "web"]),
        (["run", ""], ["busybox:latest"]),
        (["run", "--network", ""], ["front"]),
        (["run", "-it", "--volumes-from", "b"], ["box"]),
        (["run", "busybox", ""], []),
        (["network", "connect", ""], ["front"]),
        (["network", "connect", "front", ""], ["box", "web"]),
        (["network", "create", ""], []),
        (["volume", "rm", ""], ["data"]),
        (["vm", "start", ""], ["srv"]),
        (["inspect", ""], ["box", "web", "busybox:latest", "front", "data"]),
    ],
)
def test_bash(words: list[str], expected: list[str]) -> None:
    assert complete(*words) == expected


def test_bash_completes_every_first_word() -> None:
    found = complete("")
    assert {"run", "container", "vm", "help", "compare"} <= set(found)


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff on this machine")
def test_manual_pages_have_no_mistake() -> None:
    pages = sorted(TOP.glob("man/*.1"))
    assert len(pages) > 80
    done = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", *pages], capture_output=True, text=True, check=True)
    assert done.stderr == ""
