"""The instructions that change only the image's configuration."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable

import msgspec

from sampan.build import words
from sampan.build.dockerfile import Instruction, nested
from sampan.build.model import State
from sampan.images.config import HealthCheck

_PORT = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SIGNAL = re.compile(r"(SIG)?[A-Z0-9+-]+|\d+", re.IGNORECASE)


def expand(instruction: Instruction, text: str, state: State, escape: str) -> str:
    """One word of an instruction, expanded. Raises DockerfileError."""
    try:
        return words.expand(text, state.variables, escape)
    except words.WordError as error:
        raise instruction.error(f"failed to process {text!r}: {error}") from None


def split(instruction: Instruction, text: str, escape: str) -> list[str]:
    """The words of an instruction, unexpanded. Raises DockerfileError."""
    try:
        return words.split(text, escape)
    except words.WordError as error:
        raise instruction.error(str(error)) from None


def pairs(instruction: Instruction, state: State, escape: str) -> list[tuple[str, str]]:
    """The NAME=VALUE pairs of ENV and LABEL, also of the old form "NAME VALUE". Raises DockerfileError."""
    parts = split(instruction, instruction.text, escape)
    if "=" not in parts[0]:
        name, _, value = instruction.text.partition(" ")
        name, value = instruction.text.split(None, 1) if len(parts) > 1 else (name, "")
        if len(parts) < 2:
            raise instruction.error(f"{instruction.name} must have two arguments")
        return [(expand(instruction, name, state, escape), expand(instruction, value, state, escape))]
    found = []
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise instruction.error(f"Syntax error - can't find = in {part!r}. Must be of the form: name=value")
        name = expand(instruction, name, state, escape)
        if not name:
            raise instruction.error(f"{instruction.name} names can not be blank")
        found.append((name, expand(instruction, value, state, escape)))
    return found


def _env(instruction: Instruction, state: State, escape: str) -> None:
    env = state.env
    for name, value in pairs(instruction, state, escape):
        env[name] = value
    state.configure(env=tuple(f"{name}={value}" for name, value in env.items()))


def _label(instruction: Instruction, state: State, escape: str) -> None:
    state.configure(labels={**state.config.labels, **dict(pairs(instruction, state, escape))})


def command(instruction: Instruction, state: State) -> list[str]:
    """The argument vector of RUN, CMD or ENTRYPOINT: the JSON form, or the shell with the text."""
    return instruction.json if instruction.json is not None else [*state.shell, instruction.text]


def _cmd(instruction: Instruction, state: State, _: str) -> None:
    state.configure(cmd=tuple(command(instruction, state)))
    state.cmd_set = True


def _entrypoint(instruction: Instruction, state: State, _: str) -> None:
    state.configure(entrypoint=tuple(command(instruction, state)))
    if not state.cmd_set:
        state.configure(cmd=())


def _user(instruction: Instruction, state: State, escape: str) -> None:
    value = expand(instruction, instruction.text, state, escape)
    if not value or len(value.split()) != 1:
        raise instruction.error("USER requires exactly one argument")
    state.configure(user=value)


def _expose(instruction: Instruction, state: State, escape: str) -> None:
    try:
        parts = words.expand_list(instruction.text, state.variables, escape)
    except words.WordError as error:
        raise instruction.error(str(error)) from None
    ports = dict(state.config.exposed_ports)
    for part in parts:
        match = _PORT.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if match is None or not 0 < first <= last < 65536:
            raise instruction.error(f"invalid containerPort: {part}")
        ports |= {f"{number}/{(match[3] or 'tcp').lower()}": {} for number in range(first, last + 1)}
    state.configure(exposed_ports=ports)


def _volume(instruction: Instruction, state: State, escape: str) -> None:
    paths = instruction.json if instruction.json is not None else split(instruction, instruction.text, escape)
    volumes = dict(state.config.volumes)
    for path in paths:
        expanded = expand(instruction, path, state, escape).strip()
        if not expanded:
            raise instruction.error("VOLUME specified can not be an empty string")
        volumes[expanded] = {}
    state.configure(volumes=volumes)


def _stop_signal(instruction: Instruction, state: State, escape: str) -> None:
    from sampan.linux import signals

    value = expand(instruction, instruction.text, state, escape)
    try:
        if not _SIGNAL.fullmatch(value):
            raise ValueError
        signals.number(value)
    except ValueError:
        raise instruction.error(f"invalid signal: {value}") from None
    state.configure(stop_signal=value)


def _shell(instruction: Instruction, state: State, _: str) -> None:
    if not instruction.json:
        raise instruction.error("SHELL requires at least one argument")
    state.configure(shell=tuple(instruction.json))


def _maintainer(instruction: Instruction, state: State, escape: str) -> None:
    state.image = msgspec.structs.replace(state.image, author=expand(instruction, instruction.text, state, escape))


def _onbuild(instruction: Instruction, state: State, escape: str) -> None:
    nested(instruction, escape)
    state.configure(on_build=(*state.config.on_build, instruction.text))


def duration(instruction: Instruction, name: str) -> int:
    """A duration flag in nanoseconds; 0 when it is not given. Raises DockerfileError."""
    text = instruction.flag(name)
    if not text:
        return 0
    if not text or _DURATION.sub("", text):
        raise instruction.error(f"time: invalid duration {text!r} of --{name}")
    value = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    if value >= 1 << 63:
        raise instruction.error(f"time: invalid duration {text[:40]!r} of --{name}")
    if value and value < 10**6:
        raise instruction.error(f"Interval {name!r} cannot be less than 1ms")
    return int(value)


def _healthcheck(instruction: Instruction, state: State, escape: str) -> None:
    kind, _, rest = instruction.text.partition(" ")
    if kind.upper() == "NONE":
        if rest.strip() or instruction.flags:
            raise instruction.error("HEALTHCHECK NONE takes no arguments")
        state.configure(health_check=HealthCheck(test=("NONE",)))
        return
    if kind.upper() != "CMD":
        raise instruction.error(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    rest = rest.strip()
    if not rest:
        raise instruction.error("Missing command after HEALTHCHECK CMD")
    test = _json_list(rest)
    if test is not None and not test:
        raise instruction.error("Missing command after HEALTHCHECK CMD")
    retries = instruction.flag("retries") or "0"
    if not retries.isdecimal() or len(retries) > 9:
        raise instruction.error(f"--retries must be a number of at least 0, not {retries[:40]}")
    check = HealthCheck(
        test=("CMD-SHELL", rest) if test is None else ("CMD", *test),
        interval=duration(instruction, "interval"),
        timeout=duration(instruction, "timeout"),
        start_period=duration(instruction, "start-period"),
        start_interval=duration(instruction, "start-interval"),
        retries=int(retries),
    )
    state.configure(health_check=check)


def _json_list(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def workdir(instruction: Instruction, state: State, escape: str) -> str:
    """The new working directory; relative ones add up (P023)."""
    value = expand(instruction, instruction.text, state, escape)
    if not value:
        raise instruction.error("WORKDIR requires exactly one argument")
    return posixpath.normpath(posixpath.join("/", state.workdir, value)).replace("//", "/")


CONFIGURE: dict[str, Callable[[Instruction, State, str], None]] = {
    "ENV": _env,
    "LABEL": _label,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "USER": _user,
    "EXPOSE": _expose,
    "VOLUME": _volume,
    "STOPSIGNAL": _stop_signal,
    "SHELL": _shell,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "HEALTHCHECK": _healthcheck,
}
