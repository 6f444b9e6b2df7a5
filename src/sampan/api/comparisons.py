"""Comparisons that the engine keeps, so that the page can show them, and starts for it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from sampan.api import access
from sampan.api.requests import body, engine_of, json_stream
from sampan.compare import report
from sampan.compare.model import CompareError, from_json
from sampan.engine.errors import BadRequest, EngineError, NotFound
from sampan.engine.policy.operation import Verb
from sampan.linux import durable

_MOST = 20
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}")
HOST: web.AppKey[str] = web.AppKey("host", str)  # of the engine's own socket


def _directory(request: web.Request) -> str:
    path = f"{engine_of(request).data_root}/comparisons"
    os.makedirs(path, 0o700, exist_ok=True)
    return path


async def keep(request: web.Request) -> web.Response:
    """POST /sampan/comparisons: keeps one, in the form of `sampan compare --format json`"""
    found = await body(request)
    try:
        when = from_json(found).machine["when"]
        name = f"{re.sub(r'[^0-9T]', '', str(when)[:19])}-{secrets.token_hex(3)}"
    except (CompareError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadRequest(f"no comparison: {error}") from None
    if not _NAME.fullmatch(name):
        raise BadRequest("no comparison: it does not say when it was made")
    directory = _directory(request)
    await asyncio.to_thread(durable.write, f"{directory}/{name}.json", json.dumps(found), 0o644)
    for old in _names(directory)[_MOST:]:
        os.unlink(f"{directory}/{old}.json")
    return web.json_response({"Id": name}, status=201)


def _names(directory: str) -> list[str]:
    """The newest first."""
    return sorted(
        (name.removesuffix(".json") for name in os.listdir(directory) if name.endswith(".json")), reverse=True
    )


def _read(directory: str, name: str) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise NotFound(f"No such comparison: {name}")
    try:
        with open(f"{directory}/{name}.json", encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        raise NotFound(f"No such comparison: {name}") from None
    return found


async def list_(request: web.Request) -> web.Response:
    """GET /sampan/comparisons"""
    directory = _directory(request)
    rows = [(name, _read(directory, name)) for name in _names(directory)]
    return web.json_response([{"Id": name, "Image": row["image"], "Command": row["command"], "When": row["machine"]["when"],
                               "Headline": row["advice"]["headline"]} for name, row in rows])  # fmt: skip


async def show(request: web.Request) -> web.Response:
    """GET /sampan/comparisons/{name}?format=json|html|csv|table"""
    found = _read(_directory(request), request.match_info["name"])
    form = request.query.get("format", "json")
    if form not in ("json", "html", "csv", "table"):
        raise BadRequest(f"unknown format {form}: json, html, csv or table")
    kind = {"json": "application/json", "html": "text/html"}.get(form, "text/plain")
    return web.Response(text=report.render(from_json(found), form), content_type=kind)


async def measure(request: web.Request) -> web.StreamResponse:
    """POST /sampan/compare: {"Image", "Command", "Quick"}: makes one, told as it goes on; the last message is its Id"""
    wanted = await body(request)
    image, command = wanted.get("Image"), wanted.get("Command") or []
    if not isinstance(image, str) or not image or image.startswith("-"):
        raise BadRequest("missing Image")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise BadRequest("Command must be a list of texts")
    engine_of(request).finding.image(access.who(request), image, Verb.USE)
    options = ["--quick"] if wanted.get("Quick", True) else []
    words = [*options, image, *(["--", *command] if command else [])]
    return await json_stream(request, _measured(request.app[HOST], words))


async def _measured(host: str, words: list[str]) -> AsyncIterator[dict[str, object]]:
    """The command line's own comparison, in a process of its own, so that measuring does not measure the engine at it."""
    code = "from sampan.cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "compare", "--format", "json", *words, env={**os.environ, "SAMPAN_HOST": host, "SAMPAN_AUTOSTART": "0"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=16 << 20,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    output = asyncio.ensure_future(process.stdout.read())
    last = ""
    try:
        async for line in process.stderr:
            last = line.decode(errors="replace").strip()
            part, _, text = last.partition("% ")
            if part.isdecimal():
                yield {"status": text, "progressDetail": {"current": int(part), "total": 100}}
        await output
        if await process.wait():
            raise EngineError(last.removeprefix("sampan: "))
        yield {"aux": {"Id": last.removeprefix("kept as ")}}
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # nobody waits for it any more: it takes away what it has made
            await process.wait()
        output.cancel()
