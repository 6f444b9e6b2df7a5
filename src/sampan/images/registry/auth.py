"""Credentials, challenges and tokens: basic and bearer authentication of registries.

Sources: RFC 7235, and the token and scope pages of the distribution project's documentation.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from sampan.images.registry.errors import RegistryError
from sampan.oci import documents

# Each begins at the begin of a word and has bounds: a registry chooses what is searched.
_PARAMETER = re.compile(r'(?<![a-zA-Z_-])([a-zA-Z_-]{1,64})\s{0,8}=\s{0,8}(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_LONGEST = 16 << 10
_SCHEME = re.compile(r"(?:^|,\s*)(Basic|Bearer)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a user has for a registry; all empty for an anonymous one."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.username or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The header value of basic authentication (RFC 7617)."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


def from_fields(fields: dict[str, str]) -> Credentials:
    """Credentials of Docker's AuthConfig object. Raises ValueError."""
    username, password = fields.get("username") or "", fields.get("password") or ""
    if fields.get("auth") and not username:
        username, _, password = base64.b64decode(fields["auth"]).decode().partition(":")
    return Credentials(username, password, fields.get("identitytoken") or "", fields.get("registrytoken") or "")


def challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """The (scheme in lower case, parameters) of a WWW-Authenticate header, of the schemes we know."""
    header = header[:_LONGEST]
    starts = list(_SCHEME.finditer(header))
    found = []
    for index, match in enumerate(starts):
        end = starts[index + 1].start() if index + 1 < len(starts) else len(header)
        parameters = {
            key.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
            for key, quoted, plain in _PARAMETER.findall(header[match.end() : end])
        }
        found.append((match[1].lower(), parameters))
    return found


def token_of(body: bytes) -> tuple[str, float]:
    """(token, seconds it is good for) of a token server's answer. Raises RegistryError."""
    try:
        answer = documents.loads(body)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise ValueError("it has no token")
        seconds = float(answer.get("expires_in") or 60)
        return token, seconds if 60 < seconds < 10**9 else 60.0
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise RegistryError(f"the token server's answer makes no sense: {error}") from None
