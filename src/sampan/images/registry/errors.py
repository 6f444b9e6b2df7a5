"""What can go wrong with a registry."""

from __future__ import annotations

from sampan.images.errors import ImageError


class RegistryError(ImageError):
    """The registry can't be reached, or answers something that makes no sense."""


class RegistryNotFound(RegistryError):
    """It has no such repository, manifest or blob."""


class Unauthorized(RegistryError):
    """It does not accept the credentials, or wants some."""


class Incomplete(RegistryError):
    """A transfer broke off; what has arrived is kept, and going on is worth a try."""
