"""What a build is made of: its options, the state after each step, and what it needs from the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sampan.build.file_tree import Hashes, Tree
from sampan.images.config import Execution, History, ImageConfig
from sampan.images.image import Image, Layer
from sampan.oci.manifest import Platform
from sampan.oci.runtime_spec import Mount

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ["/bin/sh", "-c"]
MOST_SETTINGS = (
    2 << 20
)  # characters of a stage's environment, arguments, labels and the like: what execve(2) takes at most


@dataclass(slots=True)
class Options:
    """What the user asks for besides the Dockerfile and the context."""

    platform: Platform
    target: str = ""
    build_args: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    no_cache: bool = False
    no_cache_filter: list[str] = field(default_factory=list)
    pull: bool = False
    network: str = ""
    secrets: dict[str, bytes] = field(default_factory=dict)
    ssh: dict[str, str] = field(default_factory=dict)  # id → socket
    contexts: dict[str, str] = field(default_factory=dict)  # --build-context name=docker-image://...
    entitlements: set[str] = field(default_factory=set)
    host: object = None  # limits and extra hosts: the engine's, which gets them with each Command
    epoch: int | None = None
    squash: bool = False
    cache_from: list[str] = field(default_factory=list)  # images whose inline cache may be used
    inline_cache: bool = False  # write the cache keys into the image's configuration


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer of a state: its directory, its number in the store (0 for one of an image), and its blob if it has one."""

    directory: str
    number: int = 0
    layer: Layer | None = None


@dataclass(slots=True)
class State:
    """A stage after a step. Steps make a new state; they change none."""

    key: str
    layers: list[LayerRef]
    config: Execution
    image: ImageConfig  # the base's
    history: list[History]
    platform: Platform
    args: dict[str, str] = field(default_factory=dict)
    cmd_set: bool = False
    steps: list[tuple[str, bool]] = field(default_factory=list)  # (key, has a layer) of the steps that change files
    created: float = 0.0  # when its last layer was made, so that a build from the cache gives the same image

    def configure(self, **values: object) -> None:
        """Changes members of the execution parameters."""
        self.config = msgspec.structs.replace(self.config, **values)

    @property
    def env(self) -> dict[str, str]:
        """The environment so far."""
        return dict(item.partition("=")[::2] for item in self.config.env)

    @property
    def variables(self) -> dict[str, str]:
        """What $NAME means: an ENV beats an ARG of the same name (P004)."""
        return {**self.args, **self.env}

    @property
    def workdir(self) -> str:
        """The working directory."""
        return self.config.working_dir or "/"

    @property
    def shell(self) -> list[str]:
        """What runs a shell form."""
        return list(self.config.shell or DEFAULT_SHELL)


@dataclass(slots=True)
class Command:
    """A RUN step for the engine: where its files are, what to run and how. `mounts`: entries of a runtime specification."""

    directory: str  # of its own: log and mount point
    lower: list[str]
    upper: str
    work: str
    args: list[str]
    env: list[str]
    cwd: str
    user: str
    mounts: list[Mount]
    network: str
    insecure: bool
    host: object


class Runner(Protocol):
    """What the engine does for a build."""

    async def run(self, command: Command, output: Callable[[bytes], None]) -> int:
        """Runs a command to its end; its exit code."""

    async def base_image(self, name: str, platform: Platform, pull: bool, say: Callable[[str], None]) -> Image:
        """An image by name, pulled when it is missing or wanted anew. Raises ImageError."""


class Output(Protocol):
    """Where a build's output goes. Steps of several stages go on side by side: `key` says whose it is."""

    def begin(self, key: str, number: int, total: int, text: str) -> None:
        """A step begins, the `number`-th of `total`."""

    def log(self, key: str, data: bytes) -> None:
        """What a step's command writes."""

    def end(self, key: str, cached: bool, error: str) -> None:
        """A step has ended; `error` is "" unless it failed."""

    def say(self, text: str) -> None:
        """A warning, or a word about the whole."""


class TextOutput:
    """Output as lines of text."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def begin(self, key: str, number: int, total: int, text: str) -> None:
        """As Output has it."""
        self._write(f"Step {number}/{total} : {text}\n")

    def log(self, key: str, data: bytes) -> None:
        """As Output has it."""
        self._write(data.decode(errors="replace"))

    def end(self, key: str, cached: bool, error: str) -> None:
        """As Output has it; errors are told at the end of the build."""
        if cached:
            self._write(" ---> Using cache\n")

    def say(self, text: str) -> None:
        """As Output has it."""
        self._write(f"{text}\n")


@dataclass(slots=True)
class Sources:
    """The files a build can copy: the context, and digests of files already read."""

    context: Tree
    hashes: Hashes
