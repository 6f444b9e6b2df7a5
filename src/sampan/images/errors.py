"""What can be wrong with an image."""

from __future__ import annotations


class ImageError(Exception):
    """An image, archive or layer is damaged, hostile or not of a form we know."""


class ImageNotFound(ImageError):
    """No image of that name."""


class ImageInUse(ImageError):
    """A container or another tag needs the image."""


class BlobDamaged(ImageError):
    """A blob is missing, or its content is not what its digest says."""


class StoreFull(ImageError):
    """There is no room on the disk for what is to be stored."""
