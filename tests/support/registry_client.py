"""Pulls from a registry in memory into a store of the test's own, as they are done by an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sampan.images.image import Image
from sampan.images.registry import client
from sampan.images.registry.auth import Credentials
from sampan.images.registry.client import Registry
from sampan.images.registry.hosts import Hosts
from sampan.images.registry.progress import Progress
from sampan.images.registry.pull import Pull
from sampan.images.store import ImageStore
from sampan.oci import manifest as oci
from sampan.oci import reference
from tests.support.registry_server import Mock
from tests.support.registry_server import mock as mock


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_DELAY", 0.01)


def pull(store: ImageStore, mock: Mock, name: str = "a/b:1", platform: str = "linux/amd64",
         credentials: Credentials | None = None, hosts: Hosts | None = None) -> Image:  # fmt: skip
    async def run() -> Image:
        ref = reference.parse(f"{mock.name}/{name}")
        async with Registry(hosts or Hosts(), ref.registry, credentials or Credentials()) as registry:
            return await Pull(store, registry, ref, oci.parse_platform(platform), Progress()).run()

    return asyncio.run(run())


def leftovers(store: ImageStore, tmp_path: Path) -> list[str]:
    top = tmp_path / "store"
    return [str(p) for part in ("tmp", "chains", "layers") for p in (top / part).iterdir()] + [
        i.id for i in store.index.all()
    ]
