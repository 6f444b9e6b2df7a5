"""The kinds of isolation that are compared, each with the same few operations."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Protocol, Unpack

from sampan.client.http import APIError, at
from sampan.client.options import ContainerOptions
from sampan.client.sync import Client, Container
from sampan.compare import bundle, probe
from sampan.compare.model import CONTAINER, NATIVE, SYSTEM, VM, CompareError
from sampan.linux import smaps

_PORT = 9009
_NO_TEMPLATE = {"Annotations": {"sampan.template": "none"}}


class Instance(Protocol):
    """One that runs the probe's server."""

    def probe(self, *args: str) -> dict[str, float]:
        """What the probe says when it is run there."""

    def address(self) -> tuple[str, int]:
        """Where the host reaches its server."""

    def footprint(self) -> dict[str, Any]:
        """Its memory and disk as the host sees them: "pss", "guest", "own", "shared"."""


class Kind(Protocol):
    """One way to run things."""

    name: str

    def start(self, command: list[str], cold: bool) -> float:
        """Seconds from the wish to run a command to its exit code. Raises CompareError."""

    def open(self) -> contextlib.AbstractContextManager[Instance]:
        """An instance with the probe's server."""

    def idle(self) -> contextlib.AbstractContextManager[object]:
        """An instance of an application that does nothing; what comes has footprint()."""


class Native:
    """The host itself: what everything else is measured against."""

    name = NATIVE

    def start(self, command: list[str], cold: bool) -> float:
        """As Kind says; CompareError when the host has no such command."""
        path = shutil.which(command[0])
        if path is None:
            raise CompareError(f"{command[0]} is not on this host")
        began = time.perf_counter()
        subprocess.run(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return time.perf_counter() - began

    @contextlib.contextmanager
    def open(self) -> Iterator[Instance]:
        """As Kind says."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        with tempfile.TemporaryDirectory(prefix="sampan-compare-", dir="/var/tmp") as directory:
            server = subprocess.Popen([*_HERE, "serve", str(port)])
            try:
                yield _Process(server.pid, port, directory)
            finally:
                server.kill()
                server.wait()

    @contextlib.contextmanager
    def idle(self) -> Iterator[_Process]:
        """As Kind says."""
        with tempfile.TemporaryDirectory(prefix="sampan-compare-", dir="/var/tmp") as directory:
            command = [*_HERE[:-1], "-c", "import signal; signal.pause()"]
            if os.uname().machine == "x86_64":
                command = [f"{directory}/pause"]
                with open(command[0], "wb") as file:
                    file.write(bundle.program("pause"))
                os.chmod(command[0], 0o755)
            process = subprocess.Popen(command)
            try:
                yield _Process(process.pid, 0, directory)
            finally:
                process.kill()
                process.wait()


_HERE = [sys.executable, "-I", "-S", "-B", probe.__file__]


class _Process:
    def __init__(self, pid: int, port: int, directory: str) -> None:
        self._pid, self._port, self._directory = pid, port, directory

    def probe(self, *args: str) -> dict[str, float]:
        """As Instance says; "memory" is of the server."""
        if args == ("memory",):
            return dict(smaps.parts(self._pid))
        command = [*_HERE, *(self._directory if arg == "DIRECTORY" else arg for arg in args)]
        done = subprocess.run(command, capture_output=True, check=True)
        return dict(json.loads(done.stdout))

    def address(self) -> tuple[str, int]:
        """As Instance says."""
        return "127.0.0.1", self._port

    def footprint(self) -> dict[str, Any]:
        """As Instance says."""
        time.sleep(0.02)
        return {"pss": sum(smaps.parts(self._pid).values()), "guest": 0, "own": 0, "shared": {}}


class Sandboxed:
    """The engine's containers, on the host's kernel or with one of their own."""

    def __init__(self, client: Client, isolation: str, image: str, probed: str) -> None:
        self.name = VM if isolation == "vm" else CONTAINER
        self._client, self._image, self._probed = client, image, probed
        self._options: ContainerOptions = {"isolation": isolation, "entrypoint": [], "labels": {"sampan.compare": "1"}}
        self.keeps_entrypoint = False  # of the image, for the command that is started

    def start(self, command: list[str], cold: bool) -> float:
        """As Kind says; a cold machine boots without its template."""
        options: ContainerOptions = {**self._options, "network": "none"}
        if self.keeps_entrypoint:
            del options["entrypoint"]
        if cold and self.name == VM:
            options["host_config"] = _NO_TEMPLATE
        image = self._probed if command[0].startswith(f"/{bundle.TOP}/") else self._image
        began = time.perf_counter()
        try:
            done = self._client.containers.run(image, command, **options)
        except APIError as error:
            raise CompareError(f"{' '.join(command)} in a {self.name}: {error}") from None
        spent = time.perf_counter() - began
        if done.exit_code:
            said = done.stderr.decode(errors="replace").strip()
            raise CompareError(f"{' '.join(command)} ends with {done.exit_code} in a {self.name}: {said[-300:]}")
        return spent

    @contextlib.contextmanager
    def open(self) -> Iterator[Instance]:
        """As Kind says."""
        ports = (
            None if os.geteuid() == 0 else {_PORT: None}
        )  # without root, the containers' addresses are not the host's to reach
        with self._running(bundle.command("serve", str(_PORT)), ports=ports, user="0") as container:
            yield _Contained(self._client, container)

    @contextlib.contextmanager
    def idle(self) -> Iterator[_Contained]:
        """As Kind says."""
        with self._running(bundle.pause(), network="none") as container:
            yield _Contained(self._client, container)

    @contextlib.contextmanager
    def _running(self, command: list[str], **options: Unpack[ContainerOptions]) -> Iterator[Container]:
        every: ContainerOptions = {**self._options, **options}
        container = self._client.containers.create(self._probed, command, **every)
        try:
            container.start()
            yield container.reload()
        finally:
            container.remove(force=True, volumes=True)


class _Contained:
    def __init__(self, client: Client, container: Container) -> None:
        self._client, self._container = client, container

    def probe(self, *args: str) -> dict[str, float]:
        """As Instance says."""
        words = [f"/{bundle.TOP}-data" if arg == "DIRECTORY" else arg for arg in args]
        done = self._container.exec(bundle.command(*words), user="0")
        if done.exit_code:
            raise CompareError(f"the probe fails: {done.stderr.decode(errors='replace').strip()[-500:]}")
        return dict(json.loads(done.stdout))

    def address(self) -> tuple[str, int]:
        """As Instance says."""
        attrs = self._container.reload().attrs
        if not attrs["State"]["Running"]:
            raise CompareError(f"the probe has ended: {self._container.logs().decode(errors='replace').strip()[-500:]}")
        settings = attrs["NetworkSettings"]
        published = (settings.get("Ports") or {}).get(f"{_PORT}/tcp")
        if published:
            return "127.0.0.1", int(published[0]["HostPort"])
        return str(next(iter(settings["Networks"].values()))["IPAddress"]), _PORT

    def footprint(self) -> dict[str, Any]:
        """As Instance says."""
        return dict(self._client.call("GET", f"/sampan/containers/{self._container.id}/footprint"))


class System:
    """A classic virtual machine: a whole PC with firmware, boot loader and a guest OS from the image."""

    name = SYSTEM

    def __init__(self, client: Client, probed: str) -> None:
        self._client = client
        self._name = f"compare-{os.getpid()}"
        body = {"Name": self._name, "Image": probed, "Memory": 1 << 30}
        try:
            client.finish("POST", "/sampan/vm/create", body)
        except APIError as error:
            raise CompareError(f"the system VM can't be made: {error}") from None
        self._id = str(client.call("GET", at("/sampan/vm/{}/json", self._name))["Id"])

    def start(self, command: list[str], cold: bool) -> float:
        """Seconds until a command has run in it, from its power-on; it is always cold."""
        began = time.perf_counter()
        with self.open() as machine:
            machine.probe("memory")
            return time.perf_counter() - began

    @contextlib.contextmanager
    def open(self) -> Iterator[Instance]:
        """As Kind says; it has no server, so its network is not measured."""
        self._client.call("POST", at("/sampan/vm/{}/start", self._name))
        try:
            deadline = time.monotonic() + 300
            while not self._client.call("GET", at("/sampan/vm/{}/json", self._name))["Agent"]:
                if time.monotonic() > deadline:
                    raise CompareError("the system VM's guest does not answer")
                time.sleep(0.1)
            yield _Contained(self._client, self._client.containers.get(self._id))
        finally:
            with contextlib.suppress(APIError):
                self._client.call("POST", at("/sampan/vm/{}/kill", self._name))

    def idle(self) -> contextlib.AbstractContextManager[Instance]:
        """As Kind says: its application does nothing anyway."""
        return self.open()

    def close(self) -> None:
        """Deletes it."""
        self._client.call("DELETE", at("/sampan/vm/{}?force=1", self._name))
