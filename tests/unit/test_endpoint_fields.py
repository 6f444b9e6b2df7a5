"""Every field of what Docker's API asks of networks and of places on them is done, or refused by its name; none is passed over."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.api import decode, fields
from sampan.api.record import Record
from sampan.engine.errors import BadRequest
from sampan.engine.model import EndpointSettings
from sampan.network import networks, settings
from sampan.network.errors import NetworkError
from sampan.network.ipam import Pool
from sampan.network.model import OPTIONS, Network, NetworkRequest
from tests.unit.networks_world import network

DONE, REFUSED, TOLD = "done", "refused", "told"  # TOLD: Docker has it in answers only, and clients send it back

ENDPOINT: dict[str, tuple[Any, str]] = {
    "Links": (["db:base"], DONE),
    "Aliases": (["web"], DONE),
    "MacAddress": ("02:42:ac:11:00:02", DONE),
    "GwPriority": (3, DONE),
    "DriverOpts": ({"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}, REFUSED),
    "IPAMConfig": ({"IPv4Address": "10.7.0.9"}, DONE),
    "NetworkID": ("a", TOLD),
    "EndpointID": ("a", TOLD),
    "Gateway": ("10.7.0.1", TOLD),
    "IPAddress": ("10.7.0.2", TOLD),
    "IPPrefixLen": (24, TOLD),
    "IPv6Gateway": ("fd00::1", TOLD),
    "GlobalIPv6Address": ("fd00::2", TOLD),
    "GlobalIPv6PrefixLen": (64, TOLD),
    "DNSNames": (["web"], TOLD),
}
ADDRESSES: dict[str, tuple[Any, str]] = {
    "IPv4Address": ("10.7.0.9", DONE),
    "IPv6Address": ("fd07::9", DONE),
    "LinkLocalIPs": (["169.254.0.9"], REFUSED),
}
CREATE: dict[str, tuple[Any, str]] = {
    "Name": ("net", DONE),
    "CheckDuplicate": (True, TOLD),  # names are unique, whether it is asked for or not
    "Driver": ("bridge", DONE),
    "Internal": (True, DONE),
    "Attachable": (True, DONE),
    "EnableIPv6": (True, DONE),
    "Options": ({"com.docker.network.driver.mtu": "1400"}, DONE),
    "Labels": ({"a": "b"}, DONE),
    "Scope": ("swarm", REFUSED),
    "Ingress": (True, REFUSED),
    "ConfigOnly": (True, REFUSED),
    "ConfigFrom": ({"Network": "other"}, REFUSED),
    "EnableIPv4": (False, REFUSED),
    "IPAM": ({"Driver": "default", "Options": {"a": "b"}}, REFUSED),
}
POOL: dict[str, tuple[Any, str]] = {
    "Subnet": ("10.7.0.0/24", DONE),
    "Gateway": ("10.7.0.1", DONE),
    "IPRange": ("10.7.0.64/26", DONE),
    "AuxiliaryAddresses": ({"router": "10.7.0.2"}, DONE),
    "AuxAddress": ({"router": "10.7.0.2"}, REFUSED),
}


def test_the_tables_are_whole() -> None:
    records: list[tuple[Record[Any], dict[str, tuple[Any, str]]]] = [
        (fields.ENDPOINT, ENDPOINT), (fields.ADDRESSES, ADDRESSES), (fields.NETWORK, CREATE), (fields.POOL, POOL),
    ]  # fmt: skip
    for record, table in records:
        assert {key for key, _ in record._known.values()} == set(table)


@pytest.mark.parametrize("key", ENDPOINT)
def test_a_place_on_a_network(key: str) -> None:
    value, outcome = ENDPOINT[key]
    read = decode.connect_request({"Container": "web", "EndpointConfig": {key: value}}).endpoint
    if outcome == REFUSED:
        with pytest.raises(NetworkError, match=key):
            settings.checked(network("lab"), read)
    else:
        kept = settings.checked(network("lab"), read)
        assert (kept != EndpointSettings()) == (outcome == DONE)
        assert outcome == TOLD or fields.ENDPOINT.write(kept)[key] == value


@pytest.mark.parametrize("key", ADDRESSES)
def test_its_addresses(key: str) -> None:
    value, outcome = ADDRESSES[key]
    lab = network("lab", ipv6=True)
    lab.ipam.append(Pool(subnet="fd07::/64", gateway="fd07::1"))
    read = decode.connect_request({"Container": "web", "EndpointConfig": {"IPAMConfig": {key: value}}}).endpoint
    if outcome == REFUSED:
        with pytest.raises(NetworkError, match=key):
            settings.checked(lab, read)
    else:
        addresses: Any = fields.ENDPOINT.write(settings.checked(lab, read))["IPAMConfig"]
        assert addresses[key] == value


@pytest.mark.parametrize("key", CREATE)
def test_a_network(key: str) -> None:
    value, outcome = CREATE[key]
    if outcome == REFUSED:
        with pytest.raises(BadRequest, match=key):
            decode.network_request({key: value})
    else:
        read = decode.network_request({key: value})
        assert fields.NETWORK.write(read) == fields.NETWORK.write(NetworkRequest()) | (
            {key: value} if outcome == DONE else {}
        )


@pytest.mark.parametrize("key", POOL)
def test_its_subnets(key: str) -> None:
    value, outcome = POOL[key]
    body = {"IPAM": {"Config": [{key: value}]}}
    if outcome == REFUSED:
        with pytest.raises(BadRequest, match=key):
            decode.network_request(body)
    else:
        (read,) = decode.network_request(body).ipam.pools
        assert fields.POOL.write(read)[key] == value
    with pytest.raises(BadRequest, match=rf"IPAM\.Config\[0\]\.{key} must be"):
        decode.network_request({"IPAM": {"Config": [{key: 5}]}})


def test_what_docker_s_command_sends_without_options_passes() -> None:
    body = {"CheckDuplicate": True, "Name": "net", "Driver": "bridge", "Scope": "", "EnableIPv4": True, "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": {}, "Config": []}, "Internal": False, "Attachable": False, "Ingress": False,
            "ConfigOnly": False, "ConfigFrom": {"Network": ""}, "Options": {}, "Labels": {}}  # fmt: skip
    assert decode.network_request(body) == NetworkRequest(name="net")
    assert decode.network_request(body | {"ConfigFrom": None, "Scope": "local", "Driver": ""}) == NetworkRequest(
        name="net"
    )


@pytest.mark.parametrize("driver", OPTIONS)
def test_options_of_networks(driver: str) -> None:
    values = {"macvlan_mode": "bridge", "ipvlan_mode": "l2", "com.docker.network.driver.mtu": "1400", "parent": "up0",
              "com.docker.network.bridge.name": "br9", "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0"}  # fmt: skip
    for key in OPTIONS[driver]:
        networks._check_options(Network("a", "a", driver, 0, options={key: values.get(key, "true")}))
    for key in ("com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.container_iface_prefix", "else"):
        with pytest.raises(NetworkError, match=key):
            networks._check_options(Network("a", "a", driver, 0, options={key: "x"}))


def test_ports_are_not_bound_elsewhere_by_a_network() -> None:
    option = "com.docker.network.bridge.host_binding_ipv4"
    with pytest.raises(NetworkError, match=option):
        networks._check_options(Network("a", "a", "bridge", 0, options={option: "127.0.0.1"}))
