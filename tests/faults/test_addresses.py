"""Addresses that are none: one client's container must not keep the others from starting (G)."""

from __future__ import annotations

import pytest

from sampan.client.http import APIError
from tests.conftest import Daemon


@pytest.mark.parametrize(
    "wanted",
    [
        {"IPv4Address": "999.1.1.1"},
        {"IPv4Address": "fd00::1"},
        {"IPv6Address": "zz"},
        {"IPv6Address": "fe80::1%eth0\n"},
    ],
)
def test_an_address_that_is_none_is_its_own_containers_trouble_only(daemon: Daemon, wanted: dict[str, str]) -> None:
    network = daemon.http.call("POST", "/networks/create", {"Name": "addresses"})["Id"]
    try:
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "addresses"}}
        endpoints = {"EndpointsConfig": {"addresses": {"IPAMConfig": wanted}}}
        bad = daemon.http.call("POST", "/containers/create", body | {"NetworkingConfig": endpoints})["Id"]
        with pytest.raises(APIError) as caught:
            daemon.http.call("POST", f"/containers/{bad}/start")
        assert caught.value.status == 400
        daemon.ok("run", "--rm", "--network", "addresses", "busybox", "true")
    finally:
        for row in daemon.http.call("GET", "/containers/json?all=1"):
            daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1")
        daemon.http.call("DELETE", f"/networks/{network}")
