"""Restart policies: which are possible, and when a container that has ended is started again."""

from __future__ import annotations

from sampan.engine.errors import BadRequest
from sampan.engine.model import HostConfig

_DELAY, _DELAY_MAX = 0.1, 60.0  # seconds before the first restart, and at most: it doubles each time


def check(host: HostConfig) -> None:
    """What is to happen after its end. Raises BadRequest."""
    policy = name(host)
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise BadRequest(f"invalid restart policy: unknown policy '{policy}'")
    if host.auto_remove and policy != "no":
        raise BadRequest("can't create 'AutoRemove' container with restart policy")
    if host.restart_policy.max_retries and policy != "on-failure":
        raise BadRequest("invalid restart policy: maximum retry count can only be used with 'on-failure'")


def name(host: HostConfig) -> str:
    """The policy of a configuration: "no", "always", "on-failure" or "unless-stopped"."""
    return host.restart_policy.name or "no"


def delay(host: HostConfig, code: int, restarts: int, stopped_by_user: bool) -> float | None:
    """Seconds until a container is started again that has ended with an exit code, after so many restarts; None when it is not."""
    if stopped_by_user or name(host) == "no":
        return None
    if name(host) == "on-failure":
        limit = host.restart_policy.max_retries
        if code == 0 or (limit and restarts >= limit):
            return None
    return float(min(_DELAY * 2 ** min(restarts, 10), _DELAY_MAX))


def wants_at_boot(host: HostConfig, status: str, stopped_by_user: bool) -> bool:
    """Whether one that does not run is to be started when the engine starts. As Docker's: "always" also restarts what had ended."""
    return status == "restarting" or (name(host) == "always" and status == "exited" and not stopped_by_user)
