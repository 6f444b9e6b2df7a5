"""What a container finds names with: /etc/hosts, /etc/resolv.conf, and what its name server answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.model import Status
from sampan.engine.network import resolver as module
from sampan.engine.network.resolver import Resolver
from tests.unit.networks_world import FakeNetworks, container, network

BRIDGE, LAB = network("bridge", "172.17.0"), network("lab")


class World:
    """A resolver, the networks and containers it asks, and whose guests it has told of new files."""

    def __init__(self, directory: Path, host_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.networks = FakeNetworks()
        self.networks.add(network("bridge", "172.17.0"))
        self.containers: dict[str, Container] = {}
        self.told: list[str] = []
        known: Any = SimpleNamespace(
            values=self.containers.values, get=self.containers.get, directory=lambda made: str(directory / made.name)
        )
        networks: Any = self.networks
        self.resolver = Resolver(networks, known, lambda made: self.told.append(made.name), behind_slirp=False)
        monkeypatch.setattr(module, "_host_resolv_conf", lambda: host_file)
        self.directory = directory

    def add(self, made: Container, **addresses: str) -> Container:
        """A container with these addresses by network name."""
        self.containers[made.id] = made
        (self.directory / made.name).mkdir()
        for name, address in addresses.items():
            self.networks.put(made, self.networks.find(name), address)
        return made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, "nameserver 192.0.2.1\nsearch corp.example\noptions ndots:2 rotate\n", monkeypatch)


def test_hosts_has_the_container_s_own_addresses_and_what_was_asked_for(world: World) -> None:
    made = container(
        "a",
        "box",
        BRIDGE,
        config={"Domainname": "example"},
        ExtraHosts=["db:10.1.1.1", "up=[fd00::1]", "host:host-gateway"],
    )
    world.add(made, bridge="172.17.0.2/16")
    lines = world.resolver.hosts(made).splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert {"10.1.1.1\tdb", "fd00::1\tup", "172.17.0.1\thost", "172.17.0.2\tbox.example box"} <= set(lines)


@pytest.mark.parametrize("entry", ["db:10.1.1.1\n10.9.9.9 evil", "db:nowhere", "a b:10.1.1.1", ":10.1.1.1"])
def test_a_host_that_is_more_than_one_word_and_an_address_is_refused(world: World, entry: str) -> None:
    with pytest.raises(BadRequest):
        world.resolver.hosts(world.add(container("a", "box", BRIDGE, ExtraHosts=[entry])))


def test_links_are_in_hosts_on_the_default_bridge_and_asked_of_the_server_elsewhere(world: World) -> None:
    world.networks.add(network("lab"))
    db = world.add(container("d", "db", BRIDGE, LAB), bridge="172.17.0.3/16", lab="10.7.0.3/24")
    box = container("a", "box", BRIDGE, LAB, Links=[f"{db.id}:store", f"{'f' * 64}:gone"])
    world.add(box, bridge="172.17.0.2/16", lab="10.7.0.2/24")
    assert f"172.17.0.3\tstore {'d' * 12} db" in world.resolver.hosts(box)
    assert "10.7.0.3" not in world.resolver.hosts(box)
    assert world.resolver._lookup(box.id, "store") == ["10.7.0.3"]
    assert world.resolver._lookup(db.id, "store") is None


def test_the_server_knows_names_ids_and_aliases_of_networks_with_names_only(world: World) -> None:
    world.networks.add(network("lab"), network("other", "10.8.0"))
    box = world.add(container("a", "box", BRIDGE, LAB), bridge="172.17.0.2/16", lab="10.7.0.2/24")
    peer = world.add(container("b", "Peer", BRIDGE, LAB), bridge="172.17.0.3/16")
    world.networks.put(peer, world.networks.find("lab"), "10.7.0.3/24", "www")
    world.add(container("c", "stranger", network("other")), other="10.8.0.2/24")
    for name in ("peer", "b" * 12, "www", "peer.lab"):
        assert world.resolver._lookup(box.id, name) == ["10.7.0.3"], name
    assert world.resolver._lookup(box.id, "stranger") is None
    assert world.resolver._reverse(box.id, "10.7.0.3") == "Peer.lab"
    assert world.resolver._reverse(box.id, "172.17.0.3") is None


def test_resolv_conf_names_the_server_where_there_is_one_and_the_host_s_elsewhere(world: World) -> None:
    world.networks.add(network("lab"))
    box = world.add(container("a", "box", BRIDGE), bridge="172.17.0.2/16")
    assert world.resolver.resolv_conf(box) == "nameserver 192.0.2.1\nsearch corp.example\noptions ndots:2 rotate\n"
    named = world.add(container("b", "named", LAB, DnsSearch=["."]), lab="10.7.0.2/24")
    assert world.resolver.needs_server(named)
    assert (
        world.resolver.resolv_conf(named) == "nameserver 127.0.0.11\noptions rotate ndots:0\n"
    )  # not the host's ndots (P061)
    given = world.add(
        container("c", "given", BRIDGE, Dns=["198.51.100.7"], DnsOptions=["timeout:1"]), bridge="172.17.0.4/16"
    )
    assert "nameserver 198.51.100.7\n" in world.resolver.resolv_conf(given)
    assert "options timeout:1\n" in world.resolver.resolv_conf(given)
    assert world.resolver.resolv_conf(world.add(container("e", "alone"))) == ""


def test_a_host_whose_servers_are_on_its_loopback_gets_a_server_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, "nameserver 127.0.0.53\n", monkeypatch)
    box = world.add(container("a", "box", BRIDGE), bridge="172.17.0.2/16")
    assert world.resolver.forwarders == []
    assert world.resolver.resolv_conf(box).startswith("nameserver 127.0.0.11\n")


@pytest.mark.parametrize("host", [{"DnsSearch": ["a b"]}, {"DnsOptions": ["x\nnameserver 10.0.0.1"]}])
def test_a_word_of_resolv_conf_is_one(world: World, host: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        world.resolver.resolv_conf(world.add(container("a", "box", BRIDGE, **host)))


def test_files_are_written_in_place_and_guests_that_run_are_told(world: World) -> None:
    box = world.add(container("a", "box", BRIDGE, Isolation="vm"), bridge="172.17.0.2/16")
    world.resolver.write_all_files(box)
    hosts = world.directory / "box" / "hosts"
    inode = hosts.stat().st_ino
    assert (world.directory / "box" / "hostname").read_text() == "box\n"
    assert world.told == []  # it does not run: it gets them with its start
    box.state.status = Status.RUNNING
    world.resolver.write_files(box)
    assert world.told == []  # nothing is new
    world.networks.find("bridge").endpoints[box.id].ipv4 = "172.17.0.9/16"
    world.resolver.write_files(box)
    assert world.told == ["box"]
    assert "172.17.0.9\tbox" in hosts.read_text()
    assert hosts.stat().st_ino == inode


def test_those_that_link_to_a_container_and_run_get_its_new_address(world: World) -> None:
    db = world.add(container("d", "db", BRIDGE), bridge="172.17.0.3/16")
    box = world.add(container("a", "box", BRIDGE, Links=[f"{db.id}:store"]), bridge="172.17.0.2/16")
    world.resolver.tell_linked(db)
    assert not (world.directory / "box" / "hosts").exists()
    box.state.status = Status.RUNNING
    world.resolver.tell_linked(db)
    assert "172.17.0.3\tstore" in (world.directory / "box" / "hosts").read_text()
