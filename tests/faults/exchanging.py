"""Somebody who exchanges names in a directory as fast as can be: what a container does to a volume, seen from the host."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
SECONDS, TRIES = 60.0, 1000  # of each race in `make soak`, whichever is over first

# renameat2(2) with RENAME_EXCHANGE: there is always something of either name. It is ready when it has exchanged them once.
_EXCHANGE = """
import ctypes, os, sys
libc, one, other = ctypes.CDLL(None, use_errno=True), *map(os.fsencode, sys.argv[1:])
if libc.renameat2(-100, one, -100, other, 2):
    sys.exit(os.strerror(ctypes.get_errno()))
print("exchanged", flush=True)
exchange = libc.renameat2
while True:
    exchange(-100, one, -100, other, 2)  # which fails while one of them is being replaced
"""
# A link put in the place of whatever is there or comes there.
_COVER = """
import os, sys
link, place, target = sys.argv[1:]
print("exchanging", flush=True)
while True:
    os.path.lexists(link) or os.symlink(target, link)
    try:
        os.rename(link, place)
    except OSError:
        pass
"""


@contextlib.contextmanager
def _running(program: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-S", "-c", program, *arguments], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "it can't exchange them"
        yield
        assert process.poll() is None, "it has ended"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def exchanged(one: Path, other: Path) -> contextlib.AbstractContextManager[None]:
    """While this lasts the two are exchanged over and over."""
    return _running(_EXCHANGE, str(one), str(other))


def covered(place: Path, target: Path) -> contextlib.AbstractContextManager[None]:
    """While this lasts a link to `target` is put over `place` over and over."""
    return _running(_COVER, f"{place}.link", str(place), str(target))


def tries(few: int) -> Iterator[int]:
    """The tries of one race: a few in CI, a minute's or a thousand in `make soak`."""
    end = time.monotonic() + SECONDS
    for number in range(TRIES if SOAK else few):
        if SOAK and time.monotonic() > end:
            return
        yield number
