"""What can be wrong with a request about networks."""

from __future__ import annotations


class NetworkError(Exception):
    """The request makes no sense, or the kernel refused it."""


class NetworkNotFound(NetworkError):
    """There is no such network, or the container is not on it."""


class NetworkConflict(NetworkError):
    """A name, a subnet, an address or a port is taken."""


class NetworkForbidden(NetworkError):
    """The operation is not allowed on this network."""
