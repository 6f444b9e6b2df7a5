"""Archives from elsewhere (T70, T73): whatever they say, an error that names it, within bounds of time, memory and disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import resource
import stat
import subprocess
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.build import copying
from sampan.build.file_tree import Tree
from sampan.client.http import APIError
from sampan.images import archive, compression, pack, sparse
from sampan.images.config import Execution
from sampan.images.errors import ImageError, StoreFull
from sampan.images.extract import Extractor
from sampan.images.layer import LayerExtractor, NeedsLower
from sampan.images.store import ImageStore
from sampan.images.tarstream import TarStream
from sampan.linux import filetree
from tests.conftest import Daemon
from tests.support.archives import END, base256, header, pax, record
from tests.support.images import files_of, load, saved, tar_of


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "store"))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    filetree.remove(str(tmp_path / "root"))


def members(data: bytes) -> list[tuple[str, int]]:
    plain = io.BytesIO(data)
    return [(entry.name, entry.size) for entry in TarStream(plain.read)]


HOSTILE = {
    "a negative size": header(size=base256(-512)) + END,
    "a negative size in pax": pax(record("size", b"-1024")) + header() + END,
    "a huge size": header(size=base256(1 << 80)) + END,
    "a huge size in pax": pax(record("size", b"9" * 19)) + header() + END,
    "a size that is no number": pax(record("size", b"1_0")) + header() + END,
    "more digits than a number has": pax(record("size", b"1" * 5000)) + header() + END,
    "a record that says it is longer": header(b"p", b"%011o" % 20, b"x") + b"99 path=x\n".ljust(512, b"\0") + END,
    "a record that says it is shorter": header(b"p", b"%011o" % 20, b"x") + b"3 path=x\n".ljust(512, b"\0") + END,
    "a record of no length": header(b"p", b"%011o" % 9, b"x") + b"0 path=x\n".ljust(512, b"\0") + END,
    "headers of headers": pax(record("comment", b"x")) * 100 + header() + END,
    "long names without end": (header(b"l", b"%011o" % 600, b"L") + b"n" * 1024) * 100 + header() + END,
    "a header of a gigabyte": header(b"l", b"%011o" % (1 << 30), b"L") + b"n" * 1024,
    "a name longer than a path": pax(record("path", b"a/" * 3000)) + header() + END,
    "a target longer than a path": pax(record("linkpath", b"a" * 5000)) + header(kind=b"2") + END,
    "a zero byte in a name": pax(record("path", b"a\0b")) + header() + END,
    "a zero byte in an attribute": pax(record("SCHILY.xattr.user.\0", b"x")) + header() + END,
    "a component of 300 bytes": pax(record("path", b"a" * 300)) + header() + END,
    "an owner beyond 32 bits": pax(record("uid", b"99999999999")) + header() + END,
    "a time beyond all": pax(record("mtime", b"99999999999999999999")) + header() + END,
    "a time that is none": pax(record("mtime", b"1e999")) + header() + END,
    "a kind that nobody knows": header(kind=b"Z") + END,
    "a device of large numbers": header(kind=b"3", extra={329: base256(1 << 40, 8), 337: base256(1 << 40, 8)}) + END,
    "a wrong checksum": header()[:-1] + b"x" + END,
    "no octal number": header(size=b"99999999999") + END,
    "a cut header": header()[:300],
    "a cut content": header(size=b"00000001000") + b"x" * 100,
    "a sparse map backwards": header(kind=b"S", size=b"%011o" % 512,
                                     extra={386: b"%011o\0%011o\0%011o\0%011o\0" % (512, 256, 0, 256), 483: b"%011o" % 1024}) + bytes(512) + END,
    "a sparse map beyond the end": header(kind=b"S", size=b"%011o" % 512,
                                          extra={386: b"%011o\0%011o\0" % (1024, 512), 483: b"%011o" % 100}) + bytes(512) + END,
    "a sparse file of an exabyte": header(kind=b"S", extra={386: b"%011o\0%011o\0" % (0, 0), 483: base256(1 << 60)}) + END,
    "sparse extensions without end": header(kind=b"S", extra={482: b"\1", 483: b"%011o" % 1024}) + (b"\0" * 504 + b"\1" + bytes(7)) * 30,
    "a sparse map of a million rows": pax(record("GNU.sparse.major", b"1"), record("GNU.sparse.realsize", b"10"))
                                      + header(size=b"%011o" % 512) + b"1000000\n".ljust(512, b"\0") + END,
    "a sparse map that is no number": pax(record("GNU.sparse.map", b"0,x"), record("GNU.sparse.size", b"10")) + header() + END,
    "an odd sparse map": pax(record("GNU.sparse.map", b"0,1,2"), record("GNU.sparse.size", b"10")) + header() + END,
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("way", ["cp", "layer"])
def test_hostile_headers_are_errors(root: int, what: str, way: str) -> None:
    begun = time.monotonic()
    with pytest.raises((ImageError, NeedsLower)):
        unpack(root, HOSTILE[what], way)
    assert time.monotonic() - begun < 5


def unpack(root: int, data: bytes, way: str) -> None:
    plain = io.BytesIO(data)
    if way == "cp":
        Extractor(root).extract(plain)
    else:
        LayerExtractor(root).extract(TarStream(plain.read))


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_no_images(store: ImageStore, what: str) -> None:
    with pytest.raises(ImageError):
        archive.load(store, io.BytesIO(HOSTILE[what]))
    with pytest.raises(ImageError):
        archive.load(store, io.BytesIO(saved([HOSTILE[what]], ["x:1"])))
    with pytest.raises(ImageError):
        archive.from_tar(store, io.BytesIO(HOSTILE[what]), "x:1", Execution(), "")
    assert store.index.all() == []


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from([tar_of({"a": b"x" * 700, "b/": b"", "b/c": b""}), *HOSTILE.values()]),
    st.lists(st.tuples(st.integers(0, 2500), st.binary(min_size=1, max_size=20)), max_size=4),
    st.integers(0, 4000),
)
def test_the_reader_ends_whatever_it_reads(data: bytes, changes: list[tuple[int, bytes]], cut: int) -> None:
    block = bytearray(data)
    for at, piece in changes:
        block[at : at + len(piece)] = piece
    plain = io.BytesIO(bytes(block[:cut]))
    stream = TarStream(plain.read)
    try:
        for entry in stream:
            if entry.size < 1 << 24:
                assert sum(len(piece) for piece in stream.content()) == (entry.size if entry.is_file else 0)
    except ImageError:
        pass


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=1500), st.integers(0, 3))
def test_sparse_maps_of_anything(data: bytes, form: int) -> None:
    padded = data.ljust(1536, b"\0")
    plain = io.BytesIO(padded)
    try:
        if form == 0:
            sparse.of_content(plain.read, len(data) // 512 * 512)
        elif form == 1:
            sparse.of_header(padded[:512])
        elif form == 2:
            sparse.of_extension(padded[:512], [])
        else:
            sparse.of_records([("GNU.sparse.map", data), ("GNU.sparse.size", b"1")])
    except ImageError:
        pass


@pytest.mark.parametrize(
    "options", [["--sparse-version=0.0"], ["--sparse-version=0.1"], ["--sparse-version=1.0"], ["gnu"]]
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, root: int, options: list[str]) -> None:
    """Against GNU tar itself: content, size and holes."""
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "holes", "wb") as file:
        for number in range(30):
            file.seek(number * 100_000)
            file.write(bytes([65 + number]) * 5000)
        file.truncate(5_000_000)
    (source / "plain").write_bytes(b"plain")
    form = ["--format=gnu"] if options == ["gnu"] else ["--format=pax", *options]
    made = subprocess.run(["tar", "-C", source, "-cS", *form, "holes", "plain"], capture_output=True, check=True).stdout
    assert len(made) < 400_000
    Extractor(root).extract(io.BytesIO(made))
    assert (tmp_path / "root/holes").read_bytes() == (source / "holes").read_bytes()
    assert (tmp_path / "root/plain").read_bytes() == b"plain"
    assert os.stat(tmp_path / "root/holes").st_blocks * 512 < 1_000_000
    (tmp_path / "layer").mkdir()
    fd = os.open(tmp_path / "layer", os.O_RDONLY)
    plain = io.BytesIO(made)
    LayerExtractor(fd).extract(TarStream(plain.read))
    os.close(fd)
    assert (tmp_path / "layer/holes").read_bytes() == (source / "holes").read_bytes()


# compression


def bomb(size: int) -> bytes:
    return gzip.compress(header(b"zeros", base256(size)) + bytes(min(size, 64 << 20)), 9)


def test_a_bomb_does_not_fill_the_disk(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "room", lambda _: 8 << 20)
    data = bomb(64 << 20)
    assert len(data) < 200_000
    before = os.listdir(store.temporary)
    for work in (
        lambda: archive.load(store, io.BytesIO(data)),
        lambda: archive.from_tar(store, io.BytesIO(data), "x:1", Execution(), ""),
    ):
        with pytest.raises(StoreFull, match=r"no space left on device: .*more than 8388608 bytes"):
            work()
        assert os.listdir(store.temporary) == before


def test_a_bomb_in_a_layer(store: ImageStore, tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    size = free.f_bavail * free.f_frsize
    plain = header(b"zeros", base256(size)) + bytes(1 << 20)
    with pytest.raises(ImageError, match=r"no space left|room for"):
        load(store, saved([plain], ["x:1"]))


def test_spools_are_in_the_store(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    load(store, gzip.compress(saved([tar_of({"a": b"x"})], ["x:1"])))


@pytest.mark.parametrize("data", [
    lzma.compress(tar_of({"a": b"x"}), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}]),
    zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)).compressobj().compress(b"")
    + b"\x28\xb5\x2f\xfd\x00\xa0" + bytes(100),
])  # fmt: skip
def test_what_wants_a_gigabyte_of_memory_is_refused(store: ImageStore, data: bytes) -> None:
    with pytest.raises(ImageError):
        archive.load(store, io.BytesIO(data))
    with pytest.raises(ImageError):
        archive.from_tar(store, io.BytesIO(data), "x:1", Execution(), "")


@pytest.mark.parametrize("pack_", [
    gzip.compress, lzma.compress, zstandard.compress,
    lambda data: lzma.compress(data[:600]) + lzma.compress(data[600:]) + bytes(8),
    lambda data: gzip.compress(data[:600]) + gzip.compress(data[600:]),
    lambda data: lzma.compress(data, preset=9),
])  # fmt: skip
def test_every_compression_is_read(store: ImageStore, pack_: Any) -> None:
    data = saved([tar_of({"a": b"x" * 10_000})], ["x:1"])
    assert files_of(store, load(store, pack_(data)))["a"] == b"x" * 10_000
    cut = pack_(data)[:-20]
    with pytest.raises(ImageError):
        load(store, cut)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from([gzip.compress, lzma.compress, zstandard.compress]), st.data())
def test_damaged_compression_is_an_error(store: ImageStore, pack_: Any, data: st.DataObject) -> None:
    block = bytearray(
        pack_(
            tar_of({"a": b"x" * 3000, "b": hashlib.sha512(b"b").digest() * 8}),
            **({"mtime": 0} if pack_ is gzip.compress else {}),
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    try:
        archive.from_tar(store, io.BytesIO(bytes(block)), "x:1", Execution(), "")
    except ImageError:
        pass


# what an archive says of itself


@pytest.mark.parametrize("config", [
    {"config": []}, {"config": {"Labels": ["a"]}}, {"config": {"Labels": {"a": {}}}}, {"config": {"Env": [1]}}, {"history": {}},
    {"history": [1]}, {"created": 5}, {"config": {"Cmd": {}}}, {"rootfs": []}, {"rootfs": {"diff_ids": [1]}},
    {"rootfs": {"diff_ids": ["sha256:x"]}}, {"rootfs": {"diff_ids": {}}}, {"config": {"Volumes": 1}}, {"config": {"User": {}}},
])  # fmt: skip
def test_configurations_that_others_could_not_read(store: ImageStore, config: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="configuration"):
        load(store, saved([tar_of({"a": b"x"})], ["x:1"], **config))
    assert store.index.all() == []


def test_what_others_have_written_is_in_what_is_made_of_it(store: ImageStore) -> None:
    config: dict[str, Any] = {"architecture": "arm64", "os": "linux", "variant": "v8", "com.example.x": {"a": 1}, "container": "old",
                              "config": {"Env": ["A=1"], "com.example.y": 2}, "history": [{"created_by": "x", "z": 3}]}  # fmt: skip
    load(store, saved([tar_of({"a": b"x"})], ["x:1"], **config))
    image = store.index.find("x:1")
    made = archive.add_layer(store, image, io.BytesIO(tar_of({"b": b"y"})), image.config.execution, "made", "y:1")
    found = json.loads(store.blobs.read(made.id))
    assert found.pop("history")[0] == config.pop("history")[0]
    assert found.pop("rootfs")["diff_ids"] == [layer.diff_id for layer in made.layers]
    del found["created"], config["container"]
    assert found == config


def test_depth_and_numbers_are_bounded(store: ImageStore) -> None:
    layer = tar_of({"a": b"x"})
    deep: Any = "x"
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(ImageError, match="nested"):
        load(store, saved([layer], ["x:1"], extra=deep))
    with pytest.raises(ImageError, match="layers"):
        load(store, saved([layer] * 129, ["x:1"]))
    for text in (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps([{"Config": "c", "Layers": []}] * 1001).encode(),
        b"[1]",
        b"{}",
        b"null",
    ):
        with pytest.raises(ImageError):
            archive.load(store, io.BytesIO(tar_of({"manifest.json": text})))
    with pytest.raises(ImageError, match="larger"):
        load(store, saved([layer], ["x:1"], pad="x" * (9 << 20)))
    with pytest.raises(ImageError):
        archive.load(store, io.BytesIO(tar_of({"index.json": b'{"manifests": 5}'})))
    loop = io.BytesIO()
    with tarfile.open(fileobj=loop, mode="w") as tar:
        for name, target in (("manifest.json", "b"), ("b", "manifest.json")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    with pytest.raises(ImageError, match="no file"):
        archive.load(store, io.BytesIO(loop.getvalue()))


def test_many_entries_take_no_memory() -> None:
    """The reader itself keeps nothing of what it has read (what it makes has inodes)."""
    block = header(b"same/name") * 200
    left = [100]

    def read(_: int) -> bytes:
        left[0] -= 1
        return block if left[0] >= 0 else b""

    tracemalloc.start()
    try:
        assert sum(1 for _ in TarStream(read)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_packing_keeps_nothing_of_each_file(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"file{number}").touch()

    class Sink(io.RawIOBase):
        def write(self, data: Any) -> int:
            return len(data)

    def peak() -> int:
        tracemalloc.start()
        try:
            pack.pack_layer(str(tmp_path), Sink())  # type: ignore[arg-type]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak()
    assert peak() < 3 << 20


# depth


def deep_tree(top: Path, depth: int) -> None:
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    os.close(fd)


def test_depth_is_no_recursion(tmp_path: Path, store: ImageStore) -> None:
    """1,300 nested directories (PATH_MAX): packed, loaded, compared, copied, digested, removed (T70)."""
    depth = 1300
    source = tmp_path / "source"
    source.mkdir()
    deep_tree(source, depth)
    try:
        out = io.BytesIO()
        pack.pack_layer(str(source), out)
        image = archive.from_tar(store, io.BytesIO(out.getvalue()), "deep:1", Execution(), "")
        image = archive.add_layer(store, image, io.BytesIO(out.getvalue()), Execution(), "", "deep:2")
        directory = store.lower_directories(image)[0]
        empty = os.open(tmp_path, os.O_RDONLY)
        assert sum(1 for _ in pack.changes(directory, empty)) == depth + 1
        rootfd = os.open(source, os.O_RDONLY)
        tree = Tree(rootfd)
        assert sum(1 for _ in tree.walk("")) == depth + 1
        path, info = tree.resolve("/")
        assert tree.digest(path, info, True, tree.ignore)
        (tmp_path / "copy").mkdir()
        target = os.open(tmp_path / "copy", os.O_RDONLY)
        copying.copy(tree, path, info, target, "/x", copying.Manner())
        assert os.listdir(f"/proc/self/fd/{target}") == ["x"]
        for fd in (empty, rootfd, target):
            os.close(fd)
        store.remove("deep:1", force=True)
        store.remove("deep:2", force=True)
        assert os.listdir(f"{store.root}/layers") == []
    finally:
        for name in ("source", "copy"):
            filetree.remove(str(tmp_path / name), ignore_errors=True)


def test_deeper_than_a_path_can_say(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    deep_tree(top, 2500)
    try:
        with pytest.raises(OSError, match="too deep"):
            pack.pack_layer(str(top), io.BytesIO())
        empty = os.open(tmp_path, os.O_RDONLY)
        assert sum(1 for _ in pack.changes(str(top), empty)) < 2400
        os.close(empty)
    finally:
        filetree.remove(str(top))


# over the API


def test_hostile_uploads_are_answered(daemon: Daemon) -> None:
    """load, import, cp and build contexts: 4xx with a reason, and the engine goes on."""
    daemon.ok("create", "--name", "target", "--network", "none", "busybox", "true")
    paths = ("/images/load", "/images/create?fromSrc=-&repo=x", "/containers/target/archive?path=/", "/build?t=x")
    hostile = [HOSTILE[what] for what in ("a negative size", "headers of headers", "a zero byte in a name")]
    for data in (*hostile, b"x" * 600):
        for path in paths:
            with pytest.raises(APIError) as caught:
                upload(daemon, path, data)
            assert 400 <= caught.value.status < 500, (path, data[:40])
    daemon.ok("ps", "-q")


def upload(daemon: Daemon, path: str, data: bytes) -> None:
    """A build tells in its stream what is wrong."""
    answer = daemon.http.send("PUT" if "archive" in path else "POST", path, stream=iter([data])).read()
    for line in answer.splitlines():
        if "error" in (found := json.loads(line)):
            raise APIError(400, found["error"])


def test_the_worker_that_unpacks_has_a_limit(tmp_path: Path) -> None:
    from sampan.images import unpack_worker

    code = "import resource, sys; sys.path[:0] = sys.argv[1:]; from sampan.images import unpack_worker; unpack_worker.worker(); print(resource.getrlimit(resource.RLIMIT_DATA))"
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code, *[p for p in sys.path if p]], input=b"", capture_output=True, check=True
    )
    assert str(unpack_worker._MEMORY).encode() in done.stdout
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != unpack_worker._MEMORY


def test_old_tars_have_directories_by_their_slash(root: int, tmp_path: Path) -> None:
    old = header(b"dir/", kind=b"\0") + header(b"dir/file", b"00000000003", b"\0") + b"abc".ljust(512, b"\0") + END
    Extractor(root).extract(io.BytesIO(old))
    assert stat.S_ISDIR(os.stat(tmp_path / "root/dir").st_mode)
    assert (tmp_path / "root/dir/file").read_bytes() == b"abc"
