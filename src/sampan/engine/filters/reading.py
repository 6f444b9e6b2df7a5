"""The query parameter `filters`: JSON in both of Docker's forms."""

from __future__ import annotations

import json

from sampan.engine.errors import BadRequest

Filters = dict[str, list[str]]  # values by the filter's name

MAX_VALUES = 1024  # of all filters together


def parse(text: str | None) -> Filters:
    """`{"k": ["v"]}` or `{"k": {"v": true}}`; null is none. Raises BadRequest."""
    if not text or not text.strip():
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"invalid filters: no JSON: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadRequest("invalid filters: not an object of lists")
    wanted = {key: _values(key, value) for key, value in found.items()}
    if sum(map(len, wanted.values())) > MAX_VALUES:
        raise BadRequest(f"invalid filters: more than {MAX_VALUES} values")
    return wanted


def _values(key: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, dict) and all(isinstance(on, bool) for on in value.values()):
        names: list[object] = [name for name, on in value.items() if on]
    elif isinstance(value, list):
        names = value
    else:
        raise BadRequest(f"invalid filter '{shown(key)}': neither a list of values nor an object of true")
    texts = [name for name in names if isinstance(name, str)]
    if len(texts) != len(names):
        raise BadRequest(f"invalid filter '{shown(key)}': its values must be strings")
    return list(dict.fromkeys(texts))


def shown(text: str) -> str:
    """A name or value as an error shows it: without what is no Unicode, and not long."""
    return text[:200].encode("utf-8", "backslashreplace").decode()


def invalid(key: str, value: str | None = None) -> BadRequest:
    """Docker's error for a filter that there is not, or for one of its values."""
    return BadRequest(
        f"invalid filter '{shown(key)}'" if value is None else f"invalid filter '{shown(key)}={shown(value)}'"
    )
