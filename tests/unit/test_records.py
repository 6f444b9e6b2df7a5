"""The database of the records: schema, damage, durability, and what a full disk leaves possible (T01, T06, T91)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from sampan.engine import database, datasync
from sampan.engine.errors import DiskError, EngineError
from sampan.engine.records import Records


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "run").mkdir()
    return str(tmp_path / "sampan.db")


def opened(path: str) -> Records:
    return Records(path, f"{os.path.dirname(path)}/run")


def body(number: int) -> dict[str, object]:
    return {"number": number, "text": "x" * 300}


def keys(records: Records) -> list[str]:
    return [row.key for row in records.rows("container")]


def fill(path: str, count: int = 50) -> None:
    records = opened(path)
    for number in range(count):
        records.put("container", f"c{number:03}", body(number))
    records.close()


def test_records_are_kept_in_the_order_in_which_they_were_made(path: str) -> None:
    fill(path)
    records = opened(path)
    records.put("container", "c000", {"changed": True})
    assert keys(records) == [f"c{number:03}" for number in range(50)]
    assert records.all("container")[0] == {"changed": True}
    records.delete("container", "c001")
    records.delete("container", "never")
    assert len(keys(records)) == 49
    assert records.notes == []
    records.close()


def test_a_killed_engine_loses_nothing(path: str) -> None:
    child = os.fork()
    if child == 0:
        records = opened(path)
        for number in range(50):
            records.put("container", f"c{number:03}", body(number))
        os._exit(0)
    os.waitpid(child, 0)
    records = opened(path)
    assert len(keys(records)) == 50
    records.close()


def test_a_newer_schema_is_refused_and_nothing_is_touched(path: str) -> None:
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=7")
    connection.commit()
    connection.close()
    before = {name: (Path(path).parent / name).read_bytes() for name in os.listdir(Path(path).parent) if name != "run"}
    with pytest.raises(EngineError, match=r"schema 7 of a newer Sampan; this one knows 1 at most.*start the newer"):
        opened(path)
    after = {name: (Path(path).parent / name).read_bytes() for name in os.listdir(Path(path).parent) if name != "run"}
    assert after == before


def test_a_database_of_the_first_engines_is_taken_over(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, key))"
    )
    connection.execute("INSERT INTO records VALUES ('container', 'old', '{\"a\": 1}')")
    connection.commit()
    connection.close()
    records = opened(path)
    assert records.all("container") == [{"a": 1}]
    records.close()
    assert Path(path).read_bytes()[60:64] == b"\0\0\0\1"


@pytest.mark.parametrize("damage", ["text", "header", "half", "middle", "other table"])
def test_a_damaged_database_is_kept_and_read_as_far_as_it_goes(path: str, damage: str) -> None:
    fill(path)
    data = bytearray(Path(path).read_bytes())
    if damage == "text":
        data = bytearray(b"not a database at all" * 1000)
    elif damage == "header":
        data[:16] = bytes(16)
    elif damage == "half":
        data = data[: len(data) // 2 // 4096 * 4096]
    elif damage == "middle":
        place = data.index(b'"number": 20')
        data[place // 4096 * 4096 : place // 4096 * 4096 + 4096] = os.urandom(4096)
    else:
        Path(path).unlink()
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE records (other)")
        connection.execute("PRAGMA user_version=1")
        connection.commit()
        connection.close()
        data = bytearray(Path(path).read_bytes())
    Path(path).write_bytes(data)
    records = opened(path)
    aside = records.damaged_files()
    assert len(aside) == 1
    assert Path(aside[0]).read_bytes() == bytes(data)
    assert "was damaged" in records.notes[0]
    assert aside[0] in records.notes[0]
    if damage == "middle":
        assert 20 < len(keys(records)) < 50
    elif damage == "half":
        assert keys(records)  # the rest is in the half that is gone
    records.put("container", "new", body(1))
    records.close()
    again = opened(path)
    assert again.notes == []
    assert again.damaged_files() == aside
    assert "new" in keys(again)
    again.close()


def test_a_log_that_is_damaged_is_cut_at_the_damage(path: str) -> None:
    """Frames behind a damaged one were never told as done, or are in the main file."""
    child = os.fork()
    if child == 0:
        records = opened(path)
        records.put("container", "first", body(1))
        os._exit(0)
    os.waitpid(child, 0)
    with open(f"{path}-wal", "r+b") as file:
        file.seek(40)
        file.write(os.urandom(64))
    records = opened(path)
    records.put("container", "second", body(2))
    assert "second" in keys(records)
    records.close()


def test_flush_waits_for_the_disk_and_tells_its_errors(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("sampan.engine.records.has_no_disk", lambda fd: False)
        records = opened(path)
        synced: list[int] = []
        monkeypatch.setattr(datasync, "Syncs", Mock(side_effect=OSError(38, "io_setup")))
        monkeypatch.setattr(os, "fdatasync", synced.append)
        for number in range(20):
            records.put("container", f"c{number}", body(number))
        await asyncio.gather(*(records.flush() for _ in range(20)))
        assert len(synced) == 1
        records.put("container", "more", body(1))
        begun, may_end = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slow(fd: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            may_end.wait(30)
            synced.append(fd)

        monkeypatch.setattr(os, "fdatasync", slow)
        waiting = asyncio.ensure_future(records.flush())
        await begun.wait()
        records.put("container", "late", body(1))  # the sync that has begun may be too early for this one
        late = asyncio.ensure_future(records.flush())
        may_end.set()
        await asyncio.gather(waiting, late)
        assert len(synced) == 3

        def fail(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail)
        records.put("container", "lost", body(1))
        results = await asyncio.gather(*(records.flush() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(result, DiskError) and "Input/output error" in str(result) for result in results)
        checkpoints: list[object] = []
        monkeypatch.setattr(database, "checkpoint", checkpoints.append)
        monkeypatch.setattr(os, "fdatasync", synced.append)
        records.put("container", "again", body(1))
        await records.flush()
        assert len(checkpoints) == 1  # what the failed sync may have lost is written once more
        records.close()

    asyncio.run(scenario())


def test_who_gives_up_waiting_ends_it_for_nobody(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("sampan.engine.records.has_no_disk", lambda fd: False)
        records = opened(path)
        for number in range(20):
            records.put("container", "one", body(number))
            begun = records.begin_flush()
            impatient, patient = (asyncio.ensure_future(records.flush()) for _ in range(2))
            await asyncio.sleep(0)
            impatient.cancel()
            await patient
            await begun.ended()
            assert records._synced == records._written
        records.close()

    asyncio.run(scenario())


def test_what_is_in_memory_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            records = opened(f"{directory}/sampan.db")
            monkeypatch.setattr(records, "_datasync", Mock(begin=Mock(side_effect=AssertionError)))
            records.put("container", "one", body(1))
            await records.flush()
            assert records._synced == records._written
            records.close()

    asyncio.run(scenario())


def test_what_is_owed_is_written_when_the_disk_takes_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        records = opened(path)
        records.put("container", "gone", body(1))
        write = Records._change
        monkeypatch.setattr(Records, "_change", _refuse)
        records.owe("container", "ended", body(1))
        records.owe("container", "ended", body(2))
        records.owe("container", "gone", None)
        assert records.owing == 2
        monkeypatch.setattr(Records, "_change", write)
        records._pay()
        assert records.owing == 0
        assert records.all("container") == [body(2)]
        records.close()

    asyncio.run(scenario())


def _refuse(self: Records, statement: str, *values: object) -> int:
    raise DiskError("full")


def test_a_removal_is_remembered_until_it_is_on_the_disk(path: str) -> None:
    fill(path, 3)
    records = opened(path)
    records.bury("container", "c001")
    records.bury("container", "unknown")
    row = records.rows("container")[1]
    records.bury("container", row.key, row.rowid)
    assert keys(records) == ["c000"]
    buried = records.buried("container")
    assert {row.key for row in buried} == {"c001", "c002", "unknown"}
    records.forget(buried)
    assert records.buried("container") == []
    records.close()


def test_a_database_that_can_only_be_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, 3)
    real, read_only = os.open, [True]

    def open_(name: str, flags: int, mode: int = 0o777, **more: object) -> int:
        if read_only[0] and str(name).startswith(path) and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(30, "Read-only file system", name)
        return real(name, flags, mode, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", open_)
    before = Path(path).read_bytes()
    records = opened(path)
    assert keys(records) == ["c000", "c001", "c002"]
    assert "Read-only" in records.notes[0]
    with pytest.raises(DiskError, match="Read-only file system; reading works"):
        records.put("container", "new", {})
    assert Path(path).read_bytes() == before
    asyncio.run(records.flush())
    read_only[0] = False
    records.put("container", "new", {})
    assert not records.read_only
    records.close()
    again = opened(path)
    assert keys(again) == ["c000", "c001", "c002", "new"]
    again.close()
