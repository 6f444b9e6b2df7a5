"""What a container asks of a network, and the ports that it publishes: configuration, as the API and the records keep it.

Frozen: what changes is the endpoint (network.model.Endpoint), which is made of these settings when a container is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Protocol = Literal["tcp", "udp", "sctp"]


class Addresses(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Static addresses on one network (Docker's EndpointIPAMConfig). "" is "whichever is free"; without prefix lengths."""

    ipv4: str = ""
    ipv6: str = ""
    link_local: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether any is asked for."""
        return bool(self.ipv4 or self.ipv6 or self.link_local)


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a container asks of one network (the writable half of Docker's EndpointSettings)."""

    addresses: Addresses | None = None
    aliases: tuple[str, ...] = ()  # further names of the container for the resolver
    links: tuple[str, ...] = ()
    mac: str = ""
    driver_options: Mapping[str, str] = {}
    gateway_priority: int = 0

    def over(self, base: EndpointSettings) -> EndpointSettings:
        """What is given here, and of the rest what is given there."""
        nothing = EndpointSettings()
        given = {
            name: getattr(self, name)
            for name in self.__struct_fields__
            if getattr(self, name) != getattr(nothing, name)
        }
        return msgspec.structs.replace(base, **given)


class PortBinding(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where on the host a container's port is wanted. `host_port` is "", a number, or a range such as "8000-8010"."""

    host_ip: str = ""
    host_port: str = ""


class PublishedPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port of a running container that is reached at a port of the host."""

    protocol: Protocol
    container_port: int
    host_ip: str
    host_port: int
