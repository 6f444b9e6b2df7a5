"""Addresses that are none, or nobody's on that network: 400 at create, with the field's name (T105)."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.client.http import APIError
from tests.conftest import Daemon

BAD: list[tuple[dict[str, Any], str]] = [
    ({"IPAMConfig": {"IPv4Address": "999.1.1.1"}}, "IPv4Address"),
    ({"IPAMConfig": {"IPv4Address": "fd00::1"}}, "IPv4Address"),
    ({"IPAMConfig": {"IPv4Address": "10.77.1.9"}}, "IPv4Address"),
    ({"IPAMConfig": {"IPv4Address": "10.77.0.255"}}, "IPv4Address"),
    ({"IPAMConfig": {"IPv6Address": "zz"}}, "IPv6Address"),
    ({"IPAMConfig": {"IPv6Address": "fe80::1%eth0\n"}}, "IPv6Address"),
    ({"IPAMConfig": {"IPv6Address": "fd00::1"}}, "IPv6Address"),
    ({"IPAMConfig": {"LinkLocalIPs": ["169.254.0.9"]}}, "LinkLocalIPs"),
    (
        {"DriverOpts": {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}},
        "HostConfig.Sysctls",
    ),
    ({"DriverOpts": {"com.docker.network.endpoint.ifname": "up0"}}, "com.docker.network.endpoint.ifname"),
    ({"DriverOpts": {"else": "1"}}, "'else'"),
    ({"MacAddress": "nonsense"}, "MacAddress"),
    ({"MacAddress": "02:42:ac:11:00"}, "MacAddress"),
    ({"MacAddress": "01:42:ac:11:00:02"}, "MacAddress"),
    ({"MacAddress": "00:00:00:00:00:00"}, "MacAddress"),
]
POOLS: list[tuple[dict[str, Any], str]] = [
    ({"Subnet": "10.78.0.1/24"}, "10.78.0.0/24"),
    ({"Subnet": "10.78.0.0/24", "Gateway": "10.79.0.1"}, "gateway"),
    ({"Subnet": "10.78.0.0/24", "IPRange": "10.79.0.0/28"}, "ip-range"),
    ({"Subnet": "10.78.0.0/24", "AuxiliaryAddresses": {"router": "x"}}, "router"),
    ({"Subnet": 'fd78::%"#\n/64'}, "subnet"),
]


def refused(daemon: Daemon, path: str, body: dict[str, Any]) -> str:
    with pytest.raises(APIError) as caught:
        daemon.http.call("POST", path, body)
    assert caught.value.status == 400, caught.value
    return str(caught.value)


def test_addresses_that_cannot_be_are_refused_at_create_and_connect(daemon: Daemon) -> None:
    row = {"Subnet": "10.77.0.0/24"}
    network = daemon.http.call("POST", "/networks/create", {"Name": "addresses", "IPAM": {"Config": [row]}})["Id"]
    try:
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "addresses"}}
        good = {"IPAMConfig": {"IPv4Address": "10.77.0.9"}, "MacAddress": "02-42-AC-11-00-02"}
        endpoints = {"EndpointsConfig": {"addresses": good}}
        kept = daemon.http.call("POST", "/containers/create", body | {"NetworkingConfig": endpoints})["Id"]
        daemon.http.call("POST", f"/networks/{network}/disconnect", {"Container": kept})
        for settings, field in BAD:
            endpoints = {"EndpointsConfig": {"addresses": settings}}
            assert field in refused(daemon, "/containers/create", body | {"NetworkingConfig": endpoints}), settings
            asked = {"Container": kept, "EndpointConfig": settings}
            assert field in refused(daemon, f"/networks/{network}/connect", asked), settings
        assert "MacAddress" in refused(daemon, "/containers/create", body | {"MacAddress": "x"})
        assert daemon.http.call("GET", f"/containers/{kept}/json")["NetworkSettings"]["Networks"] == {}
        daemon.http.call("POST", f"/networks/{network}/connect", {"Container": kept, "EndpointConfig": good})
        daemon.http.call("POST", f"/containers/{kept}/start")
        assert daemon.ok("wait", kept) == "0\n"
        assert len(daemon.http.call("GET", "/containers/json?all=1")) == 1
    finally:
        for found in daemon.http.call("GET", "/containers/json?all=1"):
            daemon.http.call("DELETE", f"/containers/{found['Id']}?force=1")
        daemon.http.call("DELETE", f"/networks/{network}")


def test_pools_that_cannot_be_are_refused(daemon: Daemon) -> None:
    for pool, said in POOLS:
        assert said in refused(daemon, "/networks/create", {"Name": "pools", "IPAM": {"Config": [pool]}}), pool
    assert not any(row["Name"] == "pools" for row in daemon.http.call("GET", "/networks"))
