"""What Docker does in a swarm or with plugins: there is neither here, and each of their paths says so as Docker does."""

from __future__ import annotations

from aiohttp import web

from sampan.engine.errors import Busy, NotFound, Unsupported

NO_MANAGER = 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'
_NONE = "there is no swarm mode here: this engine runs what is on one host"


async def no_manager(request: web.Request) -> web.Response:
    """/swarm, /nodes, /services, /tasks, /secrets, /configs"""
    raise Busy(NO_MANAGER)


async def no_swarm(request: web.Request) -> web.Response:
    """POST /swarm/init, /swarm/join"""
    raise Busy(_NONE)


async def leave(request: web.Request) -> web.Response:
    """POST /swarm/leave"""
    raise Busy("This node is not part of a swarm")


async def no_plugin(request: web.Request) -> web.Response:
    """/plugins/{name}: none is there"""
    raise NotFound(f'plugin "{request.match_info["name"]}" not found')


async def no_plugins(request: web.Request) -> web.Response:
    """POST /plugins/pull, /plugins/create; GET /plugins/privileges"""
    raise Unsupported("there are no plugins here: volumes, networks and logs have drivers of the engine's own")


async def checkpoints(request: web.Request) -> web.Response:
    """/containers/{id}/checkpoints"""
    raise Unsupported(
        "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it."
    )
