"""What needs a registry: pull, push, login, search, and a look at what a name is there."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from sampan.api import access, platforms, schema
from sampan.api.json import decode
from sampan.api.requests import body, engine_of, filters, json_stream, number
from sampan.engine.errors import BadRequest
from sampan.engine.filters import rules
from sampan.engine.finding import Finding
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.operation import Verb
from sampan.engine.registries import Registries, SearchResult, complete
from sampan.images.registry.auth import Credentials, from_fields
from sampan.images.registry.progress import Message
from sampan.oci import manifest as oci
from sampan.oci import reference
from sampan.oci.reference import Reference


def credentials_of(fields: dict[str, Any]) -> Credentials:
    """The credentials in an AuthConfig. Raises BadRequest."""
    try:
        return from_fields(fields)
    except ValueError as error:
        raise BadRequest(f"invalid auth: {error}") from None


def _credentials(request: web.Request) -> Credentials:
    text = request.headers.get("X-Registry-Auth")
    if not text:
        return Credentials()
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        fields = schema.check(decode(data or b"{}", "invalid X-Registry-Auth header"), schema.Auth, "X-Registry-Auth")
        return from_fields(fields)
    except ValueError as error:
        raise BadRequest(f"invalid X-Registry-Auth header: {error}") from None


async def pull(request: web.Request) -> web.StreamResponse:
    """POST /images/create?fromImage"""
    name = request.query.get("fromImage", "")
    if not name:
        raise BadRequest("nothing to pull: fromImage is empty")
    ref = complete(name, request.query.get("tag", ""))
    credentials, platform = _credentials(request), request.query.get("platform", "")
    engine = engine_of(request)
    if not ref.tag and not ref.digest and "tag" not in request.query:
        # As the Engine API has it: no tag means all of them; the CLI always sends one.
        return await json_stream(request, _all(engine.registries, access.who(request), ref, platform, credentials))
    who = access.who(request)
    return await json_stream(request, engine.registries.pull(who, ref.with_default_tag(), platform, credentials))


async def _all(
    registries: Registries, who: Caller, ref: Reference, platform: str, credentials: Credentials
) -> AsyncIterator[Message]:
    for tag in await registries.tags(ref, credentials):
        one = reference.parse(f"{ref.name}:{tag}")
        async for message in registries.pull(who, one, platform, credentials):
            yield message


async def push(request: web.Request) -> web.StreamResponse:
    """POST /images/{name}/push"""
    engine, credentials = engine_of(request), _credentials(request)
    ref = complete(request.match_info["name"], request.query.get("tag", ""))
    if ref.digest:
        raise BadRequest("cannot push a digest reference")
    wanted = platforms.asked(request)
    if wanted is not None:
        name = str(ref.with_default_tag())
        platforms.check(engine.finding.image(access.who(request), name, Verb.PUSH), name, wanted)
    if ref.tag:
        return await json_stream(request, engine.registries.push(access.who(request), ref, credentials))
    return await json_stream(
        request, _push_all(engine.registries, engine.finding, access.who(request), ref, credentials)
    )


async def _push_all(
    registries: Registries, finding: Finding, who: Caller, ref: Reference, credentials: Credentials
) -> AsyncIterator[Message]:
    names = [tag for image in finding.images(who) for tag in image.tags if reference.parse(tag).name == ref.name]
    for name in sorted(names) or [str(ref.with_default_tag())]:
        async for message in registries.push(who, reference.parse(name), credentials):
            yield message


async def auth(request: web.Request) -> web.Response:
    """POST /auth"""
    fields = schema.check(await body(request), schema.Auth)
    await engine_of(request).registries.login(fields.get("serveraddress") or "", credentials_of(fields))
    return web.json_response({"Status": "Login Succeeded", "IdentityToken": ""})


def _stars(key: str, values: list[str]) -> rules.Test[SearchResult]:
    least = max(rules.whole(key, value) for value in values)
    return lambda row: row.star_count >= least


_SEARCH: dict[str, rules.Rule[SearchResult]] = {
    "stars": _stars,
    "is-official": rules.boolean(lambda row: row.is_official),
    "is-automated": rules.boolean(lambda row: row.is_automated),
}


async def search(request: web.Request) -> web.Response:
    """GET /images/search"""
    term, passes = request.query.get("term", ""), rules.compile(_SEARCH, filters(request))
    if not term:
        raise BadRequest("nothing to search for: term is empty")
    limit = number(request, "limit") or 25
    if not 1 <= limit <= 100:
        raise BadRequest(f"limit {limit} is outside the range of [1, 100]")
    rows = await engine_of(request).registries.search(term, limit, _credentials(request))
    return web.json_response(msgspec.to_builtins([row for row in rows if passes(row)]))


async def distribution(request: web.Request) -> web.Response:
    """GET /distribution/{name}/json"""
    ref = reference.parse(request.match_info["name"]).with_default_tag()
    found = await engine_of(request).registries.inspect(ref, _credentials(request))
    document = found.document
    rows = document.manifests if isinstance(document, oci.Index) else ()
    platforms = [
        {"architecture": r.platform.architecture, "os": r.platform.os, "variant": r.platform.variant} for r in rows
    ]
    descriptor = {"mediaType": document.media_type, "digest": found.digest, "size": len(found.data)}
    return web.json_response({"Descriptor": descriptor, "Platforms": platforms})


async def manifest(request: web.Request) -> web.Response:
    """GET /sampan/manifests/{name}: a manifest or list as it is in its registry, and what platform it is for (our own)"""
    registries, credentials = engine_of(request).registries, _credentials(request)
    ref = reference.parse(request.match_info["name"]).with_default_tag()
    found = await registries.inspect(ref, credentials)
    own = await registries.made_for(ref, found, credentials)
    platform = {"architecture": own.architecture, "os": own.os, "variant": own.variant}
    descriptor: dict[str, object] = {
        "mediaType": found.document.media_type,
        "digest": found.digest,
        "size": len(found.data),
    }
    if own.os:
        descriptor["platform"] = {key: value for key, value in platform.items() if value}
    return web.json_response({"Ref": str(ref), "Descriptor": descriptor, "Content": found.data.decode()})


async def put_manifest(request: web.Request) -> web.Response:
    """PUT /sampan/manifests/{name}: a list of manifests that are in that repository (our own)"""
    asked = schema.check(await body(request), schema.Manifest)
    ref = reference.parse(request.match_info["name"]).with_default_tag()
    digest = await engine_of(request).registries.put_index(
        ref, (asked.get("Content") or "").encode(), _credentials(request)
    )
    return web.json_response({"Digest": digest})
