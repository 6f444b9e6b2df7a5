"""Configurations of images: what can't be one is refused by its member's name, and what others have written is kept."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build import exporting
from sampan.build.model import Options, State
from sampan.engine import image_config, model
from sampan.engine.errors import BadRequest
from sampan.engine.limits import check_health
from sampan.engine.model import Config, HealthCheck
from sampan.images.config import (
    INLINE,
    Execution,
    ImageConfig,
    read_config,
    write_config,
)
from sampan.images.errors import ImageError
from sampan.oci.manifest import Platform

DIFF_ID = "sha256:" + "0" * 64
WHOLE: dict[str, Any] = {
    "created": "2024-01-02T03:04:05Z",
    "author": "me",
    "architecture": "arm64",
    "os": "linux",
    "variant": "v8",
    "os.version": "1",
    "os.features": ["a"],
    "config": {
        "User": "1:2",
        "WorkingDir": "/w",
        "Env": ["A=1"],
        "Entrypoint": ["/e"],
        "Cmd": ["c"],
        "Shell": ["/s", "-c"],
        "Labels": {"a": "b"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}},
        "StopSignal": "TERM",
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1, "Timeout": 2, "StartPeriod": 3, "StartInterval": 4, "Retries": 5},
        "OnBuild": ["RUN x"],
        "Hostname": "h",
        "Domainname": "d",
        "Image": "i",
    },
    "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
    "history": [{"created": "t", "created_by": "b", "author": "a", "comment": "c", "empty_layer": True}],
}  # fmt: skip


def read(document: object) -> ImageConfig:
    return read_config(json.dumps(document).encode())


def places(value: Any, path: str = "") -> dict[str, Any]:
    """All members below by their paths."""
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    steps = [(f"{path}.{key}".lstrip(".") if isinstance(value, dict) else f"{path}[{key}]", item) for key, item in rows]
    return {at: item for step, inside in steps for at, item in {step: inside, **places(inside, step)}.items()}


def changed(path: str, value: object) -> dict[str, Any]:
    """The whole configuration with another value in that place."""
    document = json.loads(json.dumps(WHOLE))

    def change(inside: Any, at: str = "") -> None:
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            step = f"{at}.{key}".lstrip(".") if isinstance(inside, dict) else f"{at}[{key}]"
            if step == path:
                inside[key] = value
            elif isinstance(inside[key], dict | list):
                change(inside[key], step)

    change(document)
    return document


def test_what_is_read_is_written() -> None:
    assert json.loads(write_config(read(WHOLE))) == WHOLE
    assert json.loads(write_config(ImageConfig())) == {"config": {}, "rootfs": {"type": "layers", "diff_ids": []}}


SAYS_NOTHING = ("config.ExposedPorts.80/tcp", "config.Volumes./v", "rootfs.type")  # sets, and what is always the same


PLACES = places(WHOLE)


@pytest.mark.parametrize("path", [path for path in PLACES if path not in SAYS_NOTHING])
def test_a_member_of_another_type(path: str) -> None:
    with pytest.raises(ImageError, match="the image configuration is damaged") as caught:
        read(changed(path, {} if isinstance(PLACES[path], int) else 5))
    named = "config.Labels" if path.startswith("config.Labels.") else path  # whose labels are anybody's words
    assert named in str(caught.value) or (named.startswith("rootfs") and "rootfs" in str(caught.value))


@pytest.mark.parametrize("path", [path for path in PLACES if "[" not in path and not path.startswith("rootfs")])
def test_null_is_not_given(path: str) -> None:
    assert path in SAYS_NOTHING or read(changed(path, None)) != read(WHOLE)


def test_what_has_no_name_here_is_kept() -> None:
    document = json.loads(json.dumps(WHOLE))
    others = (document, document["config"], document["config"]["Healthcheck"], document["history"][0])
    for number, inside in enumerate(others):
        inside |= {"com.example.x": {"a": [None, number]}, "rest": number, "execution": None, "Rest": [1e3]}
    found = read(document)
    assert json.loads(write_config(found)) == document
    made = image_config.over(found.execution, model.Config(cmd=("other",), health_check=model.HealthCheck(retries=9)))
    assert (made.cmd, made.env, made.rest) == (("other",), ("A=1",), found.execution.rest)


def test_what_is_of_how_an_image_was_made_is_not_its_childs() -> None:
    of_its_making = {INLINE: [], "moby.buildkit.cache.v0": "x", "container_config": {"Cmd": 5}, "docker_version": "1"}
    found = read(WHOLE | of_its_making | {"com.example.x": 1})
    assert found.inherited.rest == {"com.example.x": 1}
    assert found.rest == {**of_its_making, "com.example.x": 1}
    assert found.inherited.history == found.history


def test_what_a_build_makes_of_it() -> None:
    found = read(WHOLE | {"com.example.x": 1, INLINE: [["base", -1]]})
    state = State(
        "key", [], found.execution, found.inherited, list(found.history), Platform("linux", "arm64", "v8"), created=0.0
    )
    made = exporting.configuration(state, Options(state.platform, labels={"c": "d"}), [], state.history)
    assert made == msgspec.structs.replace(
        found,
        created="1970-01-01T00:00:00Z",
        execution=msgspec.structs.replace(found.execution, labels={"a": "b", "c": "d"}),
        diff_ids=(),
        rest={"com.example.x": 1},
    )
    state.steps = [("one", False)]
    made = exporting.configuration(state, Options(state.platform, inline_cache=True), [], state.history)
    assert read_config(write_config(made)).rest == {"com.example.x": 1, INLINE: [["one", -1]]}


def test_a_container_has_it_and_gives_it_back() -> None:
    config = image_config.read(read(WHOLE).execution)
    assert config.health_check == model.HealthCheck(
        test=("CMD", "x"), interval=1, timeout=2, start_period=3, start_interval=4, retries=5
    )
    assert (config.exposed_ports, config.volumes, config.labels) == (("80/tcp",), ("/v",), {"a": "b"})
    assert image_config.read(Execution()) == model.Config()
    given_back = image_config.over(Execution(), config)
    assert given_back.health_check == read(WHOLE).execution.health_check
    assert image_config.read(given_back) == image_config.read(image_config.over(given_back, config))
    assert image_config.over(read(WHOLE).execution, model.Config()) == read(WHOLE).execution


def test_numbers_are_of_64_bits() -> None:
    with pytest.raises(ImageError, match=r"config\.Healthcheck\.Interval"):
        read(changed("config.Healthcheck.Interval", 1 << 63))


def test_labels_of_null_are_empty() -> None:
    assert read(changed("config.Labels", {"a": None})).execution.labels == {"a": ""}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(PLACES)), JSON)
def test_anything_anywhere(path: str, value: object) -> None:
    try:
        found = read(changed(path, value))
    except ImageError:
        return
    assert read_config(write_config(found)) == found
    image_config.read(found.execution)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything(data: bytes) -> None:
    with pytest.raises(ImageError):
        read_config(data)


CHECK = HealthCheck(test=("CMD", "probe"), interval=7, timeout=6, start_period=5, start_interval=4, retries=3)


@pytest.mark.parametrize("field", HealthCheck.__struct_fields__)
def test_a_health_check_is_merged_field_by_field(field: str) -> None:
    """What is given stands, and what is not, an image's test above all, is the image's: in a container and in a commit."""
    value = ("CMD-SHELL", "other") if field == "test" else 99
    given = Config(health_check=HealthCheck(**{field: value}))
    base = Config(health_check=CHECK)
    found = image_config.merged(given, base).health_check
    assert found == msgspec.structs.replace(CHECK, **{field: value})
    execution = image_config.over(Execution(), base)
    assert image_config.read(image_config.over(execution, given)).health_check == found
    assert image_config.merged(given, Config()).health_check == given.health_check
    assert image_config.merged(Config(), base).health_check == CHECK


@pytest.mark.parametrize("field", [name for name in HealthCheck.__struct_fields__ if name != "test"])
def test_what_no_health_check_can_be(field: str) -> None:
    check_health(HealthCheck(**{field: 0 if field == "retries" else 10**6}))
    with pytest.raises(BadRequest, match="in Healthcheck cannot be"):
        check_health(HealthCheck(**{field: -1}))
    if field != "retries":
        with pytest.raises(BadRequest, match="in Healthcheck cannot be less than 1ms"):
            check_health(HealthCheck(**{field: 10**6 - 1}))
