"""A layer's blob into a directory, hashed on the way: in this process, or in one of its own.

A process of its own has the second core, a memory that goes back to the system, and nothing of the engine's to lose.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sys
from dataclasses import dataclass
from typing import Any

from sampan.images import compression
from sampan.images.errors import ImageError
from sampan.images.layer import LayerExtractor, NeedsLower
from sampan.images.tarstream import TarStream
from sampan.linux.files import regular

_MEMORY = 64 << 20  # of a worker: a window, and the names of some 150,000 directories; what needs more is hostile
_MOST = 4  # workers of one pull, as many as downloads
_CODE = "import sys; sys.path[:0] = sys.argv[1:]; from sampan.images.unpack_worker import worker; worker()"


@dataclass(frozen=True, slots=True)
class Staged:
    """What has been unpacked. `complete` is false when the layers below are needed; then nothing is to be kept."""

    diff_id: str
    implied: list[str]
    complete: bool


def stage(blob: str, directory: str) -> Staged:
    """Unpacks a blob into an empty directory. Raises ImageError, OSError."""
    digest = hashlib.sha256()
    rootfd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(blob, "rb", opener=regular) as file:
            try:
                plain = compression.decompress(file)

                def read(count: int) -> bytes:
                    data = plain.read(count)
                    digest.update(data)
                    return data

                try:
                    implied, complete = LayerExtractor(rootfd).extract(TarStream(read)), True
                except NeedsLower:
                    implied, complete = [], False
                while read(1 << 20):
                    pass
            except compression.ERRORS as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                raise ImageError(str(error) or "it needs more memory than it may have") from error
    finally:
        os.close(rootfd)
    return Staged(f"sha256:{digest.hexdigest()}", implied, complete)


class Workers:
    """Processes that stage layers, as many as there are processors or downloads, started when needed."""

    def __init__(self) -> None:
        self._idle: list[asyncio.subprocess.Process] = []
        self._slots = asyncio.Semaphore(min(max(2, os.cpu_count() or 1), _MOST))

    async def stage(self, blob: str, directory: str) -> Staged:
        """As stage(), in a process of its own."""
        async with self._slots:
            process = self._idle.pop() if self._idle else await self._start()
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps([blob, directory]).encode() + b"\n")
                line = await process.stdout.readline()
            except BaseException:
                process.kill()
                raise
            if not line:
                raise ImageError("a process that unpacks layers has ended")
            self._idle.append(process)
            answer = json.loads(line)
        if "error" in answer:
            raise ImageError(answer["error"])
        if "errno" in answer:
            raise OSError(answer["errno"], answer["text"])
        return Staged(**answer)

    @staticmethod
    async def _start() -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        arguments = [sys.executable, "-I", "-S", "-B", "-c", _CODE, *[path for path in sys.path if path]]
        return await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, limit=64 << 20)

    async def close(self) -> None:
        """Ends the processes; to be called when all work is done."""
        for process in self._idle:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
        self._idle.clear()


def worker() -> None:
    """The entry of such a process: a request a line, an answer a line, until the input ends."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    for line in sys.stdin.buffer:
        blob, directory = json.loads(line)
        answer: dict[str, Any]
        try:
            found = stage(blob, directory)
            answer = {"diff_id": found.diff_id, "implied": found.implied, "complete": found.complete}
        except ImageError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"errno": error.errno or 5, "text": error.strerror or str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
