"""The execution parameters that an image carries, and a container's configuration: one gives the other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sampan.build.changes import apply
from sampan.build.errors import DockerfileError
from sampan.engine import model
from sampan.engine.errors import BadRequest
from sampan.images.config import Execution, HealthCheck

_ALIKE = model.HealthCheck.__struct_fields__  # they have the same names there


def read(found: Execution) -> model.Config:
    """What an image gives to a container."""
    check = found.health_check
    return model.Config(
        user=found.user,
        working_dir=found.working_dir,
        stop_signal=found.stop_signal,
        shell=found.shell,
        health_check=None
        if check == HealthCheck()
        else model.HealthCheck(**{key: getattr(check, key) for key in _ALIKE}),
        env=found.env,
        cmd=found.cmd,
        entrypoint=found.entrypoint or None,
        labels=found.labels,
        exposed_ports=tuple(found.exposed_ports),
        volumes=tuple(found.volumes),
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
        health_check=_health_check(config.health_check, base.health_check),
        env=(*config.env, *(item for item in base.env if item.partition("=")[0] not in given)),
        labels={**base.labels, **config.labels},
        exposed_ports=tuple(dict.fromkeys((*base.exposed_ports, *config.exposed_ports))),
        volumes=tuple(dict.fromkeys((*base.volumes, *config.volumes))),
    )


def _health_check(given: model.HealthCheck | None, base: model.HealthCheck | None) -> model.HealthCheck | None:
    """A health check with what the image says where it says nothing."""
    if given is None or base is None:
        return given or base
    return msgspec.structs.replace(given, **{key: getattr(given, key) or getattr(base, key) for key in _ALIKE})


def changed(config: Execution, changes: Sequence[str]) -> Execution:
    """A configuration after `--change` instructions. Raises BadRequest."""
    try:
        return apply(config, changes)
    except DockerfileError as error:
        raise BadRequest(str(error)) from None


def committed(base: Execution, container: model.Config, given: model.Config) -> Execution:
    """The configuration of an image made of a container: what is given, the container's where that says nothing, over its image's.
    Triggers are the image's own and have been run: they are not inherited."""
    whole = msgspec.structs.replace(merged(given, container), on_build=given.on_build)
    return msgspec.structs.replace(over(base, whole), on_build=given.on_build)


def over(base: Execution, config: model.Config) -> Execution:
    """What is given of a configuration, over what an image has."""
    check = _health_check(config.health_check, read(base).health_check)
    found: dict[str, object] = {
        "user": config.user,
        "working_dir": config.working_dir,
        "stop_signal": config.stop_signal,
        "health_check": check and HealthCheck(**{key: getattr(check, key) for key in _ALIKE}),
        "env": config.env,
        "cmd": config.cmd,
        "entrypoint": config.entrypoint,
        "labels": config.labels,
        "exposed_ports": {port: {} for port in config.exposed_ports},
        "volumes": {path: {} for path in config.volumes},
    }
    return msgspec.structs.replace(base, **{key: value for key, value in found.items() if value})
