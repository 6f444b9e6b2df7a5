"""What create refuses, in Docker's words; and what commit makes of a container's configuration."""

from __future__ import annotations

import pytest

from sampan.api import decode
from sampan.engine import image_config, model, rules
from sampan.engine.errors import BadRequest
from sampan.images.config import Execution
from sampan.oci import reference

REFUSED = [
    ({"Env": ["=x"]}, "invalid environment variable: =x"),
    ({"Env": [""]}, "invalid environment variable: "),
    ({"StopSignal": "FOO"}, "invalid signal: FOO"),
    ({"HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}}}, "maximum retry count cannot be negative"),
    ({"HostConfig": {"NetworkMode": "container:"}}, "invalid container format container:<name|id>"),
    ({"HostConfig": {"NetworkMode": "host", "Links": ["a:b"]}}, "host type networking can't be used with links"),
    ({"HostConfig": {"NetworkMode": "container:a", "Dns": ["1.1.1.1"]}}, "conflicting options: dns and the network mode"),
    ({"HostConfig": {"NetworkMode": "container:a", "ExtraHosts": ["a:1.1.1.1"]}}, "custom host-to-IP mapping and the network mode"),
    ({"HostConfig": {"PidMode": "container:"}}, "invalid PID mode: container:"),
    ({"HostConfig": {"UTSMode": "bogus"}}, "invalid UTS mode: bogus"),
    ({"HostConfig": {"CgroupnsMode": "bogus"}}, "invalid cgroup namespace mode: bogus"),
    ({"HostConfig": {"Binds": ["v:/d:ro,rw"]}}, "invalid mode: ro,rw"),
    ({"HostConfig": {"Binds": ["v:/d:shared"]}}, "field BindOptions must not be specified"),
    ({"HostConfig": {"Binds": ["/v:/d:nocopy"]}}, "field VolumeOptions must not be specified"),
    ({"HostConfig": {"Tmpfs": {"rel": ""}}}, "mount path must be absolute"),
    ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "VolumeOptions": {"NoCopy": True}}]}},
     'VolumeOptions must not be specified on mount type "bind"'),
    ({"HostConfig": {"Mounts": [{"Type": "volume", "Target": "/b", "BindOptions": {"Propagation": "rprivate"}}]}},
     'BindOptions must not be specified on mount type "volume"'),
    ({"HostConfig": {"Mounts": [{"Type": "tmpfs", "Source": "/a", "Target": "/b"}]}}, "field Source must not be specified"),
    ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "x"}}]}},
     "invalid propagation mode: x"),
    ({"HostConfig": {"SecurityOpt": ["no-new-privileges=maybe"]}}, "invalid --security-opt 2"),
    ({"HostConfig": {"VolumesFrom": [""]}}, "volumes-from specification cannot be an empty string"),
    ({"HostConfig": {"Links": ["a:b:c"]}}, "bad format for links: a:b:c"),
    ({"HostConfig": {"Annotations": {"": "x"}}}, "the empty string is not permitted as an annotation key"),
    ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}}},
     "user specified IP address is supported on user defined networks only"),
]  # fmt: skip


def asked(body: dict[str, object]) -> None:
    request = decode.create_request({"Image": "x", **body})
    rules.check(request.config, request.host_config)
    rules.check_endpoints(request.host_config, request.endpoints)


@pytest.mark.parametrize(("body", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_docker_refuses_is_refused_in_its_words(body: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        asked(body)
    assert sentence in str(caught.value)


def test_what_is_fine_passes() -> None:
    asked({"Env": ["A=1", "B", "C="], "StopSignal": "RTMIN+3", "Healthcheck": {"Test": ["CMD", "x"], "Interval": 10**9},
           "HostConfig": {"Binds": ["v:/d:ro,nocopy", "/a:/b:rw,rslave"], "Links": ["a:b", "c"], "UTSMode": "host", "LogConfig": {
               "Config": {"mode": "non-blocking", "max-buffer-size": "1m", "max-size": "1m", "labels": "a"}},
               "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/c", "BindOptions": {"Propagation": "rslave"}}]}})  # fmt: skip


def test_a_commit_is_the_container_with_what_is_given_put_over_it() -> None:
    base = Execution(
        env=("PATH=/bin",), labels={"a": "1"}, on_build=("RUN x",), cmd=("image",), exposed_ports={"80/tcp": {}}
    )
    container = model.Config(
        env=("PATH=/bin", "B=2"), labels={"a": "1", "b": "2"}, cmd=("run",), exposed_ports=("80/tcp",), working_dir="/w"
    )
    made = image_config.committed(base, container, model.Config(env=("C=3",), labels={"c": "3"}))
    assert sorted(made.env) == ["B=2", "C=3", "PATH=/bin"]
    assert made.labels == {"a": "1", "b": "2", "c": "3"}
    assert (made.cmd, made.on_build) == (("run",), ())
    changes = [
        'ENV PATH=/foo:$PATH X="a b"',
        "EXPOSE 90",
        "VOLUME /v",
        "WORKDIR sub",
        "HEALTHCHECK NONE",
        "LABEL d=4",
        "ONBUILD RUN y",
        'ENTRYPOINT ["e"]',
    ]
    changed = image_config.changed(made, changes)
    assert {"PATH=/foo:/bin", "X=a b", "B=2", "C=3"} == set(changed.env)
    assert set(changed.exposed_ports) == {"80/tcp", "90/tcp"}
    assert (changed.working_dir, changed.health_check.test, changed.on_build) == ("/w/sub", ("NONE",), ("RUN y",))
    assert (changed.labels["d"], set(changed.volumes), changed.entrypoint) == ("4", {"/v"}, ("e",))


@pytest.mark.parametrize("change", ["RUN x", "BOGUS x", "FROM x", "", "ENV", "EXPOSE x", "USER a\nRUN b"])
def test_other_instructions_are_no_change(change: str) -> None:
    with pytest.raises(BadRequest):
        image_config.changed(Execution(), [change])


def test_an_image_that_there_is_not_is_named_with_the_tag_that_was_meant() -> None:
    texts = {
        "a": "a:latest",
        "a:1": "a:1",
        "h:5000/a": "h:5000/a:latest",
        "h:5000/a:1": "h:5000/a:1",
        "a@sha256:1": "a@sha256:1",
        "": "",
    }
    assert {text: reference.with_tag(text) for text in texts} == texts
