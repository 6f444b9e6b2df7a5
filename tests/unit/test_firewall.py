"""The text of our nftables table."""

from __future__ import annotations

import random

from sampan.network.firewall import Published, merge, ruleset
from sampan.network.model import Network


def network(name: str, subnet: str, **options: object) -> Network:
    found = Network(name * 12, name, "bridge", 0, **options)  # type: ignore[arg-type]
    found.ipam = [{"Subnet": subnet, "Gateway": "10.0.0.1"}]
    return found


def test_only_our_table_is_touched() -> None:
    text = ruleset("inet sampan-x", [network("a", "10.0.0.0/24")], [Published("tcp", "", 80, "10.0.0.2", 8080)])
    commands = [line for line in text.splitlines() if not line.startswith(" ")]
    assert commands == ["add table inet sampan-x", "delete table inet sampan-x", "table inet sampan-x {", "}"]
    assert "flush ruleset" not in text


def test_the_order_does_not_depend_on_the_input() -> None:
    networks = [network(name, f"10.{index}.0.0/24") for index, name in enumerate("abc")]
    published = [
        Published(kind, ip, 80, "10.0.0.2", 1) for kind in ("tcp", "udp") for ip in ("", "127.0.0.1", "10.0.0.9")
    ]
    texts = set()
    for _ in range(20):
        random.shuffle(networks)
        random.shuffle(published)
        texts.add(ruleset("inet sampan-x", networks, published))
    assert len(texts) == 1


def test_a_port_of_one_address_comes_before_that_of_all() -> None:
    lines = ruleset(
        "inet sampan-x", [], [Published("tcp", "", 80, "10.0.0.2", 1), Published("tcp", "127.0.0.1", 80, "10.0.0.3", 1)]
    ).splitlines()
    rules = [line for line in lines if "dnat" in line]
    assert "127.0.0.1" in rules[0]
    assert "meta nfproto ipv4" in rules[1]


def test_ranges_become_one_rule() -> None:
    many = [Published("udp", "", port, "10.0.0.2", port) for port in range(20000, 21000)]
    odd = [Published("udp", "", 30000, "10.0.0.2", 1), Published("udp", "", 30001, "10.0.0.2", 30001)]
    rules = [item.rule() for item in merge([*odd, *reversed(many)])]
    assert rules == [
        "meta nfproto ipv4 udp dport 20000-20999 dnat ip to 10.0.0.2",
        "meta nfproto ipv4 udp dport 30000 dnat ip to 10.0.0.2:1",
        "meta nfproto ipv4 udp dport 30001 dnat ip to 10.0.0.2:30001",
    ]


def test_internal_networks_get_no_masquerade() -> None:
    text = ruleset("inet sampan-x", [network("a", "10.0.0.0/24", internal=True)], [])
    assert 'oifname != "br-aaaaaaaaaaaa"' not in text
    assert 'iifname { "br-aaaaaaaaaaaa" } drop' in text


def test_ipv6_spares_loopback() -> None:
    rule = Published("udp", "", 53, "fd00::2", 53).rule()
    assert rule == "ip6 daddr != ::1 udp dport 53 dnat ip6 to [fd00::2]:53"
