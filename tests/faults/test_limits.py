"""Limits that no kernel takes: told with the field's name, and nothing is half done (G, T105)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError
from sampan.linux.cgroup import hierarchies
from tests.conftest import Daemon

IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"CpuPeriod": 8454240984}, "CpuPeriod"),
    ({"CpuPeriod": 999}, "CpuPeriod"),
    ({"CpuPeriod": -1}, "CpuPeriod"),
    ({"CpuQuota": 999}, "CpuQuota"),
    ({"CpuQuota": 1 << 44}, "CpuQuota"),
    ({"CpuShares": -5}, "CpuShares"),
    ({"NanoCpus": 1}, "NanoCpus"),
    ({"NanoCpus": 10**15}, "NanoCpus"),
    ({"NanoCpus": 10**9, "CpuPeriod": 100000}, "CPU Period"),
    ({"PidsLimit": 593028141}, "PidsLimit"),
    ({"Memory": 4096}, "Memory"),
    ({"Memory": (1 << 62) + 1}, "Memory"),
    ({"Memory": 64 << 20, "MemorySwap": 32 << 20}, "MemorySwap"),
    ({"Memory": 64 << 20, "MemoryReservation": 128 << 20}, "MemoryReservation"),
    ({"CpusetCpus": "9999"}, "CpusetCpus"),
    ({"CpusetCpus": "0-"}, "CpusetCpus"),
    ({"CpusetCpus": "1-0"}, "CpusetCpus"),
    ({"CpusetCpus": "\u0663"}, "CpusetCpus"),
    ({"CpusetMems": "77"}, "CpusetMems"),
    ({"BlkioWeight": 9}, "BlkioWeight"),
]
AT_CREATE: list[tuple[dict[str, Any], str]] = [
    ({"OomScoreAdj": 1001}, "OomScoreAdj"),
    ({"ShmSize": -1}, "ShmSize"),
    ({"MemorySwap": 1 << 30}, "Memory limit"),
    ({"MemorySwappiness": 101}, "MemorySwappiness"),
    ({"Ulimits": [{"Name": "nosuch", "Soft": 1, "Hard": 1}]}, "nosuch"),
    ({"Ulimits": [{"Name": "nofile", "Soft": -2, "Hard": 1}]}, "nofile"),
    ({"Ulimits": [{"Name": "nofile", "Soft": -1, "Hard": 1}]}, "nofile"),
]
SLEEP = {"Image": "busybox", "Cmd": ["sleep", "600"]}
v1 = pytest.mark.skipif(hierarchies().version != "1", reason="the second version of cgroups takes these values")


def refused(daemon: Daemon, path: str, body: dict[str, Any]) -> str:
    with pytest.raises(APIError) as caught:
        daemon.http.call("POST", path, body)
    assert caught.value.status == 400, caught.value
    assert "Errno" not in str(caught.value)
    return str(caught.value)


def begin(daemon: Daemon, **host: Any) -> str:
    body = SLEEP | {"HostConfig": {"NetworkMode": "none", **host}}
    identifier: str = daemon.http.call("POST", "/containers/create", body)["Id"]
    daemon.http.call("POST", f"/containers/{identifier}/start")
    return identifier


def test_limits_that_cannot_be_are_refused_at_create(daemon: Daemon) -> None:
    for isolation in ("container", "vm"):
        for host, name in IMPOSSIBLE + AT_CREATE:
            asked = SLEEP | {"HostConfig": {"NetworkMode": "none", "Isolation": isolation, **host}}
            assert name in refused(daemon, "/containers/create", asked), host
    assert daemon.http.call("GET", "/containers/json?all=1") == []


def test_an_update_that_is_refused_changes_nothing(daemon: Daemon) -> None:
    identifier = begin(daemon, PidsLimit=77)
    before = daemon.http.call("GET", f"/containers/{identifier}/json")["HostConfig"]
    for host, name in IMPOSSIBLE:
        assert name in refused(daemon, f"/containers/{identifier}/update", {"PidsLimit": 55, **host}), host
    refused(daemon, f"/containers/{identifier}/update", {"PidsLimit": 55, "RestartPolicy": {"Name": "bogus"}})
    assert daemon.http.call("GET", f"/containers/{identifier}/json")["HostConfig"] == before
    if hierarchies().version == "1":
        assert limit(daemon, identifier, "pids", "pids.max") == "77"
    found = daemon.http.call("POST", f"/containers/{identifier}/update", {"CpuShares": 1})
    assert any("CpuShares 1 " in text for text in found["Warnings"])


def limit(daemon: Daemon, identifier: str, controller: str, file: str) -> str:
    path = f"{hierarchies().v1[controller]}/{daemon.containers_group}/{identifier}/{file}"
    return Path(path).read_text().strip()


@v1
def test_what_the_kernel_refuses_is_named_and_what_was_written_before_it_is_put_back(daemon: Daemon) -> None:
    identifier = begin(daemon, CpuShares=512)
    parent = Path(f"{hierarchies().v1['cpu']}/{daemon.containers_group}/cpu.cfs_quota_us")
    parent.write_text("50000")  # half a CPU for all: no child may have more
    try:
        wanted = {"CpuShares": 256, "CpuPeriod": 50000, "CpuQuota": 100000}
        text = refused(daemon, f"/containers/{identifier}/update", wanted)
        assert "cpu quota 100000" in text
        assert "cpu.cfs_quota_us" in text
        files = ("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us")
        assert [limit(daemon, identifier, "cpu", file) for file in files] == ["512", "100000", "-1"]
        host = daemon.http.call("GET", f"/containers/{identifier}/json")["HostConfig"]
        assert [host.get(key) or 0 for key in wanted] == [512, 0, 0]
        with pytest.raises(APIError) as caught:
            begin(daemon, CpuQuota=100000)
        assert caught.value.status == 400
        assert "cpu quota 100000" in str(caught.value)
    finally:
        parent.write_text("-1")
    daemon.http.call("POST", f"/containers/{identifier}/update", wanted)
    assert limit(daemon, identifier, "cpu", "cpu.cfs_quota_us") == "100000"


@v1
def test_memory_that_is_in_use_cannot_be_taken_away(daemon: Daemon) -> None:
    identifier = begin(daemon, Memory=64 << 20, ShmSize=48 << 20)
    daemon.ok("exec", identifier, "dd", "if=/dev/zero", "of=/dev/shm/full", "bs=1M", "count=32")
    assert "memory 8388608" in refused(daemon, f"/containers/{identifier}/update", {"Memory": 8 << 20})
    assert limit(daemon, identifier, "memory", "memory.limit_in_bytes") == str(64 << 20)


@v1
def test_what_the_hosts_kernel_refuses_of_a_machine_its_guest_does_not_get(daemon: Daemon) -> None:
    identifier = begin(daemon, CpuShares=512, Isolation="vm")
    parent = Path(f"{hierarchies().v1['cpu']}/{daemon.containers_group}/cpu.cfs_quota_us")
    before = daemon.ok("exec", identifier, "cat", "/sys/fs/cgroup/cpu.weight")
    parent.write_text("50000")
    try:
        wanted = {"CpuShares": 256, "CpuPeriod": 50000, "CpuQuota": 100000}
        assert "cpu quota 100000" in refused(daemon, f"/containers/{identifier}/update", wanted)
        assert daemon.ok("exec", identifier, "cat", "/sys/fs/cgroup/cpu.weight") == before
    finally:
        parent.write_text("-1")
    daemon.http.call("POST", f"/containers/{identifier}/update", wanted)
    assert daemon.ok("exec", identifier, "cat", "/sys/fs/cgroup/cpu.weight") != before


def test_what_is_there_already_is_a_conflict(daemon: Daemon) -> None:
    identifier = begin(daemon, NanoCpus=10**9, Memory=32 << 20, MemorySwap=64 << 20)
    for wanted in ({"CpuQuota": 50000}, {"CpuPeriod": 50000}, {"Memory": 128 << 20}):
        with pytest.raises(APIError) as caught:
            daemon.http.call("POST", f"/containers/{identifier}/update", wanted)
        assert caught.value.status == 409
    daemon.http.call("POST", f"/containers/{identifier}/update", {"Memory": 128 << 20, "MemorySwap": 256 << 20})


def test_limits_of_builds_and_machines(daemon: Daemon) -> None:
    with pytest.raises(APIError) as caught:
        daemon.http.call("POST", "/build?cpuperiod=999&remote=/nosuch")
    assert (caught.value.status, "CpuPeriod" in str(caught.value)) == (400, True)
    for wanted in ({"Cpus": -1}, {"Cpus": 256}, {"Memory": 1}, {"DiskSize": -1}):
        assert next(iter(wanted)) in refused(daemon, "/sampan/vm/create", {"Image": "busybox", **wanted})
