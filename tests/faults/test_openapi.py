"""Docker's OpenAPI description, driven by schemathesis: no HTTP 500, no hang, no answer that its schema refuses (T14).

The daemon's containers never get the host's paths, devices or namespaces: what is made is not started.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
from docker.transport import UnixHTTPAdapter
from hypothesis import HealthCheck, Phase, given, settings

from tests.conftest import Daemon, end_daemon, new_daemon
from tests.faults import openapi

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
EXAMPLES = 115 if SOAK else 4  # of each operation
BASE = "http://localhost/v1.41"
PATIENCE = 30  # seconds for any answer

# Answers that go on for as long as their client pleases, or as a container runs: only their beginning is looked at.
STREAMS = {"/events", "/containers/{id}/logs", "/containers/{id}/stats", "/containers/{id}/attach", "/containers/{id}/wait", "/exec/{id}/start",
           "/containers/{id}/attach/ws", "/containers/{id}/export", "/images/{name}/get", "/images/get"}  # fmt: skip
LIVELY = ["sh", "-c", "trap 'exit 0' TERM INT HUP; while :; do sleep 0.2; done"]


@schemathesis.serializer("application/x-tar", "application/octet-stream", "text/plain")
def archive(context: Any, value: Any) -> bytes:
    """What is no JSON is sent as the bytes it is, or as text."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@dataclass
class Told:
    """What came of it."""

    count: int = 0
    slowest: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    unsent: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)


class Corpus:
    """Objects that requests are about, made anew when a request has removed them."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.exec = ""

    def renew(self) -> None:
        http = self._daemon.http
        known = {row["Names"][0]: row for row in http.call("GET", "/containers/json?all=1")}
        for name in ("/alive", "/idle"):
            if name not in known:
                body = {"Image": "busybox", "Cmd": LIVELY, "HostConfig": {"NetworkMode": "none"}}
                http.call("POST", f"/containers/create?name={name[1:]}", body)
        if known.get("/alive", {}).get("State") == "paused":
            http.call("POST", "/containers/alive/unpause")
        if known.get("/alive", {}).get("State") != "running":
            http.call("POST", "/containers/alive/start")
        for name, row in known.items():
            if name not in ("/alive", "/idle", "/keeps-busybox") and len(known) > 200:
                http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        if not any(row["Name"] == "fuzz" for row in http.call("GET", "/networks")):
            http.call("POST", "/networks/create", {"Name": "fuzz"})
        http.call("POST", "/volumes/create", {"Name": "fuzz"})
        http.call("POST", "/images/busybox/tag?repo=fuzz&tag=1")
        self.exec = http.call("POST", "/containers/alive/exec", {"Cmd": ["true"], "AttachStdout": True})["Id"]

    def aim(self, case: Any, path: str, chance: random.Random) -> None:
        """Has most requests be about something that there is."""
        if chance.random() < 0.2:
            return
        real = {"/containers": chance.choice(["alive", "idle"]), "/exec": self.exec, "/networks": "fuzz", "/volumes": "fuzz",
                "/images": "fuzz:1", "/distribution": "fuzz"}  # fmt: skip
        value = next((name for start, name in real.items() if path.startswith(start)), None)
        for key in case.path_parameters or {}:
            if value is not None:
                case.path_parameters[key] = value
        if path == "/commit" and isinstance(case.query, dict):
            case.query["container"] = "idle"
        if isinstance(case.body, dict):
            if "Container" in case.body and path.endswith("connect"):
                case.body["Container"] = "alive"
            if path == "/containers/create":
                case.body["Image"] = "busybox"


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Daemon]:
    daemon = new_daemon()
    daemon.ok("create", "--name", "keeps-busybox", "--network", "none", "busybox")
    yield daemon
    end_daemon(daemon)


@pytest.fixture(scope="module")
def description() -> Any:
    try:
        return schemathesis.openapi.from_dict(openapi.description())
    except RuntimeError as error:
        pytest.skip(f"no description of Docker's API: {error}")


def tame(body: Any) -> None:
    """Nothing of the host's goes into a container."""
    host = body.get("HostConfig") if isinstance(body, dict) else None
    if isinstance(host, dict):
        for key in ("Privileged", "Binds", "Devices", "Sysctls", "CgroupParent"):
            host.pop(key, None)


def test_every_operation(fuzzed: Daemon, description: Any) -> None:
    session = requests.Session()
    session.mount("http://localhost", UnixHTTPAdapter(f"http+unix://{fuzzed.socket}", timeout=PATIENCE))
    corpus, chance = Corpus(fuzzed), random.Random(1)
    told = Told()
    for found in description.get_all_operations():
        corpus.renew()
        _drive(found.ok(), session, corpus, chance, told)
    print(f"{told.count} requests, the slowest took {told.slowest:.1f} s, {told.statuses}, {told.unsent}")
    assert not told.wrong, "\n".join(told.wrong)
    assert sum(told.statuses.values()) >= (5000 if SOAK else 150)
    assert sum(count for status, count in told.statuses.items() if status < 300) > sum(told.statuses.values()) / 10
    assert fuzzed.ok("run", "--rm", "--network", "none", "busybox", "echo", "on") == "on\n"


def _drive(operation: Any, session: requests.Session, corpus: Corpus, chance: random.Random, told: Told) -> None:
    """So many requests of one operation."""
    name = f"{operation.method.upper()} {operation.path}"

    @given(case=operation.as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=not SOAK, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def drive(case: Any) -> None:
        corpus.aim(case, operation.path, chance)
        tame(case.body)
        arguments = case.as_transport_kwargs(base_url=BASE)
        shown = json.dumps(str(arguments))[:600]
        began = time.monotonic()
        told.count += 1
        try:
            with session.request(**arguments, timeout=PATIENCE, stream=True) as response:
                if operation.path not in STREAMS:
                    response.content  # noqa: B018
                told.statuses[response.status_code] += 1
                told.slowest = max(told.slowest, time.monotonic() - began)
                if response.status_code >= 500 and response.status_code not in (501, 502):
                    told.wrong[f"{name}: {response.status_code} {response.text[:300]}: {shown}"] += 1
                elif operation.path not in STREAMS and response.status_code < 300:
                    told.wrong.update(_refused(operation, response, name))
        except requests.ReadTimeout:
            told.wrong[f"{name}: no answer in {PATIENCE} s: {shown}"] += 1
        except (requests.RequestException, ValueError) as error:
            told.unsent[type(error).__name__] += 1  # what requests can't send, or an answer that has been broken off

    drive()


def _refused(operation: Any, response: requests.Response, name: str) -> list[str]:
    try:
        operation.validate_response(response)
    except schemathesis.errors.SchemathesisError:
        return []
    except (Exception, BaseExceptionGroup) as error:
        each = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
        return [f"{name}: {response.status_code}: {' '.join(str(one).split())[:600]}" for one in each]
    return []
