"""Who gets the registry client's credentials, and where it lets itself be sent: tokens, redirects, mirrors, TLS (S039)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from sampan.images.image import Image
from sampan.images.registry.auth import Credentials
from sampan.images.registry.client import Registry
from sampan.images.registry.errors import RegistryError, RegistryNotFound, Unauthorized
from sampan.images.registry.hosts import Hosts
from sampan.images.registry.progress import Progress
from sampan.images.registry.pull import Pull
from sampan.images.store import ImageStore
from sampan.oci import manifest as oci
from sampan.oci import reference
from tests.support.registry_client import pull
from tests.support.registry_client import quick as quick
from tests.support.registry_client import store as store
from tests.support.registry_server import Handler, Mock, digest, layer
from tests.support.registry_server import mock as mock


def _guarded(mock: Mock, check: Callable[[str], bool], challenge: str) -> Callable[[Handler], bool]:
    def hook(handler: Handler) -> bool:
        if not handler.path.startswith("/v2/") or check(handler.headers.get("Authorization", "")):
            return False
        return handler.answer(401, WWW_Authenticate=challenge)

    return hook


def test_basic_authentication(store: ImageStore, mock: Mock) -> None:
    mock.image(layer(a=b"1"))
    right = f"Basic {base64.b64encode(b'ann:pass:word').decode()}"
    mock.hook = _guarded(mock, lambda shown: shown == right, 'Basic realm="x"')
    pull(store, mock, credentials=Credentials("ann", "pass:word"))
    for wrong in (Credentials("ann", "no"), Credentials()):
        with pytest.raises(Unauthorized, match="unauthorized"):
            pull(store, mock, credentials=wrong)


def test_tokens(store: ImageStore, mock: Mock) -> None:
    """P032: pull asks only :pull; anonymous without credentials, and never anonymous with wrong ones."""
    mock.image(layer(a=b"1"))
    asked: list[tuple[dict[str, list[str]], str]] = []
    realm = f'Bearer realm="http://{mock.name}/token?x=1",service="here",scope="repository:a/b:pull,push,delete"'
    guard = _guarded(mock, lambda shown: shown == "Bearer good", realm)

    def hook(handler: Handler) -> bool:
        if not handler.path.startswith("/token"):
            return guard(handler)
        shown = handler.headers.get("Authorization", "")
        asked.append((parse_qs(urlsplit(handler.path).query), shown))
        if shown and shown != f"Basic {base64.b64encode(b'ann:right').decode()}":
            return handler.answer(401)
        return handler.answer(200, b'{"token": "good", "expires_in": 300}')

    mock.hook = hook
    for credentials in (Credentials(), Credentials("ann", "right")):
        pull(store, mock, credentials=credentials)
    assert [query["scope"] for query, _ in asked] == [["repository:a/b:pull"]] * 2
    assert asked[0][0]["service"] == ["here"]
    assert asked[0][0]["x"] == ["1"]
    count = len(asked)
    with pytest.raises(Unauthorized, match="incorrect username or password"):
        pull(store, mock, credentials=Credentials("ann", "wrong"))
    assert len(asked) == count + 1


def test_an_identity_token_is_exchanged(store: ImageStore, mock: Mock) -> None:
    mock.image(layer(a=b"1"))
    guard = _guarded(
        mock, lambda shown: shown == "Bearer good", f'Bearer realm="http://{mock.name}/token",service="here"'
    )
    forms: list[dict[str, list[str]]] = []

    def hook(handler: Handler) -> bool:
        if handler.command != "POST":
            return guard(handler)
        forms.append(parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode()))
        return handler.answer(200, b'{"access_token": "good"}')

    mock.hook = hook
    pull(store, mock, credentials=Credentials(identity_token="idt"))
    assert forms[0]["refresh_token"] == ["idt"]
    assert forms[0]["grant_type"] == ["refresh_token"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_gets_no_credentials(store: ImageStore, mock: Mock, status: int) -> None:
    """S039"""
    other = Mock()
    try:
        data = layer(a=b"1")
        mock.image(data)
        other.blobs[digest(data)] = data
        guard = _guarded(mock, lambda shown: shown.startswith("Basic "), "Basic")
        mock.hook = lambda handler: (
            guard(handler)
            or (digest(data) in handler.path and handler.answer(status, Location=f"http://{other.name}{handler.path}"))
        )
        pull(store, mock, credentials=Credentials("ann", "secret"))
        assert len(other.requests) == 1
        assert "Authorization" not in other.requests[0][2]
    finally:
        other.shutdown()
        other.server_close()


@pytest.mark.parametrize("target", ["file:///etc/shadow", "ftp://127.0.0.1/x", "/v2/loop"])
def test_redirects_to_nowhere(store: ImageStore, mock: Mock, target: str) -> None:
    mock.image(layer(a=b"1"))
    mock.hook = lambda handler: handler.answer(302, Location=target)
    with pytest.raises(RegistryError, match="redirect"):
        pull(store, mock)


def test_foreign_layers_are_not_fetched_from_elsewhere(store: ImageStore, mock: Mock) -> None:
    """S039: `urls` of a descriptor are not followed."""
    mock.image(layer(a=b"1"))
    document = json.loads(mock.manifests["1"][1])
    missing = document["layers"][0]["digest"]
    document["layers"][0]["urls"] = [f"http://{mock.name}/elsewhere"]
    mock.manifest(document)
    del mock.blobs[missing]
    with pytest.raises(RegistryNotFound):
        pull(store, mock)
    assert not [path for _, path, _ in mock.requests if "elsewhere" in path]


def test_a_mirror_is_asked_first_and_gets_no_credentials(store: ImageStore, mock: Mock) -> None:
    mock.image(layer(a=b"1"), tag="latest")

    async def run() -> Image:
        ref = reference.parse("library/thing").with_default_tag()
        async with Registry(
            Hosts(mirrors=[f"http://{mock.name}"]), ref.registry, Credentials("ann", "secret")
        ) as registry:
            return await Pull(store, registry, ref, oci.host_platform(), Progress()).run()

    asyncio.run(run())
    assert store.index.find("thing")
    assert all("Authorization" not in headers for _, _, headers in mock.requests)


def test_a_signed_redirect_arrives_as_it_was_given(store: ImageStore, mock: Mock) -> None:
    """P033"""
    other = Mock()
    try:
        data = layer(a=b"1")
        mock.image(data)
        query = "?sig=a%2Fb%2B%3D&x=%7E"
        other.hook = lambda handler: (
            handler.path.endswith(query) and handler.command == "GET" and handler.answer(200, data)
        )
        mock.hook = lambda handler: (
            digest(data) in handler.path and handler.answer(307, Location=f"http://{other.name}/signed{query}")
        )
        pull(store, mock)
        assert other.requests[0][1] == f"/signed{query}"
    finally:
        other.shutdown()
        other.server_close()


def test_a_mirror_that_fails_is_passed_over(store: ImageStore, mock: Mock) -> None:
    """P037"""
    mirror = Mock()
    try:
        mock.image(layer(a=b"1"))
        for status in (401, 403, 404, 500):
            mirror.hook = lambda handler, status=status: handler.answer(status)  # type: ignore[misc]
            hosts = Hosts(mirrors=[f"http://{mirror.name}"])
            registry = Registry(hosts, "docker.io", Credentials())
            registry._endpoints = [registry._endpoints[0], *Hosts().endpoints(mock.name)]

            async def run(registry: Registry = registry) -> None:
                async with registry:
                    await Pull(store, registry, reference.parse("a/b:1"), oci.host_platform(), Progress()).run()

            asyncio.run(run())
        assert mirror.requests
    finally:
        mirror.shutdown()
        mirror.server_close()


def test_who_may_do_without_tls() -> None:
    """P037"""
    hosts = Hosts(insecure=["plain.example:5000", "10.0.0.0/8"])
    for name in ("127.0.0.1:5000", "127.9.9.9", "localhost:5000", "[::1]:5000", "plain.example:5000", "10.1.2.3:80"):
        assert [e.url.partition(":")[0] for e in hosts.endpoints(name)] == ["https", "http"], name
    for name in ("docker.io", "registry.example", "11.0.0.1:5000", "plain.example"):
        assert [(e.url.partition(":")[0], e.verify) for e in hosts.endpoints(name)] == [("https", True)], name
