"""Who may use the page: tokens that count once, and the keys that they are exchanged for.

A key goes along in a header of each request and is kept by the page for its own origin. A cookie would be sent to every port of this
machine (RFC 6265, section 8.5), and with a request of any other page.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

TOKEN_LIFE, KEY_LIFE = 300.0, 12 * 3600.0  # seconds: until it is used, and without being used
_MOST = 64


class Sessions:
    """Tokens and keys; only their digests are kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens: dict[str, tuple[str, float]] = {}
        self._keys: dict[str, tuple[str, float]] = {}

    def offer(self, user: str) -> str:
        """A token for a user, good for one exchange within five minutes."""
        token = secrets.token_urlsafe(32)
        self._expire()
        self._tokens[_digest(token)] = (user, self._clock() + TOKEN_LIFE)
        while len(self._tokens) > _MOST:
            self._tokens.pop(next(iter(self._tokens)))
        return token

    def redeem(self, token: str) -> str | None:
        """A key for a token, which is of no use from then on; None for one that is not good."""
        self._expire()
        found = self._tokens.pop(_digest(token), None)
        if found is None:
            return None
        key = secrets.token_urlsafe(32)
        self._keys[_digest(key)] = (found[0], self._clock() + KEY_LIFE)
        return key

    def user(self, key: str) -> str | None:
        """Whose key it is, and it is good for another while; None for one that is not good."""
        self._expire()
        found = self._keys.get(_digest(key))
        if found is None:
            return None
        self._keys[_digest(key)] = (found[0], self._clock() + KEY_LIFE)
        return found[0]

    def clear(self) -> None:
        """Ends all."""
        self._tokens.clear()
        self._keys.clear()

    def _expire(self) -> None:
        now = self._clock()
        for rows in (self._tokens, self._keys):
            for digest in [digest for digest, (_, until) in rows.items() if until < now]:
                del rows[digest]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
