"""`-p` in all of Docker's forms, and `--network` with options."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.cli import ports
from sampan.cli.flags import UsageError, Values, parse
from sampan.cli.table import running


def row(port: str, address: str = "") -> list[dict[str, str]]:
    return [{"HostIp": address, "HostPort": port}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", {"80/tcp": row("")}),
        ("8080:80", {"80/tcp": row("8080")}),
        ("127.0.0.1:8080:80", {"80/tcp": row("8080", "127.0.0.1")}),
        ("127.0.0.1::80/udp", {"80/udp": row("", "127.0.0.1")}),
        ("[::1]:8080:80", {"80/tcp": row("8080", "::1")}),
        ("7000-7001:80-81", {"80/tcp": row("7000"), "81/tcp": row("7001")}),
        ("7000-7005:80", {"80/tcp": row("7000-7005")}),
        ("80-81", {"80/tcp": row(""), "81/tcp": row("")}),
        ("53:53/UDP", {"53/udp": row("53")}),
        ("0:80", {"80/tcp": row("")}),
        ("9:9/sctp", {"9/sctp": row("9")}),
        ("target=80,published=8080,protocol=udp", {"80/udp": row("8080")}),
        ("target=80,published=8080,host_ip=10.0.0.1", {"80/tcp": row("8080", "10.0.0.1")}),
    ],
)
def test_publish(text: str, expected: dict[str, Any]) -> None:
    assert ports.bindings([text]) == expected


def test_one_port_twice() -> None:
    assert ports.bindings(["80:80", "81:80"]) == {"80/tcp": [*row("80"), *row("81")]}


@pytest.mark.parametrize(
    "text", ["", "x", "80:0", "80:65536", "80:80/icmp", "1-3:1-2", "3-1:80", "published=80", "target=80,odd=1", "a:b:c"]
)
def test_bad_publish(text: str) -> None:
    with pytest.raises(UsageError):
        ports.bindings([text])


def options(*args: str) -> Values:
    return parse(running.RUN, list(args))[0]


def test_networks() -> None:
    assert ports.networks(options()) == ("default", None)
    assert ports.networks(options("--network", "host")) == ("host", None)
    mode, endpoints = ports.networks(
        options("--net", "a", "--ip", "10.0.0.2", "--net-alias", "x", "--mac-address", "02:00:00:00:00:01")
    )
    assert mode == "a"
    assert endpoints == {
        "a": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "Aliases": ["x"], "MacAddress": "02:00:00:00:00:01"}
    }
    mode, endpoints = ports.networks(
        options("--network", "name=a,ip=10.0.0.2,alias=x,alias=y,driver-opt=k=v", "--network", "b")
    )
    assert mode == "a"
    assert endpoints == {
        "a": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "Aliases": ["x", "y"], "DriverOpts": {"k": "v"}},
        "b": {},
    }
    for bad in ("alias=x", "name=a,odd=1"):
        with pytest.raises(UsageError):
            ports.networks(options("--network", bad))


def test_expose() -> None:
    assert ports.expand("80-82/udp") == ["80/udp", "81/udp", "82/udp"]
    assert ports.expand("80") == ["80/tcp"]
