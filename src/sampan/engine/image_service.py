"""Images for somebody: loaded, imported, bootstrapped, named and removed, and with them whose they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO

from sampan.engine import image_config, pools
from sampan.engine.arrivals import Arrivals
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.operation import Verb
from sampan.images import archive, bootstrap
from sampan.images.config import Execution
from sampan.images.image import Image
from sampan.images.store import ImageStore
from sampan.oci import reference
from sampan.oci.manifest import Platform


class ImageService:
    """What is done with images that come from no registry. `user` names a container that needs an image, "" when there is none."""

    def __init__(
        self,
        images: ImageStore,
        arrivals: Arrivals,
        finding: Finding,
        events: Events,
        user: Callable[[str], str],
    ) -> None:
        self._images, self._arrivals = images, arrivals
        self._finding, self._events, self._user = finding, events, user

    async def load(
        self, who: Caller, file: IO[bytes], platform: Platform | None = None
    ) -> list[tuple[Image, list[str]]]:
        """Loads the images of an archive of `docker save` or OCI's, or those for a platform. Raises ImageError, Forbidden.

        Closes the file when nobody reads it any more: a thread that does is not ended by its client's leaving.
        """
        with file:
            coming = self._arrivals.of(who)
            images = await pools.run("images", archive.load, self._images, file, coming.check, platform)
        for image, _ in images:
            coming.announce("load", image, image.id, image.id)
        return images

    async def import_(
        self, who: Caller, file: IO[bytes], name: str, changes: Sequence[str], message: str, platform: Platform
    ) -> Image:
        """Makes an image of a file system's tar archive, and closes that as load() does. Raises ImageError, Forbidden."""
        with file:
            coming = self._arrivals.of(who)
            execution = image_config.changed(Execution(), changes)
            image = await pools.run(
                "images", archive.from_tar, self._images, file, name, execution, message, coming.check, platform
            )
        if name:
            coming.announce("tag", image, image.id, reference.parse(name).familiar)
        coming.announce("import", image, image.id, image.id)
        return image

    async def bootstrap(self, who: Caller, name: str) -> Image:
        """Makes an image of a distribution's packages ("debian:bookworm"). Raises ImageError, Forbidden."""
        coming = self._arrivals.of(who)
        image = await pools.run("images", bootstrap.bootstrap, self._images, name, None, coming.check)
        coming.announce("import", image, image.id, image.id)
        return image

    async def tag(self, who: Caller, image: Image, name: str) -> None:
        """Gives an image a further name. Raises ImageError, Forbidden for one that is another tenant's."""
        coming = self._arrivals.of(who, brings=False)
        await pools.run("images", self._images.index.tag, image, name, coming.check)
        coming.announce("tag", image, image.id, reference.parse(name).familiar)

    async def remove(self, who: Caller, text: str, force: bool) -> list[dict[str, str]]:
        """Takes a name from an image, or deletes it; returns the API's rows. To delete an image one must own it, to take a name away
        the name. Raises ImageNotFound, ImageInUse, Forbidden.
        """
        found = self._finding.image(who, text, Verb.SEE)  # refused at once; asked again when nobody else changes names
        leaving = self._arrivals.leaving(who, text)
        rows = await pools.run("remove", self._images.remove, text, force, self._user, leaving.check)
        for row in rows:
            action, what = ("untag", row["Untagged"]) if "Untagged" in row else ("delete", row["Deleted"])
            self._events.publish("image", action, leaving.image or found.id, {"name": what}, leaving.whose)
        return rows
