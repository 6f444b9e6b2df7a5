"""Networks with containers on them, without a kernel: for unit tests of what is about a container's place in networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sampan.api import decode
from sampan.engine.container import Container
from sampan.engine.model import EndpointSettings
from sampan.network.ipam import Pool
from sampan.network.model import Endpoint, Network
from sampan.network.ownership import Owner


def container(
    letter: str, name: str, *networks: Network, config: dict[str, Any] | None = None, **host: Any
) -> Container:
    """A container whose id is of one letter, on these networks."""
    mode = networks[0].name if networks else host.pop("NetworkMode", "none")
    wanted = decode.create_request({"Hostname": name, **(config or {}), "HostConfig": {"NetworkMode": mode, **host}})
    return Container(
        letter * 64,
        name,
        0,
        "",
        "",
        wanted.config,
        wanted.host_config,
        networks={each.name: EndpointSettings() for each in networks},
    )


def network(name: str, subnet: str = "10.7.0", **settings: Any) -> Network:
    """A bridge network with an IPv4 subnet of 256 addresses."""
    pool = Pool(subnet=f"{subnet}.0/24", gateway=f"{subnet}.1")
    return Network(name.ljust(64, "0"), name, "bridge", 0, [pool], **settings)


@dataclass
class FakeNetworks:
    """As much of `Networks` as is asked: networks by id, in the order of the interfaces of whoever is on them."""

    all: dict[str, Network] = field(default_factory=dict)
    owner: Owner = field(default_factory=lambda: Owner("0123abcd", "/nowhere"))

    def add(self, *networks: Network) -> None:
        """Makes them known."""
        self.all |= {each.id: each for each in networks}

    def put(self, made: Container, on: Network, address: str, *aliases: str) -> Endpoint:
        """Gives a container an endpoint."""
        self.add(on)
        found = Endpoint(
            made.id[:16], made.id, made.name, "eth0", "02:42:00:00:00:01", address, aliases=list(aliases), network=on.id
        )
        on.endpoints[made.id] = found
        return found

    def of(self, identifier: str) -> list[tuple[Network, Endpoint]]:
        """The networks a container is on, with its endpoints."""
        return [(each, each.endpoints[identifier]) for each in self.all.values() if identifier in each.endpoints]

    def named(self, name: str) -> Network | None:
        """The network of a name."""
        return next((each for each in self.all.values() if each.name == name), None)

    def find(self, name: str) -> Network:
        """The same, which has to be there."""
        found = self.named(name)
        assert found is not None
        return found
