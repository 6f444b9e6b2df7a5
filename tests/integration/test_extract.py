"""Unpacking hostile and odd archives: whiteouts (P019), tar slip (S017), sparse files, links."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sampan.images.errors import ImageError
from sampan.images.extract import Extractor, normalise
from sampan.images.image import Layer, chain_ids
from sampan.images.pack import changes, pack_layer, pack_tree
from sampan.images.store import ImageStore
from sampan.linux import mount


def tar(*members: tuple[str, bytes | str | None], kinds: dict[str, bytes] | None = None) -> io.BytesIO:
    """Members: (name, bytes) a file, (name, None) a directory, (name, "target") a symlink or `kinds`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if content is None else 0o644
            if content is None:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif isinstance(content, str):
                member.type, member.linkname = (kinds or {}).get(name, tarfile.SYMTYPE), content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    out.seek(0)
    return out


def unpack(directory: Path, stream: io.BytesIO, **options: bool) -> None:
    directory.mkdir(exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        Extractor(fd, **options).extract(stream)  # type: ignore[arg-type]
    finally:
        os.close(fd)


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    return outside


def test_no_member_leaves_the_root(tmp_path: Path, sentinel: Path) -> None:
    root = tmp_path / "root"
    stream = tar(
        ("../outside/up", b"x"),
        ("/../outside/abs", b"x"),
        ("link", str(sentinel)),
        ("link/through", b"x"),
        ("rel", "../outside"),
        ("rel/through", b"x"),
        ("deep/../../outside/dots", b"x"),
    )
    unpack(root, stream)
    assert sorted(os.listdir(sentinel)) == ["file"]
    assert (sentinel / "file").read_text() == "untouched"


def test_a_hard_link_to_the_outside_is_refused(tmp_path: Path, sentinel: Path) -> None:
    stream = tar(("link", str(sentinel / "file")), ("hard", f"{sentinel}/file"), kinds={"hard": tarfile.LNKTYPE})
    with pytest.raises(ImageError, match="hard link"):
        unpack(tmp_path / "root", stream)
    assert (sentinel / "file").stat().st_nlink == 1


def test_overwriting_through_a_symlink_replaces_the_link(tmp_path: Path, sentinel: Path) -> None:
    unpack(tmp_path / "root", tar(("f", str(sentinel / "file")), ("f", b"mine")))
    assert (sentinel / "file").read_text() == "untouched"
    assert (tmp_path / "root/f").read_text() == "mine"


def test_damaged_archives_are_errors(tmp_path: Path) -> None:
    whole = tar(("f", b"x" * 5000)).getvalue()
    for data in (b"not a tar at all" * 100, whole[:2000]):
        with pytest.raises(ImageError):
            unpack(tmp_path / "root", io.BytesIO(data))


def test_a_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    with pytest.raises(ImageError, match="more than"):
        Extractor(fd, max_bytes=1 << 20).extract(tar(("f", b"x" * (2 << 20))))
    os.close(fd)


def test_zeros_become_holes(tmp_path: Path) -> None:
    unpack(tmp_path / "root", tar(("big", bytes(32 << 20))))
    info = (tmp_path / "root/big").stat()
    assert info.st_size == 32 << 20
    assert info.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    ("name", "path"), [("./a/b", "a/b"), ("/a//b/", "a/b"), ("../../x", "x"), ("a/../..", ""), (".", "")]
)
def test_normalise(name: str, path: str) -> None:
    assert normalise(name) == path


def add_layers(store: ImageStore, *streams: io.BytesIO) -> list[str]:
    import hashlib

    layers, diff_ids = [], []
    for stream in streams:
        digest, size = store.blobs.put(stream)
        diff_ids.append("sha256:" + hashlib.sha256(stream.getvalue()).hexdigest())
        layers.append(Layer(digest, size, diff_ids[-1]))
        store.unpacker.unpack(digest, diff_ids)
    return diff_ids


def test_whiteouts(tmp_path: Path) -> None:
    """P019, with the opaque marker after the new file."""
    store = ImageStore(str(tmp_path / "store"))
    first = tar(("a", None), ("a/x", b"1"), ("a/y", b"2"), ("t", b"3"), ("root", None), ("root/t", b"4"))
    second = tar(
        ("a/new", b"5"), ("a/.wh..wh..opq", b""), (".wh.t", b""), (".wh.missing", b""), (".wh.", b""), (".wh...", b"")
    )
    diff_ids = add_layers(store, first, second)
    fd = mount.overlay(store.layers.directories(chain_ids(diff_ids)), None, None)
    try:
        top = f"/proc/self/fd/{fd}"
        assert os.listdir(f"{top}/a") == ["new"]
        assert sorted(os.listdir(top)) == ["a", "root"]
        assert os.listdir(f"{top}/root") == ["t"]
    finally:
        os.close(fd)


def test_hard_link_to_a_file_of_a_lower_layer(tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path / "store"))
    diff_ids = add_layers(
        store,
        tar(("lib", None), ("lib/a", b"text"), ("usrlib", "lib")),
        tar(("b", "lib/a"), ("usrlib/c", b"x"), kinds={"b": tarfile.LNKTYPE}),
    )
    fd = mount.overlay(store.layers.directories(chain_ids(diff_ids)), None, None)
    try:
        assert Path(f"/proc/self/fd/{fd}/b").read_bytes() == b"text"
        assert Path(f"/proc/self/fd/{fd}/lib/c").read_bytes() == b"x", "a symlinked parent is followed inside the root"
    finally:
        os.close(fd)


def test_wrong_diff_id_commits_nothing(tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path / "store"))
    digest, _ = store.blobs.put(tar(("f", b"x")))
    with pytest.raises(ImageError, match="unpacks to"):
        store.unpacker.unpack(digest, ["sha256:" + "0" * 64])
    assert os.listdir(tmp_path / "store/chains") == []
    assert os.listdir(tmp_path / "store/layers") == []


def test_pack_round_trip_keeps_links_modes_and_attributes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(b"data")
    os.link(source / "f", source / "g")
    os.symlink("f", source / "s")
    os.mknod(source / "fifo", 0o010600)
    os.chown(source / "f", 12, 34)
    os.chmod(source / "f", 0o4711)
    os.setxattr(source / "f", "user.note", b"hi")
    out = io.BytesIO()
    fd = os.open(source, os.O_RDONLY)
    pack_tree(fd, "/", out)
    os.close(fd)
    out.seek(0)
    unpack(tmp_path / "copy", out)
    copy = tmp_path / "copy"
    info = (copy / "f").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, info.st_nlink) == (12, 34, 0o4711, 2)
    assert os.readlink(copy / "s") == "f"
    assert os.getxattr(copy / "f", "user.note") == b"hi"


def test_overlay_internals_never_leak_into_a_layer(tmp_path: Path) -> None:
    """P119: deletions become whiteouts, opaque directories markers, and no trusted.overlay attribute."""
    for name in ("lower/gone", "lower/dir", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/dir/old").write_text("x")
    fd = mount.overlay([str(tmp_path / "lower")], str(tmp_path / "upper"), str(tmp_path / "work"))
    top = f"/proc/self/fd/{fd}"
    os.rmdir(f"{top}/gone")
    os.unlink(f"{top}/dir/old")
    os.rmdir(f"{top}/dir")
    os.mkdir(f"{top}/dir")
    Path(f"{top}/dir/new").write_text("y")
    os.close(fd)
    out = io.BytesIO()
    pack_layer(str(tmp_path / "upper"), out)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        names = archive.getnames()
        assert not any("overlay" in key for member in archive for key in member.pax_headers)
    assert sorted(names) == [".wh.gone", "dir", "dir/.wh..wh..opq", "dir/new"]
    lower = os.open(tmp_path / "lower", os.O_RDONLY)
    assert list(changes(str(tmp_path / "upper"), lower)) == [("/dir", 0), ("/dir/new", 1), ("/gone", 2)]
    os.close(lower)
