"""BuildKit's Control and LLBBridge services, for the one frontend that clients of an engine use: dockerfile.v0."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

import sampan
from sampan.api.buildkit import filesync, frontend, messages
from sampan.api.buildkit.jobs import Job
from sampan.api.buildkit.sessions import Session, Sessions
from sampan.api.errors import is_expected, message_of
from sampan.build import exporting, writable
from sampan.build.cache import Space
from sampan.build.errors import BuildError
from sampan.build.file_tree import Tree
from sampan.build.model import State
from sampan.engine.builds import Builds, Request
from sampan.engine.errors import EngineError
from sampan.engine.filters import cache as wanted
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.operation import Verb
from sampan.engine.registries import Registries
from sampan.images import archive
from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.images.store import ImageStore
from sampan.oci import manifest as oci
from sampan.oci import reference

_log = logging.getLogger(__name__)

_CONTROL, _BRIDGE = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
_FRONTEND_CAPS = ("solve.base", "solve.inlinereturn", "resolveimage", "readfile", "readdir", "statfile", "return", "returnmap",
                  "importcaches", "proto.refarray", "reference.output", "frontend.inputs")  # fmt: skip
_LLB_CAPS = ("source.image", "source.local", "source.git", "source.http", "exec.meta.base", "exec.mount.bind", "exec.mount.cache",
             "exec.mount.tmpfs", "exec.mount.secret", "exec.mount.ssh", "file.base", "constraints", "platform")  # fmt: skip
_TIMEOUT = 60.0


@dataclass(slots=True)
class _Prepared:
    """A build in a session, open until its result has been exported."""

    request: Request
    state: State
    stack: contextlib.AsyncExitStack


def _told(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same; what nobody expected is printed, and not only called an internal error to the client."""

    async def call(stream: Any) -> None:
        try:
            await function(stream)
        except GRPCError:
            raise
        except StreamTerminatedError as error:
            raise GRPCError(Status.UNAVAILABLE, f"the session with the client has ended: {error}") from None
        except Exception as error:
            if not is_expected(error):
                _log.exception("build")
            raise GRPCError(Status.INTERNAL, message_of(error) or repr(error)) from error

    return call


Jobs = dict[tuple[Owner, str], Job]  # by whose they are, and their ref


class Control:
    """The services as one connection to /grpc has them, for whoever made it."""

    def __init__(
        self,
        builds: Builds,
        images: ImageStore,
        registries: Registries,
        gate: Gate,
        who: Caller,
        sessions: Sessions,
        jobs: Jobs,
    ) -> None:
        self._builds, self._images, self._registries, self._gate = builds, images, registries, gate
        self._who, self._sessions, self._jobs = who, sessions, jobs

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib wants to know: path → handler."""
        one, many = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        rows: list[tuple[str, Callable[[Any], Any], Cardinality, str, str]] = [
            (_CONTROL + "Solve", self._solve, one, "ControlSolveRequest", "ControlSolveResponse"),
            (_CONTROL + "Status", self._status, many, "StatusRequest", "StatusResponse"),
            (_CONTROL + "ListWorkers", self._list_workers, one, "Empty", "ListWorkersResponse"),
            (_CONTROL + "Info", self._info, one, "Empty", "InfoResponse"),
            (_CONTROL + "DiskUsage", self._disk_usage, one, "Empty", "DiskUsageResponse"),
            (_CONTROL + "Prune", self._prune, many, "PruneRequest", "UsageRecord"),
            (_BRIDGE + "Ping", self._ping, one, "Empty", "PongResponse"),
            (_BRIDGE + "Solve", self._bridge_solve, one, "BridgeSolveRequest", "BridgeSolveResponse"),
            (_BRIDGE + "Return", self._return, one, "ReturnRequest", "Empty"),
            (_BRIDGE + "Warn", self._nothing, one, "Empty", "Empty"),
        ]
        return {path: Handler(_told(function), cardinality, messages.kind(asks), messages.kind(gives))
                for path, function, cardinality, asks, gives in rows}  # fmt: skip

    # about the engine

    @staticmethod
    def _version() -> object:
        return messages.new("Version", package="sampan", version=sampan.__version__)

    def _worker(self) -> object:
        own = oci.host_platform()
        platform = messages.new("Platform", Architecture=own.architecture, OS=own.os, Variant=own.variant)
        return messages.new("Worker", ID="sampan", platforms=[platform], BuildkitVersion=self._version())

    async def _list_workers(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(messages.new("ListWorkersResponse", record=[self._worker()]))

    async def _info(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(messages.new("InfoResponse", buildkitVersion=self._version()))

    async def _nothing(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(messages.new("Empty"))

    def _usage(self) -> list[Any]:
        def when(seconds: float) -> Any:
            return messages.new("Time", seconds=int(seconds), nanos=int(seconds % 1 * 1e9))

        return [
            messages.new("UsageRecord", ID=row.key[:25], Size=row.size, CreatedAt=when(row.created), LastUsedAt=when(row.used),
                         UsageCount=1, Description=row.description, RecordType="regular", Mutable=True)
            for row in self._builds.cache_of(self._who).all()
        ]  # fmt: skip

    async def _disk_usage(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(messages.new("DiskUsageResponse", record=self._usage()))

    async def _prune(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            self._gate.ask_engine(self._who, Verb.ADMINISTER)
        except EngineError as error:
            raise GRPCError(Status.PERMISSION_DENIED, str(error)) from None
        before = self._usage()
        cache = self._builds.cache
        try:
            passes = wanted.selected(list(request.filter), request.keepDuration / 1e9)
        except EngineError as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
        space = Space(request.reservedSpace, request.maxUsedSpace, request.minFreeSpace)
        keys, _ = await asyncio.to_thread(cache.prune, wanted.loose(passes, cache, request.all), space)
        gone = {key[:25] for key in keys}
        for row in before:
            if row.ID in gone:
                await stream.send_message(row)

    # solving

    async def _job(self, stream: Any) -> Job:
        """The job that a bridge call belongs to. It may come before its Solve."""
        ref = str(stream.metadata.get("buildkit-controlapi-buildid", ""))
        return await self._started(ref)

    async def _started(self, ref: str) -> Job:
        job = self._jobs.setdefault((self._who.owner, ref), Job(ref))
        try:
            async with asyncio.timeout(_TIMEOUT):
                await asyncio.shield(job.started)
        except TimeoutError:
            raise GRPCError(Status.NOT_FOUND, f"no such job {ref}") from None
        return job

    async def _solve(self, stream: Any) -> None:
        request = await stream.recv_message()
        job = self._jobs.setdefault((self._who.owner, request.Ref), Job(request.Ref))
        exporter = request.Exporters[0] if request.Exporters else None
        job.exporter = (
            (exporter.Type, dict(exporter.Attrs)) if exporter else (request.Exporter, dict(request.ExporterAttrs))
        )
        job.entitlements, job.session = list(request.Entitlements), request.Session
        job.started.set_result(None)
        try:
            if request.Frontend:
                await self._build(job, request.Frontend, dict(request.FrontendAttrs))
            else:
                await job.returned  # the client drives it over the bridge
            answer = await self._export(job)
            await stream.send_message(messages.new("ControlSolveResponse", ExporterResponse=answer))
        except (ImageError, EngineError) as error:
            raise GRPCError(Status.UNKNOWN, str(error)) from None
        finally:
            job.close()
            self._jobs.pop((self._who.owner, request.Ref), None)
            if job.build is not None:
                await job.build.stack.aclose()

    async def _build(self, job: Job, name: str, attributes: dict[str, str]) -> None:
        if name not in ("dockerfile.v0", "gateway.v0"):
            raise BuildError(f"unknown frontend {name!r}: this engine builds dockerfile.v0")
        session = await self._sessions.get(self._who, job.session)
        stack = contextlib.AsyncExitStack()
        try:
            request = await stack.enter_async_context(
                frontend.prepared(self._builds.work, self._who, session, attributes, job.entitlements)
            )
            state = await stack.enter_async_context(self._builds.state(request, job))
        except BaseException:
            await stack.aclose()
            raise
        job.build = _Prepared(request, state, stack)

    async def _status(self, stream: Any) -> None:
        request = await stream.recv_message()
        queue = (await self._started(request.Ref)).watch()
        while (message := await queue.get()) is not None:
            await stream.send_message(message)

    async def _ping(self, stream: Any) -> None:
        await stream.recv_message()
        await self._job(stream)
        caps = [
            [messages.new("APICap", ID=name, Enabled=True) for name in names] for names in (_FRONTEND_CAPS, _LLB_CAPS)
        ]
        await stream.send_message(
            messages.new("PongResponse", FrontendAPICaps=caps[0], LLBCaps=caps[1], Workers=[self._worker()])
        )

    async def _bridge_solve(self, stream: Any) -> None:
        request = await stream.recv_message()
        job = await self._job(stream)
        try:
            if request.Frontend:
                await self._build(job, request.Frontend, dict(request.FrontendOpt))
        except (ImageError, EngineError) as error:
            raise GRPCError(Status.UNKNOWN, str(error)) from None
        result = (
            messages.new("Result", ref=messages.new("Ref", id="1"))
            if request.allowResultArrayRef
            else messages.new("Result", refDeprecated="1")
        )
        if request.allowResultReturn:
            await stream.send_message(messages.new("BridgeSolveResponse", result=result))
        else:
            await stream.send_message(messages.new("BridgeSolveResponse", ref="1"))

    async def _return(self, stream: Any) -> None:
        request = await stream.recv_message()
        job = await self._job(stream)
        if not job.returned.done():
            if request.HasField("error"):
                job.returned.set_exception(BuildError(request.error.message))
            else:
                job.returned.set_result(None)
        await stream.send_message(messages.new("Empty"))

    # results

    async def _export(self, job: Job) -> dict[str, str]:
        kind, attributes = job.exporter
        if job.build is None:
            return {}  # a client that only wanted to look around
        prepared: _Prepared = job.build
        session = await self._sessions.get(self._who, job.session)
        if kind in ("", "image", "moby"):
            return await self._export_image(job, prepared, session, attributes) if kind else {}
        if kind == "local":
            with writable.root_of(self._images.layers, prepared.state.layers) as rootfd:
                await filesync.send(session, Tree(rootfd, name="the result"))
            return {}
        if kind not in ("tar", "oci", "docker"):
            raise BuildError(f"unknown output type {kind!r}")
        async with self._file(prepared, kind, attributes) as path:
            await filesync.send_bytes(session, path, {})
        return {}

    async def _image(self, prepared: _Prepared, attributes: dict[str, str]) -> Image:
        prepared.request.options.tags = [name for name in attributes.get("name", "").split(",") if name]
        return await self._builds.export(prepared.request, prepared.state)

    async def _export_image(
        self, job: Job, prepared: _Prepared, session: Session, attributes: dict[str, str]
    ) -> dict[str, str]:
        image = await self._image(prepared, attributes)
        digest = image.id
        if attributes.get("push") in ("true", "1", ""):
            for name in prepared.request.options.tags if "push" in attributes else []:
                ref = reference.parse(name).with_default_tag()
                host = "https://index.docker.io/v1/" if ref.registry == reference.DEFAULT_REGISTRY else ref.registry
                async for message in self._registries.push(self._who, ref, await session.credentials(host)):
                    digest = message.get("aux", {}).get("Digest") or digest
        job.say(f"writing image {image.id}")
        descriptor = {"mediaType": oci.OCI_MANIFEST, "digest": digest, "size": 0}
        return {"containerimage.config.digest": image.id, "containerimage.digest": digest, "image.name": attributes.get("name", ""),
                "containerimage.descriptor": base64.b64encode(json.dumps(descriptor).encode()).decode()}  # fmt: skip

    @contextlib.asynccontextmanager
    async def _file(self, prepared: _Prepared, kind: str, attributes: dict[str, str]) -> AsyncIterator[str]:
        """The result as one file on the disk."""
        images = self._images
        fd, path = tempfile.mkstemp(dir=images.temporary)
        try:
            with open(fd, "wb") as out:
                if kind == "tar":
                    await asyncio.to_thread(exporting.export_tar, images, prepared.state, out)
                else:
                    image = await self._image(prepared, attributes)
                    await asyncio.to_thread(archive.save, images, [(image, prepared.request.options.tags)], out)
            yield path
        finally:
            os.unlink(path)
