"""The plan of a build: its stages, which of them the target needs, and the arguments before the first FROM."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from sampan.build import words
from sampan.build.dockerfile import Dockerfile, Instruction
from sampan.build.errors import BuildError, DockerfileError
from sampan.build.model import MOST_SETTINGS, Options
from sampan.oci import manifest as oci


@dataclass(slots=True)
class Stage:
    """A FROM and what follows it. `number` counts from 0."""

    number: int
    name: str
    base: str
    platform: oci.Platform
    origin: Instruction
    instructions: list[Instruction] = field(default_factory=list)


class Plan:
    """The stages of a Dockerfile. `arguments` are in force in FROM; `names` those of them that the file declares,
    `builtin` those of the platform. Raises DockerfileError when there is no stage, or an impossible one."""

    def __init__(self, parsed: Dockerfile, options: Options) -> None:
        self._parsed, self._options = parsed, options
        self.names: list[str] = []
        self.builtin: dict[str, str] = {}
        self.arguments = self._global_args()
        self.stages = self._split()

    def _global_args(self) -> dict[str, str]:
        """The ARGs before the first FROM, and those of the platform (P004)."""
        platform, own = self._options.platform, oci.host_platform()
        found: dict[str, str] = {}
        for prefix, value in (("TARGET", platform), ("BUILD", own)):
            found |= {f"{prefix}PLATFORM": str(value), f"{prefix}OS": value.os, f"{prefix}ARCH": value.architecture, f"{prefix}VARIANT": value.variant}  # fmt: skip
        self.builtin = dict(found)
        for instruction in self._parsed.instructions:
            if instruction.name == "FROM":
                break
            if instruction.name != "ARG":
                raise instruction.error(f"no build stage in current context: {instruction.name} before FROM")
            for name, default in declared(instruction, found, self._parsed.escape):
                self.names.append(name)
                given = self._options.build_args.get(name, default)
                if given is not None:
                    found[name] = given
        return found

    def _split(self) -> list[Stage]:
        stages: list[Stage] = []
        for instruction in self._parsed.instructions:
            if instruction.name == "FROM":
                stages.append(self._from(instruction, len(stages)))
            elif stages:
                stages[-1].instructions.append(instruction)
        if not stages:
            raise DockerfileError("no build stage in current context: the Dockerfile has no FROM")
        for stage in stages:
            for instruction in stage.instructions:
                origin = instruction.flag("from")
                if origin.isdecimal() and int(origin) >= stage.number:
                    raise instruction.error(
                        f"invalid from flag value {origin}: refers to a stage that is not before this one"
                    )
        return stages

    def _from(self, instruction: Instruction, number: int) -> Stage:
        parts = instruction.text.split()
        if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1].upper() != "AS"):
            raise instruction.error("FROM requires either one or three arguments")
        name = parts[2].lower() if len(parts) == 3 else ""
        if name and not (name[0].isalpha() and all(c.isalnum() or c in "-_." for c in name)):
            raise instruction.error(
                f"invalid name for build stage: {parts[2]!r}, name can't start with a number or contain symbols"
            )
        try:
            base = words.expand(parts[0], self.arguments, self._parsed.escape)
            platform = words.expand(instruction.flag("platform"), self.arguments, self._parsed.escape)
        except words.WordError as error:
            raise instruction.error(str(error)) from None
        if not base:
            raise instruction.error(f"base name ({parts[0]}) should not be blank")
        try:
            wanted = oci.parse_platform(platform) if platform else self._options.platform
        except oci.BadManifest as error:
            raise instruction.error(str(error)) from None
        return Stage(number, name, base, wanted, instruction)

    def find(self, text: str, before: int) -> Stage | None:
        """The stage that a name or number means, of those before the one that asks."""
        for stage in reversed(self.stages[:before]):
            if stage.name and stage.name == text.lower():
                return stage
        if text.isdecimal():
            if int(text) >= before:
                raise BuildError(f"invalid from flag value {text}: refers to a stage that is not before this one")
            return self.stages[int(text)]
        return None

    def target(self) -> Stage:
        """The stage asked for, else the last. Raises BuildError."""
        if not self._options.target:
            return self.stages[-1]
        for stage in self.stages:
            if stage.name == self._options.target.lower() or str(stage.number) == self._options.target:
                return stage
        raise BuildError(f"target stage {self._options.target!r} could not be found")

    def needs(self, stage: Stage, seen: set[int]) -> set[int]:
        """The numbers of the stages that one needs, as far as its own text tells."""
        if stage.number in seen:
            return seen
        seen.add(stage.number)
        names = [stage.base]
        for instruction in stage.instructions:
            names += instruction.flags.get("from", [])
            for text in instruction.flags.get("mount", []):
                names += [part[5:] for part in text.split(",") if part.startswith("from=")]
        for name in names:
            with contextlib.suppress(BuildError):
                other = self.find(name, stage.number)
                if other is not None:
                    self.needs(other, seen)
        return seen


def declared(instruction: Instruction, variables: dict[str, str], escape: str) -> list[tuple[str, str | None]]:
    """The (name, default) of an ARG. Raises DockerfileError."""
    found: list[tuple[str, str | None]] = []
    known = dict(variables)
    size = sum(map(len, known.values()))
    try:
        for word in words.split(instruction.text, escape):
            name, equals, value = word.partition("=")
            if not name:
                raise instruction.error("ARG names can not be blank")
            default = words.expand(value, known, escape) if equals else None
            found.append((name, default))
            if default is not None:
                known[name] = default
                size += len(default)
                if size > MOST_SETTINGS:
                    raise instruction.error(f"the arguments have more than {MOST_SETTINGS} characters")
    except words.WordError as error:
        raise instruction.error(str(error)) from None
    return found
