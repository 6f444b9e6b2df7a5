"""Containers whose record is damaged, missing or of a newer engine (T01): nothing is lost, and a person decides."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError
from tests.conftest import BIN, Daemon, end_daemon, eventually, new_daemon
from tests.support.commands import NONE

DAMAGE = {
    "cut": "substr(body, 1, length(body) / 2)",
    "empty": "''",
    "unknown field": "json_set(body, '$.invented', 1)",
    "newer schema": "json_set(body, '$.schema', 99)",
    "wrong type": "json_set(body, '$.config.Env', 5)",
    "negative pid": "json_set(body, '$.state.Pid', -1)",
    "another's id": "json_set(body, '$.id', '../../../etc')",
    "no text": "x'ff00ff'",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Daemon]:
    """A daemon that is killed and started again by all tests of this module."""
    daemon = new_daemon()
    yield daemon
    end_daemon(daemon)


@pytest.fixture(autouse=True)
def cleared(engine: Daemon) -> Iterator[None]:
    yield
    for identifier in listed(engine):
        engine.http.call("DELETE", f"/containers/{identifier}?force=1&v=1")
    assert os.listdir(engine.root / "data/containers") in ([], ["spare"])


def change(daemon: Daemon, identifier: str, how: str) -> None:
    """Changes the record of a container; the daemon is dead."""
    database = sqlite3.connect(daemon.root / "data/sampan.db")
    with database:
        assert database.execute(f"UPDATE records SET body = {how} WHERE key = ?", (identifier,)).rowcount == 1
    database.close()


def rows(daemon: Daemon) -> dict[str, bytes]:
    database = sqlite3.connect(daemon.root / "data/sampan.db")
    found = database.execute("SELECT key, CAST(body AS BLOB) FROM records WHERE kind = 'container'").fetchall()
    database.close()
    return dict(found)


def listed(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {row["Id"]: row for row in daemon.http.call("GET", "/containers/json?all=1")}


def inspect(daemon: Daemon, identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.http.call("GET", f"/containers/{identifier}/json")
    return found


def make(daemon: Daemon, name: str, *command: str) -> str:
    return daemon.ok("run", "-d", *NONE, "--name", name, "busybox", *command).strip()


def exported(daemon: Daemon, identifier: str) -> dict[str, bytes]:
    done = daemon.sampan("export", identifier)
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        return {row.name: (tar.extractfile(row) or io.BytesIO()).read() for row in tar if row.isreg()}


def check_broken(daemon: Daemon, identifier: str) -> None:
    """It is listed and inspected as broken, does nothing, and no prune takes it."""
    assert listed(daemon)[identifier]["State"] == "dead"
    state = inspect(daemon, identifier)["State"]
    assert (state["Dead"], state["Running"]) == (True, False)
    assert "broken" in state["Error"]
    for action in ("start", "restart", "pause", "rename?name=other", "update"):
        with pytest.raises(APIError, match="is broken") as caught:
            daemon.http.call("POST", f"/containers/{identifier}/{action}", {} if action == "update" else None)
        assert caught.value.status == 409
    with pytest.raises(APIError, match="is broken"):
        daemon.http.call("DELETE", f"/containers/{identifier}")
    assert identifier not in (daemon.http.call("POST", "/containers/prune")["ContainersDeleted"] or [])
    assert exported(daemon, identifier)["kept"] == b"kept\n"
    assert daemon.ok("logs", identifier) == "told\n"
    assert any(identifier[:12] in text for text in daemon.http.call("GET", "/info")["Warnings"])
    events = daemon.ok("events", "--since", "0", "--until", f"{time.time():.6f}", "--filter", "event=broken")
    assert identifier in events


def test_damaged_records(engine: Daemon) -> None:
    bad = {
        kind: make(engine, f"bad{number}", "sh", "-c", "echo kept >/kept; echo told")
        for number, kind in enumerate(DAMAGE)
    }
    good = make(engine, "good", "true")
    engine.ok("wait", *bad.values(), good)
    engine.kill()
    for kind, identifier in bad.items():
        change(engine, identifier, DAMAGE[kind])
    before = rows(engine)
    engine.start()
    assert set(listed(engine)) == {good, *bad.values()}
    assert inspect(engine, good)["State"]["Status"] == "exited"
    for identifier in bad.values():
        check_broken(engine, identifier)
    engine.kill()
    after = rows(engine)
    assert {key: after[key] for key in bad.values()} == {key: before[key] for key in bad.values()}
    engine.start()
    assert set(bad.values()) <= set(listed(engine))
    engine.ok("rm", "-f", *(identifier[:20] for identifier in bad.values()))
    engine.kill()
    assert set(rows(engine)) <= {good}
    engine.start()
    assert not set(listed(engine)) & set(bad.values())


def test_a_directory_without_a_record(engine: Daemon) -> None:
    identifier = make(engine, "bad", "sh", "-c", "echo kept >/kept; echo told")
    engine.ok("wait", identifier)
    engine.kill()
    database = sqlite3.connect(engine.root / "data/sampan.db")
    with database:
        database.execute("DELETE FROM records WHERE key = ?", (identifier,))
    database.close()
    strange = engine.root / "data/containers/not an id"
    strange.mkdir()
    (strange / "file").write_text("somebody's")
    engine.start()
    engine.kill()
    engine.start()
    check_broken(engine, identifier)
    doctor = engine.sampan("doctor")
    assert doctor.returncode == 1
    assert identifier[:12].encode() in doctor.stdout
    assert (strange / "file").read_text() == "somebody's"
    other = next(key for key in listed(engine) if key != identifier)
    engine.ok("rm", "-f", other)
    assert not strange.exists()


def test_a_record_without_a_directory_begins_anew(engine: Daemon) -> None:
    """A power cut may take the directory of a container that was just created and answered."""
    identifier = engine.ok("create", *NONE, "--name", "box", "busybox", "cat", "/etc/hostname").strip()
    engine.kill()
    import shutil

    shutil.rmtree(engine.root / "data/containers" / identifier)
    engine.start()
    assert engine.ok("start", "-a", "box") == f"{identifier[:12]}\n"


def test_a_running_container_whose_record_is_damaged(engine: Daemon) -> None:
    """Its process goes on, is ended by stop or rm -f, and nothing else is hurt."""
    identifier = make(engine, "bad", "sh", "-c", "echo kept >/kept; echo told; sleep 600")
    eventually(lambda: engine.ok("logs", "bad") == "told\n")
    pid = inspect(engine, identifier)["State"]["Pid"]
    engine.kill()
    change(engine, identifier, "json_set(body, '$.state.Pid', 1)")
    engine.start()
    check_broken(engine, identifier)
    assert Path(f"/proc/{pid}").exists()
    engine.ok("stop", "-t", "1", identifier)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(APIError, match="no process is known"):
        engine.http.call("POST", f"/containers/{identifier}/kill")
    engine.http.call("DELETE", f"/containers/{identifier}?force=1")
    other = make(engine, "bad", "sleep", "600")
    pid = inspect(engine, other)["State"]["Pid"]
    engine.kill()
    change(engine, other, "'{'")
    engine.start()
    engine.ok("rm", "-f", other)
    assert not Path(f"/proc/{pid}").exists()


def test_what_a_broken_container_may_use_is_not_pruned(engine: Daemon) -> None:
    identifier = engine.ok("create", *NONE, "--name", "box", "-v", "/data", "busybox", "true").strip()
    volume = inspect(engine, identifier)["Mounts"][0]["Name"]
    engine.kill()
    change(engine, identifier, "'{'")
    engine.start()
    for noun in ("volumes", "images"):
        with pytest.raises(APIError, match="may use any of them") as caught:
            engine.http.call("POST", f"/{noun}/prune")
        assert caught.value.status == 409
    assert engine.ok("volume", "ls", "-q").split() == [volume]
    engine.ok("rm", "-f", identifier)
    engine.ok("volume", "rm", volume)


def test_a_volume_that_says_nothing_of_itself(engine: Daemon) -> None:
    volumes = engine.root / "data/volumes"
    for name in ("cut", "gone", "nodata", "newer"):
        engine.ok("volume", "create", name)
        (volumes / name / "_data/file").write_text(name)
    (volumes / "cut/volume.json").write_text('{"created": ')
    (volumes / "gone/volume.json").unlink()
    (volumes / "newer/volume.json").write_text(
        json.dumps({"schema": 9, "created": 1, "labels": {}, "options": {}, "anonymous": True})
    )
    (volumes / "nodata/_data/file").unlink()
    (volumes / "nodata/_data").rmdir()
    engine.kill()
    engine.start()
    assert engine.ok("volume", "ls", "-q").split() == ["cut", "gone", "newer", "nodata"]
    assert engine.http.call("POST", '/volumes/prune?filters={"all":["true"]}')["VolumesDeleted"] in ([], None)
    for name in ("cut", "gone", "newer"):
        assert engine.http.call("GET", f"/volumes/{name}")["Status"]["Error"]
        assert engine.ok("run", "--rm", *NONE, "-v", f"{name}:/v", "busybox", "cat", "/v/file") == name
    done = engine.sampan("run", "--rm", *NONE, "-v", "nodata:/v", "busybox", "true")
    assert b"volume nodata is broken" in done.stderr
    warnings = " ".join(engine.http.call("GET", "/info")["Warnings"])
    for name in ("cut", "gone", "newer", "nodata"):
        assert f"volume {name} is broken" in warnings
        engine.ok("volume", "rm", name)
    assert os.listdir(volumes) == []


def test_a_database_that_is_none(engine: Daemon) -> None:
    """It is set aside; what its containers have, and what runs, is found by their directories and control groups."""
    kept = make(engine, "kept", "sh", "-c", "echo kept >/kept; echo told")
    engine.ok("wait", kept)
    running = make(engine, "running", "sleep", "600")
    pid = inspect(engine, running)["State"]["Pid"]
    engine.kill()
    database = engine.root / "data/sampan.db"
    database.write_bytes(b"nothing of SQLite's" * 1000)
    Path(f"{database}-wal").unlink()
    engine.start()
    check_broken(engine, kept)
    assert listed(engine)[running]["State"] == "dead"
    assert Path(f"/proc/{pid}").exists()
    aside = next(name for name in os.listdir(engine.root / "data") if name.startswith("sampan.db.damaged-"))
    for text in (
        " ".join(engine.http.call("GET", "/info")["Warnings"]),
        engine.sampan("doctor").stdout.decode(),
        engine.ok("events", "--since", "0", "--until", f"{time.time():.6f}", "--filter", "event=damaged"),
        (engine.root / "log").read_text(),
    ):
        assert aside in text
    assert engine.ok("run", "--rm", *NONE, "busybox", "echo", "goes on") == "goes on\n"
    engine.ok("rm", "-f", running)
    assert not Path(f"/proc/{pid}").exists()
    for name in os.listdir(engine.root / "data"):
        if "damaged" in name:
            (engine.root / "data" / name).unlink()


def test_a_newer_engine_s_records_are_refused(engine: Daemon) -> None:
    identifier = make(engine, "box", "true")
    engine.ok("wait", identifier)
    engine.stop()
    database = sqlite3.connect(engine.root / "data/sampan.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    command = [
        BIN / "sampand",
        "-H",
        f"unix://{engine.socket}",
        "--data-root",
        engine.root / "data",
        "--exec-root",
        engine.root / "run",
    ]
    done = subprocess.run(command, env=engine.env, capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert b"schema 99 of a newer Sampan" in done.stderr
    assert b"Traceback" not in done.stderr
    assert identifier in os.listdir(engine.root / "data/containers")
    database = sqlite3.connect(engine.root / "data/sampan.db")
    database.execute("PRAGMA user_version=1")
    database.close()
    engine.start()
    assert inspect(engine, identifier)["State"]["Status"] == "exited"


def test_a_network_whose_record_is_damaged(engine: Daemon) -> None:
    for name in ("cut", "typed", "good"):
        engine.ok("network", "create", name)
    cut, typed = (engine.http.call("GET", f"/networks/{name}")["Id"] for name in ("cut", "typed"))
    engine.kill()
    change(engine, cut, DAMAGE["cut"])
    change(engine, typed, "json_set(body, '$.ipam', 5)")
    engine.start()
    warnings = " ".join(engine.http.call("GET", "/info")["Warnings"])
    for identifier in (cut, typed):
        assert f"sampan network rm {identifier[:12]}" in warnings
        with pytest.raises(APIError, match="is broken") as caught:
            engine.http.call("GET", f"/networks/{identifier}")
        assert caught.value.status == 409
    assert engine.http.call("POST", "/networks/prune")["NetworksDeleted"] == ["good"]
    engine.kill()
    engine.start()
    engine.ok("network", "rm", cut, "typed")
    engine.kill()
    engine.start()
    assert "is broken" not in " ".join(engine.http.call("GET", "/info")["Warnings"] or [])


def test_three_containers_with_one_new_volume(engine: Daemon) -> None:
    """One fills it, the others wait: none fails, none sees a part of the files (T23)."""
    dockerfile = "FROM busybox\nRUN mkdir /d && for i in $(seq 400); do echo $i >/d/$i; done\n"
    engine.ok("build", "-t", "filled", "-", input=dockerfile.encode())

    def run(number: int) -> tuple[int, bytes]:
        done = engine.sampan("run", "--rm", *NONE, "-v", f"new{number // 3}:/d", "filled", "sh", "-c", "ls /d | wc -l")
        return done.returncode, done.stdout + done.stderr

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(run, range(6))) == [(0, b"400\n")] * 6
    engine.ok("volume", "rm", "new0", "new1")
    engine.ok("rmi", "-f", "filled")
