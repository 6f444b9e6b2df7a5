"""What users say of networks becomes rules by value only (T65): what is no name or address is 400, and whatever is taken makes
exactly the rules that are meant, as nft(8) reads them back."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.client.http import APIError
from sampan.network.errors import NetworkError
from sampan.network.settings import interface
from tests.conftest import Daemon

EVIL = [
    'x"',
    "x#",
    "x;y",
    "x\ny",
    "x y",
    "x{",
    "x}",
    "../x",
    "x/y",
    "",
    "é",
    "x" * 16,
    "all",
    "default",
    "lo",
    ".",
    "..",
    "-x",
    "$x",
    "x\0",
    "@x",
    "*",
]


@pytest.mark.parametrize("name", [name for name in EVIL if name])
@pytest.mark.parametrize("option", ["com.docker.network.bridge.name", "parent"])
def test_interfaces(daemon: Daemon, name: str, option: str) -> None:
    body = {"Name": "evil", "Driver": "macvlan" if option == "parent" else "bridge", "Options": {option: name}}
    with pytest.raises(APIError, match=option.replace(".", r"\.")) as refused:
        daemon.http.call("POST", "/networks/create", body)
    assert refused.value.status == 400


@pytest.mark.parametrize("row", [
    {"Subnet": "fd00::%a\n/64"}, {"Subnet": "fd00::%eth0/64"}, {"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1%x"},
    {"Subnet": "fd00::/64", "Gateway": 'fd00::1%"'}, {"Subnet": "fd00::/64", "IPRange": "fd00::%1/80"},
    {"Subnet": "fd00::/64", "AuxiliaryAddresses": {"a": "fd00::2%a"}}, {"Subnet": "10.9.0.0/24; drop"}, {"Subnet": "10.9.0.0/24\n"},
])  # fmt: skip
def test_subnets(daemon: Daemon, row: dict[str, Any]) -> None:
    with pytest.raises(APIError) as refused:
        daemon.http.call("POST", "/networks/create", {"Name": "evil", "IPAM": {"Config": [row]}})
    assert refused.value.status == 400


@pytest.mark.parametrize("host", [
    {"ExtraHosts": ["a\nb:10.0.0.1"]}, {"ExtraHosts": ["a:10.0.0.1\n10.0.0.2 b"]}, {"ExtraHosts": ["a b:10.0.0.1"]}, {"ExtraHosts": ["a:fe80::1%x"]},
    {"ExtraHosts": ["a\tb:10.0.0.1"]}, {"ExtraHosts": [":10.0.0.1"]}, {"ExtraHosts": ["a:nowhere"]}, {"ExtraHosts": ["a\u2028b:10.0.0.1"]},
    {"Dns": ["10.0.0.1\nnameserver 10.0.0.2"]}, {"Dns": ["fe80::1%a\nsearch x"]}, {"DnsSearch": ["a\nnameserver 10.0.0.1"]},
    {"DnsSearch": ["a b"]}, {"DnsOptions": ["ndots:1\nnameserver 10.0.0.1"]}, {"DnsOptions": [""]},
    {"PortBindings": {"80/tcp": [{"HostIp": "::1%lo", "HostPort": "8080"}]}}, {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "٣٣"}]}},
    {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1 drop", "HostPort": "8080"}]}}, {"PortBindings": {"٣/tcp": []}},
])  # fmt: skip
def test_lines_and_ports(daemon: Daemon, host: dict[str, Any]) -> None:
    with pytest.raises(APIError) as refused:
        daemon.http.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
    assert refused.value.status == 400


@pytest.mark.parametrize("key", ["Hostname", "Domainname"])
def test_names_of_hosts(daemon: Daemon, key: str) -> None:
    for text in ("a\n10.0.0.1 b", "a b", "a\tb", "a#b"):
        with pytest.raises(APIError) as refused:
            daemon.http.call("POST", "/containers/create", {"Image": "busybox", key: text})
        assert refused.value.status == 400
    assert daemon.http.call("GET", "/containers/json?all=1") == []


@pytest.mark.parametrize(
    ("option", "value"), [("enable_icc", "no"), ("enable_icc", 'false"'), ("enable_ip_masquerade", "2")]
)
def test_switches(daemon: Daemon, option: str, value: str) -> None:
    with pytest.raises(APIError) as refused:
        daemon.http.call(
            "POST", "/networks/create", {"Name": "evil", "Options": {f"com.docker.network.bridge.{option}": value}}
        )
    assert refused.value.status == 400


def test_nobody_has_the_macs_of_others(daemon: Daemon) -> None:
    daemon.ok("network", "create", "--subnet", "10.91.0.0/24", "macs")
    try:
        daemon.ok("run", "-d", "--network", "macs", "busybox", "sleep", "100")
        for mac in ("02:42:0a:5b:00:01", "02:42:0a:5b:00:02"):  # the gateway's, the container's
            done = daemon.sampan("run", "--network", "macs", "--mac-address", mac, "busybox", "true")
            assert done.returncode == 125
            assert b"already in use" in done.stderr
    finally:
        for row in daemon.http.call("GET", "/containers/json?all=1"):
            daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1")
        daemon.ok("network", "rm", "macs")


# Applies networks and ports in the namespace it runs in, and says what nft(8) makes of it.
APPLY = """
import ipaddress, json, subprocess, sys
from sampan.linux import nftables
from sampan.network.firewall import Firewall
from sampan.network.ipam import Pool
from sampan.network.model import Network
from sampan.network.routed import Published
firewall = Firewall("sampan-x", "sv0")
for line in sys.stdin:
    rows, ports = json.loads(line)
    networks = [Network("%032x" % n, f"n{n}", "bridge", 0, ipam=[Pool(**pool)], internal=internal, options=options)
                for n, (pool, internal, options) in enumerate(rows)]
    published = [Published(p, ipaddress.ip_address(h) if h else None, a, ipaddress.ip_address(t), b) for p, h, a, t, b in ports]
    firewall.apply(networks, published)
    out = subprocess.run(["nft", "-j", "list", "table", "inet", "sampan-x"], capture_output=True, text=True, check=True)
    print(json.dumps(json.loads(out.stdout)), flush=True)
"""

names = st.text(alphabet="abcdefgXYZ0189_.-", min_size=1, max_size=15).filter(lambda text: _accepted(text))
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
subnets = st.one_of(
    st.builds(
        lambda n, p: ipaddress.ip_network((n, p), strict=False), st.integers(0x0B000000, 0xDF000000), st.integers(8, 30)
    ),
    st.builds(
        lambda n, p: ipaddress.ip_network((n, p), strict=False),
        st.integers(0xFD << 120, (0xFE << 120) - 1),
        st.integers(16, 126),
    ),
)
ports = st.integers(1, 65535)


def _accepted(text: str) -> bool:
    try:
        return bool(interface(text, "name"))
    except NetworkError:
        return False


@pytest.fixture(scope="module")
def applied() -> Any:
    process = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", APPLY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def apply(rows: Any, published: Any) -> Any:
        process.stdin.write(json.dumps([rows, published]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())["nftables"]

    yield apply
    process.stdin.close()
    assert process.wait(20) == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(names, st.tuples(subnets, st.booleans(), st.booleans()), min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from(["tcp", "udp", "sctp"]), st.one_of(st.just(""), st.ip_addresses(v=4).map(str)), ports,
                       st.ip_addresses(v=4).map(str), ports), max_size=4, unique_by=lambda row: row[:3]),
)  # fmt: skip
def test_what_is_taken_makes_the_rules_that_are_meant(applied: Any, networks: Any, published: Any) -> None:
    rows = []
    for name, (subnet, internal, closed) in networks.items():
        pool = {"subnet": str(subnet), "gateway": str(subnet.network_address + 1)}
        rows.append(
            [
                pool,
                internal,
                {"com.docker.network.bridge.name": name, "com.docker.network.bridge.enable_icc": str(not closed)},
            ]
        )
    found = applied(rows, published)
    sets = {row["set"]["name"]: row["set"].get("elem", []) for row in found if "set" in row}
    assert sorted(sets["networks"]) == sorted(networks)
    assert sorted(sets["inside"]) == sorted(name for name, (_, internal, _) in networks.items() if internal)
    assert sorted(row["concat"] for row in sets["open"]) == sorted(
        [n, n] for n, (_, _, closed) in networks.items() if not closed
    )
    rules = [row["rule"] for row in found if "rule" in row]
    outward = [rule for rule in rules if rule["chain"] == "postrouting" and rule["expr"][0]["match"]["op"] == "!="]
    meant = sorted((name, subnet) for name, (subnet, internal, _) in networks.items() if not internal)
    assert [rule["expr"][0]["match"]["right"] for rule in outward] == [name for name, _ in meant]
    for rule, (_, subnet) in zip(outward, meant, strict=True):
        prefix = rule["expr"][1]["match"]["right"]["prefix"]
        assert (prefix["addr"], prefix["len"]) == (str(subnet.network_address), subnet.prefixlen)
    said = []
    for rule in rules:
        if rule["chain"] == "ports":
            fields = {json.dumps(e["match"]["left"]): e["match"]["right"] for e in rule["expr"] if "match" in e}
            (dnat,) = [e["dnat"] for e in rule["expr"] if "dnat" in e]
            where = next((value for key, value in fields.items() if '"daddr"' in key), "")
            (port,) = [value for key, value in fields.items() if '"dport"' in key]
            (protocol,) = {p for key in fields for p in ("tcp", "udp", "sctp") if f'"{p}"' in key}
            low, high = port["range"] if isinstance(port, dict) else (port, port)
            said += [(protocol, where, n, dnat["addr"], dnat.get("port", n)) for n in range(low, high + 1)]
    assert sorted(said) == sorted(published)
    kinds = {
        chain: len([r for r in rules if r["chain"] == chain])
        for chain in ("raw", "input", "between", "forward", "inside")
    }
    assert kinds == {"raw": 5, "input": 5, "between": 6, "forward": 6, "inside": 3}
