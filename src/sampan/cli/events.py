"""events: what happens in the engine, as it happens."""

from __future__ import annotations

import datetime
import json

from sampan.cli.arguments import filters
from sampan.cli.flags import Values
from sampan.cli.output import Row
from sampan.cli.session import fail
from sampan.client.connection import engine
from sampan.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def events(v: Values, names: list[str]) -> int:
    """events"""
    form = v.text("format")
    template = None
    if form not in ("", "json", "{{json .}}"):
        from sampan.cli.template import Template, TemplateError

        try:
            template = Template(form)
        except TemplateError as error:
            return fail(Exception(f"Error parsing format: {error}"), 64)
    wanted = query(filters=filters(v.items("filter")), since=v.text("since") or None, until=v.text("until") or None)
    for line in engine().send("GET", f"/events{wanted}").lines():
        if form in ("json", "{{json .}}"):
            print(line.decode(), flush=True)
        elif template is not None:
            print(template.render(_fields(json.loads(line))), flush=True)
        else:
            print(_line(json.loads(line)), flush=True)
    return 0


def _fields(event: dict[str, object]) -> Row:
    """An event's fields by the names that templates have for them."""
    names = {"Status": "status", "ID": "id", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano"}
    fields = {name: event.get(key, "") for name, key in names.items()}
    return Row(
        {**fields, **{key: event[key] for key in ("Type", "Action", "Actor")}}, "*events.Message", original=event
    )


def _line(event: dict[str, Any]) -> str:
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    when = datetime.datetime.fromtimestamp(event["time"], datetime.UTC).isoformat()
    return f"{when} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})"
