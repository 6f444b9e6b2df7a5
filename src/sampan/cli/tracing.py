"""--debug: each request to the engine and its answer's status, on standard error."""

from __future__ import annotations

import sys
import time

from sampan.client.http import APIError, Http, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def start() -> None:
    """Traces every request of this process from now on."""
    plain = Http.send

    def send(
        http: Http, method: str, path: str, body: object = None, upgrade: bool = False,
        stream: Iterator[bytes] | None = None, headers: str = "",
    ) -> Response:  # fmt: skip
        begun = time.monotonic()
        status = 0
        try:
            response = plain(http, method, path, body, upgrade, stream, headers)
            status = response.status
            return response
        except APIError as error:
            status = error.status
            raise
        finally:
            took = f"{(time.monotonic() - begun) * 1000:.1f} ms"
            print(f"DEBUG {method} {path}: {status or 'no answer'} after {took}", file=sys.stderr)

    Http.send = send  # type: ignore[method-assign,assignment]
