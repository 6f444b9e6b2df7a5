"""Go's fmt: how values are shown, and the verbs of printf."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d*))?(?P<verb>.)", re.DOTALL)
_ESCAPES = {
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def shown(value: object) -> str:
    """A value as %v shows it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{shown(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, list):
        return f"[{' '.join(shown(item) for item in value)}]"
    return str(value)


def float_text(value: float) -> str:
    """A float as %v shows it: the shortest digits, with an exponent below 1e-4 and from 1e21 on."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(value)]
    digits, _, exponent = f"{value!r}".partition("e")
    size = abs(value)
    if value and (size < 1e-4 or size >= 1e21):
        if not exponent:
            digits, _, exponent = f"{value:e}".partition("e")
            digits = digits.rstrip("0").rstrip(".")
        return f"{digits.removesuffix('.0')}e{int(exponent):+03d}"
    if exponent:
        return (
            f"{int(value)}"
            if size >= 1
            else f"{value:.{-int(exponent) + len(digits.replace('.', '').lstrip('-')) - 1}f}"
        )
    return digits.removesuffix(".0")


def quoted(text: str) -> str:
    """A text in Go's quotation marks."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _code(c)) for c in text) + '"'


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def kind(value: object) -> str:
    """The name of a value's type in Go."""
    names = {
        bool: "bool",
        int: "int",
        float: "float64",
        str: "string",
        list: "[]interface {}",
        dict: "map[string]interface {}",
    }
    return names.get(type(value), "<nil>" if value is None else type(value).__name__)


def printf(form: str, *values: object) -> str:
    """fmt.Sprintf: mistakes are written into the result, as Go does."""
    waiting, used = list(values), 0

    def take() -> Any:
        nonlocal used
        used += 1
        return waiting[used - 1]

    def one(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        flags, width, precision = match["flags"], match["width"], match["precision"]
        if width == "*":
            width = str(take()) if used < len(waiting) else ""
        if precision == "*":
            precision = str(take()) if used < len(waiting) else ""
        if used >= len(waiting):
            return f"%!{verb}(MISSING)"
        return _verb(verb, flags, int(width or 0), None if precision is None else int(precision or 0), take())

    text = _VERB.sub(one, form)
    if text.endswith("%") and not form.endswith("%%"):
        text += "!(NOVERB)"
    if used < len(waiting):
        text += f"%!(EXTRA {', '.join(f'{kind(item)}={shown(item)}' for item in waiting[used:])})"
    return text


def _verb(verb: str, flags: str, width: int, precision: int | None, value: object) -> str:
    if width < 0:
        flags, width = flags + "-", -width
    if isinstance(value, list) and verb not in "vTqx":
        return f"[{' '.join(_verb(verb, flags, width, precision, item) for item in value)}]"
    text = _plain(verb, flags, precision, value)
    if text is None:
        return f"%!{verb}(<nil>)" if value is None else f"%!{verb}({kind(value)}={shown(value)})"
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and not isinstance(value, (str, list, dict)):
        sign = text[0] if text[:1] in ("+", "-") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _plain(verb: str, flags: str, precision: int | None, value: object) -> str | None:
    """The text of a value by a verb without width, None where the verb is not for its type."""
    if verb == "T":
        return kind(value)
    if verb == "v":
        return _syntax(value) if "#" in flags else shown(value)
    if isinstance(value, bool):
        return shown(value) if verb == "t" else None
    if isinstance(value, str):
        return _string(verb, flags, precision, value)
    if isinstance(value, int):
        return _integer(verb, flags, value)
    if isinstance(value, float):
        return _float(verb, flags, precision, value)
    if isinstance(value, list) and verb == "q":
        return f"[{' '.join(quoted(str(item)) for item in value)}]"
    return shown(value) if verb == "s" and isinstance(value, dict) else None


def _syntax(value: object) -> str:
    return quoted(value) if isinstance(value, str) else shown(value)


def _string(verb: str, flags: str, precision: int | None, value: str) -> str | None:
    text = value if precision is None else value[:precision]
    if verb == "s":
        return text
    if verb == "q":
        return f"`{text}`" if "#" in flags and "`" not in text else quoted(text)
    if verb in "xX":
        digits = text.encode().hex(" " if " " in flags else "") if " " in flags else text.encode().hex()
        return digits.upper() if verb == "X" else digits
    return None


def _integer(verb: str, flags: str, value: int) -> str | None:
    bases = {"d": "d", "b": "b", "o": "o", "x": "x", "X": "X"}
    sign = "+" if "+" in flags and value >= 0 else " " if " " in flags and value >= 0 else ""
    if verb in bases:
        prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "") if "#" in flags else ""
        return f"{sign}{'-' if value < 0 else ''}{prefix}{abs(value):{bases[verb]}}"
    if verb in "cqU" and 0 <= value < 0x110000:
        return {"c": chr(value), "q": f"'{chr(value)}'", "U": f"U+{value:04X}"}[verb]
    return None


def _float(verb: str, flags: str, precision: int | None, value: float) -> str | None:
    sign = "+" if "+" in flags and value >= 0 else ""
    if verb in "feEF":
        return f"{sign}{value:.{6 if precision is None else precision}{verb}}"
    if verb in "gG":
        return sign + (float_text(value) if precision is None else f"{value:.{precision or 1}{verb}}")
    return None
