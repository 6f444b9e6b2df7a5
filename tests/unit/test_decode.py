"""Docker's API in, the model, and out again: its documented examples, wrong types by name, and anything that there can be."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.api import decode, encode, fields
from sampan.api.record import Record
from sampan.engine import model
from sampan.engine.errors import BadRequest

# The example of POST /containers/create in Docker's API reference (api/swagger.yaml of moby), but for what there is not.
EXAMPLE: dict[str, Any] = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": True, "AttachStderr": True, "Tty": False,
    "OpenStdin": False, "StdinOnce": False, "Env": ["FOO=bar", "BAZ=quux"], "Cmd": ["date"], "Entrypoint": "", "Image": "ubuntu",
    "Labels": {"com.example.vendor": "Acme", "com.example.license": "GPL", "com.example.version": "1.0"},
    "Volumes": {"/volumes/data": {}}, "WorkingDir": "", "NetworkDisabled": False, "MacAddress": "12:34:56:78:9a:bc",
    "ExposedPorts": {"22/tcp": {}}, "StopSignal": "SIGTERM", "StopTimeout": 10,
    "HostConfig": {
        "Binds": ["/tmp:/tmp"], "Links": ["redis3:redis"], "Memory": 0, "MemorySwap": 0, "MemoryReservation": 0, "NanoCpus": 500000,
        "CpuShares": 512, "CpuPeriod": 100000, "CpuQuota": 50000, "CpusetCpus": "0,1", "CpusetMems": "0,1",
        "BlkioWeight": 300, "BlkioWeightDevice": [{}], "BlkioDeviceReadBps": [{}], "BlkioDeviceReadIOps": [{}],
        "BlkioDeviceWriteBps": [{}], "BlkioDeviceWriteIOps": [{}], "DeviceRequests": [
            {"Driver": "nvidia", "Count": -1, "DeviceIDs": ["0", "1", "GPU-fef8089b-4820-abfc-e83e-94318197576e"],
             "Capabilities": [["gpu", "nvidia", "compute"]], "Options": {"property1": "string"}}],
        "OomKillDisable": False, "OomScoreAdj": 500, "PidMode": "", "PidsLimit": 0,
        "PortBindings": {"22/tcp": [{"HostPort": "11022"}]}, "PublishAllPorts": False, "Privileged": False, "ReadonlyRootfs": False,
        "Dns": ["8.8.8.8"], "DnsOptions": [""], "DnsSearch": [""], "VolumesFrom": ["parent", "other:ro"], "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["MKNOD"], "GroupAdd": ["newgroup"], "RestartPolicy": {"Name": "", "MaximumRetryCount": 0}, "AutoRemove": True,
        "NetworkMode": "bridge", "Devices": [], "Ulimits": [{}], "LogConfig": {"Type": "json-file", "Config": {}}, "SecurityOpt": [],
        "StorageOpt": {}, "CgroupParent": "", "VolumeDriver": "", "ShmSize": 67108864,
    },
    "NetworkingConfig": {"EndpointsConfig": {
        "isolated_nw": {"IPAMConfig": {"IPv4Address": "172.20.30.33", "IPv6Address": "2001:db8:abcd::3033",
                                       "LinkLocalIPs": ["169.254.34.68", "fe80::3468"]},
                        "Links": ["container_1", "container_2"], "Aliases": ["server_x", "server_y"]},
        "database_nw": {}}},
}  # fmt: skip


def test_the_documented_example() -> None:
    found = decode.create_request(EXAMPLE)
    config, host = found.config, found.host_config
    assert (config.image, config.cmd, config.entrypoint) == ("ubuntu", ("date",), ("",))
    assert config.env == ("FOO=bar", "BAZ=quux")
    assert config.labels["com.example.vendor"] == "Acme"
    assert (config.volumes, config.exposed_ports) == (("/volumes/data",), ("22/tcp",))
    assert (config.stop_signal, config.stop_timeout, config.mac_address) == ("SIGTERM", 10, "12:34:56:78:9a:bc")
    assert host.limits == model.Limits(
        nano_cpus=500000, cpu_shares=512, cpu_period=100000, cpu_quota=50000, cpuset_cpus="0,1", cpuset_mems="0,1", blkio_weight=300
    )  # fmt: skip
    assert host.port_bindings == {"22/tcp": (model.PortBinding("", "11022"),)}
    assert host.device_requests[0].capabilities == (("gpu", "nvidia", "compute"),)
    assert host.ulimits == (model.Ulimit(),)
    assert (host.volumes_from, host.auto_remove, host.shm_size) == (("parent", "other:ro"), True, 64 << 20)
    assert found.endpoints["database_nw"] == model.EndpointSettings()
    isolated = found.endpoints["isolated_nw"]
    assert isolated.addresses == model.Addresses(
        ipv4="172.20.30.33", ipv6="2001:db8:abcd::3033", link_local=("169.254.34.68", "fe80::3468")
    )
    assert isolated.aliases == ("server_x", "server_y")


def _without_nothing(value: Any) -> Any:
    """What is said of an object: nothing is said by null, "", 0, false and what is empty."""
    if isinstance(value, dict):
        found = {key: _without_nothing(item) for key, item in value.items()}
        return {key: item for key, item in found.items() if item not in (None, "", 0, [], {}, [{}], [0, 0])}
    return [_without_nothing(item) for item in value] if isinstance(value, list) else value


def test_the_documented_example_out_again() -> None:
    found = decode.create_request(EXAMPLE)
    config = {key: value for key, value in EXAMPLE.items() if key not in ("HostConfig", "NetworkingConfig")}
    shown = json.loads(json.dumps(encode.config(found.config)))
    for key in set(config) - {"NetworkDisabled", "Entrypoint"}:
        assert shown[key] == config[key], key
    assert _without_nothing(json.loads(json.dumps(encode.host_config(found.host_config)))) == _without_nothing(
        EXAMPLE["HostConfig"]
    )


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ({"CpuPercent": 80}, "HostConfig.CpuPercent"),
        ({"CpuCount": 1}, "HostConfig.CpuCount"),
        ({"MaximumIOps": 0, "IOMaximumIOps": 1}, "HostConfig.IOMaximumIOps"),
        ({"IOMaximumBandwidth": 1}, "HostConfig.IOMaximumBandwidth"),
        ({"KernelMemory": 1 << 20}, "HostConfig.KernelMemory"),
        ({"kernelmemorytcp": 1 << 20}, "HostConfig.KernelMemoryTCP"),
        ({"VolumeDriver": "flocker"}, "HostConfig.VolumeDriver"),
        ({"Cgroup": "x"}, "HostConfig.Cgroup"),
        ({"Mounts": [{"TmpfsOptions": {"Options": [["noexec"]]}}]}, "HostConfig.Mounts[0].TmpfsOptions.Options"),
        ({"Mounts": [{"BindOptions": {"ReadOnlyNonRecursive": True}}]}, "HostConfig.Mounts[0].BindOptions.ReadOnlyNonRecursive"),
        ({"Mounts": [{"VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}]}, "HostConfig.Mounts[0].VolumeOptions.DriverConfig.Name"),
    ],
)  # fmt: skip
def test_what_there_is_not(host: dict[str, Any], name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode.create_request({"HostConfig": host})
    assert str(caught.value) == f"{name} is not implemented"


def test_networks_can_t_be_disabled_but_by_their_mode() -> None:
    with pytest.raises(BadRequest, match="NetworkDisabled is not implemented"):
        decode.create_request({"NetworkDisabled": True})


@pytest.mark.parametrize(
    "host",
    [{"MemorySwappiness": -1}, {"VolumeDriver": "local"}, {"BlkioDeviceReadBps": []}, {"BlkioWeightDevice": None}, {"KernelMemory": 0},
     {"Mounts": [{"VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}}}}]},
     {"Mounts": [{"TmpfsOptions": {"Options": []}}]}],
)  # fmt: skip
def test_what_clients_say_without_wanting_anything(host: dict[str, Any]) -> None:
    decode.create_request({"HostConfig": host})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "invalid JSON: the body must be an object, not a list"),
        ({"HostConfig": {"Memory": "1g"}}, "invalid JSON: HostConfig.Memory must be a whole number, not a string"),
        ({"HostConfig": {"memory": 1.5}}, "invalid JSON: HostConfig.Memory must be a whole number, not a number"),
        ({"HostConfig": {"NanoCpus": 1 << 64}}, "invalid JSON: HostConfig.NanoCpus is out of the range of 64 bits"),
        ({"HostConfig": {"Binds": "/a:/b"}}, "invalid JSON: HostConfig.Binds must be a list, not a string"),
        ({"HostConfig": {"Mounts": [{"ReadOnly": 1}]}}, "invalid JSON: HostConfig.Mounts[0].ReadOnly must be a boolean, not a number"),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": 80}]}}},
         "invalid JSON: HostConfig.PortBindings.80/tcp[0].HostPort must be a string, not a number"),
        ({"HostConfig": {"ConsoleSize": [1]}}, "invalid JSON: HostConfig.ConsoleSize must have 2 members, not 1"),
        ({"HostConfig": {"LogConfig": {"Config": {"max-size": 1}}}},
         "invalid JSON: HostConfig.LogConfig.Config.max-size must be a string, not a number"),
        ({"Env": {"A": "1"}}, "invalid JSON: Env must be a list, not an object"),
        ({"Cmd": [1]}, "invalid JSON: Cmd[0] must be a string, not a number"),
        ({"Healthcheck": {"Interval": "1s"}}, "invalid JSON: Healthcheck.Interval must be a whole number, not a string"),
        ({"ExposedPorts": ["80"]}, "invalid JSON: ExposedPorts must be an object, not a list"),
        ({"NetworkingConfig": {"EndpointsConfig": {"n": {"IPAMConfig": {"IPv4Address": 1}}}}},
         "invalid JSON: NetworkingConfig.EndpointsConfig.n.IPAMConfig.IPv4Address must be a string, not a number"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named(body: Any, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode.create_request(body)
    assert str(caught.value) == message


def test_null_is_not_given_and_case_says_nothing() -> None:
    found = decode.create_request(
        {"image": "a", "Image": "b", "CMD": None, "hostConfig": {"networkmode": "none", "Init": None, "MaskedPaths": None, "Unknown": 5}}
    )  # fmt: skip
    assert (found.config.image, found.config.cmd, found.host_config.network_mode) == ("b", (), "none")
    assert found.host_config.init is None
    assert found.host_config.masked_paths is None
    assert decode.create_request({"HostConfig": None, "NetworkingConfig": {"EndpointsConfig": None}}).endpoints == {}


def test_one_string_is_a_command() -> None:
    found = decode.create_request({"Cmd": "a b", "Entrypoint": "sh", "Shell": "bash"}).config
    assert (found.cmd, found.entrypoint, found.shell) == (("a b",), ("sh",), ("bash",))


def test_an_exec() -> None:
    found = decode.exec_request(
        {"Cmd": ["ls"], "Tty": True, "ConsoleSize": [24, 80], "Env": None, "AttachStdout": True}
    )
    assert found == model.ExecRequest(cmd=("ls",), tty=True, console_size=(24, 80), attach_stdout=True)
    assert decode.exec_start({"Detach": True, "ConsoleSize": [0, 0]}) == model.ExecStart(detach=True)


def test_a_connection() -> None:
    found = decode.connect_request(
        {"Container": "c", "EndpointConfig": {"IPAMConfig": {}, "Aliases": ["x"], "IPAddress": "1.2.3.4"}}
    )
    assert found == model.ConnectRequest(container="c", endpoint=model.EndpointSettings(aliases=("x",)))


# anything

_ONLY: dict[tuple[type, str], st.SearchStrategy[Any]] = {
    (model.HostConfig, "volume_driver"): st.sampled_from(["", "local"]),
    (model.VolumeOptions, "driver"): st.sampled_from(["", "local"]),
    (model.Config, "cmd"): st.lists(st.text()).map(tuple).filter(lambda words: words != ("",)),
    (model.Config, "volumes"): st.just(("/a", "/b")),
    (model.Config, "exposed_ports"): st.just(("80/tcp",)),
    (model.Config, "system_vm"): st.none(),  # not the API's
    (model.HostConfig, "console_size"): st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
}


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type of the model."""
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.sampled_from(["", "a", "\u00e9 b", "\"\\"]), bool: st.booleans(), int: st.integers(-(1 << 63), (1 << 63) - 1), type(None): st.none(),
    }  # fmt: skip
    if kind in simple:
        return simple[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        given = {
            f.name: _ONLY[kind, f.name] if (kind, f.name) in _ONLY else anything(f.type)
            for f in msgspec.structs.fields(kind)
        }
        made = st.lists(st.sampled_from(sorted(given)), max_size=4, unique=True).flatmap(
            lambda names: st.builds(kind, **{name: given[name] for name in names})
        )
        none_if_empty = (model.HealthCheck, model.Addresses, model.DeviceRate, model.DeviceWeight)
        return made.filter(lambda value: kind not in none_if_empty or value != kind())
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return (
            st.lists(anything(inner[0]), max_size=2).map(tuple)
            if inner[1:] == (...,)
            else st.tuples(*map(anything, inner))
        )
    if origin is list:
        return st.lists(anything(inner[0]), max_size=2)
    if len(inner) == 2 and inner[0] is str:
        return st.dictionaries(st.sampled_from(["a", "b/c"]), anything(inner[1]), max_size=2)
    return st.one_of(*map(anything, inner))


@pytest.mark.parametrize(
    "record", [fields.HOST_CONFIG, fields.CONFIG, fields.ENDPOINT], ids=["HostConfig", "Config", "Endpoint"]
)
def test_what_is_shown_can_be_asked_for(record: Record[Any]) -> None:
    kind = type(record.read(None, ""))

    @settings(max_examples=40, deadline=None)
    @given(anything(kind))
    def round_trip(value: Any) -> None:
        shown = json.loads(json.dumps(record.write(value)))
        assert record.read(shown, "") == value

    round_trip()


def test_every_attribute_has_a_key() -> None:
    for record in (value for value in vars(fields).values() if isinstance(value, Record)):
        made = record.read(None, "")
        own = {f.name for f in msgspec.structs.fields(type(made))}
        known = {name.partition(".")[0] for name in record.attributes}
        nested = {"driver", "driver_options"} if isinstance(made, model.VolumeOptions) else {"system_vm"} & own
        assert known | nested == own or record is fields._DRIVER, type(made)


@settings(max_examples=40, deadline=None)
@given(anything(model.State), st.none() | anything(model.Health))
def test_any_state_is_json(state: model.State, health: model.Health | None) -> None:
    state.started_at, state.finished_at = abs(state.started_at) % 10**18, 0
    if health is not None:
        health.log = [model.Probe(0, 5, probe.exit_code, probe.output) for probe in health.log]
    shown = json.loads(json.dumps(encode.state(state, health)))
    assert shown["Running"] == (shown["Status"] in ("running", "paused"))
    assert shown["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert ("Health" in shown) == (health is not None)
