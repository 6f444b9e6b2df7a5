"""The platform that a request wants of an image: an object of the image specification, as JSON in the query."""

from __future__ import annotations

from aiohttp import web

from sampan.api.json import decode
from sampan.engine.errors import BadRequest
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.oci import manifest as oci
from sampan.oci import reference
from sampan.oci.manifest import Platform


def asked(request: web.Request, name: str = "platform") -> Platform | None:
    """The platform of a query, which may name one of them. Raises BadRequest."""
    texts = [text for text in request.query.getall(name, []) if text]
    if len(texts) > 1:
        raise BadRequest(
            f"multiple {name.removesuffix('s')} parameters are not supported: an image here is for one platform"
        )
    if not texts:
        return None
    try:
        return oci.read_platform(decode(texts[0].encode(), "failed to parse platform"))
    except oci.BadManifest as error:
        raise BadRequest(str(error)) from None


def check(image: Image, name: str, wanted: Platform | None) -> Image:
    """The image that somebody names, if it is for the platform that they want. Raises ImageNotFound."""
    if wanted is not None and not oci.fits(image.config.platform, wanted):
        shown = name if reference.is_digest(name) else reference.parse(name).familiar
        raise ImageNotFound(
            f"image with reference {shown} was found but its platform ({image.config.platform}) does not match the specified platform ({wanted})"
        )
    return image
