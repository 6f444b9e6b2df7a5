"""An engine to be asked: requests over its socket, docker's client on it, and a world of objects that cases are about."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.differential.table import Case, Step, payload

VERSION = "1.45"  # the newest that dockerd 26.1 knows
PATIENCE = 20
LIVELY = "trap 'exit 0' TERM; echo out; echo err >&2; while :; do sleep 0.1; done"


@dataclass
class Answer:
    """What came back: of a request a status, headers and a body, of a command an exit code and what it wrote."""

    status: int
    head: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stderr: bytes = b""
    command: bool = False
    seconds: float = 0.0


class Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


WORLD: dict[str, dict[str, Any]] = {
    "run": {"Image": "busybox", "Cmd": ["sh", "-c", LIVELY], "Env": ["A=1"], "Labels": {"role": "run", "k": "v"},
            "ExposedPorts": {"80/tcp": {}}, "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "18080"}]}}},
    "made": {"Image": "busybox", "Cmd": ["sleep", "600"], "Labels": {"role": "made"}},
    "ended": {"Image": "busybox", "Cmd": ["sh", "-c", "echo one; echo two >&2; echo three; exit 3"], "HostConfig": {"NetworkMode": "none"}},
    "held": {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}},
    "twin1": {"Image": "full:1", "HostConfig": {"NetworkMode": "none"}},
}  # fmt: skip
STATES = {"run": "running", "made": "created", "ended": "exited", "held": "paused", "twin1": "created"}
NETWORKS = {"bridge", "host", "none", "net1"}
VOLUMES = {"vol1"}


@dataclass
class Side:
    """One engine."""

    name: str
    socket: str
    shared: Path
    kept: dict[str, str] = field(default_factory=dict)
    archive: bytes = b""

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = Connection(self.socket)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            data, until = b"", time.monotonic() + PATIENCE
            try:
                while (part := response.read1(1 << 16)) and time.monotonic() < until:
                    data += part
            except http.client.IncompleteRead as error:
                data += error.partial
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, data)
        except (OSError, http.client.HTTPException) as error:
            return Answer(-1, {}, f"{type(error).__name__}: {error}".encode())
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        answer = self.request(
            method, f"/v{VERSION}{path}", data, {"Content-Type": "application/json"} if data else None
        )
        assert answer.status < 400, (self.name, method, path, answer.status, answer.body[:500])
        return json.loads(answer.body) if answer.body.strip() else None

    def command(self, line: str) -> Answer:
        place = self.shared / self.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.shared), "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_API_VERSION": VERSION,
                       "DOCKER_CONFIG": str(self.shared / "config"), "LANG": "C.UTF-8", "COLUMNS": "200", "HERE": str(place)}  # fmt: skip
        process = subprocess.Popen(["sh", "-c", line], cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, err = process.communicate()
            return Answer(-1, {}, out, b"no end in time: " + err, True)
        return Answer(process.returncode, {}, out, err, True)

    def fill(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: self.kept.get(match[1], match[0]), text)

    def do(self, step: Step) -> Answer:
        began = time.monotonic()
        if step.method == "$":
            answer = self.command(self.fill(step.path))
        else:
            path = self.fill(step.path)
            if not re.match(r"/v\d|/_ping$|//", path):
                path = f"/v{VERSION}{path}"
            path = path.removeprefix("//") if path.startswith("//") else path
            body = payload(self.fill(step.body)) if step.body is not None else None
            headers = dict(step.headers)
            if body is not None:
                headers.setdefault("Content-Type", "application/json")
            answer = self.request(step.method, path, body, headers)
            if step.keep:
                self.kept[step.keep] = json.loads(answer.body).get("Id", "none") if answer.status < 400 else "none"
        answer.seconds = time.monotonic() - began
        return answer

    def play(self, case: Case) -> list[Answer]:
        self.kept = {name: self.kept[name] for name in ("run", "made", "ended", "busybox") if name in self.kept}
        self.kept["began"] = f"{time.time():.3f}"
        self.kept["here"] = str(self.shared / self.name)
        answers = []
        for step in case.steps:
            if "${now}" in step.text:
                time.sleep(0.15)  # for what is told a little later
            self.kept["now"] = f"{time.time():.3f}"
            answers.append(self.do(step))
        return answers

    def populate(self, archive: bytes) -> None:
        """Loads the images and makes the world."""
        self.archive = archive
        self._load()
        self.ask(
            "POST",
            "/networks/create",
            {"Name": "net1", "IPAM": {"Config": [{"Subnet": "10.177.0.0/24"}]}, "Labels": {"k": "v"}},
        )
        self.ask("POST", "/volumes/create", {"Name": "vol1", "Labels": {"k": "v"}})
        for name in reversed(WORLD):
            self._make(name)
        for name in ("run", "made", "ended"):
            self.kept[name] = self.ask("GET", f"/containers/{name}/json")["Id"]
        self.kept["busybox"] = self.ask("GET", "/images/busybox/json")["Id"]

    def _load(self) -> None:
        loaded = self.request("POST", f"/v{VERSION}/images/load", self.archive, {"Content-Type": "application/x-tar"})
        assert loaded.status == 200, loaded.body
        assert b"errorDetail" not in loaded.body, loaded.body

    def _make(self, name: str) -> None:
        self.ask("POST", f"/containers/create?name={name}", WORLD[name])
        if name in ("run", "ended", "held"):
            self.ask("POST", f"/containers/{name}/start")
        if name == "ended":
            self.ask("POST", "/containers/ended/wait")
        if name == "held":
            self.ask("POST", "/containers/held/pause")

    def tidy(self) -> None:
        """What a case has left is removed, and the world is as it was."""
        there = {}
        for row in self.ask("GET", "/containers/json?all=1"):
            name = (row["Names"] or ["/?"])[0][1:]
            if STATES.get(name) == row["State"]:
                there[name] = row
            else:
                self.request("DELETE", f"/v{VERSION}/containers/{row['Id']}?force=1&v=1")
        for row in self.ask("GET", "/networks"):
            if row["Name"] not in NETWORKS:
                self.request("DELETE", f"/v{VERSION}/networks/{row['Id']}")
        for row in self.ask("GET", "/volumes")["Volumes"] or []:
            if row["Name"] not in VOLUMES:
                self.request("DELETE", f"/v{VERSION}/volumes/{row['Name']}?force=1")
        self._tidy_images()
        for name in WORLD:
            if name not in there:
                self._make(name)
                self.kept[name] = self.ask("GET", f"/containers/{name}/json")["Id"]

    def _tidy_images(self) -> None:
        rows = self.ask("GET", "/images/json")
        if not {"busybox:latest", "full:1", "full:2"} <= {tag for row in rows for tag in row["RepoTags"] or []}:
            self._load()
        for row in rows:
            for tag in row["RepoTags"] or [row["Id"]]:
                if tag not in ("busybox:latest", "full:1", "full:2"):
                    self.request("DELETE", f"/v{VERSION}/images/{tag if tag != '<none>:<none>' else row['Id']}?force=1")
