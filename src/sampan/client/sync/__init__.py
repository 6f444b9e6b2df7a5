# Made from asynchronous/__init__.py by scripts/sync_client.py: change that one.
"""The client: `with sampan.Client() as client: client.containers.run("busybox", "echo hi")`."""

from __future__ import annotations

from sampan.client.sync.client import Client
from sampan.client.sync.containers import Container, Containers
from sampan.client.sync.images import Image, Images
from sampan.client.sync.networks import Networks
from sampan.client.sync.volumes import Volumes

__all__ = [
    "Client",
    "Container",
    "Containers",
    "Image",
    "Images",
    "Networks",
    "Volumes",
]
