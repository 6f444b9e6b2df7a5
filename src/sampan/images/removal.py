"""Deletion of references and images as Docker does it, against those that use them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from sampan.images.errors import ImageInUse, ImageNotFound
from sampan.images.image import Image
from sampan.images.index import Index
from sampan.oci import reference
from sampan.oci.reference import Reference

# Around the moment in which an image loses names, or is deleted, while nobody else changes names: raises what says why it may not.
RemovalCheck = Callable[[Image], contextlib.AbstractContextManager[None]]
UserOf = Callable[[str], str]  # names what needs the image with an id; "" when nothing does


def nobody(_: str) -> str:
    """No image is needed by anything."""
    return ""


def everybody(_: Image) -> contextlib.AbstractContextManager[None]:
    """The RemovalCheck of those who may remove every image."""
    return contextlib.nullcontext()


class Removal:
    """What is being removed from the index, and what must not be. Methods block: call them from a thread."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._using: Counter[str] = Counter()
        self._going: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def using(self, image_id: str) -> Iterator[None]:
        """While this lasts the image is not removed: something that needs it is being made. Raises ImageNotFound."""
        with self._lock:
            if image_id in self._going:
                raise ImageNotFound(f"No such image: {image_id}")
            self._using[image_id] += 1
        try:
            self._index.get(image_id)
            yield
        finally:
            with self._lock:
                self._using[image_id] -= 1
                self._using += Counter()  # without those that nobody uses

    def remove(
        self, text: str, force: bool, user_of: UserOf = nobody, check: RemovalCheck = everybody
    ) -> tuple[list[dict[str, str]], bool]:
        """Takes a reference away, or deletes an image that has no other: (the API's answer rows, whether the image is gone).

        `user_of` is asked when nobody can begin to need the image any more. Raises ImageNotFound, ImageInUse.
        """
        with self._index.changing:
            image_id, ref = self._index.resolve(text)
            try:
                image = self._index.get(image_id)
                with check(image):
                    return self._remove(image, ref, text, force, user_of)
            finally:
                with self._lock:
                    self._going.discard(image_id)

    def _let_go(self, image_id: str, user_of: UserOf) -> str:
        """Names what needs the image. When nothing does, it is going: from now on nobody gets it. An image that stays is never
        seen as gone, not for a moment: a client would pull it.
        """
        with self._lock:
            user = user_of(image_id) or ("something that is being made" if self._using[image_id] else "")
            if not user:
                self._going.add(image_id)
            return user

    def _remove(
        self, image: Image, ref: Reference | None, text: str, force: bool, user_of: UserOf
    ) -> tuple[list[dict[str, str]], bool]:
        others = [reference.parse(name) for name in (*image.tags, *self._index.digests(image)) if name != str(ref)]
        lost = lost_with(ref, others) if ref is not None else []
        kept = ref is not None and len(lost) <= len(others)
        if ref is None and repositories(others) > 1 and not force:
            raise ImageInUse(
                f"conflict: unable to delete {image.id[7:19]} (must be forced) - image is referenced in "
                "multiple repositories"
            )
        user = "" if kept else self._let_go(image.id, user_of)
        if kept or (ref is not None and user and force):
            self._index.untag(lost)
            return [{"Untagged": each.familiar} for each in lost], False
        if user:
            raise ImageInUse(_conflict(image, text if ref is not None else "", user))
        self._index.forget(image.id)
        names = [*([ref] if ref is not None else []), *others]
        return [*({"Untagged": each.familiar} for each in names), {"Deleted": image.id}], True


def _conflict(image: Image, name: str, user: str) -> str:
    """In Docker's words: a name can be taken away from a used image by force, the image itself can't be."""
    if name:
        who = user.removeprefix("running ").removeprefix("stopped ")
        return f'conflict: unable to remove repository reference "{name}" (must force) - {who} is using its referenced image {image.id[7:19]}'
    return f"conflict: unable to delete {image.id[7:19]} (cannot be forced) - image is being used by {user}"


def lost_with(ref: Reference, others: list[Reference]) -> list[Reference]:
    """What goes with a reference of an image that has these others. The last tag of a repository takes along what the image is
    known by there, as Docker does.
    """
    if ref.tag and not any(other.tag and other.name == ref.name for other in others):
        return [ref, *(other for other in others if other.name == ref.name)]
    return [ref]


def repositories(refs: list[Reference]) -> int:
    """How many names these are: a digest counts where its repository has no tag."""
    tagged = {ref.name for ref in refs if ref.tag}
    return sum(1 for ref in refs if ref.tag) + len({ref.name for ref in refs} - tagged)
