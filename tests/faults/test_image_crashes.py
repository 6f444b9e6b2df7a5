"""Power cuts of the store of images (T06): what was answered is on the disk as it is copied right after the answer.

The store lies on an ext4 of its own in a file. What the file holds is what the file system has given to its disk:
a copy of it, mounted, is what a host finds that lost its power then.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.images import archive
from sampan.images.config import Execution
from sampan.images.store import ImageStore
from tests.conftest import eventually
from tests.support.images import files_of, load, saved, tar_of, two_layers

ROUNDS = 25 if os.environ.get("SAMPAN_SOAK") else 4


class Disk:
    """An ext4 in a file."""

    def __init__(self, top: Path) -> None:
        self.file, self.place, self.copies = top / "disk", top / "mounted", top / "crashed"
        self.place.mkdir()
        self.copies.mkdir()
        with open(self.file, "wb") as file:
            file.truncate(48 << 20)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", str(self.file)], check=True)
        # Nothing goes to the disk by itself while the test runs: only what is synced.
        subprocess.run(["mount", "-o", "loop,commit=300", str(self.file), str(self.place)], check=True)

    def crashed(self, look: Callable[[ImageStore], None]) -> None:
        """Looks at what is there after a power cut now."""
        copy = f"{self.copies}/disk"
        shutil.copyfile(self.file, copy)
        subprocess.run(["mount", "-o", "loop", copy, f"{self.copies.parent}/after"], check=True)
        try:
            store = ImageStore(f"{self.copies.parent}/after/store", f"{self.copies}/no-session")
            look(store)
            store.close()
        finally:
            subprocess.run(["umount", "-l", f"{self.copies.parent}/after"], check=True)
            os.unlink(copy)

    def end(self) -> None:
        subprocess.run(["umount", "-l", str(self.place)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if shutil.which("mke2fs") is None or not os.path.exists("/dev/loop-control"):
        pytest.skip("no e2fsprogs or no loop devices")
    (tmp_path / "after").mkdir()
    found = Disk(tmp_path)
    yield found
    found.end()


def whole(store: ImageStore) -> set[str]:
    """The names of all images, each of which is read to its last byte. Nothing of them has to be unpacked again."""
    names: set[str] = set()
    layers = os.listdir(f"{store.root}/layers")
    for image in store.index.all():
        assert not image.broken, image.broken
        assert all(files_of(store, image).values())
        archive.save(store, [(image, [])], io.BytesIO())
        names |= {name.removeprefix("docker.io/library/") for name in image.tags}
    assert os.listdir(f"{store.root}/layers") == layers
    return names


def test_what_was_answered_is_there_after_a_power_cut(disk: Disk) -> None:
    store = ImageStore(f"{disk.place}/store", f"{disk.copies}/session")
    image = load(store, saved(two_layers("salt"), ["a:1"]))
    disk.crashed(lambda after: eq(whole(after), {"a:1"}))
    store.index.tag(image, "b:1")
    disk.crashed(lambda after: eq(whole(after), {"a:1", "b:1"}))
    committed = archive.add_layer(store, image, io.BytesIO(tar_of({"more": b"x" * 9000})), Execution(), "", "c:1")
    disk.crashed(lambda after: eq(files_of(after, committed), files_of(store, committed)))
    archive.from_tar(store, io.BytesIO(tar_of({"imported": b"x" * 9000})), "d:1", Execution(), "")
    disk.crashed(lambda after: eq(whole(after), {"a:1", "b:1", "c:1", "d:1"}))
    store.remove("b:1", force=False)
    store.remove("d:1", force=False)
    disk.crashed(lambda after: eq(whole(after), {"a:1", "c:1"}))
    store.remove("a:1", force=False)
    store.remove("c:1", force=False)
    disk.crashed(lambda after: eq(whole(after), set()))
    store.close()


def eq(found: object, expected: object) -> None:
    assert found == expected


# Loads and removes images, and says what it has begun and what is done.
WORKER = """
import os, sys
sys.path[:0] = sys.argv[3:]
from sampan.images.store import ImageStore
from tests.support.images import load, saved, two_layers
store = ImageStore(sys.argv[1], sys.argv[2])
number = 0
while True:
    number += 1
    load(store, saved(two_layers(str(number)), [f"i{number}:1"]))
    os.write(1, b"loaded i%d:1\\n" % number)
    if number > 3:
        os.write(1, b"removing i%d:1\\n" % (number - 3))
        store.remove(f"i{number - 3}:1", force=False)
        os.write(1, b"removed i%d:1\\n" % (number - 3))
"""


class Told:
    """What the worker has said so far."""

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe, self._rest = pipe, b""
        self.names: dict[str, set[str]] = {"loaded": set(), "removing": set(), "removed": set()}

    def read(self) -> None:
        try:
            while data := os.read(self._pipe, 1 << 16):
                self._rest += data
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            verb, name = line.decode().split()
            self.names[verb].add(name)


def stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether all its threads stand still: what one of them has asked of the disk is done then."""
    tasks = f"/proc/{process.pid}/task"
    return all(Path(tasks, task, "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in os.listdir(tasks))


def test_power_cuts_at_any_moment(disk: Disk) -> None:
    """While images come and go: what was answered is there, what was removed is not, what is there is whole, and the
    next load works.
    """
    arguments = [f"{disk.place}/store", f"{disk.copies}/session", *[path for path in sys.path if path], os.getcwd()]
    process = subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = Told(process.stdout.fileno())
    try:
        eventually(lambda: told.read() or "i4:1" in told.names["loaded"], 60)
        for number in range(ROUNDS):
            time.sleep(random.uniform(0.01, 0.2))
            assert process.poll() is None
            process.send_signal(signal.SIGSTOP)
            eventually(lambda: stopped(process))
            told.read()
            due = told.names["loaded"] - told.names["removing"]
            gone = set(told.names["removed"])

            def look(after: ImageStore, due: set[str] = due, gone: set[str] = gone, number: int = number) -> None:
                names = whole(after)
                assert due <= names
                assert not gone & names
                after.collect_garbage()
                assert whole(after) == names
                fresh = load(after, saved(two_layers(f"fresh{number}"), ["fresh:1"]))
                assert files_of(after, fresh)

            disk.crashed(look)
            process.send_signal(signal.SIGCONT)
        assert len(told.names["removed"]) > ROUNDS // 2
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
