"""One gate: no route, however it is asked, reaches what the policy denies; and what is decided on is what would run."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.api import decode, routes, server
from sampan.api.access import Ask, Public
from sampan.api.routes import ROUTES, Route
from sampan.build.errors import BuildError
from sampan.engine import mounts, spec
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Forbidden
from sampan.engine.model import Config, HostConfig, MountRequest
from sampan.engine.owners import Owners
from sampan.engine.policy import facts as facts_of
from sampan.engine.policy.caller import Owner, at_page
from sampan.engine.policy.model import Policy, Tenant
from sampan.engine.policy.operation import ENGINE, Kind, Operation, Subject, Verb
from sampan.engine.policy.rules import RULES
from sampan.images.errors import ImageError
from sampan.runtime.rootfs import DEVICE_RULES
from tests.support.effort import tries
from tests.support.engines import engine as engine
from tests.support.engines import run
from tests.unit.gate_world import Things, World

USERS = ("mallory", "victim", "friend")
SOURCE = Path(routes.__file__).parents[1]


# the table


def test_a_route_that_does_not_say_what_it_asks_can_not_be_made() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    for asks in (
        None,
        Public(""),
        Ask(Verb.COMPARE, Kind.VOLUME, "id"),
        Ask(Verb.SEE, Kind.CONTAINER),
        Ask(Verb.LIST, Kind.ENGINE, "id"),
    ):
        with pytest.raises(TypeError):
            Route("GET", "/x", handler, asks)  # type: ignore[arg-type]


def test_no_path_is_answered_that_is_not_in_the_table(engine: Engine) -> None:
    app = server.application(engine, "unix:///x")
    known = {(route.method, route.path) for route in ROUTES}
    found = set()
    for resource in app.router.resources():
        for each in resource:
            assert "asked" in each.handler.__qualname__, (each.method, resource.canonical)
            found.add((each.method, re.sub(r"^/v\{version\}", "", resource.canonical)))
    plain = {(method, re.sub(r":[^{}]*\}", "}", path)) for method, path in known}
    assert found == plain


def test_what_no_rule_knows_is_refused_with_and_without_a_policy(engine: Engine) -> None:
    world = World(engine)
    known = set(RULES)
    for policy in (None, Policy(admins=("root",), tenants=(Tenant("ops", ("root",), True),), _by_user={"root": "ops"})):
        world.policy = policy
        for kind in Kind:
            for verb in Verb:
                operation = Operation(verb, Subject(kind, "x"))
                if (kind, verb) in known:
                    engine.gate.ask(at_page("root"), operation)
                else:
                    with pytest.raises(Forbidden, match="no rule knows"):
                        engine.gate.ask(at_page("root"), operation)


FORBIDDEN = {
    "find",
    "named",
    "usable",
}  # of engine, images, networks, system, execs: `finding` and `access` are the ways


def test_the_api_finds_nothing_by_itself() -> None:
    """Whoever finds asks: nothing of the API looks a thing up where nobody is asked."""
    for path in sorted((SOURCE / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in FORBIDDEN | {"get"} and re.search(
                r"(^|\.)(engine(_of\(request\))?|images|networks|system|execs|volumes|containers)$", owner
            ):
                text = f"{path.name}:{node.lineno}: {ast.unparse(node)}"
                assert text.split(": ", 1)[1] in ALLOWED, text


ALLOWED = {
    "engine_of(request).volumes.get(access.volume(request))",  # asked about by its name
    "networks.find(mode)",  # host and none, which everybody has
    "networks.named(name)",  # of a container that is seen
    "images.index.get(container.image)",  # likewise
}


def test_who_asks_is_nowhere_ambient() -> None:
    for path in SOURCE.rglob("*.py"):
        assert "ContextVar" not in path.read_text(), path


# every endpoint, asked about what is another's


def requests_for(route: Route, things: Things, name: str) -> Iterator[tuple[str, dict[str, str], Any]]:
    """(path, query, body) of requests by a route that name a thing, wherever something can be named."""
    names = {
        "id": name,
        "name": name,
        "snapshot": "s1",
        "checkpoint": "c1",
        "action": "create" if "snapshots" in route.path else "kill",
    }
    path = re.sub(r"\{(\w+)(:[^{}]*)?\}", lambda match: names[match[1]], route.path)
    query = {"container": name, "names": name, "source": name, "repo": "mine", "tag": "1", "path": "/", "stdout": "1", "stderr": "1",
             "h": "1", "w": "1", "t": "0", "since": "0", "until": "1", "stream": "0", "one-shot": "1", "fromImage": "localhost:1/x", "term": "x", "logs": "1",
             "force": "1"}  # fmt: skip
    if route.path.endswith("/rename"):
        query["name"] = "other-name"
    elif route.handler.__name__ == "make":
        query["name"] = "nonsense"
    host: dict[str, Any] = {"NetworkMode": "none"}
    body: dict[str, Any] = {
        "Container": name,
        "Image": things.tag,
        "Cmd": ["true"],
        "HostConfig": host,
        "Name": "made-by-test",
        "Memory": 64 << 20,
    }
    if route.handler is routes.containers.create:
        for more in (
            {"PidMode": f"container:{name}"}, {"IpcMode": f"container:{name}"}, {"NetworkMode": f"container:{name}"},
            {"VolumesFrom": [name]}, {"Links": [f"{name}:x"]}, {"NetworkMode": things.network.id}, {"NetworkMode": things.network.name},
            {"Binds": [f"{things.volume}:/v"]}, {"Mounts": [{"Type": "volume", "Source": things.volume, "Target": "/v"}]},
        ):  # fmt: skip
            yield path, query, {**body, "Image": "common:1", "HostConfig": {**host, **more}}
        yield path, query, {**body, "Image": "common:1", "NetworkingConfig": {"EndpointsConfig": {things.network.name: {}}},
                            "HostConfig": {"NetworkMode": "bridge"}}  # fmt: skip
        yield path, query, {**body, "Image": things.image}
    elif route.handler is routes.networks.connect or route.handler is routes.networks.disconnect:
        yield re.sub(r"\{id\}", things.network.name, route.path), query, body
        yield "/networks/bridge/" + route.path.rpartition("/")[2], query, body
    elif route.handler is routes.volumes.create:
        body = {"Name": things.volume}
    yield path, query, body


def names_of(route: Route, things: Things) -> list[str]:
    """What of a tenant's a route could be asked about, by every way to name it."""
    kind = route.asks.kind if isinstance(route.asks, Ask) else Kind.ENGINE
    containers = [name for each in (things.container, things.stopped) for name in (each.id, each.name, each.id[:12])]
    machines = [things.machine.id, things.machine.name, things.machine.id[:12]]
    by_kind = {
        Kind.CONTAINER: [*containers, things.machine.id],
        Kind.MACHINE: [*machines, things.image, things.tag] if route.handler is routes.system_vms.export else machines,
        Kind.EXEC: [things.session.id],
        Kind.IMAGE: [things.image, things.tag, f"{things.secret}:1", things.image[7:19]],
        Kind.VOLUME: [things.volume],
        Kind.NETWORK: [things.network.id, things.network.name, things.network.id[:12]],
    }
    return by_kind.get(kind, ["x"])


LONG = ("/grpc", "/session", "/build", "/sampan/build", "/sampan/vm/prepare", "/images/search", "/auth", "/distribution", "/images/create",
        "/sampan/compare", "/images/load", "/sampan/ui")  # fmt: skip
"""What does not name anything of a tenant's, and would go to networks or wait for more."""


async def ask(
    world: World, client: Any, user: str, route: Route, path: str, query: dict[str, str], body: Any
) -> tuple[int, str]:
    data = json.dumps(body) if route.method in ("POST", "PUT") else None
    headers = {"X-User": user, "Content-Type": "application/json"}
    try:
        async with asyncio.timeout(10):
            answer = await client.request(route.method, path, params=query, data=data, headers=headers)
            return answer.status, (await answer.read()).decode(errors="replace")
    except TimeoutError:
        raise AssertionError(f"{route.method} {path} {query} {body} as {user} has no end") from None


def plain(text: str, *names: str) -> str:
    """An answer without what was asked for."""
    for name in names:
        text = text.replace(name, "NAME").replace("NAME:latest", "NAME")
    return text


def test_every_endpoint_hides_and_keeps_what_is_another_s(engine: Engine) -> None:
    """By every route, and every way to name a thing: the answer is that of what there is not, nothing of the other's is in it, nothing
    of theirs changes, and the keeper hears nothing of it."""
    world = World(engine)
    for user in USERS:
        world.add(user)
    engine.images.add(_config("common"), [], ["docker.io/library/common:1"])
    world.policy = Policy(tenants=(Tenant("ops", ("root",), True),), _by_user={"root": "ops"})
    victim = world.has["victim"]

    async def all_of_it() -> int:
        count = 0
        async with world.client() as client:
            for route in ROUTES:
                if route.path.startswith(LONG):
                    continue
                for name in names_of(route, victim):
                    for path, query, body in requests_for(route, victim, name):
                        before = world.state("victim")
                        status, text = await ask(world, client, "mallory", route, path, query, body)
                        where = (route.method, path, body, status, text[:300])
                        assert status != 500, where
                        assert status != 501 or route.handler.__module__ == "sampan.api.swarm", where
                        left = text
                        for given in (
                            name,
                            victim.tag,
                            victim.volume,
                            victim.network.name,
                            victim.network.id,
                            victim.image,
                        ):
                            if given in path or given in json.dumps([query, body]):
                                left = left.replace(given, "")
                        assert victim.secret not in left, where
                        assert not any(each in left for each in victim.ids), where
                        assert world.state("victim") == before, where
                        assert not any(each in repr(world.asked) for each in victim.ids), where
                        if isinstance(route.asks, Ask) and (route.asks.kind != Kind.ENGINE):
                            creates = route.asks.verb == Verb.CREATE
                            assert (
                                status in (400, 403, 404, 409)
                                or route.asks.kind == Kind.VOLUME
                                or (creates and route.asks.kind != Kind.CONTAINER)
                            ), where
                            if not creates and route.asks.kind != Kind.VOLUME:
                                assert status == 404 or (route.asks.inside and status == 400), where
                        count += 1
        return count

    assert run(all_of_it()) > 150


def _config(name: str) -> bytes:
    return json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}},
                       "rootfs": {"type": "layers", "diff_ids": []}, "history": []}).encode()  # fmt: skip


def test_what_is_not_there_and_what_is_not_seen_have_one_answer(engine: Engine) -> None:
    world = World(engine)
    for user in USERS:
        world.add(user)
    world.policy = Policy()
    victim = world.has["victim"]

    async def both() -> None:
        async with world.client() as client:
            for route in ROUTES:
                if not isinstance(route.asks, Ask) or not route.asks.parameter:
                    continue
                for name in names_of(route, victim):
                    other = (
                        "f" * len(name)
                        if re.fullmatch(r"(sha256:)?[a-f0-9]+", name)
                        else name.replace("victim", "nobody")
                    )
                    answers = []
                    for each in (name, other):
                        path, query, body = list(requests_for(route, victim, each))[-1]
                        status, text = await ask(world, client, "mallory", route, path, query, body)
                        answers.append((status, plain(text, each, each.removeprefix("sha256:"))))
                    assert answers[0] == answers[1], (route.method, route.path, name)

    run(both())


def test_networks_on_the_hosts_links(engine: Engine) -> None:
    """Without a bridge of ours nothing holds who is on it: not for who is not trusted, whatever the spelling."""
    world = World(engine)
    world.policy = Policy(tenants=(Tenant("ops", ("root",), True),), _by_user={"root": "ops"})
    route = next(route for route in ROUTES if route.path == "/networks/create")
    asked = [{"Driver": "macvlan"}, {"Driver": "ipvlan"}, {"Driver": "Macvlan"}, {"Driver": "macvlan", "Options": {"parent": "lo"}},
             {"Options": {"parent": "lo"}}, {"Driver": "bridge", "Options": {"com.docker.network.bridge.name": "docker0"}}]  # fmt: skip

    async def each() -> None:
        async with world.client() as client:
            for number, body in enumerate(asked):
                named = {"Name": f"n{number}", "Internal": True, **body}
                assert (await ask(world, client, "mallory", route, route.path, {}, named))[0] == 403, body
            odd = {"Name": "n", "Driver": "macvlan", "Options": {"macvlan_mode": "odd"}}
            assert (await ask(world, client, "root", route, route.path, {}, odd))[0] == 400  # not kept from asking

    run(each())
    assert all(network.predefined for network in engine.networking.networks.all.values())


policies = st.builds(
    lambda trusted, manages, admins: Policy(
        admins=tuple(admins),
        tenants=tuple(Tenant(name, (name,), name in trusted, manages=tuple(manages.get(name, ()))) for name in USERS),
        _by_user={name: name for name in USERS},
    ),
    st.sets(st.sampled_from(USERS), max_size=2),
    st.dictionaries(st.sampled_from(USERS), st.sets(st.sampled_from([*USERS, "*"]), max_size=2)),
    st.sets(st.sampled_from(USERS), max_size=1),
)


def may(policy: Policy, user: str, owner: str) -> bool:
    """As the documentation says it, and not as the gate does."""
    tenant = next(each for each in policy.tenants if each.name == user)
    return user == owner or tenant.trusted or user in policy.admins or owner in tenant.manages or "*" in tenant.manages


def test_random_policies_tenants_and_requests(engine: Engine) -> None:
    """What the policy lets somebody do is done, and what it does not is as if there were nothing."""
    world = World(engine)
    for user in USERS:
        world.add(user)
    named = [route for route in ROUTES if route.handler in (
        routes.containers.inspect, routes.execs.inspect, routes.images.inspect, routes.networks.inspect,
        routes.volumes.inspect)]  # fmt: skip
    every = [route for route in ROUTES if isinstance(route.asks, Ask) and route.asks.kind != Kind.ENGINE and route.asks.verb != Verb.CREATE
             and route.handler is not routes.system_vms.export]  # fmt: skip  # of an image, that takes long where it may be

    async def begin() -> Any:
        client = world.client()
        await client.start_server()
        return client

    client = run(begin())

    @given(
        policies,
        st.sampled_from(USERS),
        st.sampled_from(USERS),
        st.sampled_from(named),
        st.sampled_from(every),
        st.integers(0, 99),
    )
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def one(policy: Policy, user: str, owner: str, looks: Route, does: Route, which: int) -> None:
        world.policy = policy
        things = world.has[owner]
        if may(policy, user, owner):
            names = names_of(looks, things)
            path, query, body = list(requests_for(looks, things, names[which % len(names)]))[-1]
            status, text = run(ask(world, client, user, looks, path, query, body))
            assert status == 200, (looks, text)
            return
        world.asked.clear()
        before = world.state(owner)
        names = names_of(does, things)
        path, query, body = list(requests_for(does, things, names[which % len(names)]))[-1]
        status, _ = run(ask(world, client, user, does, path, query, body))
        shared = any(may(policy, owner, other) and (next(t for t in policy.tenants if t.name == owner).trusted or owner in policy.admins)
                     for other in USERS)  # fmt: skip
        if does.asks.kind == Kind.IMAGE and shared:  # type: ignore[union-attr]
            assert does.asks.verb != Verb.REMOVE or status == 403  # type: ignore[union-attr]
            if does.asks.verb == Verb.TAG and status == 201:  # type: ignore[union-attr]
                before[4].append("docker.io/library/mine:1")  # a name more for what they may use, and theirs
                before[4] = sorted({*before[4]})
        elif does.asks.kind != Kind.VOLUME:  # type: ignore[union-attr]
            assert status in (400, 404), (does.method, path, status)
        assert world.state(owner) == before
        assert not any(each in repr(world.asked) for each in things.ids)

    one()
    run(client.close())


# what is decided on is what would run

_hosts = st.fixed_dictionaries(
    {},
    optional={
        "Privileged": st.booleans(),
        "CapAdd": st.lists(st.sampled_from(["sys_admin", "CAP_NET_RAW", "all", "Chown", "CAP_SYS_PTRACE"]), max_size=2),
        "CapDrop": st.lists(st.sampled_from(["ALL", "NET_RAW"]), max_size=1),
        "PidMode": st.sampled_from(["", "host", "private"]),
        "IpcMode": st.sampled_from(["", "host", "private", "none", "shareable"]),
        "UTSMode": st.sampled_from(["", "host"]),
        "CgroupnsMode": st.sampled_from(["", "host", "private"]),
        "NetworkMode": st.sampled_from(["none", "host", "HOST-ID"]),
        "SecurityOpt": st.lists(
            st.sampled_from(["seccomp=unconfined", "seccomp:unconfined", "seccomp=builtin", "no-new-privileges", "systempaths=unconfined",
                             'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}', "no-new-privileges:true"]), max_size=2),
        "MaskedPaths": st.sampled_from([[], ["/proc/acpi"]]),
        "ReadonlyPaths": st.sampled_from([[], ["/proc/bus"]]),
        "Devices": st.sampled_from([[], [{"PathOnHost": "/dev/null"}], [{"pathonhost": "/dev/zero"}]]),
        "Binds": st.lists(st.sampled_from(["/etc:/a", "/etc/../usr:/b:ro", "//etc//:/c", "/proc/self/root/etc:/d"]), max_size=2, unique=True),
        "Mounts": st.lists(
            st.sampled_from([{"Type": "bind", "Source": "/usr/", "Target": "/e"}, {"Type": "bind", "Source": "/var/../etc", "Target": "/f"},
                             {"type": "bind", "source": "../../../../etc", "target": "/g"}, {"Type": "tmpfs", "Target": "/h"},
                             {"Type": "bind", "Source": "etc", "Target": "/i"}]), max_size=2),
    },
)  # fmt: skip
_CASES = st.sampled_from([str, str.lower, str.upper])


def test_the_facts_are_those_of_the_specification(engine: Engine) -> None:
    """T51 and its kind: however a request is spelled, what the keeper would be asked for is what the gate has seen."""
    World(engine)
    engine.images.add(_config("base"), [], ["docker.io/library/base:1"])
    image = engine.images.index.find("base:1")
    host_network = engine.networking.networks.find("host").id

    @given(_hosts, _CASES)
    @settings(max_examples=tries(200, 2000), deadline=None, suppress_health_check=list(HealthCheck))
    def one(raw: dict[str, Any], case: Callable[[str], str]) -> None:
        if raw.get("NetworkMode") == "HOST-ID":
            raw = {**raw, "NetworkMode": host_network}
        asked = decode.create_request(
            {"Image": "base:1", "Cmd": ["true"], case("HostConfig"): {case(key): value for key, value in raw.items()}}
        )
        try:
            wanted = engine.requests.normalise(at_page("mallory"), asked, image)
            config, host = wanted.config, wanted.host_config
            made = Container(
                "c" * 64, "c", 1, image.id, "base:1", config, host, networks=wanted.networks, owner="mallory"
            )
            made.mounts = mounts.make(wanted.mounts, engine.volumes)
        except BadRequest:
            return
        held: list[int] = []
        try:
            request = engine.namespaces.request(made, held, lambda name, fd: None)["spec"]
        except BadRequest:
            return
        finally:
            for fd in held:
                os.close(fd)
        facts = wanted.facts
        linux, privileged = request["linux"], bool(facts.privileged_options)
        named = {f"CAP_{name}" for name in facts.capabilities}
        beyond = set(request["process"]["capabilities"]["bounding"]) - set(spec.DEFAULT_CAPABILITIES)
        assert not beyond or (privileged and beyond <= named), (beyond, facts)
        namespaces = {row["type"] for row in linux["namespaces"]}
        assert {"pid", "ipc", "uts", "cgroup", "network"} <= namespaces or privileged
        assert "network" in namespaces or "host" in facts.networks
        assert set(spec.MASKED_PATHS) <= set(linux["maskedPaths"]) or privileged
        assert set(spec.READONLY_PATHS) <= set(linux["readonlyPaths"]) or privileged
        assert not linux["devices"] or privileged
        rules = linux["resources"]["devices"]
        assert privileged or rules[1:] == DEVICE_RULES
        shown = [
            row["source"]
            for row in request["mounts"]
            if row["type"] == "bind" and not row["source"].startswith(engine.data_root)
        ]
        for source in shown:
            assert source.startswith("/"), source
            assert os.path.realpath(source) in facts.mounts or (source == "/dev/shm" and privileged), (
                source,
                facts.mounts,
            )
        # The facts of the record, by which it is asked again at each start, are the same.
        again = facts_of.of_record(made, image.tags, [])
        assert (again.privileged_options, again.capabilities, again.mounts, again.networks) == (
            facts.privileged_options, facts.capabilities, facts.mounts, facts.networks)  # fmt: skip

    one()


@pytest.mark.parametrize("source", ["../../../../etc", "etc", "", ".", "./etc"])
def test_a_relative_source_is_refused(source: str) -> None:
    with pytest.raises(BadRequest, match="must be absolute"):
        mounts.plan(Config(), HostConfig(mounts=(MountRequest(kind="bind", source=source, target="/x"),)))


def test_all_capabilities_are_each_of_them() -> None:
    assert "SYS_ADMIN" in facts_of.capabilities(HostConfig(capabilities_added=("all",)))
    assert "NET_ADMIN" in facts_of.capabilities(HostConfig(privileged=True))


def test_a_name_that_a_stranger_gave_is_not_what_others_run(engine: Engine) -> None:
    """A tenant can't put an image of theirs under a name that the operator runs, nor take one that has it."""
    world = World(engine)
    mallory = world.add("mallory")
    world.policy = Policy(tenants=(Tenant("ops", ("root",), True),), _by_user={"root": "ops"})
    with pytest.raises(ImageError, match="No such image"):
        engine.finding.image(at_page("root"), mallory.tag, Verb.USE)
    assert engine.finding.image(at_page("root"), mallory.tag, Verb.SEE).id == mallory.image
    assert engine.finding.image(at_page("root"), mallory.image, Verb.USE).id == mallory.image


def test_what_is_the_engine_s_is_changed_by_those_who_may(engine: Engine) -> None:
    """Images and volumes from before there were owners, and events of what is nobody's."""
    world = World(engine)
    engine.images.add(_config("old"), [], ["docker.io/library/old:1"])
    engine.volumes.create("old", {}, {})
    world.policy = Policy()
    image, mallory, root = engine.images.index.find("old:1"), at_page("mallory"), at_page("root")
    assert engine.finding.image(mallory, "old:1", Verb.USE).id == image.id
    engine.finding.check_volume(mallory, "old", Verb.USE)
    for subject, verb in ((Subject(Kind.IMAGE, image.id), Verb.REMOVE), (Subject(Kind.TAG, image.tags[0]), Verb.WRITE),
                          (Subject(Kind.VOLUME, "old"), Verb.REMOVE), (Subject(Kind.NETWORK, "bridge"), Verb.REMOVE)):  # fmt: skip
        assert engine.gate.may(root, verb, subject)
        assert not engine.gate.may(mallory, verb, subject), subject
    event = {"Type": "daemon", "Actor": {"ID": "/var/lib/sampan"}}
    assert engine.gate.sees_event(root)(event, ())
    assert not engine.gate.sees_event(mallory)(event, ())


def test_what_strangers_call_an_image_is_nothing_to_others(engine: Engine) -> None:
    """A rule for a name that a tenant gives to everybody's image is about that tenant alone."""
    world = World(engine)
    engine.images.add(_config("old"), [], ["docker.io/library/old:1", "docker.io/library/denied:1"])
    engine.finding.owners.set(Kind.TAG, "docker.io/library/denied:1", (Owner("mallory"),))
    image = engine.images.index.find("old:1")
    world.policy = Policy()
    assert engine.gate.names(at_page("mallory"), image) == image.tags
    for other in ("victim", "root"):
        assert engine.gate.names(at_page(other), image) == ["docker.io/library/old:1"]
    assert [each.tags for each in engine.finding.images(at_page("victim"))] == [["docker.io/library/old:1"]]


def test_without_a_policy_everybody_sees_everything(engine: Engine) -> None:
    world = World(engine)
    world.add("victim")
    assert len(engine.finding.containers(at_page("mallory"))) == 3
    engine.gate.ask(at_page("mallory"), Operation(Verb.COMPARE, ENGINE))


@pytest.mark.parametrize("verb", [Verb.COMPARE, Verb.BOOTSTRAP, Verb.ADMINISTER])
def test_what_has_the_host_is_for_the_trusted(engine: Engine, verb: Verb) -> None:
    World(engine).policy = Policy(tenants=(Tenant("ops", ("root",), True),), _by_user={"root": "ops"})
    engine.gate.ask_engine(at_page("root"), verb)
    with pytest.raises(Forbidden):
        engine.gate.ask_engine(at_page("mallory"), verb)


def test_a_session_is_its_maker_s(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who knows another's session, job or upload by its id has none of it."""
    from sampan.api.buildkit import routes as kit
    from sampan.api.buildkit import sessions

    monkeypatch.setattr(sessions, "_WAIT", 0.01)

    async def work() -> None:
        made: Any = object()
        known = sessions.Sessions()
        known._sessions[Owner("victim"), "s"] = made
        assert await known.get(at_page("victim"), "s") is made
        with pytest.raises(BuildError, match="no active session for s"):
            await known.get(at_page("mallory"), "s")
        buildkit = kit.BuildKit(engine.builds, engine.images, engine.registries, engine.gate)
        assert buildkit.upload(at_page("victim"), "u") is not buildkit.upload(at_page("mallory"), "u")

    run(work())


def test_caches_of_builds_are_each_tenant_s(engine: Engine) -> None:
    world = World(engine)
    engine.builds.cache.put("k" * 64, 0, "root's", 0)
    world.policy = Policy()
    assert engine.builds.cache_of(at_page("mallory")).find("k" * 64) is None
    engine.builds.cache_of(at_page("mallory")).put("m" * 64, 0, "mallory's", 0)
    assert engine.builds.cache_of(at_page("victim")).all() == []
    assert engine.builds.cache_of(at_page("root")).find("m" * 64) is None
    assert [row.description for row in engine.builds.cache_of(at_page("mallory")).all()] == ["mallory's"]
    assert engine.builds._caches(at_page("mallory")) != engine.builds._caches(at_page("root"))


def test_whose_a_thing_is_outlives_the_engine_and_a_damaged_record_is_nobody_s(engine: Engine) -> None:
    owners = engine.finding.owners
    owners.set(Kind.VOLUME, "v", (Owner("alice", "shop"),))
    owners.add(Kind.IMAGE, "sha256:1", Owner("alice"))
    owners.add(Kind.IMAGE, "sha256:1", Owner("bob"))
    engine.store._write("owner", "volume damaged", "[")
    again = Owners(engine.store)
    assert again.of(Kind.VOLUME, "v") == (Owner("alice", "shop"),)
    assert again.of(Kind.IMAGE, "sha256:1") == (Owner("alice"), Owner("bob"))
    assert again.of(Kind.VOLUME, "damaged") == (Owner("?"),)
    owners.forget(Kind.VOLUME, "v")
    assert Owners(engine.store).of(Kind.VOLUME, "v") == ()
