"""The model: what a container is, as types.

Configuration is frozen and made once, by `api.decode`, by the records or by the engine; state changes, and has a status.
Nothing here knows how Docker's API or an older record spells a field: that is `api.decode`, `api.encode` and
`engine.record_migrations`. Durations and moments are nanoseconds and sizes bytes unless a field says otherwise.
"""

from __future__ import annotations

from sampan.engine.model.config import Config, HealthCheck, SystemVm
from sampan.engine.model.host_config import DeviceRequest, HostConfig, Isolation, LogConfig, RestartPolicy
from sampan.engine.model.limits import Device, DeviceRate, DeviceWeight, Limits, Ulimit
from sampan.engine.model.mounts import (
    BindOptions,
    Mount,
    MountRequest,
    MountType,
    TmpfsOptions,
    VolumeOptions,
)
from sampan.engine.model.requests import (
    Asked,
    ConnectRequest,
    CreateRequest,
    ExecRequest,
    ExecStart,
    SystemVmRequest,
)
from sampan.engine.model.state import Health, HealthStatus, Probe, State, Status
from sampan.network.attachment import Addresses, EndpointSettings, PortBinding, PublishedPort

__all__ = [
    "Addresses",
    "Asked",
    "BindOptions",
    "Config",
    "ConnectRequest",
    "CreateRequest",
    "Device",
    "DeviceRate",
    "DeviceRequest",
    "DeviceWeight",
    "EndpointSettings",
    "ExecRequest",
    "ExecStart",
    "Health",
    "HealthCheck",
    "HealthStatus",
    "HostConfig",
    "Isolation",
    "Limits",
    "LogConfig",
    "Mount",
    "MountRequest",
    "MountType",
    "PortBinding",
    "Probe",
    "PublishedPort",
    "RestartPolicy",
    "State",
    "Status",
    "SystemVm",
    "SystemVmRequest",
    "TmpfsOptions",
    "Ulimit",
    "VolumeOptions",
]
