"""All networks of an engine: their records, and who is on them."""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import msgspec

from sampan.network import bridge, ipam
from sampan.network import settings as checks
from sampan.network.attachment import Addresses, EndpointSettings
from sampan.network.errors import NetworkConflict, NetworkError, NetworkForbidden, NetworkNotFound
from sampan.network.model import HOST_BINDING, OPTIONS, SWITCHES, Endpoint, Network, NetworkRequest
from sampan.network.ownership import DEFAULT_BRIDGE, Owner, choosing

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_INTERFACE = re.compile(r"eth[0-9]{1,3}", re.ASCII)
DRIVERS = ("bridge", "macvlan", "ipvlan")
_KIND, _ENDPOINT = "network", "endpoint"
T = TypeVar("T")


def is_address(text: object, version: int) -> bool:
    """Whether `text` is an IP address of that version."""
    try:
        return isinstance(text, str) and ipaddress.ip_address(text).version == version
    except ValueError:
        return False


class Row(Protocol):
    """A record as it stands in the database."""

    @property
    def key(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class Records(Protocol):
    """Where records are kept."""

    def put(self, kind: str, key: str, body: dict[str, Any]) -> None: ...
    def delete(self, kind: str, key: str) -> None: ...
    def owe(self, kind: str, key: str, body: dict[str, Any] | None) -> None: ...
    def all(self, kind: str) -> list[dict[str, object]]: ...
    def rows(self, kind: str) -> Sequence[Row]: ...
    def delete_row(self, row: Any) -> None: ...


@dataclass(slots=True)
class Broken:
    """A record that can't be read: kept as it is until a person removes it."""

    kind: str
    name: str
    why: str
    row: Row


class Networks:
    """The networks by id."""

    def __init__(self, records: Records, owner: Owner) -> None:
        self._records, self.owner = records, owner
        self.all: dict[str, Network] = {}
        self.broken: list[Broken] = []
        self.doubtful = False  # whether there is a record that can't be read: then what it may speak of is left alone
        self._settled: set[str] = set()  # networks whose bridge and subnets are known to be ours
        for network in self._read(_KIND, Network):
            self._add(network)
        self._load_endpoints()
        self._add_predefined()

    def _read(self, kind: str, form: type[T]) -> list[T]:
        """The records of a kind. One that can't be read stays where it is, and makes all of us doubtful."""
        found = []
        for row in self._records.rows(kind):
            name = row.key
            try:
                record = json.loads(row.body)
                if not isinstance(record, dict):
                    raise ValueError("no object")
                name = str(record.get("name") or name)
                if record.get("id") != row.key:
                    raise ValueError(f"it is of {record.get('id')!r}")
                found.append(_parse(record, form))
            except (TypeError, ValueError, KeyError, RecursionError) as error:
                self.broken.append(Broken(kind, name, f"its record can't be read: {error}", row))
                self.doubtful = True
        return found

    def find_broken(self, text: str) -> Broken | None:
        """The network whose record can't be read by name, id or prefix of an id."""
        if text in self.all or self.named(text) is not None:
            return None
        networks = [one for one in self.broken if one.kind == _KIND and text]
        named = [one for one in networks if text in (one.name, one.row.key)]
        return next(iter(named or [one for one in networks if one.row.key.startswith(text)]), None)

    def remove_broken(self, broken: Broken) -> None:
        """Deletes a record that can't be read, as a person asked."""
        self._records.delete_row(broken.row)
        self.broken.remove(broken)

    def _add(self, network: Network) -> None:
        network.alias = self.owner.alias
        self.all[network.id] = network

    def _load_endpoints(self) -> None:
        lost = []
        for endpoint in self._read(_ENDPOINT, Endpoint):
            network = self.all.get(endpoint.network)
            if network is None:
                lost.append(endpoint)
            else:
                network.endpoints[endpoint.container] = endpoint
        for endpoint in () if self.doubtful else lost:  # their network was removed
            self._records.owe(_ENDPOINT, endpoint.id, None)

    def _add_predefined(self) -> None:
        names = {network.name for network in self.all.values()}
        for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null")):
            if name not in names:
                network = Network(self.owner.network_id(), name, driver, time.time_ns())
                if driver == "bridge":
                    network.options = {"com.docker.network.bridge.default_bridge": "true",
                                       "com.docker.network.bridge.name": DEFAULT_BRIDGE,
                                       "com.docker.network.bridge.enable_icc": "true",
                                       "com.docker.network.bridge.enable_ip_masquerade": "true",
                                       HOST_BINDING: "0.0.0.0"}  # fmt: skip
                    network.ipam = ipam.plan([], self._taken(), ipv6=False)
                self._add(network)
                self._records.owe(_KIND, network.id, network.record())

    def unsettled(self, network: Network) -> bool:
        """Whether settle() is to be called before the network is used."""
        return network.name == "bridge" and network.id not in self._settled

    def settle(self, network: Network) -> bool:
        """Before the default network is used for the first time: its bridge and subnet must be nobody else's. Blocks.

        They were chosen when there was no engine beside us, and are made only when they are used. True: it has changed,
        and is to be saved. Raises NetworkError.
        """
        with choosing():
            changed = not network.endpoints and not bridge.is_free(network, self.owner)
            if changed:
                self._choose_again(network)
            bridge.ensure(network)
        self._settled.add(network.id)
        return changed

    def _choose_again(self, network: Network) -> None:
        others = [subnet for other in self.all.values() if other is not network for subnet in other.subnets]
        network.ipam = ipam.plan([], [*others, *bridge.taken_subnets()], ipv6=False)
        name = DEFAULT_BRIDGE if not bridge.exists(DEFAULT_BRIDGE) else self.owner.default_bridge
        network.options["com.docker.network.bridge.name"] = name

    def _taken(self) -> Iterable[ipam.Subnet]:
        for network in self.all.values():
            yield from network.subnets
        yield from bridge.taken_subnets()

    def save(self, network: Network) -> None:
        """Writes the record."""
        self._records.put(_KIND, network.id, network.record())

    def named(self, name: str) -> Network | None:
        """The network of exactly that name."""
        return next((network for network in self.all.values() if network.name == name), None)

    def find(self, text: str) -> Network:
        """A network by name, id or unique prefix of an id. Raises NetworkNotFound, NetworkError."""
        if text in self.all:
            return self.all[text]
        named = self.named(text)
        if named is not None:
            return named
        matches = [network for network in self.all.values() if text and network.id.startswith(text)]
        if len(matches) > 1:
            raise NetworkError(f"network {text} is ambiguous ({len(matches)} matches found on ID prefix)")
        if not matches:
            broken = self.find_broken(text)
            if broken is not None:
                raise NetworkConflict(
                    f"network {broken.name} is broken: {broken.why}; remove it with sampan network rm {broken.row.key[:12]}"
                )
            raise NetworkNotFound(f"network {text} not found")
        return matches[0]

    def make(self, asked: NetworkRequest) -> Network:
        """A network with its bridge, to be added. Blocks. Raises NetworkConflict, NetworkError."""
        name, driver = asked.name, asked.driver
        if not _NAME.fullmatch(name):
            raise NetworkError(f"invalid network name: {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed")
        if name in ("bridge", "host", "none", "default", "container"):
            raise NetworkForbidden(f"operation is not permitted on predefined {name} network")
        if self.named(name) is not None:
            raise NetworkConflict(f"network with name {name} already exists")
        if driver in ("host", "null"):
            raise NetworkForbidden(f'only one instance of "{driver}" network is allowed')
        if driver not in DRIVERS:
            raise NetworkNotFound(f'plugin "{driver}" not found: there are {", ".join(DRIVERS)}')
        network = Network(self._network_id(), name, driver, time.time_ns(), internal=asked.internal, attachable=asked.attachable,
                          options=dict(asked.options), labels=dict(asked.labels), alias=self.owner.alias)  # fmt: skip
        _check_options(network)
        if any(other.bridge == network.bridge and other.driver == driver == "bridge" for other in self.all.values()):
            raise NetworkConflict(f"bridge name {network.bridge} is used by another network")
        with choosing():
            network.ipam = ipam.plan(asked.ipam.pools, self._taken(), asked.ipv6)
            network.ipv6 = network.pool(6) is not None
            bridge.ensure(network)
        return network

    def add(self, network: Network) -> None:
        """Records what make() has made."""
        self.save(network)
        self.all[network.id] = network

    def _network_id(self) -> str:
        """A new id; no two networks have the same first digits, which name the bridge."""
        while True:
            identifier = self.owner.network_id()
            if not any(other[:4] == identifier[:4] for other in self.all):
                return identifier

    def endpoint_id(self) -> str:
        """A new endpoint's id; no two have the same first digits, which name the interface."""
        used = {endpoint.host_interface for network in self.all.values() for endpoint in network.endpoints.values()}
        while True:
            identifier = secrets.token_hex(32)
            if self.owner.veth(identifier) not in used:
                return identifier

    def check_removable(self, network: Network) -> None:
        """Raises NetworkForbidden for a network that somebody is on, or that is always there."""
        if network.predefined:
            raise NetworkForbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if network.endpoints:
            names = ", ".join(sorted(endpoint.name for endpoint in network.endpoints.values()))
            raise NetworkForbidden(
                f"error while removing network: network {network.name} has active endpoints ({names})"
            )

    def drop(self, network: Network) -> None:
        """Takes back what `add` has begun, whatever the records say."""
        self.all.pop(network.id, None)
        self._records.owe(_KIND, network.id, None)

    def forget(self, network: Network) -> None:
        """Deletes a network's record, before anything else of it goes. Raises what the records raise: then it stays."""
        self._records.delete(_KIND, network.id)
        self.all.pop(network.id, None)

    def allocate(
        self,
        network: Network,
        container: str,
        name: str,
        interface: str,
        settings: EndpointSettings,
        identifier: str = "",
        reserved: Iterable[str] = (),
    ) -> Endpoint:
        """A place on the network for a container, with the addresses it asks for and none of those `reserved`
        for others. Raises NetworkConflict, NetworkError.
        """
        if container in network.endpoints:
            raise NetworkForbidden(f"endpoint with name {name} already exists in network {network.name}")
        wanted = settings.addresses or Addresses()
        if network.name == "bridge" and (wanted.ipv4 or wanted.ipv6):
            raise NetworkError("user specified IP address is supported on user defined networks only")
        for text, version in ((wanted.ipv4, 4), (wanted.ipv6, 6)):
            if text and not is_address(text, version):
                raise NetworkError(f"invalid IPv{version} address: {text!r}")
        # What somebody else's container asks for and is none must not keep this one from its place.
        kept = [text for text in reserved if is_address(text, 4) or is_address(text, 6)]
        used = [e.address(4) for e in network.endpoints.values()] + [text for text in kept if ":" not in text]
        used6 = [e.address(6) for e in network.endpoints.values()] + [text for text in kept if ":" in text]
        endpoint = Endpoint(identifier or self.endpoint_id(), container, name, interface, "")
        endpoint.link, endpoint.network = self.owner.veth(endpoint.id), network.id
        pool, pool6 = network.pool(4), network.pool(6)
        if pool is not None:
            endpoint.ipv4 = ipam.allocate(pool, used, wanted.ipv4)
        if pool6 is not None:
            endpoint.ipv6 = ipam.allocate(pool6, used6, wanted.ipv6)
        elif wanted.ipv6:
            raise NetworkError(f"network {network.name} has no IPv6 subnet")
        endpoint.mac = _mac(network, settings.mac, endpoint.ipv4)
        endpoint.aliases, endpoint.priority = list(dict.fromkeys(settings.aliases)), settings.gateway_priority
        self._records.put(_ENDPOINT, endpoint.id, endpoint.record())
        network.endpoints[container] = endpoint
        return endpoint

    def rename(self, container: str, name: str) -> None:
        """What a container is called on its networks from now on. Raises what the records raise."""
        for _, endpoint in self.of(container):
            self._records.put(_ENDPOINT, endpoint.id, endpoint.record() | {"name": name})
            endpoint.name = name

    def release(self, network: Network, container: str) -> Endpoint | None:
        """Gives a container's place back."""
        endpoint = network.endpoints.pop(container, None)
        if endpoint is not None:
            self._records.owe(_ENDPOINT, endpoint.id, None)  # it ends with its container, whatever the disk says
        return endpoint

    def of(self, container: str) -> list[tuple[Network, Endpoint]]:
        """The networks a container is on, with its places, in the order of its interfaces."""
        found = [(n, n.endpoints[container]) for n in self.all.values() if container in n.endpoints]
        return sorted(found, key=lambda pair: (len(pair[1].interface), pair[1].interface))


def _parse(record: dict[str, Any], form: type[T]) -> T:
    """A record as what it stands for. Raises TypeError or ValueError that says what is wrong with it."""
    unknown = record.keys() - {field.name for field in fields(form)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"unknown field {min(unknown)}")
    made = msgspec.convert(record, form)
    if isinstance(made, Endpoint):
        _check_endpoint(made)
    return made


def _check_endpoint(endpoint: Endpoint) -> None:
    for text in filter(None, (endpoint.ipv4, endpoint.ipv6)):
        ipaddress.ip_interface(text)
    if len(bytes.fromhex(endpoint.mac.replace(":", ""))) != 6:
        raise ValueError(f"{endpoint.mac!r} is no MAC address")
    if not _INTERFACE.fullmatch(endpoint.interface):
        raise ValueError(f"{endpoint.interface!r} is no interface of a container's")


def _mac(network: Network, wanted: str, ipv4: str) -> str:
    """A MAC address that nobody else on the network has: who has it would get what is for them. Raises NetworkConflict."""
    used = {endpoint.mac for endpoint in network.endpoints.values()} | {network.mac}
    if wanted in used:
        raise NetworkConflict(f"MAC address {wanted} is already in use on network {network.name}")
    address = wanted or ipam.mac_of(ipv4)
    while address in used:
        address = ipam.mac_of("")
    return address


def _check_options(network: Network) -> None:
    """Refuses options with values that can't be, and such as nobody would read. Raises NetworkError."""
    there = OPTIONS[network.driver]
    for key in network.options:
        if key not in there:
            raise NetworkError(
                f"the network option {key!r} is not implemented: with driver {network.driver} there are {', '.join(there)}"
            )
    if network.options.get(HOST_BINDING, "") not in ("", "0.0.0.0"):
        raise NetworkError(
            f"{HOST_BINDING}={network.options[HOST_BINDING]} is not implemented: publish with -p ADDRESS:PORT:PORT"
        )
    mtu = network.options.get("com.docker.network.driver.mtu")
    if mtu is not None and not (mtu.isascii() and mtu.isdecimal() and 68 <= int(mtu) <= 65535):
        raise NetworkError(f"invalid MTU {mtu}: 68 to 65535")
    for key in ("com.docker.network.bridge.name", "parent"):
        if network.options.get(key):
            checks.interface(network.options[key], key)
    for key in SWITCHES:
        if key in network.options:
            checks.flag(network.options[key], key)
    modes = {"macvlan": ("macvlan_mode", bridge.MACVLAN_MODES), "ipvlan": ("ipvlan_mode", bridge.IPVLAN_MODES)}
    if network.driver in modes:
        key, known = modes[network.driver]
        if network.options.get(key, next(iter(known))) not in known:
            raise NetworkError(f"unknown {key} {network.options[key]}: one of {', '.join(known)}")
