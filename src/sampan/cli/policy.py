"""policy: what the operator's rules say, and what they would decide."""

from __future__ import annotations

import sys

from sampan.cli import options
from sampan.cli.flags import UsageError, Values
from sampan.client.connection import engine
from sampan.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def check(v: Values, rest: list[str]) -> int:
    """policy check"""
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


def explain(values: Values, rest: list[str]) -> int:
    """policy explain"""
    if values.text("format") not in ("", "json"):
        raise UsageError(f"--format {values.text('format')}: only json")
    body = options.request(values, rest[0], rest[1:])
    found: dict[str, Any] = engine().call("POST", "/sampan/policy/explain" + query(**{"as": values.text("as")}), body)
    if values.text("format") == "json":
        import json

        print(json.dumps(found, indent=2))
        return 0
    if values.text("format"):
        raise UsageError(f"--format {values.text('format')}: only json")
    print(f"{found['Isolation']}: {rest[0]} for {found['User']}, tenant {found['Tenant']}")
    for text in found["Reasons"]:
        print(f"  because {text}")
    for text in found["Passed"]:
        print(f"  ({text})")
    if found["Signers"]:
        print(f"  signed by {', '.join(found['Signers'])}")
    sys.stdout.flush()
    return 0
