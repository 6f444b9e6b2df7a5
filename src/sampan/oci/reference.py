"""Image references: ``[registry/]repository[:tag][@digest]``, completed as Docker does."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_DOMAIN = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
DEFAULT_REGISTRY = "docker.io"


class BadReference(ValueError):
    """The text is not an image reference."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete reference. `tag` and `digest` may be empty, not both after `with_default_tag`."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository, complete."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar_name(self) -> str:
        """The short form people type: without docker.io and library/."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        return self.repository.removeprefix("library/")

    @property
    def familiar(self) -> str:
        """The short form with tag and digest."""
        return self.familiar_name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """Adds ``latest`` where there is neither tag nor digest."""
        if self.tag or self.digest:
            return self
        return Reference(self.registry, self.repository, "latest", "")

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of an algorithm we know, in its one canonical spelling."""
    return bool(_DIGEST.fullmatch(text))


def split(name: str) -> tuple[str, str]:
    """(repository, tag or digest) of a reference as it stands, unchecked; the latter may be empty."""
    rest, at, digest = name.partition("@")
    if at:
        return rest, digest
    head, colon, tag = rest.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (rest, "")


def with_tag(text: str) -> str:
    """A name as it stands, with the tag that it means where it has none."""
    return text if split(text)[1] or not text else f"{text}:latest"


def names_host(text: str) -> bool:
    """Whether it is a registry's name: a host, and perhaps a port."""
    if len(text) > 255 or not _DOMAIN.fullmatch(text):
        return False
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    try:
        if (host or text).startswith("["):
            ipaddress.IPv6Address((host or text)[1:-1])
    except ValueError:
        return False
    return not colon or (len(port) < 6 and int(port) < 1 << 16)


def parse(text: str) -> Reference:
    """Parses a reference. Raises BadReference with Docker's wording.

    Source: the grammar in distribution/reference.
    """
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise BadReference(f"invalid reference format: {text}: bad digest")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, tag = rest, ""
    elif not _TAG.fullmatch(tag):
        raise BadReference(f"invalid reference format: {text}: bad tag")
    registry, slash, path = head.partition("/")
    is_host = "." in registry or ":" in registry or registry == "localhost" or registry.lower() != registry
    if not slash or not is_host:
        registry, path = DEFAULT_REGISTRY, head
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    if path != path.lower():
        raise BadReference(f"invalid reference format: repository name ({path}) must be lowercase")
    if not _PATH.fullmatch(path) or not names_host(registry) or len(path) > 255:
        raise BadReference(f"invalid reference format: {text!r}")
    return Reference(registry, path, tag, digest)
