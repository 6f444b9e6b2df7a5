"""The rules of our nftables tables, as values."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from sampan.linux import nfrules as nf
from sampan.linux.nftables import Batch
from sampan.network import portfilter, routed
from sampan.network.ipam import Pool
from sampan.network.model import Endpoint, Network
from sampan.network.routed import Published, merge

PORTS = routed.Ports("sv0")
TWO, THREE = ip_address("10.0.0.2"), ip_address("10.0.0.3")


def network(name: str, subnet: str, **options: object) -> Network:
    found = Network(name * 12, name, "bridge", 0, **options)  # type: ignore[arg-type]
    found.ipam = [Pool(subnet=subnet, gateway=subnet.replace("0/24", "1"))]
    return found


def test_only_our_table_is_touched() -> None:
    batch = Batch()
    routed.build(batch, "sampan-x", 0, [network("a", "10.0.0.0/24")], [Published("tcp", None, 80, TWO, 8080)], PORTS)
    portfilter.build(batch, "sampan-x", 0, "sv0", [], {})
    for _, _, payload in batch.messages:
        assert payload[4:].startswith(b"\x0d\x00\x01\x00sampan-x\x00")


def test_the_order_does_not_depend_on_the_input() -> None:
    networks = [network(name, f"10.{index}.0.0/24") for index, name in enumerate("abc")]
    published = [
        Published(kind, ip, 80, TWO, 1)
        for kind in ("tcp", "udp")
        for ip in (None, ip_address("127.0.0.1"), ip_address("10.0.0.9"))
    ]
    found = set()
    for _ in range(20):
        random.shuffle(networks)
        random.shuffle(published)
        batch = Batch()
        routed.build(batch, "sampan-x", 0, networks, published, PORTS)
        found.add(tuple(batch.messages))
    assert len(found) == 1


def test_a_port_of_one_address_comes_before_that_of_all() -> None:
    local = Published("tcp", ip_address("127.0.0.1"), 80, THREE, 1)
    everywhere = Published("tcp", None, 80, TWO, 1)
    assert merge([everywhere, local]) == [local, everywhere]


def test_ranges_become_one_rule() -> None:
    many = [Published("udp", None, port, TWO, port) for port in range(20000, 21000)]
    odd = [Published("udp", None, 30000, TWO, 1), Published("udp", None, 30001, TWO, 30001)]
    assert merge([*odd, *reversed(many)]) == [Published("udp", None, 20000, TWO, 20000, last=20999), *odd]


def test_what_can_be_no_name_or_address_gets_no_further() -> None:
    for name in ("", "x" * 16, "nul\0", "ü" * 8):
        with pytest.raises(ValueError):
            nf.name_key(name)
    for mac in ("", "02:42", "02:42:0a:00:00:02:03"):
        with pytest.raises(ValueError):
            nf.mac_key(mac)


def test_a_port_may_say_what_it_is() -> None:
    net = network("a", "10.0.0.0/24")
    endpoint = Endpoint("e", "c", "n", "eth0", "02:42:0a:00:00:02", "10.0.0.2/24", link="sv0123456701234")
    port = nf.name_key("sv0123456701234")
    assert portfilter.keys_of(net, endpoint) == {
        "senders4": [port + bytes.fromhex("02420a0000020000") + TWO.packed],
        "senders6": [],
    }
    endpoint.ipv6 = "fd00::2/64"
    keys = portfilter.keys_of(net, endpoint)["senders6"]
    assert [str(ip_address(key[24:])) for key in keys] == ["fd00::2", "fe80::42:aff:fe00:2", "::"]
    net.options["sampan.antispoof"] = "false"
    assert portfilter.keys_of(net, endpoint) == {"free": [port]}
