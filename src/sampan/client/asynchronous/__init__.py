"""The client for asyncio: `async with sampan.AsyncClient() as client: await client.containers.run("busybox", "echo hi")`.

`sync` is made from this package by scripts/sync_client.py: change this one.
"""

from __future__ import annotations

from sampan.client.asynchronous.client import AsyncClient
from sampan.client.asynchronous.containers import AsyncContainer, AsyncContainers
from sampan.client.asynchronous.images import AsyncImage, AsyncImages
from sampan.client.asynchronous.networks import AsyncNetworks
from sampan.client.asynchronous.volumes import AsyncVolumes

__all__ = [
    "AsyncClient",
    "AsyncContainer",
    "AsyncContainers",
    "AsyncImage",
    "AsyncImages",
    "AsyncNetworks",
    "AsyncVolumes",
]
