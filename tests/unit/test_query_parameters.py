"""Every query parameter of Docker's API is read by the route that it belongs to, or stands here with why there is nothing to do."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from types import FunctionType
from typing import Any

import pytest

from sampan.api.routes import ROUTES

# Of Docker's API, and what its clients send besides: version 1.51.
DOCKER = {
    "GET /containers/json": "all limit size filters",
    "POST /containers/create": "name platform",
    "GET /containers/{id}/json": "size",
    "GET /containers/{id}/top": "ps_args",
    "GET /containers/{id}/logs": "follow stdout stderr since until timestamps tail details",
    "GET /containers/{id}/stats": "stream one-shot",
    "POST /containers/{id}/resize": "h w",
    "POST /containers/{id}/start": "detachKeys checkpoint checkpoint-dir",
    "POST /containers/{id}/stop": "signal t",
    "POST /containers/{id}/restart": "signal t",
    "POST /containers/{id}/kill": "signal",
    "POST /containers/{id}/rename": "name",
    "POST /containers/{id}/attach": "detachKeys logs stream stdin stdout stderr",
    "GET /containers/{id}/attach/ws": "detachKeys logs stream stdin stdout stderr",
    "POST /containers/{id}/wait": "condition",
    "DELETE /containers/{id}": "v force link",
    "HEAD /containers/{id}/archive": "path",
    "GET /containers/{id}/archive": "path",
    "PUT /containers/{id}/archive": "path noOverwriteDirNonDir copyUIDGID",
    "POST /containers/prune": "filters",
    "GET /images/json": "all filters shared-size digests manifests",
    "POST /build": "dockerfile t extrahosts remote q nocache cachefrom pull rm forcerm memory memswap cpushares cpusetcpus cpusetmems "
                   "cpuperiod cpuquota buildargs shmsize squash labels networkmode platform target outputs version ulimits isolation "
                   "securityopt session buildid",
    "POST /build/prune": "keep-storage reserved-space max-used-space min-free-space all filters",
    "POST /images/create": "fromImage fromSrc repo tag message changes platform",
    "GET /images/{name:.+}/json": "manifests platform",
    "GET /images/{name:.+}/history": "platform",
    "POST /images/{name:.+}/push": "tag platform",
    "POST /images/{name:.+}/tag": "repo tag",
    "DELETE /images/{name:.+}": "force noprune platforms",
    "GET /images/search": "term limit filters",
    "POST /images/prune": "filters",
    "POST /commit": "container repo tag comment author pause changes",
    "GET /events": "since until filters",
    "GET /system/df": "type",
    "GET /images/{name:.+}/get": "platform",
    "GET /images/get": "names platform",
    "POST /images/load": "quiet platform",
    "POST /exec/{id}/resize": "h w",
    "GET /volumes": "filters",
    "DELETE /volumes/{name}": "force",
    "POST /volumes/prune": "filters",
    "GET /networks": "filters",
    "GET /networks/{id}": "verbose scope",
    "POST /networks/prune": "filters",
    "GET /plugins": "filters",
}  # fmt: skip
NOTHING_TO_DO = {
    ("POST /containers/{id}/start", "detachKeys"): "Docker documents it and reads it nowhere: keys are attach's",
    ("GET /images/json", "all"): "no image is an intermediate one",
    ("GET /images/json", "digests"): "they are always there, as Docker's",
    ("DELETE /images/{name:.+}", "noprune"): "no image has a parent that would go with it",
    ("POST /images/load", "quiet"): "what is left out with it, progress, is not sent at all",
    ("POST /build", "rm"): "the containers of steps are always removed",
    ("POST /build", "forcerm"): "the containers of steps are always removed",
}
_ROUTES: dict[str, Any] = {f"{route.method} {route.path}": route.handler for route in ROUTES}


def _names(function: FunctionType, seen: set[FunctionType]) -> set[str]:
    """The texts in a function, in the tables that it names and in what it hands the request to: what is read is named there."""
    if function in seen:
        return set()
    seen.add(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    module = function.__globals__ | _imported(tree)
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(module.get(node.id), dict):
            found |= {key for key in module[node.id] if isinstance(key, str)}
        if isinstance(node, ast.Call) and any(
            isinstance(each, ast.Name) and each.id == "request" for each in node.args
        ):
            for called in (_named(each, module) for each in (node.func, *node.args)):
                if isinstance(called, FunctionType) and called.__module__.startswith("sampan.api"):
                    found |= _names(called, seen)
    return found


def _imported(tree: ast.AST) -> dict[str, Any]:
    """What a function imports for itself."""
    rows = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.name: _module(row.module or "", name.name) for row in rows for name in row.names}


def _module(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")


def _named(node: ast.expr, module: dict[str, Any]) -> object:
    if isinstance(node, ast.Name):
        return module.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(module.get(node.value.id), node.attr, None)
    return None


@pytest.mark.parametrize("route", DOCKER)
def test_every_documented_parameter_is_read(route: str) -> None:
    read, exempt = _names(_ROUTES[route], set()), {name for at, name in NOTHING_TO_DO if at == route}
    assert set(DOCKER[route].split()) - read - exempt == set(), f"{route} passes these over"
    assert not exempt & read, f"{route} reads what stands here as having no effect"


def test_no_route_that_reads_a_query_is_forgotten() -> None:
    ours = {"GET /metrics", "POST /exec/{id}/kill"}
    for name, handler in _ROUTES.items():
        if "/sampan" not in name and name not in DOCKER and name not in ours:
            assert ".query" not in inspect.getsource(handler), name


def test_the_exceptions_are_of_the_table() -> None:
    assert all(name in DOCKER[route].split() for route, name in NOTHING_TO_DO)
