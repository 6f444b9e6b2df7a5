"""Syncs of files beside the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from sampan.engine.datasync import DataSync


def test_many_at_once_and_one_that_fails(tmp_path: Path) -> None:
    async def main() -> None:
        sync = DataSync()
        fds = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(20)]
        reader, writer = os.pipe()  # which have no disk
        try:
            for fd in fds:
                os.write(fd, b"content")
            done = await asyncio.gather(*(sync(fd) for fd in fds), sync(writer), sync(fds[0]), return_exceptions=True)
            assert done[:20] == [None] * 20
            assert isinstance(done[20], OSError)
            assert done[20].errno == errno.EINVAL
            assert done[21] is None
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
                given_up = asyncio.ensure_future(sync(fd))
                await asyncio.sleep(0)
                given_up.cancel()
                await sync(fd)
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
            await DataSync()(file.fileno())

    asyncio.run(main())
