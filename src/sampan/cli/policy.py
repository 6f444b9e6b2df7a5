"""policy: what the operator's rules say, and what they would decide."""

from __future__ import annotations

import sys

from sampan.cli import options
from sampan.cli.flags import STR, Flag, UsageError, parse
from sampan.client.connection import engine
from sampan.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def policy(args: list[str]) -> int:
    """policy check [FILE] | policy explain [--as USER] [OPTIONS OF run] IMAGE"""
    if args[:1] == ["check"]:
        return _check(args[1:])
    if args[:1] == ["explain"]:
        return _explain(args[1:])
    raise UsageError("'sampan policy' knows check and explain")


def _check(args: list[str]) -> int:
    _, rest = parse([], args)
    if len(rest) > 1:
        raise UsageError("'sampan policy check' takes one argument at most: FILE")
    found: dict[str, Any] = engine().call("POST", "/sampan/policy/check", {"Text": _text(rest[0])} if rest else {})
    if not found["Active"]:
        print(f"no policy: {found['Path']} is not there, so every container runs as it was asked for")
        return 0
    print(
        f"{rest[0] if rest else found['Path']}: {len(found['Rules'])} rules, {len(found['Tenants'])} tenants, default {found['Default']}"
    )
    if found["Error"]:
        print(f"ERROR: the file is wrong now, and what it said before holds: {found['Error']}")
    for text in found["Notes"]:
        print(f"note: {text}")
    return 1 if found["Error"] else 0


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None


def _explain(args: list[str]) -> int:
    flags = [*options.FLAGS, Flag("as", "", STR, "The user to ask for"), Flag("format", "", STR, "json")]
    values, rest = parse(flags, args, interspersed=False)
    if not rest:
        raise UsageError("'sampan policy explain' requires an IMAGE, after the options that `sampan run` would have")
    body = options.request(values, rest[0], rest[1:])
    found: dict[str, Any] = engine().call("POST", "/sampan/policy/explain" + query(**{"as": values["as"]}), body)
    if values["format"] == "json":
        import json

        print(json.dumps(found, indent=2))
        return 0
    if values["format"]:
        raise UsageError(f"--format {values['format']}: only json")
    print(f"{found['Isolation']}: {rest[0]} for {found['User']}, tenant {found['Tenant']}")
    for text in found["Reasons"]:
        print(f"  because {text}")
    for text in found["Passed"]:
        print(f"  ({text})")
    if found["Signers"]:
        print(f"  signed by {', '.join(found['Signers'])}")
    sys.stdout.flush()
    return 0
