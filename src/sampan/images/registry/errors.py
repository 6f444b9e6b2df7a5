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
    """A transfer broke off, or could not begin; what has arrived is kept, and going on is worth a try.

    `after`: seconds that the registry wants us to wait. `attempts`: how many tries there should be in all.
    """

    after = 0.0
    attempts = 5
