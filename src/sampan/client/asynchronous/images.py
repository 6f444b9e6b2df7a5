"""Images: pulled, pushed, built, and what becomes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from sampan.client import calls
from sampan.client.asynctransport import AsyncTransport
from sampan.client.calls import Names, Object, Objects, at, filters, query


class AsyncImage:
    """An image."""

    def __init__(self, transport: AsyncTransport, attrs: Object) -> None:
        self._transport = transport
        self.attrs = attrs
        self.id: str = attrs["Id"]

    def __repr__(self) -> str:
        return f"<Image {self.id[7:19]} {' '.join(self.tags)}>"

    @property
    def tags(self) -> list[str]:
        """Its references."""
        return list(self.attrs.get("RepoTags") or [])

    async def tag(self, repository: str, tag: str = "latest") -> None:
        """Gives it a further reference."""
        await self._transport.call("POST", f"/images/{self.id}/tag" + query(repo=repository, tag=tag))

    async def history(self) -> Objects:
        """Its layers, newest first."""
        return list(await self._transport.call("GET", f"/images/{self.id}/history"))

    def save(self) -> AsyncIterator[bytes]:
        """A docker-archive of it."""
        return AsyncImages(self._transport).save(self.tags or [self.id])


_Images = list[AsyncImage]


class AsyncImages:
    """The images of an engine."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(self, name: str) -> AsyncImage:
        """One by reference or id."""
        return AsyncImage(self._transport, await self._transport.call("GET", at("/images/{}/json", name)))

    async def list(self, filter: Mapping[str, object] | None = None) -> _Images:
        """All of them."""
        rows = await self._transport.call("GET", "/images/json" + query(filters=filters(filter)))
        return [await self.get(row["Id"]) for row in rows]

    async def load(self, archive: bytes | AsyncIterator[bytes]) -> str:
        """Loads a docker-archive or OCI layout. Returns what the engine said last."""
        last = await self._transport.finish("POST", "/images/load", source=archive)
        return str(last.get("stream", "")).strip()

    def save(self, names: Names) -> AsyncIterator[bytes]:
        """A docker-archive of one or more images."""
        return self._transport.chunks("GET", "/images/get" + query(names=names))

    async def pull(self, name: str, platform: str | None = None, auth: Mapping[str, str] | None = None) -> AsyncImage:
        """Pulls an image. `auth`: {"username": ..., "password": ...} of its registry."""
        repository, tag = calls.reference(name)
        path = "/images/create" + query(fromImage=repository, tag=tag, platform=platform)
        async for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            calls.told(message)
        return await self.get(name)

    async def push(self, name: str, auth: Mapping[str, str] | None = None) -> str:
        """Pushes an image. Returns the digest it has there."""
        repository, tag = calls.reference(name)
        digest = ""
        path = at("/images/{}/push", repository) + query(tag=tag)
        async for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            digest = calls.told(message).get("aux", {}).get("Digest") or digest
        return digest

    async def build(
        self,
        path: str,
        *,
        tags: Names | None = None,
        dockerfile: str = "Dockerfile",
        args: Mapping[str, str] | None = None,
        target: str = "",
        platform: str = "",
        no_cache: bool = False,
        pull: bool = False,
        secrets: Mapping[str, bytes] | None = None,
        labels: Mapping[str, str] | None = None,
        network: str = "",
        output: Callable[[str], object] | None = None,
    ) -> AsyncImage:
        """Builds the Dockerfile of a directory on this machine. `output` gets what the build says as it goes on."""
        body = calls.build(
            path, tags or [], dockerfile, args, target, platform, no_cache, pull, secrets, labels, network
        )
        identifier = ""
        async for message in self._transport.objects("POST", "/sampan/build", body):
            identifier = calls.told(message).get("aux", {}).get("ID") or identifier
            if output is not None and "stream" in message:
                output(message["stream"])
        return await self.get(identifier)

    async def bootstrap(self, name: str) -> AsyncImage:
        """Makes a base image from packages of the distribution: "busybox", "debian:bookworm"."""
        made = await self._transport.call("POST", "/sampan/bootstrap" + query(name=name))
        return await self.get(made["Id"])

    async def remove(self, name: str, force: bool = False) -> Objects:
        """Untags and, when nothing else uses it, deletes it."""
        return list(await self._transport.call("DELETE", at("/images/{}", name) + query(force=force)))

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes those without a reference."""
        return dict(await self._transport.call("POST", "/images/prune" + query(filters=filters(filter))))
