"""The engine's exceptions. The API maps each to its HTTP status in one place."""

from __future__ import annotations


class EngineError(Exception):
    """Something went wrong on our side. HTTP 500."""


class BadRequest(EngineError):
    """The request contradicts itself or the documentation. HTTP 400."""


class NotFound(EngineError):
    """No such container, image, volume, exec. HTTP 404."""


class Conflict(EngineError):
    """The object's state does not allow it, or the name is taken. HTTP 409."""


class NotModified(EngineError):
    """It is so already. HTTP 304."""


class Forbidden(EngineError):
    """Not allowed. HTTP 403."""


class DiskError(EngineError):
    """The data root is full, read-only or failing: what was asked for can't be kept. HTTP 500."""


class TooLarge(EngineError):
    """The request is larger than any sensible one. HTTP 413."""


class Unsupported(EngineError):
    """Docker has it and this engine has not. HTTP 501."""


class Busy(EngineError):
    """There is too much of it at once. HTTP 503."""
