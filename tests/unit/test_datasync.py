"""Syncs of files beside the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from sampan.engine.datasync import DataSync, has_no_disk


async def done(sync: DataSync, fd: int) -> None:
    """Waits for one. Raises OSError."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    sync.begin(fd, lambda error: ended.done() or ended.set_result(error))
    if error := await ended:
        raise OSError(error, os.strerror(error))


def test_many_at_once_and_one_that_fails(tmp_path: Path) -> None:
    async def main() -> None:
        sync = DataSync()
        fds = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(20)]
        reader, writer = os.pipe()  # which have no disk
        try:
            for fd in fds:
                os.write(fd, b"content")
            found = await asyncio.gather(
                *(done(sync, fd) for fd in fds), done(sync, writer), done(sync, fds[0]), return_exceptions=True
            )
            assert found[:20] == [None] * 20
            assert isinstance(found[20], OSError)
            assert found[20].errno == errno.EINVAL
            assert found[21] is None
        finally:
            sync.close()
            for fd in (*fds, reader, writer):
                os.close(fd)

    asyncio.run(main())


def test_who_stops_waiting_confuses_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        sync = DataSync()
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        try:
            for _ in range(50):
                os.write(fd, bytes(100_000))
                given_up = asyncio.ensure_future(done(sync, fd))
                await asyncio.sleep(0)
                given_up.cancel()
                await done(sync, fd)
        finally:
            sync.close()
            os.close(fd)

    asyncio.run(main())


def test_without_asynchronous_input_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError(errno.ENOSYS, "io_setup")

    monkeypatch.setattr("sampan.engine.datasync.Syncs", refused)

    async def main() -> None:
        with open(tmp_path / "file", "wb") as file:
            await done(DataSync(), file.fileno())

    asyncio.run(main())


def test_what_is_in_memory_has_no_disk_to_wait_for() -> None:
    with open("/dev/shm", "rb", opener=lambda path, _: os.open(path, os.O_TMPFILE | os.O_RDWR)) as file:
        assert has_no_disk(file.fileno())
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        assert not has_no_disk(fd)
    finally:
        os.close(fd)
