"""The client: `with sampan.Client() as client: client.containers.run("busybox", "echo hi")`.

Made from asynchronous.py by scripts/sync_client.py: change that one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Unpack

from sampan.client import calls
from sampan.client.calls import Completed, Object, filters, query, quote
from sampan.client.options import Command, ContainerOptions, ExecOptions, container_body, exec_body, update_body
from sampan.client.transport import Response, Transport

# Where a method named `list` hides the type.
_Objects = list[Object]
_Names = list[str]


class Client:
    """One engine. Without `host` ("unix:///path") the default one, started when none runs.

    Raises NoEngine when there is none, APIError with `status` for what the engine refuses.
    """

    def __init__(self, host: str | None = None) -> None:
        self._transport = Transport(host)
        self.containers = Containers(self._transport)
        self.images = Images(self._transport)
        self.volumes = Volumes(self._transport)
        self.networks = Networks(self._transport)

    def __enter__(self) -> Client:
        self._transport.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection that is kept, if one is; the client can still be used."""
        self._transport.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Any request of the API with a JSON answer."""
        return self._transport.call(method, path, body)

    def stream(
        self, method: str, path: str, body: object = None, source: Iterator[bytes] | None = None, headers: str = ""
    ) -> Response:
        """Any request, its answer read as it comes; on a connection of its own."""
        return self._transport.stream(method, path, body, source, headers)

    def hijack(self, path: str, body: object = None) -> Response:
        """A request whose connection becomes a process's streams."""
        return self._transport.hijack(path, body)

    def finish(self, method: str, path: str, body: object = None) -> Object:
        """Any request that is answered with progress: its last object. Raises APIError for an error in it."""
        return self._transport.finish(method, path, body)

    def ping(self) -> bool:
        """Whether the engine answers."""
        response = self.stream("GET", "/_ping")
        return response.read() == b"OK"

    def version(self) -> Object:
        """Versions of engine and API."""
        return dict(self.call("GET", "/version"))

    def info(self) -> Object:
        """The engine and its machine."""
        return dict(self.call("GET", "/info"))

    def disk_usage(self) -> Object:
        """What images, containers and volumes take."""
        return dict(self.call("GET", "/system/df"))

    def events(
        self, since: str | None = None, until: str | None = None, filter: Mapping[str, object] | None = None
    ) -> Iterator[Object]:
        """Events as they happen, with `since` those before too; ends at `until`."""
        return self._transport.objects("GET", "/events" + query(since=since, until=until, filters=filters(filter)))


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

    def diff(self) -> _Objects:
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
        return Container(self._transport, self._transport.call("GET", f"/containers/{quote(name)}/json"))

    def list(self, all: bool = False, filter: Mapping[str, object] | None = None) -> _Containers:
        """Those that run, or all."""
        rows = self._transport.call("GET", "/containers/json" + query(all=all, filters=filters(filter)))
        return [self.get(row["Id"]) for row in rows]

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that are stopped."""
        return dict(self._transport.call("POST", "/containers/prune" + query(filters=filters(filter))))


class Image:
    """An image."""

    def __init__(self, transport: Transport, attrs: Object) -> None:
        self._transport = transport
        self.attrs = attrs
        self.id: str = attrs["Id"]

    def __repr__(self) -> str:
        return f"<Image {self.id[7:19]} {' '.join(self.tags)}>"

    @property
    def tags(self) -> list[str]:
        """Its references."""
        return list(self.attrs.get("RepoTags") or [])

    def tag(self, repository: str, tag: str = "latest") -> None:
        """Gives it a further reference."""
        self._transport.call("POST", f"/images/{self.id}/tag" + query(repo=repository, tag=tag))

    def history(self) -> _Objects:
        """Its layers, newest first."""
        return list(self._transport.call("GET", f"/images/{self.id}/history"))

    def save(self) -> Iterator[bytes]:
        """A docker-archive of it."""
        return Images(self._transport).save(self.tags or [self.id])


_Images = list[Image]


class Images:
    """The images of an engine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, name: str) -> Image:
        """One by reference or id."""
        return Image(self._transport, self._transport.call("GET", f"/images/{quote(name)}/json"))

    def list(self, filter: Mapping[str, object] | None = None) -> _Images:
        """All of them."""
        rows = self._transport.call("GET", "/images/json" + query(filters=filters(filter)))
        return [self.get(row["Id"]) for row in rows]

    def load(self, archive: bytes | Iterator[bytes]) -> str:
        """Loads a docker-archive or OCI layout. Returns what the engine said last."""
        last = self._transport.finish("POST", "/images/load", source=archive)
        return str(last.get("stream", "")).strip()

    def save(self, names: _Names) -> Iterator[bytes]:
        """A docker-archive of one or more images."""
        return self._transport.chunks("GET", "/images/get" + query(names=names))

    def pull(self, name: str, platform: str | None = None, auth: Mapping[str, str] | None = None) -> Image:
        """Pulls an image. `auth`: {"username": ..., "password": ...} of its registry."""
        repository, tag = calls.reference(name)
        path = "/images/create" + query(fromImage=repository, tag=tag, platform=platform)
        for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            calls.told(message)
        return self.get(name)

    def push(self, name: str, auth: Mapping[str, str] | None = None) -> str:
        """Pushes an image. Returns the digest it has there."""
        repository, tag = calls.reference(name)
        digest = ""
        path = f"/images/{repository}/push" + query(tag=tag)
        for message in self._transport.objects("POST", path, headers=calls.auth_header(auth)):
            digest = calls.told(message).get("aux", {}).get("Digest") or digest
        return digest

    def build(
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
    ) -> Image:
        """Builds the Dockerfile of a directory on this machine. `output` gets what the build says as it goes on."""
        body = calls.build(
            path, tags or [], dockerfile, args, target, platform, no_cache, pull, secrets, labels, network
        )
        identifier = ""
        for message in self._transport.objects("POST", "/sampan/build", body):
            identifier = calls.told(message).get("aux", {}).get("ID") or identifier
            if output is not None and "stream" in message:
                output(message["stream"])
        return self.get(identifier)

    def bootstrap(self, name: str) -> Image:
        """Makes a base image from packages of the distribution: "busybox", "debian:bookworm"."""
        made = self._transport.call("POST", "/sampan/bootstrap" + query(name=name))
        return self.get(made["Id"])

    def remove(self, name: str, force: bool = False) -> _Objects:
        """Untags and, when nothing else uses it, deletes it."""
        return list(self._transport.call("DELETE", f"/images/{quote(name)}" + query(force=force)))

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes those without a reference."""
        return dict(self._transport.call("POST", "/images/prune" + query(filters=filters(filter))))


class Volumes:
    """The volumes of an engine, as the API's objects."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str = "", labels: Mapping[str, str] | None = None) -> Object:
        """Makes one, or returns the one of that name."""
        return dict(self._transport.call("POST", "/volumes/create", {"Name": name, "Labels": dict(labels or {})}))

    def get(self, name: str) -> Object:
        """One by name."""
        return dict(self._transport.call("GET", f"/volumes/{quote(name)}"))

    def list(self, filter: Mapping[str, object] | None = None) -> _Objects:
        """All of them."""
        answer = self._transport.call("GET", "/volumes" + query(filters=filters(filter)))
        return list(answer["Volumes"] or [])

    def remove(self, name: str, force: bool = False) -> None:
        """Deletes one that no container uses."""
        self._transport.call("DELETE", f"/volumes/{quote(name)}" + query(force=force))

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes anonymous ones that no container uses."""
        return dict(self._transport.call("POST", "/volumes/prune" + query(filters=filters(filter))))


class Networks:
    """The networks of an engine, as the API's objects."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, driver: str = "bridge", *, subnet: str | None = None, gateway: str | None = None,
        internal: bool = False, ipv6: bool = False, labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Object:  # fmt: skip
        """Makes one; containers reach it by `network=name`."""
        body = calls.network(name, driver, subnet, gateway, internal, ipv6, labels, options)
        made = self._transport.call("POST", "/networks/create", body)
        return self.get(made["Id"])

    def get(self, name: str) -> Object:
        """One by name or id, with the containers on it."""
        return dict(self._transport.call("GET", f"/networks/{quote(name)}"))

    def list(self, filter: Mapping[str, object] | None = None) -> _Objects:
        """All of them."""
        return list(self._transport.call("GET", "/networks" + query(filters=filters(filter))))

    def connect(self, name: str, container: str, aliases: _Names | None = None, ip: str | None = None) -> None:
        """Puts a container on it, also while it runs."""
        self._transport.call("POST", f"/networks/{quote(name)}/connect", calls.endpoint(container, aliases, ip))

    def disconnect(self, name: str, container: str, force: bool = False) -> None:
        """Takes a container off it."""
        self._transport.call("POST", f"/networks/{quote(name)}/disconnect", {"Container": container, "Force": force})

    def remove(self, name: str) -> None:
        """Deletes one that no container is on."""
        self._transport.call("DELETE", f"/networks/{quote(name)}")

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that no container uses."""
        return dict(self._transport.call("POST", "/networks/prune" + query(filters=filters(filter))))
