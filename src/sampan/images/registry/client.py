"""Requests to one registry: endpoints, authentication, redirects, retries."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

import aiohttp
from yarl import URL

from sampan.images.registry import auth
from sampan.images.registry.auth import Credentials
from sampan.images.registry.errors import Incomplete, RegistryError, RegistryNotFound, Unauthorized
from sampan.images.registry.hosts import Endpoint, Hosts
from sampan.oci import documents

_ATTEMPTS, _FIRST_ATTEMPTS, _FIRST_DELAY, _LONGEST_DELAY = 5, 3, 0.5, 60.0
_REDIRECTS = 10
_MAX_SMALL = 4 << 20
_SOON = 60.0  # seconds for an answer's head, and for a short answer
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError, ConnectionError)

_T = TypeVar("_T")

Scopes = tuple[str, ...]
Body = bytes | Callable[[], AsyncIterator[bytes]]


class Registry:
    """A conversation with a registry as one user. Use as an asynchronous context manager."""

    def __init__(self, hosts: Hosts, name: str, credentials: Credentials, push: bool = False) -> None:
        self.name = name
        self._endpoints = hosts.endpoints(name, push)
        self._credentials = credentials
        self._basic: set[str] = set()  # hosts that have asked for basic authentication
        self._tokens: dict[tuple[str, Scopes], tuple[str, float]] = {}
        self._contacted = False
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Registry:
        # Compressed answers are refused, not unpacked: what we fetch is named by digest and size (S020).
        self._session = aiohttp.ClientSession(
            timeout=_TIMEOUT,
            auto_decompress=False,
            trust_env=True,
            connector=aiohttp.TCPConnector(limit=16),
            headers={"Accept-Encoding": "identity", "User-Agent": "sampan"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def small(
        self, method: str, path: str, scopes: Scopes, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[dict[str, str], bytes]:
        """A request with a short answer: (headers in lower case, body). Retried. Raises RegistryError."""

        async def once() -> tuple[dict[str, str], bytes]:
            async with self.open(method, path, scopes, headers, body) as answer:
                data = await _read_small(answer)
                return {key.lower(): value for key, value in answer.headers.items()}, data

        return await retried(once)

    @asynccontextmanager
    async def open(
        self, method: str, path: str, scopes: Scopes, headers: dict[str, str] | None = None, body: Body = b""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request, not retried; the answer's body is still to be read.

        `path` is below the registry's root, or an absolute URL that the registry has given. Raises
        RegistryNotFound, Unauthorized, Incomplete (try again), RegistryError.
        """
        answer = await self._first_reachable(method, path, scopes, headers or {}, body)
        try:
            await _check(answer, self.name)
            yield answer
        except _BROKEN as error:
            raise Incomplete(f"{self.name}: the connection broke: {error or type(error).__name__}") from error
        finally:
            answer.release()

    async def _first_reachable(
        self, method: str, path: str, scopes: Scopes, headers: dict[str, str], body: Body
    ) -> aiohttp.ClientResponse:
        failure: Exception | None = None
        for endpoint in list(self._endpoints):
            try:
                answer = await self._authenticated(endpoint, method, path, scopes, headers, body)
            except _BROKEN as error:
                failure = error
                continue
            except RegistryError as error:
                if endpoint.credentials:
                    raise
                failure = error  # a mirror may fail in any way: the next
                continue
            self._contacted = True
            if answer.status >= 400 and not endpoint.credentials:
                answer.release()  # a mirror that has it not: the next
                continue
            if endpoint.credentials and endpoint != self._endpoints[0]:
                self._endpoints = [endpoint]
            return answer
        unreachable = Incomplete(f"{self.name}: can't reach the registry: {failure}")
        unreachable.attempts = _ATTEMPTS if self._contacted else _FIRST_ATTEMPTS
        raise unreachable from failure

    async def _authenticated(
        self, endpoint: Endpoint, method: str, path: str, scopes: Scopes, headers: dict[str, str], body: Body
    ) -> aiohttp.ClientResponse:
        headers = {**headers, **self._authorization(endpoint, scopes)}
        answer = await self._follow(endpoint, method, path, headers, body)
        if answer.status != 401:
            return answer
        header = ", ".join(answer.headers.getall("WWW-Authenticate", []))
        answer.release()
        found = dict(auth.challenges(header))
        if "bearer" in found:
            await self._fetch_token(endpoint, found["bearer"], scopes)
        elif "basic" in found and not self._credentials.anonymous and endpoint.credentials:
            if endpoint.host in self._basic:
                raise Unauthorized(f"unauthorized: {self.name} does not accept the user name and password")
            self._basic.add(endpoint.host)
        else:
            raise Unauthorized(f"unauthorized: {self.name} wants you to log in: sampan login {self.name}")
        headers = {**headers, **self._authorization(endpoint, scopes)}
        answer = await self._follow(endpoint, method, path, headers, body)
        if answer.status == 401:
            answer.release()
            raise Unauthorized(f"unauthorized: authentication required for {self.name}: access is denied")
        return answer

    def _authorization(self, endpoint: Endpoint, scopes: Scopes) -> dict[str, str]:
        if self._credentials.registry_token and endpoint.credentials:
            return {"Authorization": f"Bearer {self._credentials.registry_token}"}
        if endpoint.host in self._basic:
            return {"Authorization": self._credentials.basic}
        token, expires = self._tokens.get((endpoint.host, scopes), ("", 0.0))
        return {"Authorization": f"Bearer {token}"} if token and time.monotonic() < expires else {}

    async def _fetch_token(self, endpoint: Endpoint, challenge: dict[str, str], scopes: Scopes) -> None:
        """Asks the token server for all scopes at once. With credentials there is no anonymous fallback (P032)."""
        realm = self._parts(challenge.get("realm", ""))
        if realm.scheme not in ("http", "https") or not realm.hostname:
            raise RegistryError(f"{self.name}: its token server {challenge.get('realm', '')!r} is no URL")
        if realm.scheme == "http" and endpoint.url.startswith("https:") and endpoint.verify:
            raise RegistryError(f"{self.name}: its token server {realm.hostname} is reached without TLS: refused")
        wanted = list(scopes) or challenge.get("scope", "").split()
        service = challenge.get("service", "")
        credentials = self._credentials if endpoint.credentials else Credentials()
        fields = [("service", service), *(("scope", scope) for scope in wanted)]
        url, headers = realm.geturl(), {}
        method, data = "GET", b""
        if credentials.identity_token:
            form = {"grant_type": "refresh_token", "service": service, "client_id": "sampan",
                    "refresh_token": credentials.identity_token, "scope": " ".join(wanted)}  # fmt: skip
            method, data = "POST", urlencode(form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            url += ("&" if realm.query else "?") + urlencode([field for field in fields if field[1]])
            if not credentials.anonymous:
                headers["Authorization"] = credentials.basic
        where = Endpoint(f"{realm.scheme}://{realm.netloc}", realm.netloc, verify=endpoint.verify)
        answer = await self._send(where, method, url, headers, data)
        try:
            if answer.status in (401, 403):
                raise Unauthorized(f"unauthorized: {self.name}: incorrect username or password")
            await _check(answer, realm.netloc)
            token, seconds = auth.token_of(await _read_small(answer))
        finally:
            answer.release()
        self._tokens[endpoint.host, scopes] = (token, time.monotonic() + seconds - 5)

    async def _follow(
        self, endpoint: Endpoint, method: str, path: str, headers: dict[str, str], body: Body
    ) -> aiohttp.ClientResponse:
        """Follows redirects; what authorises us goes to the registry's own origin only (S039)."""
        url = self._joined(f"{endpoint.url}/", path)
        origin = urlsplit(endpoint.url)
        for _ in range(_REDIRECTS):
            parts = self._parts(url)
            if parts.scheme not in ("http", "https"):
                raise RegistryError(f"{self.name} redirects to {parts.scheme or 'nowhere'}: refused")
            if parts.scheme == "http" and origin.scheme == "https" and endpoint.verify:
                raise RegistryError(f"{self.name} redirects from TLS to plain http: refused")
            own = (parts.scheme, parts.netloc) == (origin.scheme, origin.netloc)
            shown = headers if own else {k: v for k, v in headers.items() if k != "Authorization"}
            answer = await self._send(endpoint, method, url, shown, body)
            if answer.status not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
                return answer
            url = self._joined(url, answer.headers["Location"])
            if method != "HEAD" and answer.status == 303:
                method, body = "GET", b""
            answer.release()
        raise RegistryError(f"{self.name}: more than {_REDIRECTS} redirects")

    def _parts(self, url: str) -> SplitResult:
        """The parts of a URL that the registry gives. Raises RegistryError."""
        try:
            parts = urlsplit(url)
            _ = parts.port, URL(url, encoded=True)
            return parts
        except ValueError as error:
            raise RegistryError(f"{self.name} gives a URL that is none, {url[:200]!r}: {error}") from None

    def _joined(self, base: str, url: str) -> str:
        try:
            return urljoin(base, url)
        except ValueError as error:
            raise RegistryError(f"{self.name} gives a URL that is none, {url[:200]!r}: {error}") from None

    async def _send(
        self, endpoint: Endpoint, method: str, url: str, headers: dict[str, str], body: Body
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        data: Any = body() if callable(body) else body or None
        context = endpoint.ssl() if url.startswith("https:") else True
        # Encoded already: a signed query must arrive as it was given (P033).
        where = URL(url, encoded=True)
        # An answer's head comes after what is sent, which may take its time; else it comes soon, whole.
        try:
            async with asyncio.timeout(None if data else _SOON):
                return await self._session.request(
                    method, where, headers=headers, data=data, ssl=context, allow_redirects=False
                )
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            what = " ".join(str(error).split())[:200]
            raise RegistryError(f"{self.name} answers in no way that HTTP knows: {what}") from None


async def _read_small(answer: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async with asyncio.timeout(_SOON):
        async for block in answer.content.iter_any():
            data += block
            if len(data) > _MAX_SMALL:
                raise RegistryError(f"{answer.url.host}: the answer is larger than {_MAX_SMALL} bytes")
    return bytes(data)


async def _check(answer: aiohttp.ClientResponse, name: str) -> None:
    """Raises for a status that is none of success, with what the registry says about it."""
    if answer.status < 400:
        return
    text = await _explanation(answer)
    if answer.status == 404:
        raise RegistryNotFound(text or f"{name} has it not")
    if answer.status in (401, 403):
        raise Unauthorized(f"{name}: {text or 'access is denied'}")
    if answer.status == 429 or answer.status >= 500:
        error = Incomplete(f"{name}: {answer.status} {text or answer.reason}")
        error.after = _retry_after(answer.headers.get("Retry-After", ""))
        raise error
    raise RegistryError(f"{name}: {answer.status} {text or answer.reason}")


def _retry_after(text: str) -> float:
    """Seconds of a Retry-After header: a number or a date (RFC 9110, 10.2.3); 0 when there is none."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


async def _explanation(answer: aiohttp.ClientResponse) -> str:
    try:
        errors = documents.loads(await _read_small(answer))["errors"]
        text = "; ".join(
            f"{row.get('code', '').lower().replace('_', ' ')}: {row.get('message', '')}" for row in errors[:5]
        )
    except (ValueError, KeyError, TypeError, AttributeError, RegistryError, *_BROKEN):
        return ""
    return "".join(char if char.isprintable() else " " for char in text[:500])  # it may reach a terminal


async def retried(once: Callable[[], Awaitable[_T]], progress: Callable[[], object] | None = None) -> _T:
    """Repeats what raises Incomplete, with growing pauses; attempts that get on (`progress` changes) don't count."""
    delay, failures = _FIRST_DELAY, 0
    while True:
        before = progress() if progress else None
        try:
            return await once()
        except Incomplete as error:
            if progress and progress() != before:
                delay, failures = _FIRST_DELAY, 0
            failures += 1
            if failures >= error.attempts:
                raise
            await asyncio.sleep(min(max(delay, error.after), _LONGEST_DELAY) * random.uniform(1.0, 1.2))
            delay *= 2
