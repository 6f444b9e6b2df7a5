# Made from asynchronous/images.py by scripts/sync_client.py: change that one.
"""Images: pulled, pushed, built, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sampan.client import calls
from sampan.client.calls import Names, Object, Objects, at, filters, query
from sampan.client.transport import Transport


class Image:
    """An image."""

    def __init__(self, transport: Transport, attrs: Object) -> None:
        self._transport = transport
        self.attrs = attrs
        self.id: str = attrs["Id"]

    def __repr__(self) -> str:
        return f"<Image {self.id[7:19]} {' '.join(self.tags)}>"

    @property
    def tags(self) -> list[str]:
        """Its references."""
        return list(self.attrs.get("RepoTags") or [])

    def tag(self, repository: str, tag: str = "latest") -> None:
        """Gives it a further reference."""
        self._transport.call("POST", f"/images/{self.id}/tag" + query(repo=repository, tag=tag))

    def history(self) -> Objects:
        """Its layers, newest first."""
        return list(self._transport.call("GET", f"/images/{self.id}/history"))

    def save(self) -> Iterator[bytes]:
        """A docker-archive of it."""
        return Images(self._transport).save(self.tags or [self.id])


_Images = list[Image]


class Images:
    """The images of an engine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, name: str) -> Image:
        """One by reference or id."""
        return Image(self._transport, self._transport.call("GET", at("/images/{}/json", name)))

    def list(self, filter: Mapping[str, object] | None = None) -> _Images:
        """All of them."""
        rows = self._transport.call("GET", "/images/json" + query(filters=filters(filter)))
        return [self.get(row["Id"]) for row in rows]

    def load(self, archive: bytes | Iterator[bytes]) -> str:
        """Loads a docker-archive or OCI layout. Returns what the engine said last."""
        last = self._transport.finish("POST", "/images/load", source=archive)
        return str(last.get("stream", "")).strip()

    def save(self, names: Names) -> Iterator[bytes]:
        """A docker-archive of one or more images."""
        return self._transport.chunks("GET", "/images/get" + query(names=names))

    def pull(self, name: str, platform: str | None = None, auth: Mapping[str, str] | None = None) -> Image:
        """Pulls an image. `auth`: {"username": ..., "password": ...} of its registry."""
        repository, tag = calls.reference(name)
        path = "/images/create" + query(fromImage=repository, tag=tag, platform=platform)
        for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            calls.told(message)
        return self.get(name)

    def push(self, name: str, auth: Mapping[str, str] | None = None) -> str:
        """Pushes an image. Returns the digest it has there."""
        repository, tag = calls.reference(name)
        digest = ""
        path = at("/images/{}/push", repository) + query(tag=tag)
        for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            digest = calls.told(message).get("aux", {}).get("Digest") or digest
        return digest

    def build(
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
    ) -> Image:
        """Builds the Dockerfile of a directory on this machine. `output` gets what the build says as it goes on."""
        body = calls.build(
            path, tags or [], dockerfile, args, target, platform, no_cache, pull, secrets, labels, network
        )
        identifier = ""
        for message in self._transport.objects("POST", "/sampan/build", body):
            identifier = calls.told(message).get("aux", {}).get("ID") or identifier
            if output is not None and "stream" in message:
                output(message["stream"])
        return self.get(identifier)

    def bootstrap(self, name: str) -> Image:
        """Makes a base image from packages of the distribution: "busybox", "debian:bookworm"."""
        made = self._transport.call("POST", "/sampan/bootstrap" + query(name=name))
        return self.get(made["Id"])

    def remove(self, name: str, force: bool = False) -> Objects:
        """Untags and, when nothing else uses it, deletes it."""
        return list(self._transport.call("DELETE", at("/images/{}", name) + query(force=force)))

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes those without a reference."""
        return dict(self._transport.call("POST", "/images/prune" + query(filters=filters(filter))))
