"""/images: list, inspect, load, save, import, tag, remove, prune; and bootstrap, which is ours."""

from __future__ import annotations

import hashlib

from aiohttp import web

from sampan.api import access, piped, platforms, registries
from sampan.api.requests import engine_of, filters, flag, json_line, spool, version
from sampan.engine import pools
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.filters import images as wanted
from sampan.engine.policy.operation import Verb
from sampan.engine.registries import platform_of
from sampan.images import archive
from sampan.images.config import members
from sampan.images.errors import ImageError
from sampan.images.image import Image, shared_sizes
from sampan.images.store import ImageStore
from sampan.linux import filetree
from sampan.oci import manifest as oci
from sampan.oci import reference


def _created(image: Image) -> int:
    return wanted.created(image) // 10**9


def summary(
    image: Image, by_digest: list[str], patterns: list[str] | None = None, shared: int = -1, containers: int = -1
) -> dict[str, object]:
    """A row of GET /images/json: with its "name@digest" forms that are seen, the bytes that it shares with others and how many containers
    are of it, -1 where nobody counts them; with patterns of references, only the names that they match."""
    tags = image.tags
    if patterns:
        tags, by_digest = wanted.matching_names(tags, patterns), wanted.matching_names(by_digest, patterns)
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": [reference.parse(tag).familiar for tag in tags],
        "RepoDigests": [reference.parse(text).familiar for text in by_digest],
        "Created": _created(image),
        "Size": image.size,
        "SharedSize": shared,
        "Labels": image.config.execution.labels or None,
        "Containers": containers,
        **({"Broken": image.broken} if image.broken else {}),
    }


async def list_(request: web.Request) -> web.Response:
    """GET /images/json"""
    engine, who = engine_of(request), access.who(request)
    asked = filters(request)
    sees = engine.gate.sight(who)
    passes = wanted.listed(
        lambda image: engine.finding.digests(image, sees), lambda text: engine.finding.image(who, text, Verb.SEE), asked
    )
    patterns, containers, known = (
        asked.get("reference") or [],
        engine.finding.containers(who),
        engine.finding.images(who),
    )
    shared = shared_sizes(known) if flag(request, "shared-size") else {}
    found = sorted(filter(passes, known), key=lambda image: -_created(image))
    rows = [
        summary(image, engine.finding.digests(image, sees), patterns, shared.get(image.id, -1))
        | virtual_size(request, image)
        for image in found
    ]
    if flag(request, "manifests"):
        for image, row in zip(found, rows, strict=True):
            row["Manifests"] = await pools.run("look", _manifests, engine.images, image, containers)
    return web.json_response(rows)


def _manifests(images: ImageStore, image: Image, containers: list[Container]) -> list[dict[str, object]]:
    """The manifests of an image, which here is for one platform: what `save` writes of it."""
    if image.broken:
        return []
    try:
        unpacked = sum(filetree.measure(path)[0] for path in images.lower_directories(image))
        data = archive.manifest(images, image)
    except ImageError:  # some of it is missing
        return []
    own, digest = image.config.platform, f"sha256:{hashlib.sha256(data).hexdigest()}"
    platform = {"architecture": own.architecture, "os": own.os} | ({"variant": own.variant} if own.variant else {})
    content = image.size + len(data) + images.blobs.size(image.id)
    return [
        {
            "ID": digest,
            "Descriptor": {"mediaType": oci.OCI_MANIFEST, "digest": digest, "size": len(data), "platform": platform},
            "Available": True,
            "Kind": "image",
            "Size": {"Content": content, "Total": content + unpacked},
            "ImageData": {
                "Platform": platform,
                "Size": {"Unpacked": unpacked},
                "Containers": [container.id for container in containers if container.image == image.id],
            },
        }
    ]


def virtual_size(request: web.Request, image: Image) -> dict[str, object]:
    """What versions of the API before 1.44 have besides."""
    return {"VirtualSize": image.size} if version(request) < (1, 44) else {}


def _shown(request: web.Request) -> Image:
    """The image of the path, by such names as its reader sees, if it is for the platform that is wanted."""
    engine = engine_of(request)
    image = platforms.check(access.image(request), request.match_info["name"], platforms.asked(request))
    return engine.finding.shown(image, engine.gate.sight(access.who(request)))


async def inspect(request: web.Request) -> web.Response:
    """GET /images/{name}/json"""
    engine, image, who = engine_of(request), _shown(request), access.who(request)
    digests = engine.finding.digests(image, engine.gate.sight(who))
    layers = [layer.diff_id for layer in image.layers]
    more: dict[str, object] = {"Broken": image.broken} if image.broken else {}
    if flag(request, "manifests"):
        if request.query.get("platform"):
            raise BadRequest("conflicting options: manifests and platform options cannot both be set")
        containers = engine.finding.containers(who)
        more["Manifests"] = await pools.run("look", _manifests, engine.images, image, containers)
    return web.json_response(
        {
            "Id": image.id,
            "RepoTags": [reference.parse(tag).familiar for tag in image.tags],
            "RepoDigests": [reference.parse(text).familiar for text in digests],
            "Parent": "",
            "Comment": image.config.history[-1].comment if image.config.history else "",
            **({"Created": image.config.created} if image.config.created else {}),
            "DockerVersion": "",
            "Author": image.config.author,
            "Config": _of_its_version(request, members(image.config.execution)),
            "Architecture": image.config.architecture or None,
            "Os": image.config.os or None,
            **({"Variant": image.config.variant} if image.config.variant else {}),
            "Size": image.size,
            "GraphDriver": {"Name": "overlay2", "Data": None},
            "RootFS": {"Type": "layers", **({"Layers": layers} if layers else {})},
            "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
            **virtual_size(request, image),
            **({"Container": "", "ContainerConfig": dict(_UNSAID)} if version(request) < (1, 45) else {}),
            **more,
        }
    )


# What versions of the API before 1.50 show of a configuration that says nothing.
_UNSAID: dict[str, object] = {
    **dict.fromkeys(("Hostname", "Domainname", "User", "Image", "WorkingDir"), ""),
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"), False),
    **dict.fromkeys(("Env", "Cmd", "Volumes", "Entrypoint", "OnBuild", "Labels")),
}


def _of_its_version(request: web.Request, config: dict[str, object]) -> dict[str, object]:
    return _UNSAID | config if version(request) < (1, 50) else config


async def history(request: web.Request) -> web.Response:
    """GET /images/{name}/history"""
    image = _shown(request)
    if image.broken:
        raise ImageError(f"image {image.name} is broken: {image.broken}")
    layers = iter(image.layers)
    rows = []
    for entry in image.config.history:
        layer = None if entry.empty_layer else next(layers, None)
        rows.append(
            {
                "Id": "<missing>",
                "Created": _created(image),
                "CreatedBy": entry.created_by,
                "Tags": None,
                "Size": layer.size if layer else 0,
                "Comment": entry.comment,
            }
        )
    rows.reverse()
    if rows:
        rows[0] |= {"Id": image.id, "Tags": [reference.parse(tag).familiar for tag in image.tags] or None}
    return web.json_response(rows)


async def load(request: web.Request) -> web.StreamResponse:
    """POST /images/load"""
    engine, who, platform = engine_of(request), access.who(request), platforms.asked(request)
    images = await engine.tasks.carry(engine.image_service.load(who, await spool(request, engine.data_root), platform))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for image, names in images:
        for tag in names:
            await response.write(json_line({"stream": f"Loaded image: {reference.parse(tag).familiar}\n"}))
        if not names:
            await response.write(json_line({"stream": f"Loaded image ID: {image.id}\n"}))
    return response


async def save(request: web.Request) -> web.StreamResponse:
    """GET /images/get and /images/{name}/get"""
    engine = engine_of(request)
    names = [request.match_info["name"]] if "name" in request.match_info else request.query.getall("names", [])
    names = [part for name in names for part in name.split(",")]
    if not names:
        raise BadRequest("no images to save: give at least one name")
    platform = platforms.asked(request)
    chosen: dict[str, tuple[Image, list[str]]] = {}
    for name in names:
        image = platforms.check(engine.finding.image(access.who(request), name, Verb.SAVE), name, platform)
        entry = chosen.setdefault(image.id, (image, []))
        if not image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
            ref = reference.parse(name)
            plain = not ref.tag and not ref.digest
            known = engine.finding.shown(image, engine.gate.sight(access.who(request))).tags
            matching = [t for t in known if reference.parse(t).name == ref.name] if plain else [str(ref)]
            entry[1].extend(tag for tag in matching if tag not in entry[1])
    coming = engine.arrivals.of(access.who(request), brings=False)
    for image, _ in chosen.values():
        coming.announce("save", image, image.id, image.id)
    return await piped.answer(request, "saves", lambda out: archive.save(engine.images, list(chosen.values()), out))


async def create(request: web.Request) -> web.StreamResponse:
    """POST /images/create: pull with fromImage, `import` with fromSrc"""
    if request.query.get("fromSrc"):
        return await _import(request)
    return await registries.pull(request)


async def _import(request: web.Request) -> web.StreamResponse:
    engine = engine_of(request)
    if request.query["fromSrc"] != "-":
        raise BadRequest("importing from a URL is not supported: download it and send it with fromSrc=-")
    name = request.query.get("repo", "")
    if name and request.query.get("tag"):
        name += f":{request.query['tag']}"
    changes = request.query.getall("changes", [])
    message, platform = (
        request.query.get("message") or "Imported from -",
        platform_of(request.query.get("platform", "")),
    )
    if platform.os != "linux":
        raise BadRequest(f"operating system is not supported: {platform.os}")
    who, file = access.who(request), await spool(request, engine.data_root)
    image = await engine.tasks.carry(engine.image_service.import_(who, file, name, changes, message, platform))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(json_line({"status": image.id}))
    return response


async def tag(request: web.Request) -> web.Response:
    """POST /images/{name}/tag"""
    engine, image = engine_of(request), access.image(request)
    name = request.query.get("repo", "")
    if request.query.get("tag"):
        name += f":{request.query['tag']}"
    await engine.image_service.tag(access.who(request), image, name)
    return web.Response(status=201)


async def remove(request: web.Request) -> web.Response:
    """DELETE /images/{name}. It takes no parents along, whether `noprune` is asked for or not: no image here has any."""
    engine, who, name = engine_of(request), access.who(request), request.match_info["name"]
    wanted = platforms.asked(request, "platforms")
    if wanted is not None:
        platforms.check(engine.finding.image(who, name, Verb.SEE), name, wanted)
    return web.json_response(await engine.image_service.remove(who, name, flag(request, "force")))


async def prune(request: web.Request) -> web.Response:
    """POST /images/prune"""
    engine, who = engine_of(request), access.who(request)
    passes = wanted.pruned(lambda text: engine.finding.image(who, text, Verb.SEE), filters(request))
    deleted, freed = await engine.pruning.images(who, passes)
    return web.json_response({"ImagesDeleted": deleted or None, "SpaceReclaimed": freed})


async def make(request: web.Request) -> web.StreamResponse:
    """POST /sampan/bootstrap?name=debian:bookworm (our own)"""
    service = engine_of(request).image_service
    image = await service.bootstrap(access.who(request), request.query.get("name", ""))
    return web.json_response({"Id": image.id, "Size": image.size})
