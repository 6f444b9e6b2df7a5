"""Damaged stores of images (T06, T08): noticed, named, never deleted on doubt, and repaired by what the error advises."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.client.http import APIError
from sampan.images import archive
from sampan.images.errors import BlobDamaged, ImageError, ImageInUse, ImageNotFound, StoreFull
from sampan.images.image import Image, manifest_of
from sampan.images.store import ImageStore
from sampan.linux import durable
from tests.conftest import Daemon
from tests.support.images import files_of, load, saved, tar_of, two_layers


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def store(root: str) -> ImageStore:
    return ImageStore(root)


def flip(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(700)
        byte = file.read(1)
        file.seek(700)
        file.write(bytes([byte[0] ^ 0x10]))


def layer_path(store: ImageStore, image: Image, index: int) -> str:
    """The directory of a layer, from the bottom up."""
    return os.path.dirname(list(reversed(store.lower_directories(image)))[index])


# blobs


@pytest.mark.parametrize("how", ["flipped", "missing", "shorter"])
def test_a_damaged_blob_is_not_saved_and_loading_repairs_it(store: ImageStore, how: str) -> None:
    data = saved(two_layers(), ["shop:1"])
    image = load(store, data)
    path = store.blobs.path(image.layers[1].digest)
    {"flipped": flip, "missing": os.unlink, "shorter": lambda p: os.truncate(p, 900)}[how](path)
    with pytest.raises(BlobDamaged, match=r"image shop:1: .*(damaged|missing).*load or pull shop:1 again"):
        archive.save(store, [(image, ["docker.io/library/shop:1"])], io.BytesIO())
    load(store, data)
    out = io.BytesIO()
    archive.save(store, [(image, ["docker.io/library/shop:1"])], out)
    assert files_of(store, image)["etc/motd"] == b"hello\n"
    other = ImageStore(f"{store.root}-other")
    assert load(other, out.getvalue()).id == image.id


def test_a_blob_that_rots_while_it_is_sent_is_noticed(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rot changes no time of the file: what was checked before is checked on the way again."""
    image = load(store, saved(two_layers(), ["shop:1"]))
    path = store.blobs.path(image.layers[0].digest)
    info = os.stat(path)
    monkeypatch.setattr("sampan.images.blobs._identity", lambda fd: (1, 1, 1, 1))
    archive.check(store, [(image, [])])
    flip(path)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(ImageError, match=r"could not be read whole|damaged"):
        archive.save(store, [(image, [])], io.BytesIO())


def test_a_damaged_blob_and_its_layer_gone(store: ImageStore) -> None:
    """Neither the directory nor what to make it of: the error names the image and the way out, and that works."""
    data = saved(two_layers(), ["shop:1"])
    image = load(store, data)
    flip(store.blobs.path(image.layers[1].digest))
    os.rename(layer_path(store, image, 1), f"{store.root}/elsewhere")
    store._lower.clear()
    with pytest.raises(ImageError, match=r"shop:1.*load or pull shop:1 again"):
        store.lower_directories(image)
    load(store, data)
    assert files_of(store, image)["app/data"].endswith(b"xxx")


# layers


def test_a_missing_layer_is_unpacked_again_from_its_blob(store: ImageStore) -> None:
    image = load(store, saved(two_layers(), ["shop:1"]))
    before = files_of(store, image)
    for index in (0, 1):
        os.rename(layer_path(store, image, index), f"{store.root}/elsewhere{index}")
        store._lower.clear()
        assert files_of(store, image) == before


def empty_a_file(directory: str) -> None:
    os.truncate(next(p for p in Path(directory, "fs").rglob("*") if p.is_file() and p.stat().st_size), 0)


def lose_a_file(directory: str) -> None:
    next(p for p in Path(directory, "fs").rglob("*") if p.is_file()).unlink()


def lose_the_record(directory: str) -> None:
    os.unlink(f"{directory}/record.json")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("damage", [empty_a_file, lose_a_file, lose_the_record])
@pytest.mark.parametrize("repair", ["restart", "load"])
def test_layers_after_a_power_cut(root: str, damage: Callable[[str], None], index: int, repair: str) -> None:
    """Empty or missing files below a chain link: found at the first use after the host stopped, or by the same load."""
    store = ImageStore(root)
    data = saved(two_layers("salt"), ["shop:1"])
    image = load(store, data)
    before = files_of(store, image)
    damage(layer_path(store, image, index))
    if repair == "restart":
        durable.write(f"{root}/opened", json.dumps({"boot": "another", "token": "", "suspect": False}))
        store = ImageStore(root)
    else:
        load(store, data)
    assert files_of(store, image) == before
    store.close()
    assert not os.path.exists(f"{root}/opened")
    assert files_of(ImageStore(root), image) == before


def test_what_was_doubtful_stays_so_until_it_has_been_checked(root: str) -> None:
    store = ImageStore(root)
    image = load(store, saved(two_layers(), ["shop:1"]))
    before = files_of(store, image)
    empty_a_file(layer_path(store, image, 1))
    durable.write(f"{root}/opened", json.dumps({"boot": "another", "token": "", "suspect": False}))
    for _ in range(2):
        ImageStore(root).close()  # nobody has looked at the image
    assert files_of(ImageStore(root), image) == before


def test_a_new_session_on_the_same_host_is_told_from_a_restart(root: str, tmp_path: Path) -> None:
    """A data root that is mounted elsewhere (a copy, a crash image) has no session file that fits."""
    session = str(tmp_path / "session")
    load(ImageStore(root, session), saved(two_layers(), ["shop:1"]))
    assert not ImageStore(root, session).layers.doubtful
    os.unlink(session)
    assert ImageStore(root, session).layers.doubtful


def test_the_order_of_a_load(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, sync, record, link, sync, index: each before the next (T06)."""
    steps: list[str] = []
    root = store.root
    sync, change = durable.sync_tree, store.index._database.change

    def synced(path: str) -> None:
        links = sum(1 for name in os.listdir(f"{root}/chains") if len(name) == 64)
        records = len(list(Path(root, "layers").glob("*/record.json")))
        rows = len(store.index._database.rows("SELECT id FROM images"))
        steps.append(f"sync: {records} records, {links} links, {rows} images")
        sync(path)

    def changed(*statements: object, **options: object) -> None:
        steps.append("index")
        change(*statements, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(durable, "sync_tree", synced)
    monkeypatch.setattr(store.index._database, "change", changed)
    load(store, saved(two_layers(), ["shop:1"]))
    assert steps == ["sync: 0 records, 0 links, 0 images", "sync: 2 records, 2 links, 0 images", "index"]


def test_the_index_is_on_disk_when_a_change_returns(store: ImageStore) -> None:
    assert store.index._database._writer.execute("PRAGMA synchronous").fetchone() == (2,)


# broken images


def break_config(store: ImageStore, image: Image) -> None:
    flip_at = store.blobs.path(image.id)
    Path(flip_at).write_bytes(b"{" + Path(flip_at).read_bytes())
    store.index._configs.clear()


def lose_config(store: ImageStore, image: Image) -> None:
    os.unlink(store.blobs.path(image.id))
    store.index._configs.clear()


def break_row(store: ImageStore, image: Image) -> None:
    store.index._database.change(("UPDATE images SET layers = '[[1]]' WHERE id = ?", (image.id,)))


@pytest.mark.parametrize("damage", [break_config, lose_config, break_row])
def test_one_broken_image_harms_no_other(store: ImageStore, damage: Callable[[ImageStore, Image], None]) -> None:
    data = saved(two_layers("a"), ["broken:1"])
    image, good = load(store, data), load(store, saved(two_layers("b"), ["good:1"]))
    gone = load(store, saved(two_layers("c"), ["gone:1"]))
    blobs = set(store.blobs.all())
    damage(store, image)
    blobs &= set(store.blobs.all())
    found = {each.id: each for each in store.index.all()}
    assert found[image.id].broken
    assert not found[good.id].broken
    assert store.index.find("broken:1").broken
    with pytest.raises(ImageError, match="broken:1 is broken"):
        store.index.usable("broken:1")
    store.remove("gone:1", force=False)  # collects garbage: nothing of the broken one goes
    kept = {layer.digest for layer in image.layers}
    assert kept <= set(store.blobs.all())
    assert {layer.digest for layer in good.layers} <= set(store.blobs.all())
    assert files_of(store, good)
    with pytest.raises(ImageNotFound):
        store.index.get(gone.id)
    load(store, data)  # the way out
    assert not store.index.usable("broken:1").broken
    assert files_of(store, image)


@pytest.mark.parametrize("damage", [break_config, lose_config, break_row])
def test_a_broken_image_is_removed_by_a_person(store: ImageStore, damage: Callable[[ImageStore, Image], None]) -> None:
    image = load(store, saved(two_layers("a"), ["broken:1"]))
    damage(store, image)
    assert store.remove("broken:1", force=False)[-1] == {"Deleted": image.id}
    store.collect_garbage()
    assert store.blobs.all() == []
    assert os.listdir(f"{store.root}/layers") == []


def test_no_blob_is_collected_while_a_manifest_can_not_be_read(store: ImageStore) -> None:
    image, other = load(store, saved(two_layers("a"), ["a:1"])), load(store, saved(two_layers("b"), ["b:1"]))
    manifest = manifest_of(image.id, 10, image.layers)
    store.index.remember_manifest(image, "docker.io/library/a", manifest)
    digest = store.index._database.rows("SELECT digest FROM manifests")[0][0]
    flip(store.blobs.path(digest)) if os.stat(store.blobs.path(digest)).st_size > 700 else os.truncate(
        store.blobs.path(digest), 5
    )
    store.remove("b:1", force=True)
    assert {layer.digest for layer in other.layers} <= set(store.blobs.all())
    assert store.index.find("a:1").id == image.id


# the index


def damage_database(path: str, how: str) -> None:
    if how == "no database":
        Path(path).write_bytes(b"x" * 5000)
    elif how == "empty":
        os.truncate(path, 0)
        for suffix in ("-wal", "-shm"):
            Path(path + suffix).unlink(missing_ok=True)
    else:
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(4096 if how == "second page" else 100)
            file.write(os.urandom(min(3000, size - 4096)))


@pytest.mark.parametrize("how", ["no database", "second page", "first page"])
def test_a_damaged_index_is_set_aside_and_rebuilt(root: str, how: str) -> None:
    store = ImageStore(root)
    image = load(store, saved(two_layers(), ["shop:1"]))
    before = files_of(store, image)
    store.close()
    damage_database(f"{root}/images.db", how)
    store = ImageStore(root)
    assert any("damaged" in line and f"{root}/damaged/images.db-" in line for line in store.index.trouble)
    assert os.path.exists(store.index._database.aside)
    assert files_of(store, store.index.find(image.id)) == before
    store.collect_garbage()
    assert files_of(store, store.index.find(image.id)) == before
    load(store, saved(two_layers(), ["shop:1"]))
    assert store.index.find("shop:1").id == image.id


def test_a_read_only_index_serves_reads(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(root)
    image = load(store, saved(two_layers(), ["shop:1"]))
    from sampan.images import database

    def refused(path: str) -> sqlite3.Connection:
        if path.startswith(root):
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY
            raise error
        return sqlite3.connect(path, check_same_thread=False, isolation_level=None)

    monkeypatch.setattr(database, "_connect", refused)
    again = ImageStore(root)
    assert [each.id for each in again.index.all()] == [image.id]
    assert again.index.find("shop:1").id == image.id
    with pytest.raises(ImageError, match="read-only"):
        again.index.tag(image, "shop:2")


def test_removal_uses_the_reserve_of_a_full_disk(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    image = load(store, saved(two_layers(), ["shop:1"]))
    reserve = store.index._database._reserve
    assert os.stat(reserve).st_blocks * 512 >= 1 << 20
    real = store.index._database._apply

    def full(statements: tuple[object, ...]) -> None:
        if os.path.exists(reserve):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        real(statements)  # type: ignore[arg-type]

    monkeypatch.setattr(store.index._database, "_apply", full)
    with pytest.raises(ImageError, match="no space left on device"):
        store.index.tag(image, "shop:2")
    store.remove("shop:1", force=False)
    assert store.index.all() == []
    monkeypatch.undo()
    assert os.path.exists(reserve)


def test_an_image_in_use_stays(store: ImageStore) -> None:
    image = load(store, saved(two_layers(), ["shop:1"]))
    with pytest.raises(ImageInUse, match="container abc is using"):
        store.remove("shop:1", False, lambda _: "running container abc")
    with pytest.raises(ImageInUse), store.using(image.id):
        store.remove(image.id, True)
    assert store.index.find("shop:1").id == image.id


# over the API


def blobs_of(daemon: Daemon) -> Path:
    return daemon.root / "data/images/blobs/sha256"


def test_a_broken_image_breaks_no_command(daemon: Daemon, tmp_path: Path) -> None:
    """images, df, info, prune, ps and the rest go on; it is listed as broken, inspected, removed by a person (T08)."""
    archive_file = tmp_path / "x.tar"
    archive_file.write_bytes(saved(two_layers("broken"), ["broken:1"]))
    daemon.ok("load", "-i", str(archive_file))
    daemon.ok("create", "--name", "other", "--network", "none", "busybox", "true")
    identifier = daemon.http.call("GET", "/images/broken:1/json")["Id"]
    config = blobs_of(daemon) / identifier[7:]
    daemon.stop()
    config.write_bytes(b"{}")
    daemon.start()
    for path in (
        "/images/json",
        "/system/df",
        "/info",
        "/containers/json?all=1&size=1",
        "/metrics",
    ):
        assert daemon.http.send("GET", path).read(), path
    row = next(row for row in daemon.http.call("GET", "/images/json") if row["Id"] == identifier)
    assert "damaged" in row["Broken"]
    assert "damaged" in daemon.http.call("GET", "/images/broken:1/json")["Broken"]
    assert b"is broken" in daemon.sampan("images").stderr
    for command in (["run", "broken:1", "true"], ["save", "broken:1"], ["history", "broken:1"]):
        done = daemon.sampan(*command)
        assert done.returncode, command
        assert b"broken:1" in done.stderr, command
        assert b"load or pull" in done.stderr, command
    daemon.http.call("POST", "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D")
    assert daemon.http.call("GET", "/images/broken:1/json")["Broken"]
    daemon.ok("load", "-i", str(archive_file))
    assert "Broken" not in daemon.http.call("GET", "/images/broken:1/json")
    daemon.ok("rmi", "broken:1")


def test_a_container_starts_although_its_layer_is_gone(own_daemon: Daemon) -> None:
    """The layer's directory is made again from its blob; what it said before is found (T08)."""
    daemon = own_daemon
    daemon.ok("create", "--name", "late", "--network", "none", "busybox", "cat", "/etc/passwd")
    daemon.stop()
    for layer in (daemon.root / "data/images/layers").iterdir():
        layer.rename(daemon.root / layer.name)
    daemon.start()
    assert "root:x:0:0" in daemon.ok("start", "-a", "late")


def test_removals_at_once_over_the_api(daemon: Daemon, tmp_path: Path) -> None:
    """Neither answers 500 (T94)."""
    archive_file = tmp_path / "x.tar"
    statuses: list[int] = []

    def remove(barrier: threading.Barrier) -> None:
        barrier.wait(30)
        try:
            daemon.http.call("DELETE", "/images/twice:1?force=1")
            statuses.append(200)
        except APIError as error:
            statuses.append(error.status)

    for number in range(3):
        archive_file.write_bytes(saved(two_layers(f"twice{number}"), ["twice:1"]))
        daemon.ok("load", "-i", str(archive_file))
        barrier = threading.Barrier(4)
        threads = [threading.Thread(target=remove, args=(barrier,)) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join(60) for thread in threads]
    assert sorted(statuses) == [200] * 3 + [404] * 9


def test_an_image_is_not_removed_while_a_container_is_made(daemon: Daemon, tmp_path: Path) -> None:
    archive_file = tmp_path / "x.tar"
    archive_file.write_bytes(saved(two_layers("race"), ["race:1"]))
    for _ in range(6):
        daemon.ok("load", "-i", str(archive_file))
        made: list[str] = []
        statuses: list[int] = []

        def create(made: list[str] = made, statuses: list[int] = statuses) -> None:
            try:
                made.append(daemon.http.call("POST", "/containers/create", {"Image": "race:1", "Cmd": ["/x"]})["Id"])
            except APIError as error:
                statuses.append(error.status)

        thread = threading.Thread(target=create)
        thread.start()
        try:
            daemon.http.call("DELETE", "/images/race:1")
        except APIError as error:
            statuses.append(error.status)
        thread.join(30)
        assert statuses in ([404], [409])
        for identifier in made:
            image = daemon.http.call("GET", f"/containers/{identifier}/json")["Image"]
            assert daemon.http.call("GET", f"/images/{image}/json")["Id"] == image
            daemon.http.call("DELETE", f"/containers/{identifier}?force=1")


# a disk that is full, or takes nothing: on file systems of their own


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "sampan-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    with open(place / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def test_a_full_disk_names_itself_and_removal_works(small_disk: Path) -> None:
    store = ImageStore(str(small_disk / "store"))
    images = [load(store, saved(two_layers(str(n)), [f"i{n}:1"])) for n in range(4)]
    fill(small_disk)
    data = saved([*two_layers("new"), tar_of({"big": os.urandom(300_000)})], ["new:1"])
    with pytest.raises((StoreFull, OSError), match=r"[Nn]o space left on device"):
        load(store, data)
    assert [image.id for image in store.index.all()] == [image.id for image in reversed(images)]
    for number, image in enumerate(images):
        assert files_of(store, image)
        assert store.remove(f"i{number}:1", force=False)[-1] == {"Deleted": image.id}
    assert store.index.all() == []
    assert store.blobs.all() == []
    os.unlink(small_disk / "filler")
    assert files_of(store, load(store, data))
    store.close()


def test_a_read_only_disk_serves_reads(small_disk: Path) -> None:
    store = ImageStore(str(small_disk / "store"))
    image = load(store, saved(two_layers(), ["shop:1"]))
    before = files_of(store, image)
    store.index._database.close()  # killed, so to say: its log is not in the database
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    again = ImageStore(str(small_disk / "store"))
    assert again.index.find("shop:1").id == image.id
    assert files_of(again, image) == before
    archive.save(again, [(image, [])], io.BytesIO())
    for change in (lambda: again.index.tag(image, "shop:2"), lambda: again.remove("shop:1", force=True)):
        with pytest.raises(ImageError, match="read-only"):
            change()
    with pytest.raises(OSError, match="Read-only"):
        load(again, saved(two_layers("b"), ["b:1"]))
    again.close()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
