"""/networks"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aiohttp import web

from sampan.api import access, decode, encode
from sampan.api.requests import body, engine_of, filters, strict_flag
from sampan.engine.container import Container, timestamp
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest
from sampan.engine.filters import networks as wanted
from sampan.engine.model import ConnectRequest
from sampan.engine.policy.model import CONTAINER
from sampan.engine.policy.operation import Kind, Operation, Subject, Verb
from sampan.network.errors import NetworkNotFound
from sampan.network.ipam import is_ours
from sampan.network.model import ANTISPOOF, Network, NetworkRequest

_LONGEST_NAME = 255
# options that name an interface of the host's, or let a container be another
_HOST_S = {"com.docker.network.bridge.name", "parent", ANTISPOOF}


def describe(network: Network, seen: Collection[str] = ()) -> dict[str, Any]:
    """A network as the API shows it, with those of its containers whose ids are in `seen`."""
    containers = {}
    for endpoint in network.endpoints.values():
        if endpoint.container not in seen:
            continue
        containers[endpoint.container] = {
            "Name": endpoint.name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac,
            "IPv4Address": endpoint.ipv4,
            "IPv6Address": endpoint.ipv6,
        }
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": timestamp(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": network.ipam_driver,
            "Options": network.ipam_options or None,
            "Config": encode.pools(network.ipam),
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    }


async def list_(request: web.Request) -> web.Response:
    """GET /networks"""
    engine = engine_of(request)
    passes = wanted.listed(filters(request), engine.networking.used)
    found = [network for network in engine.finding.networks(access.who(request)) if passes(network)]
    return web.json_response([describe(network) for network in found])


async def inspect(request: web.Request) -> web.Response:
    """GET /networks/{id}"""
    network = access.network(request)
    assert network is not None
    strict_flag(request, "verbose")  # what it adds is of services, which there are none of
    if request.query.get("scope") not in (None, "", "local"):
        raise NetworkNotFound(f"network {request.match_info['id']} not found")  # all are local
    seen = {container.id for container in engine_of(request).finding.containers(access.who(request))}
    return web.json_response(describe(network, seen))


async def create(request: web.Request) -> web.Response:
    """POST /networks/create"""
    engine = engine_of(request)
    asked, who = decode.network_request(await body(request)), access.who(request)
    if len(asked.name) > _LONGEST_NAME:
        raise BadRequest(f"invalid network name: {len(asked.name)} characters, {_LONGEST_NAME} at most")
    if asked.ipam.driver != "default":
        raise BadRequest(f"ipam driver {asked.ipam.driver!r} not found: there is only default")
    subject = Subject(Kind.NETWORK, "", (who.owner,), CONTAINER)
    engine.gate.ask(who, Operation(access.verb(request), subject, extra=_beyond(asked)))
    network = await engine.networking.create(who.owner, asked)
    return web.json_response({"Id": network.id, "Warning": ""}, status=201)


def _beyond(asked: NetworkRequest) -> tuple[str, ...]:
    """What of it is the host's."""
    return (
        *([f"a network with driver {asked.driver}"] if asked.driver != "bridge" else []),
        *(f"the network option {name}" for name in asked.options if name in _HOST_S),
        *(f"the subnet {pool.subnet}" for pool in asked.ipam.pools if pool.subnet and not is_ours(pool.subnet)),
    )


async def remove(request: web.Request) -> web.Response:
    """DELETE /networks/{id}"""
    engine, network = engine_of(request), access.network(request)
    if network is None:
        broken = engine.networking.networks.find_broken(request.match_info["id"])
        if broken is not None:
            engine.networking.networks.remove_broken(broken)
        return web.Response(status=204)
    await engine.networking.remove(network)
    return web.Response(status=204)


async def _pair(request: web.Request) -> tuple[Engine, Network, Container, ConnectRequest]:
    """The network of the path, the container in the body, and the body."""
    engine, network = engine_of(request), access.network(request)
    assert network is not None
    asked = decode.connect_request(await body(request))
    container = engine.finding.container(access.who(request), asked.container, Verb.CONNECT)
    return engine, network, container, asked


async def connect(request: web.Request) -> web.Response:
    """POST /networks/{id}/connect"""
    engine, network, container, asked = await _pair(request)
    async with container.exclusive():
        engine.gate.check_connect(container, network.name)
        await engine.networking.connect(container, network, asked.endpoint)
    return web.Response(status=200)


async def disconnect(request: web.Request) -> web.Response:
    """POST /networks/{id}/disconnect"""
    engine, network, container, asked = await _pair(request)
    async with container.exclusive():
        await engine.networking.disconnect(container, network, asked.force)
    return web.Response(status=200)


async def prune(request: web.Request) -> web.Response:
    """POST /networks/prune"""
    passes = wanted.pruned(filters(request))
    pruned = await engine_of(request).pruning.networks(access.who(request), passes)
    return web.json_response({"NetworksDeleted": pruned.names or None})
