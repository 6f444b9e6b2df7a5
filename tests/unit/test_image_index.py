"""Names of images, what removing one takes along, and what garbage collection leaves on doubt: the store's parts by themselves."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from sampan.images import schema
from sampan.images.blobs import Blobs
from sampan.images.database import Database
from sampan.images.errors import ImageError, ImageInUse, ImageNotFound
from sampan.images.garbage import GarbageCollector, find_needed
from sampan.images.image import Image, Layer, chain_ids
from sampan.images.index import Index
from sampan.images.layers import Layers
from sampan.images.removal import Removal, lost_with, repositories
from sampan.oci import reference
from sampan.oci.reference import BadReference, Reference

HUB = "docker.io/library"
DIGEST = f"sha256:{'ab' * 32}"


class FakeLayers(Layers):
    """Layers that only note which chains were to stay."""

    def __init__(self) -> None:
        self.kept: list[tuple[set[str], set[int]]] = []

    def take_out(self, chains: set[str], kept: set[int], place: str) -> list[str]:
        self.kept.append((chains, kept))
        return []


class World:
    """An index over blobs, without any file of a layer."""

    def __init__(self, root: Path) -> None:
        os.makedirs(root / "tmp")
        self.root = str(root)
        self.database: Database = schema.open_database(f"{root}/images.db", f"{root}/damaged")
        self.blobs = Blobs(self.root, functools.partial(schema.owner_of, self.database))
        self.index = Index(self.database, self.blobs, f"{root}/index")
        self.removal = Removal(self.index)
        self.layers = FakeLayers()
        self.emptied = 0
        self.garbage = GarbageCollector(self.root, self.index, self.blobs, self.layers, self._empty)

    def _empty(self) -> None:
        self.emptied += 1

    def add(self, what: str, *tags: str) -> Image:
        """An image of one layer, whose content is `what`, with these tags."""
        digest, size = self.blobs.put(io.BytesIO(what.encode()))
        diff_id = f"sha256:{hashlib.sha256(f'plain {what}'.encode()).hexdigest()}"
        config = json.dumps({"rootfs": {"diff_ids": [diff_id]}, "author": what}).encode()
        image_id, _ = self.blobs.put(io.BytesIO(config))
        self.index.enter(image_id, [Layer(digest, size, diff_id)], [f"{HUB}/{tag}" for tag in tags], (), None)
        return self.index.get(image_id)

    def pulled(self, image: Image, repository: str) -> str:
        """As if the image were in a registry, too: the digest that it has there."""
        layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": each.digest, "size": each.size}
                  for each in image.layers]  # fmt: skip
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": image.id, "size": 1}
        manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                               "config": config, "layers": layers, "name": repository}).encode()  # fmt: skip
        self.index.remember_manifest(image, f"{HUB}/{repository}", manifest)
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


def _ref(text: str) -> Reference:
    return reference.parse(text).with_default_tag()


# names


def test_an_image_is_found_by_whatever_names_it(world: World) -> None:
    image = world.add("one", "shop:1")
    digest = world.pulled(image, "shop")
    for text in (
        "shop:1",
        f"{HUB}/shop:1",
        f"shop@{digest}",
        f"shop:9@{digest}",
        image.id,
        image.id[7:],
        image.id[7:19],
    ):
        assert world.index.find(text).id == image.id, text
    for text in ("shop", "other:1", f"other@{digest}", "f" * 64, "", "shop:1 ", f"sha256:{'0' * 64}"):
        with pytest.raises(ImageNotFound):
            world.index.find(text)
    assert world.index.resolve("shop:1") == (image.id, _ref("shop:1"))
    assert world.index.resolve(image.id[7:19]) == (image.id, None)


def test_a_prefix_of_two_ids_is_neither(world: World) -> None:
    first: dict[str, str] = {}
    for number in range(40):  # of 40 ids two begin with the same digit
        image = world.add(str(number))
        if other := first.get(image.id[7]):
            assert other != image.id
            with pytest.raises(ImageError, match="beginning of several"):
                world.index.find(image.id[7])
            return
        first[image.id[7]] = image.id
    pytest.fail("no two ids begin alike")


def test_a_tag_is_one_images_only(world: World) -> None:
    one, two = world.add("one", "shop:1"), world.add("two", "shop:2")
    world.index.tag(two, "shop:1")
    assert world.index.get(one.id).tags == []
    assert world.index.get(two.id).tags == [f"{HUB}/shop:1", f"{HUB}/shop:2"]
    assert world.index.tagged(f"{HUB}/shop:1") == two.id
    assert world.index.named("shop:1") == f"{HUB}/shop:1"
    assert world.index.named("shop:3") == world.index.named(f"shop@{DIGEST}") == world.index.named("???") == ""
    with pytest.raises(BadReference):
        world.index.tag(one, f"shop@{DIGEST}")


def test_a_name_that_is_refused_changes_nothing(world: World) -> None:
    one, two = world.add("one", "shop:1"), world.add("two")

    def refuse(image_id: str, tags: list[str]) -> None:
        raise PermissionError(f"{image_id} {tags}")

    with pytest.raises(PermissionError):
        world.index.tag(two, "shop:1", refuse)
    with pytest.raises(PermissionError):
        world.index.enter(two.id, two.layers, [f"{HUB}/shop:1"], (), refuse)
    assert world.index.tagged(f"{HUB}/shop:1") == one.id


def test_an_image_that_is_entered_again_keeps_its_time(world: World) -> None:
    one = world.add("one", "shop:1")
    world.add("two")
    again = world.add("one", "shop:2")
    assert (again.id, again.loaded) == (one.id, one.loaded)
    assert again.tags == [f"{HUB}/shop:1", f"{HUB}/shop:2"]
    assert world.index.has(one.id, one.layers, [f"{HUB}/shop:1"])
    assert not world.index.has(one.id, one.layers, [f"{HUB}/shop:3"])
    assert not world.index.has(one.id, [], [])


# removal


def test_what_a_reference_takes_along() -> None:
    one, two, pinned, elsewhere = _ref("shop:1"), _ref("shop:2"), _ref(f"shop@{DIGEST}"), _ref(f"other@{DIGEST}")
    assert lost_with(one, [two, pinned, elsewhere]) == [one]
    assert lost_with(one, [pinned, elsewhere]) == [one, pinned]
    assert lost_with(pinned, [one]) == [pinned]
    assert lost_with(one, []) == [one]


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ((), 0),
        (("shop:1",), 1),
        (("shop:1", f"shop@{DIGEST}"), 1),
        (("shop:1", "shop:2"), 2),
        ((f"shop@{DIGEST}", f"other@{DIGEST}"), 2),
    ],
)
def test_how_many_names_an_image_has(names: tuple[str, ...], count: int) -> None:
    assert repositories([_ref(name) for name in names]) == count


def test_an_id_of_several_names_has_to_be_forced(world: World) -> None:
    image = world.add("one", "shop:1", "other:1")
    with pytest.raises(ImageInUse, match="multiple repositories"):
        world.removal.remove(image.id, force=False)
    rows, gone = world.removal.remove(image.id, force=True)
    assert gone
    assert rows == [{"Untagged": "other:1"}, {"Untagged": "shop:1"}, {"Deleted": image.id}]
    with pytest.raises(ImageNotFound):
        world.index.get(image.id)
    assert os.listdir(f"{world.root}/index") == []


def test_what_is_used_stays_and_may_lose_its_name(world: World) -> None:
    image = world.add("one", "shop:1")

    def user_of(image_id: str) -> str:
        assert image_id == image.id
        return "container abc"

    for text, force in (("shop:1", False), (image.id, False), (image.id, True)):
        with pytest.raises(
            ImageInUse, match=r"container abc is using its referenced image|image is being used by container abc"
        ):
            world.removal.remove(text, force, user_of)
    assert world.removal.remove("shop:1", True, user_of) == ([{"Untagged": "shop:1"}], False)
    assert world.index.get(image.id).tags == []


def test_one_of_two_names_goes_whoever_uses_the_image(world: World) -> None:
    image = world.add("one", "shop:1", "shop:2")
    answer = world.removal.remove("shop:1", False, lambda _: pytest.fail("nobody has to be asked"))
    assert answer == ([{"Untagged": "shop:1"}], False)
    assert world.index.get(image.id).tags == [f"{HUB}/shop:2"]


def test_nobody_gets_what_is_going(world: World) -> None:
    image = world.add("one", "shop:1")
    with world.removal.using(image.id), pytest.raises(ImageInUse, match="being made"):
        world.removal.remove("shop:1", False)
    tried: list[str] = []

    class Late(Index):
        """An index in which somebody wants the image just before it is forgotten."""

        def forget(self, image_id: str) -> None:
            with pytest.raises(ImageNotFound), removal.using(image_id):
                pass
            tried.append(image_id)
            super().forget(image_id)

    removal = Removal(Late(world.database, world.blobs, f"{world.root}/index"))
    assert removal.remove("shop:1", False)[1]
    assert tried == [image.id]
    with pytest.raises(ImageNotFound), removal.using(image.id):
        pass


# garbage collection


def test_what_images_need_stays(world: World) -> None:
    image, other = world.add("one", "shop:1"), world.add("two", "other:1")
    digest = world.pulled(image, "shop")
    gzip, size = world.blobs.put(io.BytesIO(b"gzip of one"))
    world.index.remember_gzip(image.layers[0].digest, gzip, size)
    world.blobs.put(io.BytesIO(b"nobody's"))
    needed = find_needed(world.index, world.blobs)
    assert needed.blobs == {image.id, image.layers[0].digest, other.id, other.layers[0].digest, digest, gzip}
    assert needed.chains == {chain_ids([each.layers[0].diff_id])[0] for each in (image, other)}
    assert not needed.all_blobs
    assert not needed.all_layers
    world.garbage.kept_layers = lambda: {7}
    assert world.garbage.collect() == len(b"nobody's")
    assert set(world.blobs.all()) == needed.blobs
    assert world.layers.kept == [(needed.chains, {7})]
    assert world.emptied == 1


def test_a_gzip_goes_with_its_layer(world: World) -> None:
    image = world.add("one", "shop:1")
    world.index.remember_gzip(image.layers[0].digest, *world.blobs.put(io.BytesIO(b"gzip of one")))
    world.index.remember_sources([image.layers[0].digest], "docker.io", "library/shop")
    assert world.removal.remove("shop:1", False)[1]
    world.garbage.collect()
    assert world.blobs.all() == []
    assert world.index.gzip_of(image.layers[0].digest) is None
    assert world.index.sources(image.layers[0].digest) == []


def test_nothing_goes_when_a_record_is_damaged(world: World) -> None:
    image = world.add("one", "shop:1")
    world.blobs.put(io.BytesIO(b"nobody's, as far as is known"))
    before = set(world.blobs.all())
    world.database.change(("UPDATE images SET layers = '[[1]]' WHERE id = ?", (image.id,)))
    needed = find_needed(world.index, world.blobs)
    assert needed.all_blobs
    assert needed.all_layers
    assert world.garbage.collect() == 0
    assert set(world.blobs.all()) == before
    assert world.layers.kept == []


def test_no_blob_goes_when_a_manifest_is_damaged(world: World) -> None:
    image = world.add("one", "shop:1")
    digest = world.pulled(image, "shop")
    world.blobs.put(io.BytesIO(b"nobody's, as far as is known"))
    before = set(world.blobs.all()) - {digest}
    Path(world.blobs.path(digest)).write_bytes(b"{}")
    needed = find_needed(world.index, world.blobs)
    assert needed.all_blobs
    assert not needed.all_layers  # a manifest says nothing of them that the record does not
    assert world.garbage.collect() == 0
    assert set(world.blobs.all()) >= before
    assert world.layers.kept == [(needed.chains, set())]


def test_garbage_waits_for_the_last_hold(world: World) -> None:
    world.blobs.put(io.BytesIO(b"on its way"))
    with world.garbage.hold():
        with world.garbage.hold():
            assert world.garbage.collect() == 0
        assert len(world.blobs.all()) == 1
    assert world.blobs.all() == []
    with world.garbage.hold():
        world.blobs.put(io.BytesIO(b"on its way"))
    assert len(world.blobs.all()) == 1  # nobody has removed anything meanwhile
