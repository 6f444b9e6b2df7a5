"""The log store: byte-exact through rotation, tears, damage and any content."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.lines import Lines
from sampan.keeper import frames, logs, reading


def all_frames(directory: Path | str) -> list[frames.Frame]:
    reader = reading.Reader(str(directory))
    found = []
    while some := reader.read():
        found += some
    reader.close()
    return found


def everything(directory: Path | str) -> bytes:
    return b"".join(frame.data for frame in all_frames(directory))


def only_file(directory: Path) -> Path:
    [path] = directory.glob("*.frames")
    return path


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
    [frame] = all_frames(tmp_path)
    assert (frame.stream, frame.data) == (logs.STDERR, b"hello\0\xff")


def test_a_frame_cut_by_a_crash_keeps_the_bytes_that_arrived(tmp_path: Path) -> None:
    store = logs.Writer(str(tmp_path))
    store.append(b"one", logs.STDOUT)
    store.append(b"second", logs.STDOUT)
    store.close()
    path = only_file(tmp_path)
    os.truncate(path, path.stat().st_size - 2)
    store = logs.Writer(str(tmp_path))
    store.append(b"third", logs.STDOUT)
    assert everything(tmp_path) == b"onesecothird"


def test_a_header_without_bytes_is_taken_back(tmp_path: Path) -> None:
    store = logs.Writer(str(tmp_path))
    store.append(b"one", logs.STDOUT)
    store.append(b"x" * 100, logs.STDOUT)
    store.close()
    os.truncate(only_file(tmp_path), only_file(tmp_path).stat().st_size - 100)
    store = logs.Writer(str(tmp_path))
    store.append(b"two", logs.STDOUT)
    assert everything(tmp_path) == b"onetwo"


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    store = logs.Writer(str(tmp_path), max_size=100, max_files=2)
    for number in range(50):
        store.append(b"%05d" % number, logs.STDOUT)
    assert len(frames.files(str(tmp_path))) <= 2
    assert everything(tmp_path).endswith(b"00049")


PIECES = st.lists(st.binary(min_size=1, max_size=80), min_size=2, max_size=12)


@settings(max_examples=150, deadline=None)
@given(PIECES, st.data())
def test_damage_costs_the_frames_it_is_in(tmp_path_factory, pieces: list[bytes], data) -> None:
    """T78: bytes overwritten, missing or put in between, anywhere: every frame they do not touch is read back."""
    directory = tmp_path_factory.mktemp("log")
    writer = logs.Writer(str(directory))
    places = []
    for number, piece in enumerate(pieces):
        begin = only_file(directory).stat().st_size
        writer.append(b"%d:" % number + piece, logs.STDOUT)
        places.append((begin, only_file(directory).stat().st_size))
    writer.close()
    path = only_file(directory)
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, len(content)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=120)) + content[end:])
    writer = logs.Writer(str(directory))
    writer.append(b"after", logs.STDERR)
    writer.close()
    untouched = [b"%d:" % i + piece for i, (piece, (a, b)) in enumerate(zip(pieces, places, strict=True))
                 if b <= start or a >= end]  # fmt: skip
    found = [frame.data for frame in all_frames(directory)]
    assert [piece for piece in untouched if piece not in found] == []
    assert found[-1] == b"after"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=40), st.integers(0, 90000), st.integers(0, 1500)
)
def test_back_from_the_end(tmp_path_factory, pieces: list[bytes], distance: int, max_size: int) -> None:
    """A position that many bytes before the end begins a frame, and nothing is missing from there on."""
    directory = str(tmp_path_factory.mktemp("log"))
    writer = logs.Writer(directory, max_size=max_size, max_files=50)
    for piece in pieces:
        writer.append(piece, logs.STDOUT)
    reader = reading.Reader(directory)
    position, first = reader.before(reader.end(), distance)
    reader.seek(position)
    found = []
    while some := reader.read():
        found += [frame.data for frame in some]
    assert found == pieces[len(pieces) - len(found) :]
    assert first == (len(found) == len(pieces))
    assert first or sum(len(item) + frames.SIZE for item in found) >= min(distance, 1)
    reader.close()
    writer.close()


def test_a_process_cannot_write_a_header(tmp_path: Path) -> None:
    """Output that is itself a log: no frame of it is taken for one of ours, from whichever end one reads."""
    inner = logs.Writer(str(tmp_path / "inner"))
    for number in range(200):
        inner.append(b"forged %d" % number, logs.STDERR)
    inner.close()
    forged = only_file(tmp_path / "inner").read_bytes()
    store = logs.Writer(str(tmp_path / "outer"))
    store.append(forged, logs.STDOUT)
    reader = reading.Reader(str(tmp_path / "outer"))
    reader.seek(reader.before(reader.end(), 100)[0])
    assert [frame.data for frame in reader.read()] == [forged]


def test_logs_of_the_earlier_format_are_read(tmp_path: Path) -> None:
    old = struct.Struct("<QIB3s")
    stamp = 1_764_000_000 * 10**9
    lines = [b"line %d\n" % number for number in range(20)]
    content = b"".join(old.pack(stamp + i, len(line), 1, b"SMP") + line for i, line in enumerate(lines))
    (tmp_path / "00000001.log").write_bytes(content)
    writer = logs.Writer(str(tmp_path))
    writer.append(b"new\n", logs.STDERR)
    assert [frame.data for frame in all_frames(tmp_path)] == [*lines, b"new\n"]
    damaged = bytearray(content)
    damaged[content.index(lines[7]) - 1] ^= 0xFF
    (tmp_path / "00000001.log").write_bytes(damaged)
    found = [frame.data for frame in all_frames(tmp_path)]
    assert found[:6] == lines[:6]
    assert found[-13:] == [*lines[8:], b"new\n"]


class TestWriterThatCannot:
    """T93: a disk or a table of descriptors that has no more room."""

    def test_a_rotation_that_fails_goes_on_in_the_same_file(self, tmp_path: Path, monkeypatch) -> None:
        """The number of a closed descriptor is not kept: what another file has become gets nothing of ours."""
        store = logs.Writer(str(tmp_path / "a"), max_size=200, max_files=3)
        real = os.open

        def refuse(path, flags, *args, **options):
            if flags & os.O_CREAT:
                raise OSError(24, "Too many open files")
            return real(path, flags, *args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refuse)
            for number in range(20):
                store.append(b"%020d" % number, logs.STDOUT)
        other = real(tmp_path / "b", os.O_RDWR | os.O_CREAT)
        for number in range(20, 30):
            store.append(b"%020d" % number, logs.STDOUT)
        assert os.fstat(other).st_size == 0
        assert len(frames.files(str(tmp_path / "a"))) > 1
        kept = [int(frame.data) for frame in all_frames(tmp_path / "a")]
        assert kept == list(range(kept[0], 30))
        assert store.dropped == 0

    @pytest.mark.parametrize("number", [5, 28, 30, 122])
    def test_output_is_dropped_counted_named_once_and_goes_on(self, tmp_path, monkeypatch, capfd, number: int) -> None:
        store = logs.Writer(str(tmp_path / "box/log"))
        store.append(b"before", logs.STDOUT)

        def refuse(*_args, **_options):
            raise OSError(number, os.strerror(number))

        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", refuse)
            for _ in range(100):
                os.write(writer, b"lost")
                assert store.splice(reader, 4, logs.STDOUT) == 4
            store.append(b"lost", logs.STDOUT)
        assert store.dropped == 404
        assert capfd.readouterr().err.count("for the log of box: its output is dropped") == 1
        os.write(writer, b"after")
        assert store.splice(reader, 5, logs.STDOUT) == 5
        assert everything(tmp_path / "box/log") == b"beforeafter"
        assert "404 bytes are missing" in capfd.readouterr().err

    def test_a_log_that_cannot_be_opened(self, tmp_path: Path, monkeypatch, capfd) -> None:
        (tmp_path / "log").write_text("no directory")
        monkeypatch.setattr(logs, "_RETRY_NS", 0)
        store = logs.Writer(str(tmp_path / "log"))
        store.append(b"lost", logs.STDOUT)
        assert store.dropped == 4
        (tmp_path / "log").unlink()
        store.append(b"kept", logs.STDOUT)
        assert everything(tmp_path / "log") == b"kept"

    def test_a_header_that_could_not_be_corrected_is_later(self, tmp_path: Path, monkeypatch) -> None:
        """The disk fills up in the middle of a frame, and the header can't be written again either."""
        store = logs.Writer(str(tmp_path))
        store.append(b"before", logs.STDOUT)
        real, calls = os.pwrite, []

        def fill(fd: int, data: bytes, offset: int) -> int:
            calls.append(offset)
            if len(calls) > 2:
                raise OSError(28, "No space left on device")
            return real(fd, data[:40], offset)

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", fill)
            store.append(b"x" * 100, logs.STDOUT)
        store.append(b"after", logs.STDOUT)
        assert everything(tmp_path) == b"before" + b"x" * 40 + b"after"


def test_a_follower_gets_what_is_rotated_away(tmp_path: Path) -> None:
    """T26: with one file to keep, a reader that is behind still gets every frame."""
    store = logs.Writer(str(tmp_path), max_size=1000, max_files=1)
    store.append(b"first", logs.STDOUT)
    reader = reading.Reader(str(tmp_path), follows=True)
    assert [frame.data for frame in reader.read()] == [b"first"]
    for number in range(2000):
        store.append(b"%05d" % number, logs.STDOUT)
    found = []
    while some := reader.read():
        found += [frame.data for frame in some]
    assert found == [b"%05d" % number for number in range(2000)]
    reader.close()
    for number in range(40):
        store.append(b"%05d" % number, logs.STDOUT)
    assert len(frames.files(str(tmp_path))) == 1


def test_what_is_kept_for_a_follower_is_bounded(tmp_path: Path) -> None:
    store = logs.Writer(str(tmp_path), max_size=100_000, max_files=1)
    reader = reading.Reader(str(tmp_path), follows=True)
    for _ in range(400):
        store.append(b"x" * 50_000, logs.STDOUT)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 9 << 20
    reader.close()


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """A frame whose bytes are still coming is left for later, and whole then."""
    store = logs.Writer(str(tmp_path))
    store.append(b"one", logs.STDOUT)
    store.append(b"two" * 50, logs.STDOUT)
    content = only_file(tmp_path).read_bytes()
    os.truncate(only_file(tmp_path), len(content) - 20)
    reader = reading.Reader(str(tmp_path))
    assert [frame.data for frame in reader.read()] == [b"one"]
    assert reader.read() == []
    only_file(tmp_path).write_bytes(content)
    assert [frame.data for frame in reader.read()] == [b"two" * 50]


def test_lines_are_joined_over_frames() -> None:
    lines = Lines()
    out = (
        list(lines.add(frames.Frame(1, 1, b"ab\ncd")))
        + list(lines.add(frames.Frame(2, 1, b"ef\ng")))
        + list(lines.rest())
    )
    assert [(f.time, f.data) for f in out] == [(1, b"ab\n"), (1, b"cdef\n"), (2, b"g")]


def test_a_line_without_end_comes_in_pieces() -> None:
    """T71: as Docker's, of 16 KiB each, so that no line needs more memory than that."""
    lines = Lines()
    out = []
    for _ in range(64):
        out += lines.add(frames.Frame(1, 1, b"x" * 100_000))
    assert {len(line.data) for line in out} == {16 << 10}
    out += lines.add(frames.Frame(2, 1, b"end\nnext"))
    out += lines.rest()
    assert b"".join(line.data for line in out) == b"x" * 6_400_000 + b"end\nnext"
