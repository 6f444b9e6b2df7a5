"""Who asks, what a route asks about, and the thing it is about: found and asked for before a handler runs.

A handler gets its container, image, volume or network from here and from nowhere else, so that nothing is found without being asked about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sampan.api.requests import engine_of, peer
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.errors import Forbidden
from sampan.engine.execs import Exec
from sampan.engine.finding import Finding
from sampan.engine.policy.caller import Caller, at_socket
from sampan.engine.policy.operation import ENGINE, Kind, Operation, Verb
from sampan.images.image import Image
from sampan.network.model import Network
from sampan.volumes.local import VolumeNotFound

_CALLER, _SUBJECT, _VERB = "sampan.caller", "sampan.subject", "sampan.verb"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a route asks: a verb, of the engine or of what the path's parameter names. With `inside`, what it is about stands in the
    query or the body, and the handler asks when it has read that."""

    verb: Verb
    kind: Kind = Kind.ENGINE
    parameter: str = ""
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Public:
    """A route that asks nothing, and why it need not."""

    reason: str


Asks = Ask | Public


def enter(request: web.Request, who: Caller | None = None) -> None:
    """Notes who a request is from: by its socket, unless it came by the page. Raises Forbidden."""
    if who is not None:
        request[_CALLER] = who
    elif _CALLER not in request:
        found = peer(request)
        if found is None:
            raise Forbidden("nobody knows who asks: the API is for the unix socket and the page")
        request[_CALLER] = at_socket(*found)


def who(request: web.Request) -> Caller:
    """Who asks."""
    caller: Caller = request[_CALLER]
    return caller


def verb(request: web.Request) -> Verb:
    """What the route says that is done."""
    found: Verb = request[_VERB]
    return found


def settle(request: web.Request, asks: Asks) -> None:
    """Asks what a route asks, and keeps what it is about for the handler. Raises NotFound, Forbidden."""
    if isinstance(asks, Public):
        return
    request[_VERB] = asks.verb
    engine, caller = engine_of(request), who(request)
    engine.gate.source.look()
    if asks.inside:
        return
    if asks.kind == Kind.ENGINE:
        engine.gate.ask(caller, Operation(asks.verb, ENGINE))
        return
    request[_SUBJECT] = _FIND[asks.kind](engine.finding, caller, request.match_info[asks.parameter], asks.verb)


def _volume(finding: Finding, caller: Caller, name: str, verb: Verb) -> str | VolumeNotFound:
    try:
        finding.check_volume(caller, name, verb)
    except VolumeNotFound as error:
        return error  # for the handler, to which one that is not there may be as good
    return name


_FIND: dict[Kind, Callable[[Finding, Caller, str, Verb], Any]] = {
    Kind.CONTAINER: Finding.container,
    Kind.MACHINE: Finding.machine,
    Kind.EXEC: Finding.execution,
    Kind.IMAGE: Finding.image,
    Kind.VOLUME: _volume,
    Kind.NETWORK: Finding.network_or_broken,
}


def _subject(request: web.Request, kind: type) -> Any:
    found = request[_SUBJECT]
    assert isinstance(found, kind)
    return found


def container(request: web.Request) -> tuple[Engine, Container]:
    """The container, or machine, that the path names."""
    return engine_of(request), _subject(request, Container)


def execution(request: web.Request) -> Exec:
    """The exec that the path names."""
    found: Exec = _subject(request, Exec)
    return found


def image(request: web.Request) -> Image:
    """The image that the path names."""
    found: Image = _subject(request, Image)
    return found


def volume(request: web.Request) -> str:
    """The name of the volume in the path; there may be none of it. Raises VolumeNotFound for one that is not seen."""
    found = request[_SUBJECT]
    if isinstance(found, VolumeNotFound):
        raise found
    assert isinstance(found, str)
    return found


def network(request: web.Request) -> Network | None:
    """The network that the path names; None for one whose record can't be read."""
    found: Network | None = request[_SUBJECT]
    return found
