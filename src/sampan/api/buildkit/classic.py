"""POST /build?version=2: a build in a session, with its status as protobuf in JSON, as Docker's CLI before buildx asks for it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from sampan.api import conform, schema
from sampan.api.buildkit import frontend
from sampan.api.buildkit.jobs import Job
from sampan.api.buildkit.sessions import Sessions
from sampan.api.json import decode
from sampan.build.errors import BuildError
from sampan.engine.builds import Builds
from sampan.engine.errors import EngineError
from sampan.engine.policy.caller import Caller
from sampan.images.errors import ImageError

UPLOAD = "upload-request"
_PLAIN = {"target": "target", "platform": "platform", "networkmode": "force-network-mode", "shmsize": "shm-size"}


def _attributes(request: web.Request) -> dict[str, str]:
    """The query as the attributes of a dockerfile.v0 solve."""
    query = request.query
    args = schema.check(decode(query.get("buildargs") or "null", "invalid buildargs"), schema.BuildArgs, "buildargs")
    labels = schema.check(decode(query.get("labels") or "null", "invalid labels"), conform.texts, "labels")
    found = {f"build-arg:{key}": value for key, value in args.items() if value is not None}
    found |= {f"label:{key}": value for key, value in labels.items()}
    found |= {name: query[key] for key, name in _PLAIN.items() if query.get(key) and query[key] != "default"}
    found["filename"] = query.get("dockerfile") or "Dockerfile"
    if query.get("nocache") in ("1", "true"):
        found["no-cache"] = ""
    if query.get("pull") in ("1", "true"):
        found["image-resolve-mode"] = "pull"
    hosts = [text.replace(":", "=", 1) for item in query.getall("extrahosts", []) for text in item.split(",") if text]
    if hosts:
        found["add-hosts"] = ",".join(hosts)
    remote = query.get("remote", "")
    if remote not in ("client-session", UPLOAD):
        found["context"] = remote
    return found


async def messages(
    builds: Builds, who: Caller, sessions: Sessions, request: web.Request, upload: str | None
) -> AsyncIterator[dict[str, Any]]:
    """The build's messages. `upload`: a file with the context's tar, or None."""
    attributes = _attributes(request)
    session = await sessions.get(who, request.query.get("session", ""))
    job = Job(request.query.get("buildid") or "build")
    queue = job.watch()

    async def run() -> str:
        try:
            async with frontend.prepared(builds.work, who, session, attributes, ["network.host"], upload) as wanted:
                wanted.options.tags = [tag for tag in request.query.getall("t", []) if tag]
                async with builds.state(wanted, job) as state:
                    image = await builds.export(wanted, state)
            return image.id
        finally:
            job.close()

    task = asyncio.ensure_future(run())
    try:
        while (status := await queue.get()) is not None:
            yield {"id": "moby.buildkit.trace", "aux": base64.b64encode(status.SerializeToString()).decode()}
        yield {"id": "moby.image.id", "aux": {"ID": await task}}
    except (ImageError, EngineError) as error:
        code = error.code if isinstance(error, BuildError) else 0
        yield {"errorDetail": {"message": str(error), **({"code": code} if code else {})}, "error": str(error)}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
