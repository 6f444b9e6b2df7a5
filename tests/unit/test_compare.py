"""Comparisons without measuring: middle and spread, files, reports, the picture's scale, the advice."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.compare import bundle, probe
from sampan.compare.advice import advise
from sampan.compare.model import (
    CONTAINER,
    MEASURES,
    NATIVE,
    VM,
    CompareError,
    Result,
    Samples,
    disagreements,
    from_json,
    quantile,
)
from sampan.compare.report import number, render

MACHINE = {"when": "2026-11-25T00:00:00+00:00", "processor": "A <fast> one", "cpus": 2, "memory": 24 << 30, "free": 20 << 30, "kernel": "6.18",
           "system": "Debian", "accelerator": "tcg", "engine": "0.1"}  # fmt: skip


def result(vm: float = 10.0, accelerator: str = "tcg") -> Result:
    """A comparison in which a microVM is `vm` times as bad as a container in everything."""
    found = Result("busybox<script>", ["true"], {**MACHINE, "accelerator": accelerator}, [NATIVE, CONTAINER, VM])
    for measure in MEASURES:
        for kind, factor in ((NATIVE, 1.0), (CONTAINER, 1.0), (VM, vm)):
            for value in (0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.1, 1.1, 1.1):
                base = 2e7 if measure.group in ("Memory", "Disk") else 0.01
                found.add(measure.key, kind, value * base * (1 / factor if measure.more_is_better else factor))
    found.layers = {
        NATIVE: [("host OS", 500e6), ("libraries", 1e6), ("application", 4e6)],
        VM: [
            ("host OS", 500e6),
            ("engine", 50e6),
            ("hypervisor", 20e6),
            ("guest OS", 30e6),
            ("libraries", 1e6),
            ("application", 4e6),
        ],
    }
    found.advice = advise(found)
    return found


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=60))
def test_the_middle_lies_within_the_spread(values: list[float]) -> None:
    samples = Samples(values)
    low, high = samples.spread
    assert low <= samples.median <= high
    assert len(values) >= 20 or (low <= min(values) and high >= max(values))
    assert not 9 < len(values) < 20 or (low, high) == (min(values), max(values))


def test_quantiles() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.25) == 1.25
    assert Samples([float(n) for n in range(101)]).spread == (5.0, 95.0)


def test_few_samples_are_not_taken_for_all_there_are() -> None:
    low, high = Samples([9.0, 10.0, 11.0]).spread
    assert (low, high) == (pytest.approx(10 - 9.925 * (2 / 3) ** 0.5), pytest.approx(10 + 9.925 * (2 / 3) ** 0.5))
    assert Samples([9.0, 11.0]).spread == (9.0, 11.0)
    # Of what is the same, hardly any two runs lie apart.
    rng = random.Random(7)
    apart = 0
    for _ in range(2000):
        (low, high), (low2, high2) = (Samples([rng.gauss(10, 1) for _ in range(3)]).spread for _ in range(2))
        apart += high < low2 or high2 < low
    assert apart < 20


def test_a_file_of_it_gives_the_same_again() -> None:
    first = result()
    again = from_json(json.loads(render(first, "json")))
    assert render(again, "table") == render(first, "table")
    assert render(again, "html") == render(first, "html")
    with pytest.raises(CompareError, match="no comparison"):
        from_json({"version": 99})


def test_two_runs_agree_or_not() -> None:
    assert disagreements(result(), result()) == []
    found = disagreements(result(10), result(20))
    assert any(text.startswith("cpu.integer of vm: ") for text in found)
    assert not any(" of container" in text for text in found)


def test_the_table_and_the_csv() -> None:
    text = render(result(), "table")
    assert re.search(
        r"start to end of the command, warm, ms +10 \(9-11, p95 11\) +10 \(9-11, p95 11\) +100 \(90-110, p95 110\)",
        text,
    )
    assert "Take the container" in text
    rows = list(csv.DictReader(io.StringIO(render(result(), "csv"))))
    assert len(rows) == len(MEASURES) * 3
    row = next(row for row in rows if (row["measure"], row["kind"]) == ("start.warm", "vm"))
    assert (row["median"], row["low"], row["high"], row["p95"], row["samples"]) == (
        "100",
        "90",
        "110",
        "110",
        "90 90 90 100 100 100 100 100 110 110 110",
    )
    assert [number(value) for value in (0.01234, 1.5, 12.34, 123.4, 12345.6, 3.0)] == [
        "0.0123",
        "1.5",
        "12.3",
        "123",
        "12,346",
        "3",
    ]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.boxes: dict[str, list[float]] = {}
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.outside += [str(found[key]) for key in ("src", "href") if key in found]
        if tag == "rect" and "layer" in str(found["class"]):
            self.boxes.setdefault(str(found["class"]).split()[1], []).append(float(str(found["height"])))
        if tag not in ("meta", "br", "rect", "path", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path"):
            assert self.open.pop() == tag


def test_the_report_is_one_file_and_its_picture_to_scale() -> None:
    text = render(result(), "html")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert reader.outside == []
    assert "<script" not in text
    assert "url(" not in text
    assert "A &lt;fast&gt; one" in text
    boxes = reader.boxes
    assert boxes["hypervisor"][0] / boxes["engine"][0] == pytest.approx(20 / 50, rel=0.01)
    assert boxes["guest-os"][0] / boxes["engine"][0] == pytest.approx(30 / 50, rel=0.01)
    assert boxes["application"][0] == pytest.approx(boxes["application"][1]), "all stacks have one scale"
    assert len(boxes["host-os"]) == 1


@pytest.mark.parametrize(
    ("times", "accelerator", "choice"),
    [(1.0, "kvm", "vm"), (3.0, "kvm", "container"), (1.2, "tcg", "vm"), (20.0, "tcg", "container")],
)
def test_advice(times: float, accelerator: str, choice: str) -> None:
    found = advise(result(times, accelerator))
    assert found["choice"] == choice
    assert any("software emulation" in text for text in found["reasons"]) == (accelerator == "tcg")


def test_advice_when_either_will_do() -> None:
    found = result(1.0, "kvm")
    for index in range(11):
        found.found["start.warm"][VM].values[index] = 2.0
    advice = advise(found)
    assert (advice["choice"], advice["costs"]) == ("either", ["start time"])
    assert "costs more in start time" in advice["headline"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from sampan.cli.compare import _Bar

    monkeypatch.setattr("sys.stderr", out := Terminal())
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((60, 24)))
    bar = _Bar()
    bar.show("vm: round 1 of 5", 0.5)
    line = out.getvalue().rpartition("\x1b[2K")[2]
    assert line == "[===============>              ]  50% vm: round 1 of 5"
    bar.show("vm: a very long thing that is done just now, and more of it", 1.0)
    assert len(out.getvalue().rpartition("\x1b[2K")[2]) == 59
    bar.end()
    assert out.getvalue().endswith("\r\x1b[2K")
    # Where there is no terminal, a line for each tenth.
    monkeypatch.setattr("sys.stderr", plain := io.StringIO())
    bar = _Bar()
    for step in range(101):
        bar.show("step", step / 100)
    assert 10 <= len(plain.getvalue().splitlines()) <= 11


def test_the_smallest_programs(tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("they are for x86-64")
    for name in ("true", "pause"):
        path = tmp_path / name
        path.write_bytes(bundle.program(name))
        path.chmod(0o755)
    assert subprocess.run([tmp_path / "true"]).returncode == 0
    process = subprocess.Popen([tmp_path / "pause"])
    time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_the_probe_measures_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.01)
    monkeypatch.setattr(probe, "_FILE", 1 << 20)
    found: dict[str, Any] = probe.measure(str(tmp_path / "new"))
    wanted = {measure.key for measure in MEASURES if measure.key.partition(".")[0] in ("cpu", "kernel", "file")} | {
        "memory.copy"
    }
    assert set(found) == wanted
    assert all(value > 0 for value in found.values())
    assert os.listdir(tmp_path / "new") == []
