"""The fast ways for layers, against the slow ones: the tar reader against tarfile, unpack_worker against an overlay."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.images import unpack_worker
from sampan.images.errors import ImageError
from sampan.images.extract import Extractor
from sampan.images.image import chain_ids
from sampan.images.store import ImageStore
from sampan.images.tarstream import TarStream
from sampan.linux import mount

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_characters="/"), min_size=1, max_size=120)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@given(
    st.lists(
        st.tuples(PATHS, st.binary(max_size=2000), st.integers(0, 2**33), st.integers(0, 2**40), st.integers(0, 0o7777))
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(1, 3000),
)
def test_the_reader_agrees_with_tarfile(members: list[tuple[str, bytes, int, int, int]], form: int, chunk: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data, mtime, uid, mode in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid, member.mode = len(data), mtime, uid, mode
            member.pax_headers = {"SCHILY.xattr.user.x": "y"} if form == tarfile.PAX_FORMAT else {}
            tar.addfile(member, io.BytesIO(data))
    plain = io.BytesIO(out.getvalue())
    found = []
    stream = TarStream(lambda count: plain.read(min(count, chunk)))
    for entry in stream:
        data = b"".join(bytes(piece) for piece in stream.content())
        found.append((entry.name, data, entry.mtime // 10**9, entry.uid, entry.mode))
    assert found == members


@given(st.binary(max_size=2000))
def test_the_reader_survives_anything(data: bytes) -> None:
    plain = io.BytesIO(data)
    try:
        for _ in TarStream(plain.read):
            pass
    except ImageError:
        pass


def layer(*members: tuple[str, str, str]) -> bytes:
    """(name, kind, content): "f" file, "d" directory with the mode as content, "l" symlink, "h" hard link, "w" whiteout."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            if kind == "f":
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content.encode()))
                continue
            member.type = {"d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "w": tarfile.REGTYPE}[kind]
            if kind == "d":
                member.mode = int(content, 8)
                member.uid = 7
            member.linkname = content if kind in "lh" else ""
            tar.addfile(member)
    return out.getvalue()


def tree(rootfd: int) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    top = f"/proc/self/fd/{rootfd}"
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = f"{directory}/{name}"
            info = os.lstat(path)
            content: object = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = (Path(path).read_text(), info.st_nlink)
            found[path.removeprefix(top)] = (
                stat.S_IFMT(info.st_mode),
                info.st_mode if not stat.S_ISLNK(info.st_mode) else 0,
                info.st_uid,
                content,
            )
    return found


def by_store(tmp_path: Path, layers: list[bytes]) -> dict[str, tuple[object, ...]]:
    store = ImageStore(str(tmp_path / "store"))
    diff_ids: list[str] = []
    for data in layers:
        digest, _ = store.blobs.put(io.BytesIO(data))
        diff_ids.append(digest)
        store.unpacker.unpack(digest, diff_ids)
    directories = store.layers.directories(chain_ids(diff_ids))
    fd = mount.overlay([*directories, _empty(tmp_path)], None, None)
    try:
        return tree(fd)
    finally:
        os.close(fd)


def _empty(tmp_path: Path) -> str:
    (tmp_path / "empty").mkdir(exist_ok=True)
    return str(tmp_path / "empty")


def by_overlay(tmp_path: Path, layers: list[bytes]) -> dict[str, tuple[object, ...]]:
    lower = [_empty(tmp_path)]
    for number, data in enumerate(layers):
        upper, work = tmp_path / f"u{number}", tmp_path / f"w{number}"
        upper.mkdir()
        work.mkdir()
        fd = mount.overlay(lower, str(upper), str(work))
        Extractor(fd, whiteouts=True).extract(io.BytesIO(data))
        os.close(fd)
        lower.insert(0, str(upper))
    fd = mount.overlay(lower, None, None)
    try:
        return tree(fd)
    finally:
        os.close(fd)


BASE = [
    ("d", "d", "750"),
    ("d/a", "f", "1"),
    ("d/sub", "d", "700"),
    ("d/sub/x", "f", "x"),
    ("link", "l", "d"),
    ("f", "f", "f"),
    ("lib", "l", "usr/lib"),
    ("usr/lib", "d", "755"),
]


@pytest.mark.parametrize(
    "second",
    [
        [("d/b", "f", "2")],  # an implied directory keeps the lower's owner and mode
        [("d/sub/y", "f", "2")],
        [("new/deep/er", "f", "2")],
        [("d/.wh.a", "w", ""), ("d/b", "f", "")],
        [("d/b", "f", "1"), ("d/.wh..wh..opq", "w", "")],
        [("d/.wh..wh..opq", "w", ""), ("d/sub/z", "f", "z")],
        [(".wh.d", "w", ""), ("d", "d", "711"), ("d/n", "f", "n")],
        [(".wh.f", "w", "")],
        [(".wh.", "w", ""), (".wh..", "w", ""), (".wh...", "w", ""), (".wh.nothing", "w", "")],
        [("f", "f", "1"), (".wh.f", "w", "")],
        [("f", "d", "755"), ("f/x", "f", "1")],
        [("d", "f", "now a file")],
        [("lib/new", "f", "through the link")],
        [("link/c", "f", "c")],
        [("hard", "h", "f")],
        [("g", "f", "g"), ("hard", "h", "g")],
        [("../../up", "f", "1"), ("/abs/olute", "f", "1")],
        [("out", "l", "/etc"), ("out/passwd", "f", "inside")],
        [("d/sub", "l", "../d"), ("d/a2", "f", "2")],
        [("d/sub/x", "f", "1"), ("d/sub", "l", "sub")],  # an implied directory gives way to a link to itself
        [("new/x", "f", "1"), ("new", "l", "new")],
    ],
)  # fmt: skip
def test_staging_gives_what_an_overlay_gives(tmp_path: Path, second: list[tuple[str, str, str]]) -> None:
    layers = [layer(*BASE), layer(*second)]
    assert by_store(tmp_path, layers) == by_overlay(tmp_path, layers)


OPERATIONS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join),
        st.sampled_from(["f", "d", "l", "w", "o"]),
        st.sampled_from(["a", "b/c", "/a", "..", "700"]),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS, OPERATIONS)
def test_any_two_layers(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[str, str, str]], second: list[tuple[str, str, str]]
) -> None:
    """Any two layers unpack, or are refused."""
    tmp_path = tmp_path_factory.mktemp("any")

    def made(operations: list[tuple[str, str, str]]) -> bytes:
        rows = []
        for path, kind, content in operations:
            parent, _, name = path.rpartition("/")
            if kind in "wo":
                mark = f".wh.{name}" if kind == "w" else ".wh..wh..opq"
                rows.append((f"{parent}/{mark}" if parent else (mark if kind == "w" else f"{name}/{mark}"), "w", ""))
            else:
                rows.append((path, kind, "755" if kind == "d" else content))
        return layer(*rows)

    # A layer may be impossible (a file as a parent), nothing else may go wrong.
    with contextlib.suppress(ImageError, NotADirectoryError, FileNotFoundError, FileExistsError):
        by_store(tmp_path, [made(first), made(second)])


def test_a_worker_says_what_is_wrong(tmp_path: Path) -> None:
    import asyncio

    async def run() -> None:
        workers = unpack_worker.Workers()
        (tmp_path / "blob").write_bytes(b"x" * 2000)
        (tmp_path / "fs").mkdir()
        with pytest.raises(ImageError, match="damaged"):
            await workers.stage(str(tmp_path / "blob"), str(tmp_path / "fs"))
        with pytest.raises(FileNotFoundError):
            await workers.stage(str(tmp_path / "none"), str(tmp_path / "fs"))
        await workers.close()

    asyncio.run(run())
