"""JSON by the interpreter's own C scanner and encoder, without the `json` package's import of `re` (9 ms)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What the C scanner asks its owner for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float

    def __init__(self) -> None:
        self.memo: dict[str, str] = {}


def _default(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


try:
    import _json

    _scan: Any = _json.make_scanner(_Context())  # type: ignore[arg-type]
    _encode: Any = _json.make_encoder(
        {}, _default, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False
    )
except (ImportError, AttributeError, TypeError):  # another interpreter than CPython, or a changed one
    _scan = None
    _encode = None


def loads(data: bytes) -> Any:
    """Parses one JSON value. Raises ValueError."""
    text = data.decode().strip()
    if _scan is None:
        import json

        return json.loads(text)
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError) as error:  # SystemError: its own exception is in a module that is not loaded
        raise ValueError(f"not JSON: {text[:80]!r}") from error
    if end != len(text):
        raise ValueError(f"more than one JSON value: {text[:80]!r}")
    return value


def dumps(value: object) -> str:
    """JSON text of dicts, lists, strings, numbers, booleans and None."""
    if _encode is None:
        import json

        return json.dumps(value)
    return "".join(_encode(value, 0))
