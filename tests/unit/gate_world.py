"""An engine in this process whose keeper only writes down what it is asked, with things of several tenants in it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from sampan.api import access, server, ui
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.execs import Exec
from sampan.engine.model import (
    Asked,
    Config,
    ExecRequest,
    HostConfig,
    LogConfig,
    RestartPolicy,
    State,
    Status,
    SystemVm,
)
from sampan.engine.policy.caller import Owner, at_page
from sampan.engine.policy.model import Policy
from sampan.engine.policy.operation import Kind
from sampan.keeper import protocol
from sampan.network.ipam import Pool
from sampan.network.model import Network
from sampan.runtime.errors import RuntimeFailure

HOST = "unix:///nonexistent"


class _Source:
    path = error = ""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def active(self) -> bool:
        return self._world.policy is not None

    def look(self) -> None:
        """It is what it is."""

    def policy(self) -> Policy:
        assert self._world.policy is not None
        return self._world.policy


@dataclass
class Things:
    """What a tenant's user has. Everything that must not leak to others has `secret` in it, or is an id."""

    user: str
    secret: str
    container: Container
    stopped: Container
    machine: Container
    session: Exec
    volume: str
    network: Network
    image: str
    tag: str

    @property
    def ids(self) -> list[str]:
        return [self.container.id, self.stopped.id, self.machine.id, self.session.id, self.network.id, self.image]


@dataclass
class World:
    """The engine, its API, and who has what."""

    engine: Engine
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # of the keeper
    has: dict[str, Things] = field(default_factory=dict)
    policy: Policy | None = None

    def __post_init__(self) -> None:
        async def call(request: Any, longest: float = 0) -> Any:
            self.asked.append((request.op, vars(request)))
            if isinstance(request, protocol.Ping):
                return protocol.Pong(0)
            if "id" not in vars(request):
                return protocol.Tasks([], [], [])
            raise RuntimeFailure("the keeper of a test starts nothing")

        self.engine.keeper.call = call  # type: ignore[method-assign, assignment]
        self.engine.gate.source = _Source(self)  # type: ignore[assignment]
        self.engine.ready.set()

    def add(self, user: str) -> Things:
        """Makes a user's things."""
        secret = f"secret-{user}-{secrets.token_hex(4)}"
        image = self._image(user, secret)
        owner = Owner(user)

        def container(kind: str, isolation: str, running: bool) -> Container:
            config = Config(cmd=("true",), image=f"{secret}:1", labels={"l": secret}, env=(f"E={secret}",), hostname="h",
                            system_vm=SystemVm() if isolation == "machine" else None)  # fmt: skip
            host = HostConfig(
                network_mode="none",
                isolation=isolation,
                log_config=LogConfig("json-file"),
                restart_policy=RestartPolicy("no"),
            )
            made = Container(secrets.token_hex(32), f"{secret}-{kind}", time.time_ns(), "" if isolation == "machine" else image,
                             f"{secret}:1", config, host, owner=user, asked=Asked(labels={}))  # fmt: skip
            if running:
                made.state = State(status=Status.RUNNING, pid=4194000, started_at=1767225600 * 10**9)
            self.engine.containers.add(made)
            os.makedirs(f"{self.engine.containers.directory(made)}/upper")
            return made

        volume = f"{secret}-volume"
        self.engine.finding.owners.set(Kind.VOLUME, volume, (owner,))
        self.engine.volumes.create(volume, {}, {})
        pool = Pool(subnet="10.9.0.0/24", gateway="10.9.0.1")
        network = Network(secrets.token_hex(32), f"{secret}-network", "bridge", time.time_ns(), [pool])
        self.engine.networking.networks.all[network.id] = network
        self.engine.finding.owners.set(Kind.NETWORK, network.id, (owner,))
        running = container("running", "", True)
        session = Exec(secrets.token_hex(32), running, ExecRequest(cmd=(secret,)))
        self.engine.execs.add(session)
        self.has[user] = Things(user, secret, running, container("stopped", "", False), container("machine", "machine", False), session,
                                volume, network, image, f"docker.io/library/{secret}:1")  # fmt: skip
        return self.has[user]

    def _image(self, user: str, secret: str) -> str:
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": {"l": secret}},
                             "rootfs": {"type": "layers", "diff_ids": []}, "history": []}).encode()  # fmt: skip
        tag = f"docker.io/library/{secret}:1"
        self.engine.images.add(config, [], [tag])
        image = f"sha256:{hashlib.sha256(config).hexdigest()}"
        self.engine.finding.owners.set(Kind.IMAGE, image, (Owner(user),))
        self.engine.finding.owners.set(Kind.TAG, tag, (Owner(user),))
        return image

    def state(self, user: str) -> Any:
        """Everything of a user's that somebody could have changed."""
        mine, engine = self.has[user], self.engine
        containers = [engine.containers.get(each.id) for each in (mine.container, mine.stopped, mine.machine)]
        image = next((each for each in engine.images.index.all() if each.id == mine.image), None)
        return [
            [None if c is None else (c.name, msgspec.json.encode([c.state, c.host_config, c.config, c.networks]), c.removed) for c in containers],
            engine.volumes.exists(mine.volume),
            mine.network.id in engine.networking.networks.all,
            dict(mine.network.endpoints),
            None if image is None else sorted(image.tags),
            mine.session in engine.execs and (mine.session.running, mine.session.config),
            [engine.finding.owners.of(kind, name) for kind, name in
             ((Kind.VOLUME, mine.volume), (Kind.NETWORK, mine.network.id), (Kind.IMAGE, mine.image), (Kind.TAG, mine.tag))],
        ]  # fmt: skip

    def client(self) -> TestClient[web.Request, web.Application]:
        """The API, where the header X-User says who asks, as a socket's other end would."""
        app = server.application(self.engine, HOST)
        ui.add(app, lambda *_: None)  # type: ignore[arg-type, return-value]

        @web.middleware
        async def enter(request: web.Request, handler: Any) -> Any:
            access.enter(request, at_page(request.headers["X-User"]))
            return await handler(request)

        app.middlewares.insert(0, enter)
        return TestClient(TestServer(app))
