"""The model as Docker's API shows it: api.decode's other half."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.api import fields
from sampan.engine import model
from sampan.engine.container import moment_text
from sampan.network.ipam import Pool

Json = dict[str, object]


def config(found: model.Config) -> Json:
    """A Config."""
    return fields.CONFIG.write(found)


# What a HostConfig says of limits that can't be had here: nothing, in Docker's words for it.
_UNLIMITED: Json = {
    **dict.fromkeys(("CpuCount", "CpuPercent", "IOMaximumBandwidth", "IOMaximumIOps"), 0),
    "Cgroup": "",
}  # fmt: skip


def host_config(found: model.HostConfig) -> Json:
    """A HostConfig."""
    return _UNLIMITED | fields.HOST_CONFIG.write(found)


def state(found: model.State, health: model.Health | None = None) -> Json:
    """The `State` of inspect, with the health check's if there is one."""
    shown: Json = {
        "Status": str(found.status),
        "Running": found.running,
        "Paused": found.paused,
        "Restarting": found.restarting,
        "OOMKilled": found.oom_killed,
        "Dead": found.status is model.Status.DEAD,
        "Pid": found.pid,
        "ExitCode": found.exit_code,
        "Error": found.error,
        "StartedAt": moment_text(found.started_at),
        "FinishedAt": moment_text(found.finished_at),
    }
    if health is not None:
        shown["Health"] = {
            "Status": str(health.status),
            "FailingStreak": health.failing_streak,
            "Log": [_probe(probe) for probe in health.log],
        }
    return shown


def _probe(found: model.Probe) -> Json:
    return {
        "Start": moment_text(found.started_at),
        "End": moment_text(found.finished_at),
        "ExitCode": found.exit_code,
        "Output": found.output,
    }


def mounts(rows: Iterable[model.Mount]) -> list[Json]:
    """The `Mounts` of inspect and of a list."""
    return [_mount(row) for row in rows]


def _mount(row: model.Mount) -> Json:
    shown: Json = {"Type": str(row.kind)}
    if row.kind is model.MountType.VOLUME:
        shown |= {"Name": row.name}
    shown |= {"Source": row.source, "Destination": row.destination}
    if row.kind is model.MountType.VOLUME:
        shown |= {"Driver": row.driver}
    return shown | {"Mode": row.mode, "RW": not row.read_only, "Propagation": row.propagation}


def endpoint_settings(found: model.EndpointSettings) -> Json:
    """What was asked of a network, without what became of it."""
    return fields.ENDPOINT.write(found)


def pools(found: Iterable[Pool]) -> list[Json]:
    """The subnets of a network."""
    return fields.POOL.write_each(found)


def port_map(exposed: Iterable[str], published: Iterable[model.PublishedPort]) -> dict[str, list[Json] | None]:
    """The `Ports` of inspect: what is exposed, and where it is reached."""
    ports: dict[str, list[Json] | None] = dict.fromkeys(exposed)
    for row in published:
        key = f"{row.container_port}/{row.protocol}"
        ports[key] = [*(ports.get(key) or []), {"HostIp": row.host_ip, "HostPort": str(row.host_port)}]
    return ports


def published_ports(rows: Iterable[model.PublishedPort]) -> list[Json]:
    """The ports of a system VM."""
    return [{"protocol": row.protocol, "container_port": row.container_port, "host_ip": row.host_ip, "host_port": row.host_port}
            for row in rows]  # fmt: skip
