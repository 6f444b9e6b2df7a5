"""Port mappings of containers: what is asked for, what the firewall is to redirect, and where the default gateway is."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sampan.api import decode
from sampan.engine.errors import BadRequest
from sampan.engine.network import port_mappings as module
from sampan.engine.network.port_mappings import PortMappings, check_ports, default_gateway
from sampan.engine.tasks import Tasks
from sampan.network.ports import Mapping
from tests.unit.networks_world import FakeNetworks, container, network


class FakeFirewall:
    """Keeps what it is to do; the kernel is not asked."""

    table = "sampan-test"
    applied = owned = True

    def __init__(self, *names: str) -> None:
        self.published: list[list[Any]] = []
        self.networks: list[list[str]] = []

    def apply(self, networks: list[Any], published: list[Any]) -> None:
        self.networks.append([each.name for each in networks])
        self.published.append(published)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop()
    yield found
    found.close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PortMappings]:
    monkeypatch.setattr(module, "Firewall", FakeFirewall)
    monkeypatch.setattr(module.bridge, "has_ipv6", lambda: False)

    def reserve(bindings: dict[str, Any], ipv6: bool, binder: Any) -> list[Mapping]:
        return [Mapping(port.partition("/")[2], int(port.partition("/")[0]), row.host_ip or "0.0.0.0", int(row.host_port or 49153))
                for port, rows in bindings.items() for row in rows]  # fmt: skip

    monkeypatch.setattr(module.ports, "reserve_all", reserve)
    return lambda networks, obey=False: PortMappings(networks, Tasks(), obey, None)


def test_what_is_published_leads_to_the_first_endpoint_that_is_not_internal(
    loop: asyncio.AbstractEventLoop, made: Any
) -> None:
    networks = FakeNetworks()
    inner, lab = network("inner", "10.6.0", internal=True), network("lab")
    web = container(
        "a",
        "web",
        inner,
        lab,
        PortBindings={"80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "81"}]},
    )
    networks.put(web, inner, "10.6.0.2/24")
    networks.put(web, lab, "10.7.0.2/24")
    mappings = made(networks)
    loop.run_until_complete(mappings.publish(web))
    [published] = mappings._firewall.published
    target = ipaddress.ip_address("10.7.0.2")
    assert [(each.host_ip, each.host_port, each.target, each.target_port) for each in published] == [
        (None, 8080, target, 80), (ipaddress.ip_address("127.0.0.1"), 81, target, 80)]  # fmt: skip
    assert mappings._firewall.networks == [["inner", "lab"]]
    assert [row.host_port for row in mappings.records(web)] == [8080, 81]
    assert mappings.release(web)
    assert mappings.published() == []
    assert not mappings.release(web)


def test_nothing_is_redirected_where_the_host_s_firewall_decides(
    loop: asyncio.AbstractEventLoop, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, lab = FakeNetworks(), network("lab")
    web = container("a", "web", lab, PortBindings={"80/tcp": [{"HostIp": "", "HostPort": "8080"}]})
    networks.put(web, lab, "10.7.0.2/24")
    mappings = made(networks, obey=True)
    loop.run_until_complete(mappings.publish(web))
    assert mappings.published() == []
    assert len(mappings.records(web)) == 1


def test_exposed_ports_are_published_when_all_are_to_be(loop: asyncio.AbstractEventLoop, made: Any) -> None:
    networks, lab = FakeNetworks(), network("lab")
    config = {"ExposedPorts": {"53/udp": {}, "80": {}}}
    web = container(
        "a",
        "web",
        lab,
        config=config,
        PublishAllPorts=True,
        PortBindings={"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
    )
    networks.put(web, lab, "10.7.0.2/24")
    mappings = made(networks)
    loop.run_until_complete(mappings.publish(web))
    assert {(row.container_port, row.protocol, row.host_port) for row in mappings.records(web)} == {
        (80, "tcp", 8080),
        (53, "udp", 49153),
    }


def test_a_container_on_internal_networks_only_publishes_nothing(loop: asyncio.AbstractEventLoop, made: Any) -> None:
    networks, inner = FakeNetworks(), network("inner", internal=True)
    web = container("a", "web", inner, PortBindings={"80/tcp": None})
    networks.put(web, inner, "10.7.0.2/24")
    mappings = made(networks)
    loop.run_until_complete(mappings.publish(web))
    assert mappings.records(web) == []
    assert default_gateway(networks.of(web.id)) is None


def test_the_highest_priority_leads_out_and_by_name_among_equals() -> None:
    networks, kept = FakeNetworks(), {}
    inner, zoo, bar, low = network("inner", internal=True), network("zoo"), network("bar"), network("low")
    web = container("a", "web", inner, zoo, bar, low)
    for each, priority in ((inner, 9), (zoo, 1), (bar, 1), (low, -1)):
        kept[each.name] = networks.put(web, each, "10.7.0.2/24")
        kept[each.name].priority = priority
    assert default_gateway(networks.of(web.id)) == (bar, kept["bar"])
    kept["zoo"].priority = 2
    assert default_gateway(networks.of(web.id)) == (zoo, kept["zoo"])
    assert "priority" in kept["zoo"].record()
    kept["zoo"].priority = 0
    assert "priority" not in kept["zoo"].record(), "what an older engine can read stays so"


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ({}, {"PortBindings": {"80/icmp": []}}),
        ({}, {"PortBindings": {"0": []}}),
        ({}, {"PortBindings": {"80": [{"HostPort": "9-1"}]}}),
        ({}, {"PortBindings": {"80": [{"HostIp": "nowhere"}]}}),
        ({"ExposedPorts": {"http": {}}}, {}),
        ({}, {"Dns": ["dns.example"]}),
    ],
)
def test_ports_that_make_no_sense_are_refused(config: dict[str, Any], host: dict[str, Any]) -> None:
    wanted = decode.create_request({**config, "HostConfig": host})
    with pytest.raises(BadRequest):
        check_ports(wanted.config, wanted.host_config)


def test_ports_that_make_sense_are_not() -> None:
    bindings = {"80/tcp": [{"HostIp": "::1", "HostPort": "80-90"}], "1/sctp": None}
    wanted = decode.create_request(
        {"ExposedPorts": {"80": {}}, "HostConfig": {"PortBindings": bindings, "Dns": ["::1"]}}
    )
    check_ports(wanted.config, wanted.host_config)
