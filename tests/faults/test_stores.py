"""Every file of a data root damaged, one at a time: the engine starts, serves the rest, and deletes nothing (T01, T08)."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.client.http import APIError, NoEngine
from tests.faults import operations
from tests.faults.limited import LimitedHttp
from tests.faults.machine import directory, machine

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
SEED = int(os.environ.get("SAMPAN_SEED") or random.randrange(1 << 30))
CASES = int(os.environ.get("SAMPAN_CASES") or (1 << 30 if SOAK else 2))
LISTS = (
    "/containers/json?all=1",
    "/images/json",
    "/volumes",
    "/networks",
    "/info",
    "/system/df",
    "/metrics",
    "/sampan/overview",
)
USES = ("/containers/box/json", "/containers/box/logs?stdout=1", "/containers/box/changes", "/containers/box/export",
        "/images/busybox/get", "/images/cut/i0:1/json", "/volumes/vol", "/networks/net")  # fmt: skip
# What an engine makes anew, or may clear away: spares, what is temporary, a database's journal, locks.
PASSING = ("-wal", "-shm", ".tmp", ".lock", "/lock", "exit.tmp")
PASSING_PARTS = ("/spare", "/tmp/", "/trash", "/partial/", "/empty/", "/mountpoints/", "/reserve")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = len(data) // 2
    if data:
        data[place] ^= 0xFF
    path.write_bytes(bytes(data))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/target")


def _noise(path: Path) -> None:
    path.write_bytes(random.Random(SEED).randbytes(path.stat().st_size or 10))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped byte": _flip, "cut in half": _cut, "empty": _empty, "noise": _noise, "a directory": _directory,
    "a fifo": _fifo, "a dangling link": _dangling, "removed": Path.unlink}  # fmt: skip


def populate(root: Path) -> None:
    """A data root with one of everything, and nobody at work on it."""
    with machine(root) as box:
        box.start()
        box.ok("bootstrap", "busybox")
        operations.send(
            box.http, "/images/load?quiet=1", operations.saved_image("cut/i0:1", [{"payload/a": b"a" * 5000}])
        )
        box.ok("volume", "create", "vol")
        box.ok("network", "create", "net")
        box.ok(
            "run",
            "--network",
            "none",
            "--name",
            "box",
            "-v",
            "vol:/d",
            "busybox",
            "sh",
            "-c",
            "echo hello; echo kept >/d/f; echo x >/x",
        )
        box.ok("create", "--network", "none", "--name", "other", "--restart", "always", "busybox", "true")
        context = operations.archive({"Dockerfile": b"FROM busybox\nRUN echo made >/made\n"})
        operations.send(box.http, "/build?t=cut/built:1&networkmode=none", context)
        box.stop()


def tree(top: Path) -> dict[str, str]:
    """Every path below, with what it is; those that come and go left out."""
    found = {}
    for path, directories, files in os.walk(top):
        for name in [*directories, *files]:
            whole = os.path.join(path, name)
            inner = whole.removeprefix(str(top))
            if inner.endswith(PASSING) or any(part in f"{inner}/" for part in PASSING_PARTS):
                continue
            found[inner] = "d" if os.path.isdir(whole) else str(os.lstat(whole).st_size)
    return found


def targets(top: Path, rng: random.Random) -> list[str]:
    """Files to damage: all that are the engine's own, and a few of an image's."""
    own, layers = [], []
    for inner, kind in sorted(tree(top).items()):
        if kind != "d":
            (layers if "/fs/" in inner or "/upper/" in inner else own).append(inner)
    return own + rng.sample(layers, min(3, len(layers)))


def one_case(root: Path, base: Path, inner: str, damage: str) -> list[str]:
    """Damages one file of a copy of the base, starts an engine on it and looks at all."""
    data = root / "data"
    if data.exists():
        shutil.rmtree(data)
    subprocess.run(["cp", "-a", str(base), str(data)], check=True)
    target = Path(f"{data}{inner}")
    if target.is_symlink() and damage in ("a flipped byte", "cut in half", "empty", "noise"):
        damage = "a dangling link"
    DAMAGES[damage](target)
    before, found = tree(data), []
    (root / "log").unlink(missing_ok=True)
    shutil.rmtree(root / "run", ignore_errors=True)
    with machine(root) as box:
        try:
            box.start()
        except AssertionError as error:
            return [f"{inner}, {damage}: does not start: {str(error)[-900:]}"]
        for path in LISTS:
            try:
                LimitedHttp(box.socket).send("GET", path).read()
            except (APIError, TimeoutError, NoEngine, ValueError) as error:
                found.append(f"GET {path}: {type(error).__name__} {error}")
        for path in USES:  # may be refused, with a reason
            try:
                LimitedHttp(box.socket).send("GET", path).read()
            except APIError as error:
                if not str(error).strip() or "Errno" in str(error):
                    found.append(f"GET {path}: {error.status} {error}")
            except (TimeoutError, NoEngine, ValueError) as error:
                found.append(f"GET {path}: {type(error).__name__} {error}")
        time.sleep(0.1)
    gone = sorted(path for path in before if not _kept(data, path, inner, before))
    if gone:
        found.append(f"{len(gone)} files or directories were deleted: {gone[:6]}")
    log = (root / "log").read_text(errors="replace")
    if "Traceback" in log:
        found.append(f"a traceback: {log[log.index('Traceback') :][-900:]}")
    return [f"{inner}, {damage}: {text}" for text in found]


def _kept(data: Path, path: str, damaged: str, before: dict[str, str]) -> bool:
    """Whether a path is still there, or lies beside under another name as what was found damaged."""
    if path == damaged or path.startswith(f"{damaged}/"):
        return True  # may have been replaced
    return os.path.lexists(f"{data}{path}") or _moved(data, path)


def _moved(data: Path, path: str) -> bool:
    """Whether something of that name was put aside: in a quarantine, not in the trash."""
    name = os.path.basename(path)
    return any(name in (*directories, *files) for top, directories, files in os.walk(data) if "trash" not in top)


@pytest.mark.timeout(3600 if CASES > 10 else 120)
def test_a_damaged_file_costs_nothing_but_itself() -> None:
    rng, found = random.Random(SEED), []
    with directory() as root:
        populate(root)
        base = root / "base"
        os.rename(root / "data", base)
        names = targets(base, rng)
        cases = [(name, damage) for name in names for damage in DAMAGES]
        chosen = rng.sample(cases, min(CASES, len(cases)))
        for name, damage in chosen:
            new = one_case(root, base, name, damage)
            print("\n".join(new), flush=True)
            found += new
    summary = f"seed {SEED}: {len(chosen)} damages of {len(names)} files: {len(found)} faults"
    print("\n" + "\n".join([summary, *found]))
    assert not found, "\n".join([summary, *found[:60]])


@pytest.mark.timeout(120)
def test_records_that_are_gone() -> None:
    """SQLite takes a missing or an empty file for a new database: what is in the data root is no rubbish because of that."""
    with directory() as root:
        populate(root)
        base = root / "base"
        os.rename(root / "data", base)
        for damage in ("removed", "empty"):
            assert not one_case(root, base, "/sampan.db", damage)
            with machine(root) as again:  # nor at the next start, when there is a database
                again.start()
            before = tree(base)
            assert not [path for path in before if not _kept(root / "data", path, "/sampan.db", before)]


@pytest.mark.timeout(3600 if SOAK else 120)
def test_a_row_of_a_database_that_nobody_understands() -> None:
    """A value of the wrong kind in any column of any table."""
    rng, found = random.Random(SEED), []
    with directory() as root:
        populate(root)
        base = root / "base"
        os.rename(root / "data", base)
        for path in sorted(base.rglob("*.db")):
            filled = _filled(path)
            for table, column in filled if SOAK else rng.sample(filled, 1):
                DAMAGES["this row"] = lambda target, table=table, column=column: _spoil(target, table, column)  # type: ignore[misc]
                faults = one_case(root, base, str(path).removeprefix(str(base)), "this row")
                found += [f"{table}.{column}: {fault}" for fault in faults]
    print("\n" + "\n".join([f"seed {SEED}: {len(found)} faults", *found]))
    assert not found, "\n".join([f"seed {SEED}", *found])


def _filled(path: Path) -> list[tuple[str, str]]:
    """(table, column) of every column that has values."""
    database, found = sqlite3.connect(path), []
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
            found += [(table, row[1]) for row in database.execute(f"PRAGMA table_info({table})").fetchall()]
    database.close()
    return found


def _spoil(path: Path, table: str, column: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT min(rowid) FROM {table})", (b"\xff{",))
    database.close()
