"""The client for asyncio: `async with sampan.AsyncClient() as client: await client.containers.run("busybox", "echo hi")`.

`sync` is made from this file by scripts/sync_client.py: change this one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Unpack

from sampan.client import calls
from sampan.client.asynctransport import AsyncResponse, AsyncTransport
from sampan.client.calls import Completed, Object, filters, query, quote
from sampan.client.options import Command, ContainerOptions, ExecOptions, container_body, exec_body, update_body

# Where a method named `list` hides the type.
_Objects = list[Object]
_Names = list[str]


class AsyncClient:
    """One engine. Without `host` ("unix:///path") the default one, started when none runs.

    Raises NoEngine when there is none, APIError with `status` for what the engine refuses.
    """

    def __init__(self, host: str | None = None) -> None:
        self._transport = AsyncTransport(host)
        self.containers = AsyncContainers(self._transport)
        self.images = AsyncImages(self._transport)
        self.volumes = AsyncVolumes(self._transport)
        self.networks = AsyncNetworks(self._transport)

    async def __aenter__(self) -> AsyncClient:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection that is kept, if one is; the client can still be used."""
        await self._transport.close()

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Any request of the API with a JSON answer."""
        return await self._transport.call(method, path, body)

    async def stream(
        self, method: str, path: str, body: object = None, source: AsyncIterator[bytes] | None = None, headers: str = ""
    ) -> AsyncResponse:
        """Any request, its answer read as it comes; on a connection of its own."""
        return await self._transport.stream(method, path, body, source, headers)

    async def hijack(self, path: str, body: object = None) -> AsyncResponse:
        """A request whose connection becomes a process's streams."""
        return await self._transport.hijack(path, body)

    async def finish(self, method: str, path: str, body: object = None) -> Object:
        """Any request that is answered with progress: its last object. Raises APIError for an error in it."""
        return await self._transport.finish(method, path, body)

    async def ping(self) -> bool:
        """Whether the engine answers."""
        response = await self.stream("GET", "/_ping")
        return await response.read() == b"OK"

    async def version(self) -> Object:
        """Versions of engine and API."""
        return dict(await self.call("GET", "/version"))

    async def info(self) -> Object:
        """The engine and its machine."""
        return dict(await self.call("GET", "/info"))

    async def disk_usage(self) -> Object:
        """What images, containers and volumes take."""
        return dict(await self.call("GET", "/system/df"))

    def events(
        self, since: str | None = None, until: str | None = None, filter: Mapping[str, object] | None = None
    ) -> AsyncIterator[Object]:
        """Events as they happen, with `since` those before too; ends at `until`."""
        return self._transport.objects("GET", "/events" + query(since=since, until=until, filters=filters(filter)))


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

    async def diff(self) -> _Objects:
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
        return AsyncContainer(self._transport, await self._transport.call("GET", f"/containers/{quote(name)}/json"))

    async def list(self, all: bool = False, filter: Mapping[str, object] | None = None) -> _Containers:
        """Those that run, or all."""
        rows = await self._transport.call("GET", "/containers/json" + query(all=all, filters=filters(filter)))
        return [await self.get(row["Id"]) for row in rows]

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that are stopped."""
        return dict(await self._transport.call("POST", "/containers/prune" + query(filters=filters(filter))))


class AsyncImage:
    """An image."""

    def __init__(self, transport: AsyncTransport, attrs: Object) -> None:
        self._transport = transport
        self.attrs = attrs
        self.id: str = attrs["Id"]

    def __repr__(self) -> str:
        return f"<Image {self.id[7:19]} {' '.join(self.tags)}>"

    @property
    def tags(self) -> list[str]:
        """Its references."""
        return list(self.attrs.get("RepoTags") or [])

    async def tag(self, repository: str, tag: str = "latest") -> None:
        """Gives it a further reference."""
        await self._transport.call("POST", f"/images/{self.id}/tag" + query(repo=repository, tag=tag))

    async def history(self) -> _Objects:
        """Its layers, newest first."""
        return list(await self._transport.call("GET", f"/images/{self.id}/history"))

    def save(self) -> AsyncIterator[bytes]:
        """A docker-archive of it."""
        return AsyncImages(self._transport).save(self.tags or [self.id])


_Images = list[AsyncImage]


class AsyncImages:
    """The images of an engine."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(self, name: str) -> AsyncImage:
        """One by reference or id."""
        return AsyncImage(self._transport, await self._transport.call("GET", f"/images/{quote(name)}/json"))

    async def list(self, filter: Mapping[str, object] | None = None) -> _Images:
        """All of them."""
        rows = await self._transport.call("GET", "/images/json" + query(filters=filters(filter)))
        return [await self.get(row["Id"]) for row in rows]

    async def load(self, archive: bytes | AsyncIterator[bytes]) -> str:
        """Loads a docker-archive or OCI layout. Returns what the engine said last."""
        last = await self._transport.finish("POST", "/images/load", source=archive)
        return str(last.get("stream", "")).strip()

    def save(self, names: _Names) -> AsyncIterator[bytes]:
        """A docker-archive of one or more images."""
        return self._transport.chunks("GET", "/images/get" + query(names=names))

    async def pull(self, name: str, platform: str | None = None, auth: Mapping[str, str] | None = None) -> AsyncImage:
        """Pulls an image. `auth`: {"username": ..., "password": ...} of its registry."""
        repository, tag = calls.reference(name)
        path = "/images/create" + query(fromImage=repository, tag=tag, platform=platform)
        async for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            calls.told(message)
        return await self.get(name)

    async def push(self, name: str, auth: Mapping[str, str] | None = None) -> str:
        """Pushes an image. Returns the digest it has there."""
        repository, tag = calls.reference(name)
        digest = ""
        path = f"/images/{repository}/push" + query(tag=tag)
        async for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            digest = calls.told(message).get("aux", {}).get("Digest") or digest
        return digest

    async def build(
        self,
        path: str,
        *,
        tags: _Names | None = None,
        dockerfile: str = "Dockerfile",
        args: Mapping[str, str] | None = None,
        target: str = "",
        platform: str = "",
        no_cache: bool = False,
        pull: bool = False,
        secrets: Mapping[str, bytes] | None = None,
        labels: Mapping[str, str] | None = None,
        network: str = "",
        output: Callable[[str], object] | None = None,
    ) -> AsyncImage:
        """Builds the Dockerfile of a directory on this machine. `output` gets what the build says as it goes on."""
        body = calls.build(
            path, tags or [], dockerfile, args, target, platform, no_cache, pull, secrets, labels, network
        )
        identifier = ""
        async for message in self._transport.objects("POST", "/sampan/build", body):
            identifier = calls.told(message).get("aux", {}).get("ID") or identifier
            if output is not None and "stream" in message:
                output(message["stream"])
        return await self.get(identifier)

    async def bootstrap(self, name: str) -> AsyncImage:
        """Makes a base image from packages of the distribution: "busybox", "debian:bookworm"."""
        made = await self._transport.call("POST", "/sampan/bootstrap" + query(name=name))
        return await self.get(made["Id"])

    async def remove(self, name: str, force: bool = False) -> _Objects:
        """Untags and, when nothing else uses it, deletes it."""
        return list(await self._transport.call("DELETE", f"/images/{quote(name)}" + query(force=force)))

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes those without a reference."""
        return dict(await self._transport.call("POST", "/images/prune" + query(filters=filters(filter))))


class AsyncVolumes:
    """The volumes of an engine, as the API's objects."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, name: str = "", labels: Mapping[str, str] | None = None) -> Object:
        """Makes one, or returns the one of that name."""
        return dict(await self._transport.call("POST", "/volumes/create", {"Name": name, "Labels": dict(labels or {})}))

    async def get(self, name: str) -> Object:
        """One by name."""
        return dict(await self._transport.call("GET", f"/volumes/{quote(name)}"))

    async def list(self, filter: Mapping[str, object] | None = None) -> _Objects:
        """All of them."""
        answer = await self._transport.call("GET", "/volumes" + query(filters=filters(filter)))
        return list(answer["Volumes"] or [])

    async def remove(self, name: str, force: bool = False) -> None:
        """Deletes one that no container uses."""
        await self._transport.call("DELETE", f"/volumes/{quote(name)}" + query(force=force))

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes anonymous ones that no container uses."""
        return dict(await self._transport.call("POST", "/volumes/prune" + query(filters=filters(filter))))


class AsyncNetworks:
    """The networks of an engine, as the API's objects."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self, name: str, driver: str = "bridge", *, subnet: str | None = None, gateway: str | None = None,
        internal: bool = False, ipv6: bool = False, labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Object:  # fmt: skip
        """Makes one; containers reach it by `network=name`."""
        body = calls.network(name, driver, subnet, gateway, internal, ipv6, labels, options)
        made = await self._transport.call("POST", "/networks/create", body)
        return await self.get(made["Id"])

    async def get(self, name: str) -> Object:
        """One by name or id, with the containers on it."""
        return dict(await self._transport.call("GET", f"/networks/{quote(name)}"))

    async def list(self, filter: Mapping[str, object] | None = None) -> _Objects:
        """All of them."""
        return list(await self._transport.call("GET", "/networks" + query(filters=filters(filter))))

    async def connect(self, name: str, container: str, aliases: _Names | None = None, ip: str | None = None) -> None:
        """Puts a container on it, also while it runs."""
        await self._transport.call("POST", f"/networks/{quote(name)}/connect", calls.endpoint(container, aliases, ip))

    async def disconnect(self, name: str, container: str, force: bool = False) -> None:
        """Takes a container off it."""
        await self._transport.call(
            "POST", f"/networks/{quote(name)}/disconnect", {"Container": container, "Force": force}
        )

    async def remove(self, name: str) -> None:
        """Deletes one that no container is on."""
        await self._transport.call("DELETE", f"/networks/{quote(name)}")

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that no container uses."""
        return dict(await self._transport.call("POST", "/networks/prune" + query(filters=filters(filter))))
