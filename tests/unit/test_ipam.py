"""Subnets and addresses."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.network import ipam
from sampan.network.errors import NetworkConflict, NetworkError
from sampan.network.ipam import Pool, PoolRequest

POOL = Pool(subnet="10.0.0.0/29", gateway="10.0.0.1")


def test_addresses_are_given_from_the_lowest_and_end() -> None:
    used: list[str] = []
    for _ in range(5):
        used.append(ipam.allocate(POOL, used).partition("/")[0])
    assert used == [f"10.0.0.{number}" for number in range(2, 7)]
    with pytest.raises(NetworkConflict, match="no available"):
        ipam.allocate(POOL, used)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ("10.0.0.1", NetworkConflict),
        ("10.0.0.0", NetworkConflict),
        ("10.0.0.7", NetworkConflict),
        ("10.1.0.1", NetworkError),
        ("fd00::1", NetworkError),
        ("x", NetworkError),
    ],
)
def test_impossible_addresses(wanted: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ipam.allocate(POOL, [], wanted)


def test_range_auxiliary_and_small_subnets() -> None:
    part = Pool(subnet="10.0.0.0/29", gateway="10.0.0.1", ip_range="10.0.0.4/30", auxiliary={"router": "10.0.0.4"})
    assert ipam.allocate(part, []) == "10.0.0.5/29"
    assert ipam.allocate(Pool(subnet="10.0.0.0/31", gateway="10.0.0.0"), []) == "10.0.0.1/31"
    assert ipam.allocate(Pool(subnet="fd00::/64", gateway="fd00::1"), ["fd00::2"]) == "fd00::3/64"


@pytest.mark.parametrize(
    "asked",
    [
        [{"subnet": "10.0.0.1/24"}],
        [{"subnet": "nonsense"}],
        [{"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"}],
        [{"subnet": "10.0.0.0/24", "ip_range": "10.0.1.0/25"}],
        [{"gateway": "10.0.0.1"}],
        [{"auxiliary": {"a": "10.0.0.1"}}],
        [{"subnet": "10.0.0.0"}],
        [{"subnet": "0.0.0.0/0"}],
        [{"subnet": "224.0.0.0/24"}],
        [{"subnet": "10.0.0.0/255.255.255.0"}],
        [{"subnet": "fd00::%x/64"}],
        [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.0"}],
        [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.1/24"}],
        [{"subnet": "fd00::/64", "gateway": "fd00::1%eth0"}],
        [{"subnet": "10.0.0.0/24", "ip_range": "10.0.0.3/30"}],
        [{"subnet": "10.0.0.0/24", "ip_range": "x"}],
        [{"subnet": "10.0.0.0/24", "auxiliary": {"a": "10.0.1.1"}}],
        [{"subnet": "10.0.0.0/24", "auxiliary": {"a": "10.0.0.1"}}],
        [{"subnet": "10.0.0.0/24", "auxiliary": {"a": "10.0.0.255"}}],
        [{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.128/25"}],
        [{"subnet": "172.17.4.0/24"}],
    ],
)
def test_impossible_plans(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(NetworkError):
        ipam.plan([PoolRequest(**each) for each in asked], [ipaddress.ip_network("172.17.0.0/16")], ipv6=False)


def test_defaults_avoid_what_the_host_uses() -> None:
    taken = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("172.16.0.0/12")]
    (pool,) = ipam.plan([], taken, ipv6=False)
    assert pool == Pool(subnet="192.168.0.0/20", gateway="192.168.0.1")
    four, six = ipam.plan([PoolRequest(subnet="10.0.0.0/8")], taken, ipv6=True)
    assert four.gateway == "10.0.0.1"
    assert six.network.is_private
    everything = [*taken, ipaddress.ip_network("192.168.0.0/16")]
    with pytest.raises(NetworkConflict, match="--subnet"):
        ipam.plan([], everything, ipv6=False)


@given(st.integers(24, 30), st.sets(st.integers(0, 255), max_size=40))
def test_what_is_allocated_is_free_and_inside(prefix: int, taken: set[int]) -> None:
    subnet = ipaddress.ip_network(f"10.9.8.0/{prefix}")
    used = [str(subnet[number]) for number in taken if number < subnet.num_addresses]
    pool = Pool(subnet=str(subnet), gateway=str(subnet[1]))
    try:
        address = ipaddress.ip_interface(ipam.allocate(pool, used))
    except NetworkConflict:
        assert {str(host) for host in subnet.hosts()} <= {*used, str(subnet[1])}
        return
    assert address.ip in subnet.hosts()
    assert str(address.ip) not in {*used, str(subnet[1])}


def test_mac() -> None:
    assert ipam.mac_of("172.17.0.2/16") == "02:42:ac:11:00:02"
    assert ipam.mac_of("").startswith("02:42:")
