"""ui: the page in a browser."""

from __future__ import annotations

from sampan.cli.flags import BOOL, INT, Flag, UsageError, parse
from sampan.client.connection import engine


def ui(args: list[str]) -> int:
    """ui [--port N] [--open] | ui --off"""
    v, rest = parse([Flag("port", "", INT, "Its port; any that is free without it"), Flag("open", "", BOOL, "Open it in a browser"),
                     Flag("off", "", BOOL, "Take it away again")], args)  # fmt: skip
    if rest:
        raise UsageError("'sampan ui' takes no arguments")
    if v["off"]:
        engine().call("DELETE", "/sampan/ui")
        return 0
    found = engine().call("POST", "/sampan/ui", {"Port": v["port"] or 0})
    print(found["Url"])
    if v["open"]:
        import webbrowser

        webbrowser.open(found["Url"])
    return 0
