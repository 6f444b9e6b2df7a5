# Made from asynchronous/containers.py by scripts/sync_client.py: change that one.
"""Containers, and the processes in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from sampan.client.calls import Completed, Object, Objects, at, filters, query
from sampan.client.options import Command, ContainerOptions, ExecOptions, container_body, exec_body, update_body
from sampan.client.sync.images import Image, Images
from sampan.client.transport import Transport


class Container:
    """A container. `attrs` is what inspect said when it was last asked: see reload()."""

    def __init__(self, transport: Transport, attrs: Object) -> None:
        self._transport = transport
        self.attrs = attrs
        self.id: str = attrs["Id"]

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    def _path(self, rest: str = "") -> str:
        return f"/containers/{self.id}{rest}"

    def _post(self, rest: str, body: object = None) -> Any:
        return self._transport.call("POST", self._path(rest), body)

    @property
    def name(self) -> str:
        """Its name, as of the last reload()."""
        return str(self.attrs.get("Name", "")).removeprefix("/")

    @property
    def status(self) -> str:
        """ "created", "running", "paused", "restarting", "exited" or "dead", as of the last reload()."""
        return str(self.attrs["State"]["Status"])

    def reload(self) -> Container:
        """Asks the engine again."""
        self.attrs = self._transport.call("GET", self._path("/json"))
        return self

    def start(self) -> None:
        """Starts it; one that runs is left alone."""
        self._post("/start")

    def stop(self, timeout: int | None = None) -> None:
        """Asks it to end, and kills it after `timeout` seconds (10)."""
        self._post("/stop" + query(t=timeout))

    def restart(self, timeout: int | None = None) -> None:
        """Stops and starts it."""
        self._post("/restart" + query(t=timeout))

    def kill(self, signal: str | int = "KILL") -> None:
        """Sends a signal to its first process."""
        self._post("/kill" + query(signal=signal))

    def pause(self) -> None:
        """Freezes its processes."""
        self._post("/pause")

    def unpause(self) -> None:
        """Lets them go on."""
        self._post("/unpause")

    def wait(self, condition: str = "not-running") -> int:
        """Waits for its end ("not-running", "next-exit", "removed") and returns the exit code."""
        response = self._transport.stream("POST", self._path("/wait" + query(condition=condition)))
        return int(json.loads(response.read())["StatusCode"])

    def remove(self, force: bool = False, volumes: bool = False) -> None:
        """Deletes it; `volumes` with its anonymous volumes."""
        self._transport.call("DELETE", self._path(query(force=force, v=volumes)))

    def rename(self, name: str) -> None:
        """Gives it another name."""
        self._post("/rename" + query(name=name))

    def update(
        self, memory: int | str | None = None, cpus: float | None = None, pids_limit: int | None = None,
        restart: str | None = None,
    ) -> None:  # fmt: skip
        """Changes limits and restart policy while it runs."""
        self._post("/update", update_body(restart, memory=memory, cpus=cpus, pids_limit=pids_limit))

    def logs(
        self, stdout: bool = True, stderr: bool = True, since: str | None = None, until: str | None = None,
        tail: int | str = "all", timestamps: bool = False,
    ) -> bytes:  # fmt: skip
        """What it has written, both streams in the order of writing."""
        wanted = query(stdout=stdout, stderr=stderr, since=since, until=until, tail=tail, timestamps=timestamps)
        response = self._transport.stream("GET", self._path("/logs" + wanted))
        stdout_and_stderr = [data for _, data in response.frames()]
        response.close()
        return b"".join(stdout_and_stderr)

    def follow(self, tail: int | str = "all") -> Iterator[tuple[int, bytes]]:
        """(stream, bytes) as it writes, to its end; stream 1 is stdout, 2 stderr."""
        return self._transport.frames("GET", self._path("/logs" + query(stdout=1, stderr=1, follow=1, tail=tail)))

    def attach(self, input: bytes | None = None) -> Completed:
        """Gives it `input`, collects its output to its end, and waits."""
        response = self._transport.hijack(
            self._path("/attach" + query(stream=1, stdin=input is not None, stdout=1, stderr=1, logs=1))
        )
        stdout, stderr = self._transport.converse(response, input)
        return Completed(self.wait(), stdout, stderr)

    def exec(self, command: Command, *, input: bytes | None = None, **options: Unpack[ExecOptions]) -> Completed:
        """Runs a further process in it."""
        body = exec_body(command, stdin=input is not None, **options)
        made = self._post("/exec", body)
        identifier = made["Id"]
        response = self._transport.hijack(f"/exec/{identifier}/start", {"Detach": False, "Tty": body["Tty"]})
        stdout, stderr = self._transport.converse(response, input)
        ended = self._transport.call("GET", f"/exec/{identifier}/json")
        return Completed(int(ended["ExitCode"]), stdout, stderr)

    def top(self, ps_args: str | None = None) -> Object:
        """Its processes: Titles and Processes."""
        return dict(self._transport.call("GET", self._path("/top" + query(ps_args=ps_args))))

    def stats(self) -> Object:
        """One sample of what it uses."""
        return dict(self._transport.call("GET", self._path("/stats?stream=0&one-shot=1")))

    def diff(self) -> Objects:
        """Paths changed against the image: Kind 0 modified, 1 added, 2 deleted."""
        return list(self._transport.call("GET", self._path("/changes")) or [])

    def get_archive(self, path: str) -> Iterator[bytes]:
        """A tar of a file or directory in it."""
        return self._transport.chunks("GET", self._path("/archive" + query(path=path)))

    def put_archive(self, path: str, tar: bytes | Iterator[bytes]) -> None:
        """Extracts a tar into a directory in it."""
        response = self._transport.stream("PUT", self._path("/archive" + query(path=path)), source=tar)
        response.read()

    def export(self) -> Iterator[bytes]:
        """A tar of its whole file system."""
        return self._transport.chunks("GET", self._path("/export"))

    def commit(self, repository: str, tag: str = "latest") -> Image:
        """Makes an image of its present state."""
        answer = self._transport.call("POST", "/commit" + query(container=self.id, repo=repository, tag=tag), {})
        return Images(self._transport).get(answer["Id"])


_Containers = list[Container]


class Containers:
    """The containers of an engine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, image: str, command: Command = None, *, name: str | None = None, **options: Unpack[ContainerOptions]
    ) -> Container:
        """Makes a container."""
        body = container_body(image, command, **options)
        made = self._transport.call("POST", "/containers/create" + query(name=name), body)
        return self.get(made["Id"])

    def run(
        self, image: str, command: Command = None, *, input: bytes | None = None,
        remove: bool = True, name: str | None = None, **options: Unpack[ContainerOptions],
    ) -> Completed:  # fmt: skip
        """Runs a container to its end, gives it `input`, and returns exit code and output."""
        if input is not None:
            options["stdin_open"] = True
        container = self.create(image, command, name=name, **options)
        try:
            wanted = query(stream=1, stdin=input is not None, stdout=1, stderr=1)
            response = self._transport.hijack(f"/containers/{container.id}/attach{wanted}")
            container.start()
            stdout, stderr = self._transport.converse(response, input)
            return Completed(container.wait(), stdout, stderr)
        finally:
            if remove:
                container.remove(force=True, volumes=True)

    def start(
        self, image: str, command: Command = None, *, name: str | None = None, **options: Unpack[ContainerOptions]
    ) -> Container:
        """Makes a container and starts it: `run --detach`."""
        container = self.create(image, command, name=name, **options)
        container.start()
        return container.reload()

    def get(self, name: str) -> Container:
        """One by id, prefix of an id, or name."""
        return Container(self._transport, self._transport.call("GET", at("/containers/{}/json", name)))

    def list(self, all: bool = False, filter: Mapping[str, object] | None = None) -> _Containers:
        """Those that run, or all."""
        rows = self._transport.call("GET", "/containers/json" + query(all=all, filters=filters(filter)))
        return [self.get(row["Id"]) for row in rows]

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that are stopped."""
        return dict(self._transport.call("POST", "/containers/prune" + query(filters=filters(filter))))
