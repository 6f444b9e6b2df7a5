"""`sampan compare` for real, with as little of it as there can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Daemon

LITTLE = ("--rounds", "1", "--starts", "2", "--cold-starts", "1", "--instances", "2")
OWN = ("sh", "-c", "exit 0")


def left(daemon: Daemon) -> tuple[int, list[str]]:
    rows = daemon.http.call("GET", "/containers/json?all=1")
    images = [tag for row in daemon.http.call("GET", "/images/json") for tag in row["RepoTags"] or []]
    return len(rows), [tag for tag in images if "compare" in tag]


@pytest.fixture(scope="module")
def measured(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one comparison of a command in all four kinds: it takes minutes where machines are emulated."""
    path = tmp_path_factory.mktemp("compare") / "c.json"
    done = shared_daemon.sampan("compare", *LITTLE, "--system-vm", "-o", str(path), "busybox", "--", *OWN, timeout=400)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == f"{path}\n"
    assert b"native: memory" in done.stderr
    return path


@pytest.mark.timeout(500)
def test_side_by_side(daemon: Daemon, measured: Path, tmp_path: Path) -> None:
    found = json.loads(measured.read_text())
    assert found["kinds"] == ["native", "container", "vm", "system-vm"]
    middle = {(key, kind): each["median"] for key, row in found["measures"].items() for kind, each in row.items()}
    assert set(found["measures"]) == set(found["units"])
    assert all({"native", "container", "vm"} <= set(row) for row in found["measures"].values()), "each in every measure"
    assert (
        middle["start.warm", "native"]
        < middle["start.warm", "container"]
        < middle["start.warm", "vm"]
        < middle["start.cold", "vm"]
    )
    assert middle["memory.next", "container"] < 8 << 20 < middle["memory.next", "vm"] < 200 << 20
    assert middle["memory.density", "vm"] < middle["memory.density", "container"]
    assert middle["disk.own", "vm"] > middle["disk.own", "container"]
    assert middle["disk.shared", "container"] < 64 << 20, "a file of many names counts once"
    assert middle["kernel.switch", "vm"] > middle["kernel.switch", "container"]
    layers = {kind: [row["layer"] for row in rows] for kind, rows in found["layers"].items()}
    assert layers["native"] == ["host OS", "libraries", "application"]
    assert layers["container"] == ["host OS", "engine", "libraries", "application"]
    assert layers["vm"] == ["host OS", "engine", "hypervisor", "guest OS", "libraries", "application"]
    assert all(row["bytes"] > 0 for row in found["layers"]["vm"])
    assert found["advice"]["reasons"]
    assert left(daemon) == (0, [])
    # The same file again, in every form.
    assert "instances that fit" in daemon.ok("compare", "--from", str(measured))
    assert daemon.ok("compare", "--from", str(measured), "--format", "csv").startswith("measure,title,unit,kind")
    daemon.ok("compare", "--from", str(measured), "-o", str(tmp_path / "c.html"))
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")


@pytest.mark.timeout(500)
def test_a_command_of_one_s_own(daemon: Daemon, measured: Path) -> None:
    out = json.loads(measured.read_text())
    assert out["command"] == list(OWN)
    assert set(out["measures"]["start.warm"]) == {"native", "container", "vm"}
    # One that this host has not is not started there, and that is said. Without cold starts there are none.
    words = (*LITTLE, "--cold-starts", "0", "--format", "json", "busybox", "--", "ash", "-c", "true")
    out = json.loads(daemon.ok("compare", *words, timeout=200))
    assert out["kinds"] == list(out["layers"]) == ["native", "container", "vm"]
    assert set(out["measures"]["start.warm"]) == {"container", "vm"}
    assert any("ash is not on this host" in text for text in out["notes"])
    assert "start.cold" not in out["measures"]
    assert left(daemon) == (0, [])


def test_a_command_that_fails(daemon: Daemon) -> None:
    """Before anything else is measured."""
    done = daemon.sampan("compare", *LITTLE, "busybox", "--", "sh", "-c", "echo no >&2; exit 3", timeout=200)
    assert (done.returncode, b"ends with 3 in a container: no" in done.stderr) == (1, True)
    assert b"memory" not in done.stderr
    assert left(daemon) == (0, [])


def test_what_can_not_be_compared(daemon: Daemon, tmp_path: Path) -> None:
    done = daemon.sampan("compare", "nonesuch")
    assert (done.returncode, b"No such image" in done.stderr) == (1, True)
    assert daemon.sampan("compare").returncode == 1
    assert b"rounds must be 1 at least" in daemon.sampan("compare", "--rounds", "0", "busybox").stderr
    assert b"--format pdf" in daemon.sampan("compare", "--format", "pdf", "busybox").stderr
    (tmp_path / "x.json").write_text("[]")
    assert b"no comparison" in daemon.sampan("compare", "--from", str(tmp_path / "x.json")).stderr


@pytest.mark.timeout(500)
def test_a_machine_with_a_whole_system(daemon: Daemon, measured: Path) -> None:
    out = json.loads(measured.read_text())
    rows = {key: row["system-vm"]["median"] for key, row in out["measures"].items() if "system-vm" in row}
    assert rows["start.cold"] > out["measures"]["start.cold"]["vm"]["median"]
    assert rows["memory.first"] > out["measures"]["memory.next"]["vm"]["median"]
    assert "start.warm" not in rows
    assert "net.latency" not in rows
    assert next(row["bytes"] for row in out["layers"]["system-vm"] if row["layer"] == "guest OS") > 16 << 20
    assert daemon.http.call("GET", "/sampan/vm/json") == []
