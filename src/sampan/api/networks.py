"""/networks"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from sampan.api import schema
from sampan.api.requests import body, engine_of, filters
from sampan.engine.container import Container, timestamp
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest
from sampan.engine.filters import networks as wanted
from sampan.network.model import Network

_LONGEST_NAME = 255


def describe(network: Network, whole: bool = True) -> dict[str, Any]:
    """A network as the API shows it; its containers only when `whole`."""
    containers = {}
    for endpoint in network.endpoints.values() if whole else ():
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
        "IPAM": {"Driver": network.ipam_driver, "Options": network.ipam_options or None, "Config": network.ipam},
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    }


def _users(engine: Engine, network: Network) -> list[str]:
    """The names of all containers that are on it or will be when they start."""
    return [c.name for c in engine.containers.values() if network.name in c.networks]


async def list_(request: web.Request) -> web.Response:
    """GET /networks"""
    engine = engine_of(request)
    passes = wanted.listed(filters(request), lambda network: bool(_users(engine, network)))
    found = [network for network in engine.networking.networks.all.values() if passes(network)]
    return web.json_response([describe(network, whole=False) for network in found])


def _network(request: web.Request) -> tuple[Engine, Network]:
    engine = engine_of(request)
    return engine, engine.networking.networks.find(request.match_info["id"])


async def inspect(request: web.Request) -> web.Response:
    """GET /networks/{id}"""
    return web.json_response(describe(_network(request)[1]))


async def create(request: web.Request) -> web.Response:
    """POST /networks/create"""
    engine = engine_of(request)
    asked = schema.check(await body(request), schema.NetworkCreate)
    if len(asked.get("Name") or "") > _LONGEST_NAME:
        raise BadRequest(f"invalid network name: {len(asked['Name'])} characters, {_LONGEST_NAME} at most")
    ipam = asked.get("IPAM") or {}
    if ipam.get("Driver") not in (None, "", "default"):
        raise BadRequest(f"ipam driver {ipam['Driver']!r} not found: there is only default")
    network = await engine.networking.create(
        asked.get("Name") or "",
        driver=asked.get("Driver") or "bridge",
        ipam=[row for row in ipam.get("Config") or [] if row],
        ipam_options=ipam.get("Options") or {},
        ipv6=bool(asked.get("EnableIPv6")),
        internal=bool(asked.get("Internal")),
        attachable=bool(asked.get("Attachable")),
        options=asked.get("Options") or {},
        labels=asked.get("Labels") or {},
    )
    return web.json_response({"Id": network.id, "Warning": ""}, status=201)


async def remove(request: web.Request) -> web.Response:
    """DELETE /networks/{id}"""
    networks = engine_of(request).networking.networks
    broken = networks.find_broken(request.match_info["id"])
    if broken is not None:
        networks.remove_broken(broken)
        return web.Response(status=204)
    engine, network = _network(request)
    await engine.networking.remove(network)
    return web.Response(status=204)


async def _pair(request: web.Request) -> tuple[Engine, Network, Container, dict[str, Any]]:
    """The network of the path, the container in the body, and the body."""
    engine, network = _network(request)
    asked = schema.check(await body(request), schema.NetworkConnect)
    return engine, network, engine.find(asked.get("Container") or ""), asked


async def connect(request: web.Request) -> web.Response:
    """POST /networks/{id}/connect"""
    engine, network, container, asked = await _pair(request)
    async with container.exclusive():
        await engine.networking.connect(container, network, asked.get("EndpointConfig") or {})
    return web.Response(status=200)


async def disconnect(request: web.Request) -> web.Response:
    """POST /networks/{id}/disconnect"""
    engine, network, container, asked = await _pair(request)
    async with container.exclusive():
        await engine.networking.disconnect(container, network, bool(asked.get("Force")))
    return web.Response(status=200)


async def prune(request: web.Request) -> web.Response:
    """POST /networks/prune"""
    engine = engine_of(request)
    passes = wanted.pruned(filters(request))
    deleted = []
    for network in list(engine.networking.networks.all.values()):
        if network.predefined or _users(engine, network) or network.endpoints or not passes(network):
            continue
        await engine.networking.remove(network)
        deleted.append(network.name)
    return web.json_response({"NetworksDeleted": deleted})
