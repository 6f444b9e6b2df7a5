"""events: what happens in the engine, as it happens."""

from __future__ import annotations

import datetime
import json

from sampan.cli.arguments import filters
from sampan.cli.flags import Values
from sampan.client.connection import engine
from sampan.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def events(v: Values, names: list[str]) -> int:
    """events"""
    form = v.text("format")
    wanted = query(filters=filters(v.items("filter")), since=v.text("since") or None, until=v.text("until") or None)
    for line in engine().send("GET", f"/events{wanted}").lines():
        if form in ("json", "{{json .}}"):
            print(line.decode(), flush=True)
        elif form:
            from sampan.cli.output import expand

            print(expand(form, json.loads(line)), flush=True)
        else:
            print(_line(json.loads(line)), flush=True)
    return 0


def _line(event: dict[str, Any]) -> str:
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    when = datetime.datetime.fromtimestamp(event["time"], datetime.UTC).isoformat()
    return f"{when} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})"
