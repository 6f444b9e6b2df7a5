"""Records of networks and of places on them: those of engines before are read, and what can't be one is damage, never an error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.records import Row
from sampan.network import networks as under_test
from sampan.network.ipam import Pool
from sampan.network.networks import Networks
from sampan.network.ownership import Owner

BEFORE = (Path(__file__).parent / "records/networks.json").read_text()  # as written before subnets were records
LAB = json.loads(BEFORE)["network"][2]["id"]


class Saved:
    """Records in memory."""

    def __init__(self, found: dict[str, list[dict[str, Any]]]) -> None:
        self.found, self.written = found, dict[str, object]()

    def rows(self, kind: str) -> list[Row]:
        return [Row(number, each["id"], json.dumps(each).encode()) for number, each in enumerate(self.found[kind])]

    def put(self, kind: str, key: str, body: object) -> None:
        self.written[key] = body

    owe = put


def read(found: dict[str, list[dict[str, Any]]]) -> tuple[Networks, Saved]:
    saved: Any = Saved(found)
    return Networks(saved, Owner("0123abcd", "/nowhere")), saved


@pytest.fixture(autouse=True)
def no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test.bridge, "taken_subnets", list)


def test_records_of_engines_before() -> None:
    found = json.loads(BEFORE)
    networks, saved = read(copy.deepcopy(found))
    assert not networks.broken
    for each in found["network"]:
        networks.save(networks.all[each["id"]])
        assert json.dumps(saved.written[each["id"]]) == json.dumps(each)
    lab = networks.all[LAB]
    assert lab.ipam == [
        Pool(subnet="10.9.0.0/24", gateway="10.9.0.9", ip_range="10.9.0.64/26", auxiliary={"router": "10.9.0.2"}),
        Pool(subnet="fd09::/64", gateway="fd09::1"),
    ]
    assert [json.dumps(each.record()) for each in lab.endpoints.values()] == [json.dumps(e) for e in found["endpoint"]]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("ipam",), 5, "ipam"),
        (("ipam", 0), "10.9.0.0/24", "ipam"),
        (("ipam", 0, "Subnet"), 5, "Subnet"),
        (("ipam", 0, "Subnet"), "10.9.0.1/24", "ipam"),
        (("ipam", 0, "Gateway"), "", "ipam"),
        (("ipam", 0, "Gateway"), None, "Gateway"),
        (("ipam", 1, "IPRange"), "fd09::1/80", "ipam"),
        (("ipam", 1, "IPRange"), {}, "IPRange"),
        (("ipam", 0, "AuxiliaryAddresses"), ["10.9.0.2"], "AuxiliaryAddresses"),
        (("ipam", 0, "AuxiliaryAddresses", "router"), 2, "AuxiliaryAddresses"),
        (("ipam", 0, "AuxiliaryAddresses", "router"), "x", "ipam"),
        (("ipam", 0, "invented"), 1, "invented"),
        (("options", "a"), 1, "options"),
        (("invented",), 1, "invented"),
    ],
)
def test_a_network_that_is_none(path: tuple[Any, ...], value: object, named: str) -> None:
    found = json.loads(BEFORE)
    place: Any = found["network"][2]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    networks, _ = read(found)
    (broken,) = networks.broken
    assert (broken.name, broken.row.key) == ("lab", LAB)
    assert named in broken.why
    assert networks.doubtful
    assert LAB not in networks.all


def test_a_subnet_without_what_it_must_have() -> None:
    for key in ("Subnet", "Gateway"):
        found = json.loads(BEFORE)
        del found["network"][2]["ipam"][0][key]
        (broken,) = read(found)[0].broken
        assert f"missing required field `{key}`" in broken.why


@pytest.mark.parametrize(
    ("key", "value"),
    [("ipv4", "10.9.0"), ("ipv6", "x"), ("ipv4", None), ("mac", "02:42"), ("mac", "x"), ("mac", 5), ("interface", "lo"),
     ("interface", "eth0/../x"), ("aliases", "www"), ("priority", "high"), ("invented", 1)],
)  # fmt: skip
def test_a_place_that_is_none(key: str, value: object) -> None:
    found = json.loads(BEFORE)
    found["endpoint"][0][key] = value
    networks, _ = read(found)
    (broken,) = networks.broken
    assert (broken.kind, broken.name) == ("endpoint", "web")
    assert [each.name for each in networks.all[LAB].endpoints.values()] == ["db"]
