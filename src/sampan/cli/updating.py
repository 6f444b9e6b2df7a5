"""update: new limits for containers."""

from __future__ import annotations

from sampan.cli import options
from sampan.cli.arguments import each
from sampan.cli.flags import Values
from sampan.cli.session import warn
from sampan.client.http import Http, at


def _update(http: Http, name: str, v: Values) -> None:
    policy = options.restart_policy(v.text("restart"))
    if v.text("restart") == "no":
        policy = {"Name": "no"}
    body = {**options.limits(v), "RestartPolicy": policy}
    answer = http.call("POST", at("/containers/{}/update", name), {key: value for key, value in body.items() if value})
    for warning in answer.get("Warnings") or []:
        warn(warning)


update = each(_update)
