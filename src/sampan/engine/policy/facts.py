"""What rules look at: out of the same values that a runtime specification is made of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from sampan.engine import spec
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.model import HostConfig, Mount, MountType
from sampan.engine.policy.caller import Owner
from sampan.engine.policy.model import AUTO, CONTAINER, TENANT_LABEL, VM, Facts
from sampan.linux import caps
from sampan.oci import reference

_HOST_MODES = (
    ("network_mode", "--network"),
    ("pid_mode", "--pid"),
    ("ipc_mode", "--ipc"),
    ("uts_mode", "--uts"),
    ("cgroup_namespace", "--cgroupns"),
    ("user_namespace", "--userns"),
)
_HARMLESS = {
    "no-new-privileges": None,  # whatever it says
    "seccomp": ("builtin", "default"),
    "apparmor": ("true", "false", "docker-default", "builtin"),
    "systempaths": ("true", "false"),
    "label": ("true", "false"),
    "writable-cgroups": ("false",),
}


def privileged_options(host: HostConfig) -> list[str]:
    """The options that weaken what keeps a container from the host's kernel (S049), as they are written."""
    found = ["--privileged"] if host.privileged else []
    found += [f"{flag} host" for name, flag in _HOST_MODES if getattr(host, name) == "host"]
    found += [f"--cap-add {name[4:] if name != 'ALL' else name}" for name in spec.added_capabilities(host)
              if name not in spec.DEFAULT_CAPABILITIES]  # fmt: skip
    found += [f"--device {item.host_path}" for item in host.devices]
    found += ["--device-cgroup-rule" for _ in host.device_cgroup_rules]
    found += ["--gpus" for _ in host.device_requests]
    found += ["--cgroup-parent"] if host.cgroup_parent else []
    found += [f"--oom-score-adj {host.oom_score_adj}"] if host.oom_score_adj < 0 else []  # others end for it
    found += (
        ["--log-opt syslog-address"] if host.log_config.options.get("syslog-address") else []
    )  # the engine's network
    found += ["--cpu-rt-runtime"] if host.limits.realtime_runtime else []
    found += ["--ulimit rtprio" for item in host.ulimits
              if item.name.lower() == "rtprio" and item.hard]  # fmt: skip
    for name, value in spec.security_options(host).items():
        harmless = _HARMLESS.get(name, ())
        if harmless is not None and value not in harmless:
            found.append(f"--security-opt {name}={value if len(value) < 40 else '...'}")
    found += ["MaskedPaths"] if host.masked_paths is not None else []
    found += ["ReadonlyPaths"] if host.read_only_paths is not None else []
    return found


def capabilities(host: HostConfig) -> list[str]:
    """The capabilities asked for, without CAP_; ALL is each of them, too."""
    asked = spec.added_capabilities(host)
    if host.privileged or "ALL" in asked:
        return ["ALL", *caps.NAMES]
    return [name.removeprefix("CAP_") for name in asked]


def host_paths(rows: Iterable[Mount]) -> list[str]:
    """The host's paths among a container's mounts, with links resolved."""
    return [os.path.realpath(row.source) for row in rows if row.kind is MountType.BIND]


def names(tags: Iterable[str]) -> tuple[list[str], list[str]]:
    """(every form of an image's names, complete and short; the registries in them)."""
    found, registries = [], []
    for tag in tags:
        ref = reference.parse(tag)
        found += [str(ref), ref.familiar, ref.familiar_name]
        registries.append(ref.registry)
    return found, registries


def networks(host: HostConfig, planned: Iterable[str]) -> tuple[str, ...]:
    """The names of the networks that it is on, whatever they were called by; the default one has two."""
    mode = host.network_mode or "default"
    found = list(dict.fromkeys([mode, *planned]))
    return tuple(found + [other for one, other in (("bridge", "default"), ("default", "bridge"))
                          if one in found and other not in found])  # fmt: skip


def make(
    owner: Owner, image: str, tags: Iterable[str], signers: Iterable[str], labels: Mapping[str, str], host: HostConfig,
    planned: Iterable[str], mounts: Sequence[Mount], asked: str,
) -> Facts:  # fmt: skip
    """The facts of a container. Raises BadRequest for what no container can have."""
    forms, registries = names(tags)
    return Facts(
        owner.user,
        owner.claim,
        tuple(dict.fromkeys([*([image] if image else []), *forms])),
        tuple(dict.fromkeys(registries)),
        tuple(signers),
        tuple(sorted(labels.items())),
        networks(host, planned),
        tuple(capabilities(host)),
        tuple(privileged_options(host)),
        tuple(host_paths(mounts)),
        tuple(row.source for row in mounts if row.kind is MountType.BIND),
        asked,
    )


def isolation_of(container: Container) -> str:
    """The isolation that a container or system VM has, as policies know it: CONTAINER on the host's kernel, else VM."""
    return VM if container.isolation in (VM, "machine") else CONTAINER


def of_record(container: Container, names: list[str], signers: list[str]) -> Facts:
    """Of a container that there is. Its image has the `names` it has now and those by which the container was made."""
    wanted = container.host_config.isolation
    asked = VM if isolation_of(container) == VM else CONTAINER if wanted in (CONTAINER, "process") else ""
    tags = list(dict.fromkeys([*container.asked.names, *names]))
    labels = container.asked.labels
    labels = container.config.labels if labels is None else labels
    return make(Owner(container.owner, container.claim), container.image, tags, signers, labels, container.host_config,
                container.networks, container.mounts, asked)  # fmt: skip


def claim(labels: Mapping[str, str]) -> str:
    """The tenant that a request says it is for."""
    return labels.get(TENANT_LABEL, "")


def isolation(host: HostConfig, default: str) -> str:
    """What a request asks for: "container", "vm" or "" for whatever is decided; `default` where it says nothing. Raises BadRequest."""
    wanted = host.isolation or "default"
    wanted = default if wanted == "default" else wanted
    if wanted in ("", AUTO):
        return ""
    if wanted in (CONTAINER, "process"):
        return CONTAINER
    if wanted != VM:
        raise BadRequest(f"invalid isolation {wanted!r}: container, vm or auto")
    return VM
