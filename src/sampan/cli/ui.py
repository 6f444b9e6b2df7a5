"""ui: the page in a browser."""

from __future__ import annotations

from sampan.cli.flags import Values
from sampan.client.connection import engine


def ui(v: Values, names: list[str]) -> int:
    """ui"""
    if v.on("off"):
        engine().call("DELETE", "/sampan/ui")
        return 0
    found = engine().call("POST", "/sampan/ui", {"Port": v.number("port") or 0})
    print(found["Url"])
    if v.on("open"):
        import webbrowser

        webbrowser.open(found["Url"])
    return 0
