"""References, removal and what happens at the same time (T03, T94)."""

from __future__ import annotations

import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sampan.images import archive
from sampan.images.errors import ImageError, ImageInUse, ImageNotFound
from sampan.images.image import Image, manifest_of
from sampan.images.store import ImageStore
from tests.support.images import digest_of, files_of, load, saved, two_layers


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "store"))


def known(store: ImageStore, image: Image, name: str, tag: str = "") -> str:
    """The image as pulled from `name`; returns the reference by digest."""
    manifest = json.dumps(json.loads(manifest_of(image.id, 100, image.layers)) | {"annotations": {"of": name}}).encode()
    store.index._database.change(*store.index.known_as(image.id, manifest, f"docker.io/library/{name}", "", tag))
    return f"{name}@{digest_of(manifest)}"


def names(store: ImageStore, image: Image) -> set[str]:
    return {*store.index.get(image.id).tags, *store.index.digests(image)}


def test_removing_a_reference_by_digest_leaves_tags(store: ImageStore) -> None:
    image = load(store, saved(two_layers(), ["other:1"]))
    pinned = known(store, image, "shop")
    assert store.index.find(pinned).id == image.id
    assert store.remove(pinned, force=False) == [{"Untagged": pinned}]
    assert names(store, image) == {"docker.io/library/other:1"}
    assert store.remove("other:1", force=False)[-1] == {"Deleted": image.id}


def test_removing_a_tag_leaves_references_by_digest_of_other_repositories(store: ImageStore) -> None:
    image = load(store, saved(two_layers(), ["other:1"]))
    pinned = known(store, image, "shop")
    assert store.remove("other:1", force=False) == [{"Untagged": "other:1"}]
    assert names(store, image) == {f"docker.io/library/{pinned}"}
    assert files_of(store, image)
    assert store.remove(pinned, force=False) == [{"Untagged": pinned}, {"Deleted": image.id}]


def test_the_last_tag_of_a_repository_takes_its_digests_along(store: ImageStore) -> None:
    """What was pulled as shop:1 is gone after `rmi shop:1`, as with Docker; with another tag it stays."""
    image = load(store, saved(two_layers(), ["other:1"]))
    pinned = known(store, image, "shop", "1")
    assert store.remove("shop:1", force=False) == [{"Untagged": "shop:1"}, {"Untagged": pinned}]
    assert names(store, image) == {"docker.io/library/other:1"}
    pinned = known(store, image, "shop", "1")
    store.index.tag(image, "shop:2")
    assert store.remove("shop:1", force=False) == [{"Untagged": "shop:1"}]
    assert names(store, image) == {f"docker.io/library/{name}" for name in ("other:1", "shop:2", pinned)}


def test_a_pulled_image_is_removed_by_its_id(store: ImageStore) -> None:
    image = load(store, saved(two_layers(), []))
    known(store, image, "shop", "1")
    known(store, image, "shop")
    assert store.remove(image.id[7:19], force=False)[-1] == {"Deleted": image.id}
    image = load(store, saved(two_layers(), ["a:1", "b:1"]))
    with pytest.raises(ImageInUse, match="multiple repositories"):
        store.remove(image.id, force=False)
    store.remove(image.id, force=True)
    assert store.index.all() == []


def test_a_tag_beside_a_digest_decides_nothing(store: ImageStore) -> None:
    image = load(store, saved(two_layers(), ["other:1"]))
    pinned = known(store, image, "shop", "1")
    repository, _, digest = pinned.partition("@")
    assert store.remove(f"{repository}:9@{digest}", force=False) == [{"Untagged": pinned}]
    assert names(store, image) == {"docker.io/library/other:1", "docker.io/library/shop:1"}


def test_removals_of_the_same_images_at_once(store: ImageStore) -> None:
    """Each is removed once; who comes late is told that there is none (T94)."""
    for _ in range(5):
        for number in range(4):
            load(store, saved(two_layers(str(number)), [f"i{number}:1"]))
        barrier = threading.Barrier(8)

        def remove(number: int, barrier: threading.Barrier = barrier) -> str:
            barrier.wait()
            try:
                store.remove(f"i{number % 4}:1", force=True)
                return "removed"
            except ImageNotFound:
                return "none"

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(remove, range(8))) == ["none"] * 4 + ["removed"] * 4
        assert store.index.all() == []
        assert store.blobs.all() == []


def test_removal_against_load_tag_save_and_use(store: ImageStore) -> None:
    """Whatever wins: no image without its files, no file without an image, no other error than that it is not there."""
    data = saved(two_layers("x"), ["x:1"])
    load(store, saved(two_layers("y"), ["y:1"]))
    rounds, failures = 15, []

    def repeat(work: object) -> None:
        for _ in range(rounds):
            try:
                work()  # type: ignore[operator]
            except (ImageNotFound, ImageInUse):
                pass
            except BaseException as error:
                failures.append(error)
                raise

    def use() -> None:
        image = store.index.find("x:1")
        with store.using(image.id):
            assert files_of(store, image)["app/data"]

    def save() -> None:
        image = store.index.find("x:1")
        try:
            archive.save(store, [(image, [])], io.BytesIO())
        except ImageError:
            assert "x:1" not in str(store.index.all())  # it had gone before the save began

    jobs = [
        lambda: load(store, data),
        lambda: store.remove("x:1", force=True),
        lambda: store.index.tag(store.index.find("x:1"), "z:1"),
        lambda: store.remove("z:1", force=True),
        save,
        use,
    ]
    threads = [threading.Thread(target=repeat, args=(job,)) for job in jobs]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert not failures
    for image in store.index.all():
        assert not image.broken
        assert files_of(store, image)
        archive.save(store, [(image, [])], io.BytesIO())
    for tag in ("x:1", "z:1", "y:1"):
        try:
            store.remove(tag, force=True)
        except ImageNotFound:
            pass
    assert store.index.all() == []
    store.collect_garbage()
    assert store.blobs.all() == []
    assert os.listdir(f"{store.root}/layers") == os.listdir(f"{store.root}/chains") == []


def test_an_image_that_stays_is_never_away(store: ImageStore) -> None:
    """Taking one of its names, or a refused removal, is no moment in which a container can't be made from it."""
    load(store, saved(two_layers("x"), ["x:1"]))
    change, tried = store.index._database.change, []

    def making(*statements: object, **options: object) -> None:
        with store.using(store.index.find("x:1").id):
            tried.append(statements)
        change(*statements, **options)  # type: ignore[arg-type]

    def needed(_: str) -> str:
        return "container x"

    store.index.tag(store.index.find("x:1"), "other:1")
    store.index._database.change = making  # type: ignore[method-assign]
    store.remove("other:1", force=False)
    assert len(tried) == 1
    for text, force in (("x:1", False), (store.index.find("x:1").id, True)):
        with pytest.raises(ImageInUse):
            store.remove(text, force, needed)
        with store.using(store.index.find("x:1").id):
            pass
    store.remove("x:1", True, needed)
    assert len(tried) == 2
