"""What a configuration can't say: a rule for each, with Docker's sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sampan.engine import model
from sampan.engine.errors import BadRequest
from sampan.engine.model import Config, HostConfig, MountRequest
from sampan.linux import signals

_MODES = ("private", "rprivate", "shared", "rshared", "slave", "rslave")  # of a bind mount's propagation

Complaints = Iterator[str]


def check(config: Config, host: HostConfig) -> None:
    """Raises BadRequest for the first that is broken."""
    for rule in _CONFIG:
        for complaint in rule(config):
            raise BadRequest(complaint)
    for rule_of_host in _HOST:
        for complaint in rule_of_host(host):
            raise BadRequest(complaint)


def check_endpoints(host: HostConfig, endpoints: Mapping[str, model.EndpointSettings]) -> None:
    """Places on networks that are asked for. Raises BadRequest."""
    for name in ("bridge", "host", "none"):
        settings = endpoints.get(name)
        if settings is not None and settings.addresses and (settings.addresses.ipv4 or settings.addresses.ipv6):
            raise BadRequest(
                f"invalid config for network {name}: invalid endpoint settings:\n"
                "user specified IP address is supported on user defined networks only"
            )


def _environment(config: Config) -> Complaints:
    for item in config.env:
        if not item.partition("=")[0]:
            yield f"invalid environment variable: {item}"


def _stop_signal(config: Config) -> Complaints:
    if config.stop_signal:
        try:
            signals.number(config.stop_signal)
        except ValueError:
            yield f"invalid signal: {config.stop_signal}"


def _network_mode(host: HostConfig) -> Complaints:
    mode = host.network_mode
    if mode == "container:":
        yield "Invalid network mode: invalid container format container:<name|id>"
    if mode == "host" and host.links:
        yield "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
    if mode.startswith("container:"):
        if host.links:
            yield "conflicting options: container type network can't be used with links. This would result in undefined behavior"
        if host.dns:
            yield "conflicting options: dns and the network mode"
        if host.extra_hosts:
            yield "conflicting options: custom host-to-IP mapping and the network mode"


def _namespaces(host: HostConfig) -> Complaints:
    if host.pid_mode == "container:":
        yield "invalid PID mode: container:"
    if host.ipc_mode == "container:":
        yield "invalid IPC mode: container:"
    if host.uts_mode not in ("", "host"):
        yield f"invalid UTS mode: {host.uts_mode}"
    if host.cgroup_namespace not in ("", "host", "private"):
        yield f"invalid cgroup namespace mode: {host.cgroup_namespace}"


def _restarts(host: HostConfig) -> Complaints:
    if host.restart_policy.max_retries < 0:
        yield "invalid restart policy: maximum retry count cannot be negative"


def _binds(host: HostConfig) -> Complaints:
    for text in host.binds:
        source, _, rest = text.partition(":")
        modes = rest.partition(":")[2].split(",")
        why = f"invalid volume specification: '{text}': invalid mount config for type"
        if "ro" in modes and "rw" in modes:
            yield f"invalid mode: {','.join(modes)}"
        if source.startswith("/") and "nocopy" in modes:
            yield f'{why} "bind": field VolumeOptions must not be specified'
        if not source.startswith("/") and set(modes) & set(_MODES):
            yield f'{why} "volume": field BindOptions must not be specified'


def _mounts(host: HostConfig) -> Complaints:
    for item in host.mounts:
        yield from _mount(item)
    for destination in host.tmpfs:
        if not destination.startswith("/"):
            yield f"invalid mount path: '{destination}' mount path must be absolute"


def _mount(item: MountRequest) -> Complaints:
    given = {"bind": item.bind, "volume": item.volume, "tmpfs": item.tmpfs}
    for kind, options in given.items():
        if options is not None and item.kind in given and item.kind != kind:
            yield f'{kind.capitalize()}Options must not be specified on mount type "{item.kind}"'
    if item.kind == "tmpfs" and item.source:
        yield 'invalid mount config for type "tmpfs": field Source must not be specified'
    if item.bind and item.bind.propagation and item.bind.propagation not in _MODES:
        yield f'invalid mount config for type "bind": invalid propagation mode: {item.bind.propagation}'


def _shared(host: HostConfig) -> Complaints:
    if "" in host.volumes_from:
        yield "volumes-from specification cannot be an empty string"
    for text in host.links:
        if text.count(":") > 1 or not text.partition(":")[0]:
            yield f"bad format for links: {text}"
    for text in host.security_options:
        name, equals, value = text.replace(":", "=", 1).partition("=")
        if (
            name == "no-new-privileges"
            and equals
            and value not in ("true", "false", "1", "0", "t", "f", "T", "F", "TRUE", "FALSE", "True", "False")
        ):
            yield f'invalid --security-opt 2: "{text}"'
    if "" in host.annotations:
        yield "invalid Annotations: the empty string is not permitted as an annotation key"


_CONFIG: tuple[Callable[[Config], Complaints], ...] = (_environment, _stop_signal)
_HOST: tuple[Callable[[HostConfig], Complaints], ...] = (
    _restarts, _network_mode, _namespaces, _binds, _mounts, _shared,
)  # fmt: skip
