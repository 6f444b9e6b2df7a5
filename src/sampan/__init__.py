"""Sampan: one engine for containers and virtual machines.

    import sampan

    with sampan.Client() as client:
        print(client.containers.run("busybox", "echo hi").stdout)

`AsyncClient` is the same for asyncio. Nothing is imported before it is asked for: the engine's own
processes import this package too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.asynchronous import AsyncClient, AsyncContainer, AsyncImage
    from sampan.client.calls import Completed
    from sampan.client.http import APIError, NoEngine
    from sampan.client.sync import Client, Container, Image

__version__ = "0.1.0"
__all__ = [
    "APIError",
    "AsyncClient",
    "AsyncContainer",
    "AsyncImage",
    "Client",
    "Completed",
    "Container",
    "Image",
    "NoEngine",
]
_WHERE = {
    "APIError": "http",
    "AsyncClient": "asynchronous",
    "AsyncContainer": "asynchronous",
    "AsyncImage": "asynchronous",
    "Client": "sync",
    "Completed": "calls",
    "Container": "sync",
    "Image": "sync",
    "NoEngine": "http",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'sampan' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"sampan.client.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
