"""Containers, and the processes in them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Unpack

from sampan.client.asynchronous.images import AsyncImage, AsyncImages
from sampan.client.asynctransport import AsyncTransport
from sampan.client.calls import Completed, Object, Objects, at, filters, query
from sampan.client.options import Command, ContainerOptions, ExecOptions, container_body, exec_body, update_body


class AsyncContainer:
    """A container. `attrs` is what inspect said when it was last asked: see reload()."""

    def __init__(self, transport: AsyncTransport, attrs: Object) -> None:
        self._transport = transport
        self.attrs = attrs
        self.id: str = attrs["Id"]

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    def _path(self, rest: str = "") -> str:
        return f"/containers/{self.id}{rest}"

    async def _post(self, rest: str, body: object = None) -> Any:
        return await self._transport.call("POST", self._path(rest), body)

    @property
    def name(self) -> str:
        """Its name, as of the last reload()."""
        return str(self.attrs.get("Name", "")).removeprefix("/")

    @property
    def status(self) -> str:
        """ "created", "running", "paused", "restarting", "exited" or "dead", as of the last reload()."""
        return str(self.attrs["State"]["Status"])

    async def reload(self) -> AsyncContainer:
        """Asks the engine again."""
        self.attrs = await self._transport.call("GET", self._path("/json"))
        return self

    async def start(self) -> None:
        """Starts it; one that runs is left alone."""
        await self._post("/start")

    async def stop(self, timeout: int | None = None) -> None:
        """Asks it to end, and kills it after `timeout` seconds (10)."""
        await self._post("/stop" + query(t=timeout))

    async def restart(self, timeout: int | None = None) -> None:
        """Stops and starts it."""
        await self._post("/restart" + query(t=timeout))

    async def kill(self, signal: str | int = "KILL") -> None:
        """Sends a signal to its first process."""
        await self._post("/kill" + query(signal=signal))

    async def pause(self) -> None:
        """Freezes its processes."""
        await self._post("/pause")

    async def unpause(self) -> None:
        """Lets them go on."""
        await self._post("/unpause")

    async def wait(self, condition: str = "not-running") -> int:
        """Waits for its end ("not-running", "next-exit", "removed") and returns the exit code."""
        response = await self._transport.stream("POST", self._path("/wait" + query(condition=condition)))
        return int(json.loads(await response.read())["StatusCode"])

    async def remove(self, force: bool = False, volumes: bool = False) -> None:
        """Deletes it; `volumes` with its anonymous volumes."""
        await self._transport.call("DELETE", self._path(query(force=force, v=volumes)))

    async def rename(self, name: str) -> None:
        """Gives it another name."""
        await self._post("/rename" + query(name=name))

    async def update(
        self, memory: int | str | None = None, cpus: float | None = None, pids_limit: int | None = None,
        restart: str | None = None,
    ) -> None:  # fmt: skip
        """Changes limits and restart policy while it runs."""
        await self._post("/update", update_body(restart, memory=memory, cpus=cpus, pids_limit=pids_limit))

    async def logs(
        self, stdout: bool = True, stderr: bool = True, since: str | None = None, until: str | None = None,
        tail: int | str = "all", timestamps: bool = False,
    ) -> bytes:  # fmt: skip
        """What it has written, both streams in the order of writing."""
        wanted = query(stdout=stdout, stderr=stderr, since=since, until=until, tail=tail, timestamps=timestamps)
        response = await self._transport.stream("GET", self._path("/logs" + wanted))
        stdout_and_stderr = [data async for _, data in response.frames()]
        response.close()
        return b"".join(stdout_and_stderr)

    def follow(self, tail: int | str = "all") -> AsyncIterator[tuple[int, bytes]]:
        """(stream, bytes) as it writes, to its end; stream 1 is stdout, 2 stderr."""
        return self._transport.frames("GET", self._path("/logs" + query(stdout=1, stderr=1, follow=1, tail=tail)))

    async def attach(self, input: bytes | None = None) -> Completed:
        """Gives it `input`, collects its output to its end, and waits."""
        response = await self._transport.hijack(
            self._path("/attach" + query(stream=1, stdin=input is not None, stdout=1, stderr=1, logs=1))
        )
        stdout, stderr = await self._transport.converse(response, input)
        return Completed(await self.wait(), stdout, stderr)

    async def exec(self, command: Command, *, input: bytes | None = None, **options: Unpack[ExecOptions]) -> Completed:
        """Runs a further process in it."""
        body = exec_body(command, stdin=input is not None, **options)
        made = await self._post("/exec", body)
        identifier = made["Id"]
        response = await self._transport.hijack(f"/exec/{identifier}/start", {"Detach": False, "Tty": body["Tty"]})
        stdout, stderr = await self._transport.converse(response, input)
        ended = await self._transport.call("GET", f"/exec/{identifier}/json")
        return Completed(int(ended["ExitCode"]), stdout, stderr)

    async def top(self, ps_args: str | None = None) -> Object:
        """Its processes: Titles and Processes."""
        return dict(await self._transport.call("GET", self._path("/top" + query(ps_args=ps_args))))

    async def stats(self) -> Object:
        """One sample of what it uses."""
        return dict(await self._transport.call("GET", self._path("/stats?stream=0&one-shot=1")))

    async def diff(self) -> Objects:
        """Paths changed against the image: Kind 0 modified, 1 added, 2 deleted."""
        return list(await self._transport.call("GET", self._path("/changes")) or [])

    def get_archive(self, path: str) -> AsyncIterator[bytes]:
        """A tar of a file or directory in it."""
        return self._transport.chunks("GET", self._path("/archive" + query(path=path)))

    async def put_archive(self, path: str, tar: bytes | AsyncIterator[bytes]) -> None:
        """Extracts a tar into a directory in it."""
        response = await self._transport.stream("PUT", self._path("/archive" + query(path=path)), source=tar)
        await response.read()

    def export(self) -> AsyncIterator[bytes]:
        """A tar of its whole file system."""
        return self._transport.chunks("GET", self._path("/export"))

    async def commit(self, repository: str, tag: str = "latest") -> AsyncImage:
        """Makes an image of its present state."""
        answer = await self._transport.call("POST", "/commit" + query(container=self.id, repo=repository, tag=tag), {})
        return await AsyncImages(self._transport).get(answer["Id"])


_Containers = list[AsyncContainer]


class AsyncContainers:
    """The containers of an engine."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self, image: str, command: Command = None, *, name: str | None = None, **options: Unpack[ContainerOptions]
    ) -> AsyncContainer:
        """Makes a container."""
        body = container_body(image, command, **options)
        made = await self._transport.call("POST", "/containers/create" + query(name=name), body)
        return await self.get(made["Id"])

    async def run(
        self, image: str, command: Command = None, *, input: bytes | None = None,
        remove: bool = True, name: str | None = None, **options: Unpack[ContainerOptions],
    ) -> Completed:  # fmt: skip
        """Runs a container to its end, gives it `input`, and returns exit code and output."""
        if input is not None:
            options["stdin_open"] = True
        container = await self.create(image, command, name=name, **options)
        try:
            wanted = query(stream=1, stdin=input is not None, stdout=1, stderr=1)
            response = await self._transport.hijack(f"/containers/{container.id}/attach{wanted}")
            await container.start()
            stdout, stderr = await self._transport.converse(response, input)
            return Completed(await container.wait(), stdout, stderr)
        finally:
            if remove:
                await container.remove(force=True, volumes=True)

    async def start(
        self, image: str, command: Command = None, *, name: str | None = None, **options: Unpack[ContainerOptions]
    ) -> AsyncContainer:
        """Makes a container and starts it: `run --detach`."""
        container = await self.create(image, command, name=name, **options)
        await container.start()
        return await container.reload()

    async def get(self, name: str) -> AsyncContainer:
        """One by id, prefix of an id, or name."""
        return AsyncContainer(self._transport, await self._transport.call("GET", at("/containers/{}/json", name)))

    async def list(self, all: bool = False, filter: Mapping[str, object] | None = None) -> _Containers:
        """Those that run, or all."""
        rows = await self._transport.call("GET", "/containers/json" + query(all=all, filters=filters(filter)))
        return [await self.get(row["Id"]) for row in rows]

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that are stopped."""
        return dict(await self._transport.call("POST", "/containers/prune" + query(filters=filters(filter))))
