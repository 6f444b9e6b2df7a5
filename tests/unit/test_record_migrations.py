"""Records as engines of schema 2, and the first ones, have written them (records/schema-2.json, which is never changed)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.engine import model, record_migrations
from sampan.engine.record_migrations import Bad

SAMPLES: dict[str, dict[str, Any]] = {
    row["name"]: row for row in json.loads((Path(__file__).parent / "records/schema-2.json").read_text())
}


def converted(name: str) -> dict[str, Any]:
    """A sample's fields as they are now, each as a record has it: what is of a wrong type would not be read again."""
    found = {key: record_migrations.value(key, value) for key, value in SAMPLES[name].items()}
    kinds = {"config": model.Config, "host_config": model.HostConfig, "state": model.State, "mounts": list[model.Mount],
             "networks": dict[str, model.EndpointSettings], "ports": list[model.PublishedPort], "health": model.Health | None}  # fmt: skip
    for key, kind in kinds.items():
        assert msgspec.json.decode(msgspec.json.encode(found[key]), type=kind) == found[key], key
    return found


def test_a_service() -> None:
    found = converted("web")
    config, host = found["config"], found["host_config"]
    assert config == model.Config(
        image="busybox", cmd=("sleep", "1000"), hostname="web.example", labels={"role": "web"}, stop_signal="TERM", stop_timeout=3,
        env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1", "B"),
        health_check=model.HealthCheck(test=("CMD-SHELL", "true"), interval=200_000_000),
        exposed_ports=("7/tcp", "80/tcp", "90/udp", "91/udp"),
    )  # fmt: skip
    assert host.limits == model.Limits(memory=64 << 20, pids_limit=50, nano_cpus=500_000_000)
    assert host.port_bindings["80/tcp"] == (model.PortBinding("127.0.0.1", "18080"),)
    assert host.restart_policy == model.RestartPolicy("on-failure", 3)
    assert host.log_config == model.LogConfig("json-file", {"max-size": "1m"})
    assert host.mounts == (model.MountRequest(kind="volume", target="/anon", volume=model.VolumeOptions(no_copy=True)),)
    assert host.devices == (model.Device("/dev/null", "/dev/other", "r"),)
    assert host.ulimits == (model.Ulimit("nofile", 100, 200),)
    assert (host.read_only_root, host.additional_groups, host.tmpfs) == (True, ("12",), {"/scratch": "size=1m"})
    assert found["networks"] == {"front": model.EndpointSettings(aliases=("front-web",))}
    data, source, anonymous, scratch = found["mounts"]
    assert (data.kind, data.name, data.driver, data.read_only) == (model.MountType.VOLUME, "data", "local", False)
    assert (source.kind, source.read_only, source.propagation) == (model.MountType.BIND, True, "rprivate")
    assert anonymous.no_copy
    assert (scratch.kind, scratch.mode) == (model.MountType.TMPFS, "size=1m")
    assert found["ports"][0] == model.PublishedPort("tcp", 80, "127.0.0.1", 18080)
    assert found["health"].status is model.HealthStatus.HEALTHY
    assert all(probe.finished_at >= probe.started_at > 10**18 for probe in found["health"].log)
    state = found["state"]
    assert (state.status, state.paused, state.finished_at) == (model.Status.PAUSED, True, 0)
    assert state.pid > 1
    assert state.started_at % 10**9  # to the nanosecond


def test_others() -> None:
    linked, ended, odd = converted("linked"), converted("ended"), converted("odd")
    assert linked["config"].entrypoint == ("sh",)
    assert (linked["config"].tty, linked["host_config"].privileged, linked["host_config"].auto_remove) == (
        True,
        True,
        True,
    )
    assert linked["host_config"].links[0].endswith(":db")
    assert (ended["state"].status, ended["state"].exit_code) == (model.Status.EXITED, 3)
    assert ended["state"].finished_at > ended["state"].started_at > 0
    assert (odd["host_config"].masked_paths, odd["host_config"].read_only_paths) == ((), None)
    assert odd["host_config"].console_size == (24, 80)
    assert odd["host_config"].mounts[0].tmpfs == model.TmpfsOptions(size=4096, mode=0o700)
    assert odd["config"].volumes == ("/v",)


def test_a_system_vm() -> None:
    found = converted("srv")
    assert found["config"].system_vm == model.SystemVm(
        cpus=2, memory=1 << 30, user="bob", ssh_keys=("ssh-ed25519 AAAA x",)
    )
    assert found["host_config"].isolation == model.Isolation.MACHINE


def test_a_record_of_the_first_engines() -> None:
    host = converted("first")["host_config"]
    assert host.additional_groups == ("12", "audio")
    assert host.port_bindings == {"80/tcp": (), "81/tcp": (model.PortBinding("", "8081"),)}
    assert (host.restart_policy, host.log_config) == (model.RestartPolicy(), model.LogConfig("json-file"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", []), ("config", {"Env": "A=1"}), ("config", {"Labels": {"a": None}}), ("config", {"Healthcheck": {"Test": [1]}}),
        ("host_config", {"Ulimits": [{"Name": "nofile", "Soft": "many", "Hard": 1}]}), ("host_config", {"Isolation": "moon"}),
        ("host_config", {"PortBindings": {"80/tcp": [{"HostPort": []}]}}),
        ("state", {**SAMPLES["web"]["state"], "Running": False}), ("state", {**SAMPLES["web"]["state"], "StartedAt": "soon"}),
        ("state", {**SAMPLES["web"]["state"], "StartedAt": "2026-13-45T99:00:00Z"}), ("state", {**SAMPLES["web"]["state"], "Pid": 1 << 40}),
        ("mounts", [{"Type": "bind"}]), ("mounts", [{**SAMPLES["web"]["mounts"][0], "Type": "magic"}]),
        ("networks", {"bridge": {"Aliases": "x"}}), ("ports", [{**SAMPLES["web"]["ports"][0], "host_port": 70000}]),
        ("health", {"Status": "fine", "FailingStreak": 0, "Log": []}),
    ],
)  # fmt: skip
def test_what_no_engine_has_written(name: str, value: Any) -> None:
    with pytest.raises(Bad):
        record_migrations.value(name, value)
