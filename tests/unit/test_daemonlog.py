"""The lines of the daemon's log, and of the processes that write the same without `logging`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sampan import logline
from sampan.api import daemonlog


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("sampan")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["debug: 10", "20", "warn: 30", "error: 40", "fatal: 50"]),
        ("info", ["20", "warn: 30", "error: 40", "fatal: 50"]),
        ("warn", ["warn: 30", "error: 40", "fatal: 50"]),
        ("error", ["error: 40", "fatal: 50"]),
        ("fatal", ["fatal: 50"]),
    ],
)
def test_a_level_has_its_messages_and_those_above(
    capsys: pytest.CaptureFixture[str], level: str, said: list[str]
) -> None:
    daemonlog.set_up(level)
    for number in (10, 20, 30, 40, 50):
        logging.getLogger("sampan.engine.x").log(number, "%d", number)
    assert capsys.readouterr().err.splitlines() == [f"sampand: {line}" for line in said]
    assert daemonlog.debugging() == (level == "debug")


def test_the_words_of_others_are_no_lines_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    daemonlog.set_up("debug")
    for text in ("a\nsampand: forged", "a\r\n<0>sampand: forged", "\x1b[2J%s%d"):
        logging.getLogger("sampan.api").warning(text)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("sampand: warn: ") and line.isprintable() for line in lines)


def test_a_traceback_has_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    daemonlog.set_up("info")
    try:
        raise ValueError("of\nsomebody's")
    except ValueError:
        logging.getLogger("sampan.api").exception("GET /x")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sampand: error: GET /x"
    assert "sampand: error: ValueError: of" in lines
    assert all(line.startswith("sampand: error: ") for line in lines)


def test_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    daemonlog.set_up("debug")
    logging.getLogger("hpack.hpack").debug("authorization: secret")
    logging.getLogger("asyncio").error("Task was destroyed")
    assert capsys.readouterr().err == "sampand: error: Task was destroyed\n"


_SAYS = "from sampan import logline; logline.write('sampan-keeper', 'warn', 'no\\nspace')"


@pytest.mark.parametrize("journal", [True, False])
def test_the_journal_gets_priorities_and_nobody_else(journal: bool) -> None:
    reader, writer = os.pipe()
    found = os.fstat(writer)
    stream = f"{found.st_dev}:{found.st_ino + (0 if journal else 1)}"
    subprocess.run(
        [sys.executable, "-c", _SAYS], stderr=writer, check=True, env={**os.environ, "JOURNAL_STREAM": stream}
    )
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        assert file.read() == f"{'<4>' if journal else ''}sampan-keeper: warn: no\ufffdspace\n"


def test_the_priorities_are_those_of_all_levels() -> None:
    assert set(logline.PRIORITIES) == set(daemonlog.LEVELS)


@pytest.mark.parametrize(
    "module",
    ["sampan.keeper.main", "sampan.keeper.supervisor", "sampan.runtime.spawn", "sampan.vm.agent", "sampan.cli.main"],
)
def test_light_processes_do_without_logging(module: str) -> None:
    code = f"import sys, {module}; sys.exit('logging' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sampand_takes_the_levels_of_dockerd() -> None:
    command = [sys.executable, "-c", "from sampan.api.daemon import main; main()", "--log-level", "loud"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "loud" in done.stderr
