"""The log store: byte-exact through rotation, tears and any content."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.output import Lines
from sampan.keeper import logs


def everything(directory: str) -> bytes:
    position = logs.Position()
    out = b""
    while frames := list(logs.read(directory, position)):
        out += b"".join(frame.data for frame in frames)
    return out


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_bytes_survive(tmp_path_factory, pieces: list[bytes]) -> None:
    directory = str(tmp_path_factory.mktemp("log"))
    writer = logs.Writer(directory)
    for piece in pieces:
        writer.append(piece, logs.STDOUT)
    writer.close()
    assert everything(directory) == b"".join(pieces)


def test_splice_moves_what_the_pipe_has(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"hello\0\xff")
    store = logs.Writer(str(tmp_path))
    assert store.splice(reader, 7, logs.STDERR) == 7
    [frame] = logs.read(str(tmp_path), logs.Position())
    assert (frame.stream, frame.data) == (logs.STDERR, b"hello\0\xff")


def test_a_frame_cut_by_a_crash_keeps_the_bytes_that_arrived(tmp_path: Path) -> None:
    store = logs.Writer(str(tmp_path))
    store.append(b"one", logs.STDOUT)
    store.append(b"second", logs.STDOUT)
    store.close()
    path = logs.path(str(tmp_path), 1)
    os.truncate(path, os.stat(path).st_size - 2)
    store = logs.Writer(str(tmp_path))
    store.append(b"third", logs.STDOUT)
    assert everything(str(tmp_path)) == b"oneseco" + b"nd"[:0] + b"third"


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    store = logs.Writer(str(tmp_path), max_size=100, max_files=2)
    for number in range(50):
        store.append(b"%05d" % number, logs.STDOUT)
    assert len(logs.files(str(tmp_path))) <= 2
    assert everything(str(tmp_path)).endswith(b"00049")


def test_lines_are_joined_over_frames() -> None:
    lines = Lines()
    out = (
        list(lines.add(logs.Frame(1, 1, b"ab\ncd"))) + list(lines.add(logs.Frame(2, 1, b"ef\ng"))) + list(lines.rest())
    )
    assert [(f.time, f.data) for f in out] == [(1, b"ab\n"), (1, b"cdef\n"), (2, b"g")]
