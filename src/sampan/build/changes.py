"""`--change` of commit and import: instructions of a Dockerfile, applied to a configuration."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.build.configuring import CONFIGURE, workdir
from sampan.build.dockerfile import Instruction, parse
from sampan.build.errors import DockerfileError
from sampan.build.model import State
from sampan.images.config import Execution, ImageConfig
from sampan.oci.manifest import host_platform

_ALLOWED = (
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)


def _parsed(text: str) -> list[Instruction]:
    word = text.strip().partition(" ")[0].upper()
    if word not in _ALLOWED:
        raise DockerfileError(f"{word} is not a valid change command")
    found = parse(text.encode()).instructions
    if len(found) != 1:
        raise DockerfileError(f"a change is one instruction: {text!r}")
    return found


def apply(config: Execution, changes: Iterable[str]) -> Execution:
    """The configuration after them. Raises DockerfileError."""
    state = State("", [], config, ImageConfig(), [], host_platform())
    for text in changes:
        for instruction in _parsed(text):
            if instruction.name == "WORKDIR":
                state.configure(working_dir=workdir(instruction, state, "\\"))
            else:
                CONFIGURE[instruction.name](instruction, state, "\\")
    return state.config
