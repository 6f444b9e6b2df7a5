"""The configuration that an image carries (OCI image specification, config.md), and a container's: one gives the other.

These keys are the image format's. It has them from Docker, which is why they look like the API's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from sampan.engine import model
from sampan.engine.errors import BadRequest

Json = Mapping[str, object]


class _Check(msgspec.Struct, rename="pascal"):
    test: list[str] | None = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None

    def typed(self) -> model.HealthCheck:
        return model.HealthCheck(
            test=tuple(self.test or ()),
            interval=self.interval or 0,
            timeout=self.timeout or 0,
            start_period=self.start_period or 0,
            start_interval=self.start_interval or 0,
            retries=self.retries or 0,
        )


class _Image(msgspec.Struct, rename="pascal"):
    """What an image may say. `images` has looked at the types when it came."""

    user: str | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    shell: list[str] | str | None = None
    healthcheck: _Check | None = None
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    entrypoint: list[str] | str | None = None
    labels: dict[str, str | None] | None = None
    exposed_ports: dict[str, object] | None = None
    volumes: dict[str, object] | None = None


def _words(found: list[str] | str | None) -> tuple[str, ...]:
    return (found,) if isinstance(found, str) else tuple(found or ())


def read(config: Json) -> model.Config:
    """The `config` of an image. Raises BadRequest for a health check that is none; the rest `images` has looked at."""
    try:
        found = msgspec.convert(config, _Image)
    except msgspec.ValidationError as error:
        raise BadRequest(f"invalid value: the configuration of the image: {error}") from None
    return model.Config(
        user=found.user or "",
        working_dir=found.working_dir or "",
        stop_signal=found.stop_signal or "",
        shell=_words(found.shell),
        health_check=found.healthcheck.typed() if found.healthcheck else None,
        env=tuple(found.env or ()),
        cmd=_words(found.cmd),
        entrypoint=_words(found.entrypoint) or None,
        labels={name: text or "" for name, text in (found.labels or {}).items()},
        exposed_ports=tuple(found.exposed_ports or ()),
        volumes=tuple(found.volumes or ()),
    )


def merged(config: model.Config, base: model.Config) -> model.Config:
    """A container's configuration with what its image gives where it says nothing."""
    entrypoint, cmd = config.entrypoint, config.cmd
    if not entrypoint:
        cmd = cmd or base.cmd
        entrypoint = base.entrypoint if entrypoint is None else entrypoint
    elif entrypoint == ("",):
        entrypoint = None
    given = {item.partition("=")[0] for item in config.env}
    return msgspec.structs.replace(
        config,
        entrypoint=entrypoint,
        cmd=cmd,
        user=config.user or base.user,
        working_dir=config.working_dir or base.working_dir,
        stop_signal=config.stop_signal or base.stop_signal,
        shell=config.shell or base.shell,
        health_check=config.health_check or base.health_check,
        env=(*(item for item in base.env if item.partition("=")[0] not in given), *config.env),
        labels={**base.labels, **config.labels},
        exposed_ports=tuple(dict.fromkeys((*base.exposed_ports, *config.exposed_ports))),
        volumes=tuple(dict.fromkeys((*base.volumes, *config.volumes))),
    )


def write(config: model.Config) -> dict[str, object]:
    """What is given of a configuration, as members of an image's `config`."""
    check = config.health_check
    found: dict[str, object] = {
        "User": config.user,
        "WorkingDir": config.working_dir,
        "StopSignal": config.stop_signal,
        "Healthcheck": check and {key: value for key, value in cast(dict[str, object], _check(check)).items() if value},
        "Env": list(config.env),
        "Cmd": list(config.cmd),
        "Entrypoint": list(config.entrypoint or ()),
        "Labels": dict(config.labels),
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Volumes": {path: {} for path in config.volumes},
    }
    return {key: value for key, value in found.items() if value}


def _check(found: model.HealthCheck) -> object:
    return msgspec.to_builtins(
        _Check(list(found.test), found.interval, found.timeout, found.start_period, found.start_interval, found.retries)
    )
